"""Does racing keep what it promises, and what does it save?

    python benchmarks/racing.py [RESULTS]

Thousands of synthetic races per confidence: 145 attacks that agree on which images are hard and differ in strength, all
on the first 1,000 of 10,000 images, the survivors on the rest. "Found": the minimum over survivors is the minimum over
all attacks. "Saved": share of all pairs of attack and image that need not run. With a results folder that was made
without racing, the same for every decision of its grid, on the first half of its images and in random orders.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deqpipe.results import records
from deqpipe.statistics import racing
from deqpipe.workflow import vocabulary

ATTACKS, IMAGES, FIRST, RACES = 145, 10_000, 1_000, 40
CONFIDENCES = (0.8, 0.99)
FOLDS = 200


@dataclass(frozen=True)
class Kind:
    """How attacks differ.

    Attributes:
        name: in words.
        spread: standard deviation of their strength, in units of that of the images' hardness.
        noise: of an attack on an image, in the same units: the smaller, the more attacks agree.
    """

    name: str
    spread: float
    noise: float


KINDS = (
    Kind("all equal, agree", 0.0, 0.2),
    Kind("all equal, noisy", 0.0, 1.0),
    Kind("nearly equal", 0.01, 0.2),
    Kind("close", 0.05, 0.2),
    Kind("as in a grid", 0.2, 0.3),
    Kind("far apart", 0.6, 0.3),
)


@dataclass(frozen=True)
class Raced:
    """How races of one kind ended."""

    found: tuple[bool, ...]
    saved: tuple[float, ...]

    def row(self, name: str, confidence: float, *, races: str) -> str:
        """A line of the table."""
        return (
            f"| {name} | {confidence:.0%} | {races} | {np.mean(self.found):.2%} | {np.mean(self.saved):.1%} | "
            f"{min(self.saved):.1%} to {max(self.saved):.1%} |"
        )


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--races", type=int, default=RACES, help="per kind; each is raced in several orders")
    options = parser.parse_args()
    print("| attacks | confidence | races | found | saved | lowest to highest |\n| --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        for confidence in CONFIDENCES:
            raced = _races(kind, confidence, options.races)
            print(raced.row(kind.name, confidence, races=f"{len(raced.found):,}"), flush=True)
    for name, correct in _real(options.results) if options.results else ():
        for confidence in CONFIDENCES:
            raced = _folds(correct, len(correct[0]) // 2, confidence, FOLDS, seed=0)
            print(raced.row(name, confidence, races=f"{FOLDS} orders of {len(correct[0])} images"), flush=True)


def _races(kind: Kind, confidence: float, races: int) -> Raced:
    """Races on fresh images; each draw of attacks and images is raced in ten orders of the images."""
    found: list[bool] = []
    saved: list[float] = []
    for number in range(races):
        raced = _folds(_answers(kind, seed=number), FIRST, confidence, 10, seed=number)
        found += raced.found
        saved += raced.saved
    return Raced(tuple(found), tuple(saved))


def _answers(kind: Kind, *, seed: int) -> np.ndarray:
    """(attacks, images): right or wrong."""
    generator = np.random.default_rng(seed)
    strength = kind.spread * generator.normal(size=(ATTACKS, 1)).astype(np.float32)
    hardness = generator.normal(size=IMAGES).astype(np.float32)
    noise = generator.standard_normal(size=(ATTACKS, IMAGES), dtype=np.float32)
    right: np.ndarray = strength + hardness + kind.noise * noise > 0
    return right


def _folds(correct: np.ndarray, first: int, confidence: float, folds: int, *, seed: int) -> Raced:
    """One table raced in several random orders of its images."""
    generator, images = np.random.default_rng(seed), correct.shape[1]
    counts = correct.sum(axis=1)
    found, saved = [], []
    for _ in range(folds):
        part = generator.choice(images, size=first, replace=False)
        stay = racing.survivors(correct[:, part], confidence=confidence)
        found.append(bool(counts[stay].min() == counts.min()))
        saved.append(float((1 - stay.mean()) * (1 - first / images)))
    return Raced(tuple(found), tuple(saved))


def _real(results: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every decision of a finished run, and its answers at its early state: (attacks, images), without any checks."""
    for model in vocabulary.DEQS:
        seed = sorted((results / "attacks" / "grid" / model).iterdir())[0]
        early = json.loads((results / "select" / model / f"{seed.name}.json").read_text())
        found = records.merge([records.read(path) for path in sorted(seed.glob("*.parquet"))])
        for defence in ("plain", "entropy"):
            rows = found.where((found["model"] == model) & (found["defence"] == defence))
            order = np.lexsort([rows[name] for name in ("image", "steps", "state", "damping")])
            right = (rows["predicted"][:, early[defence]["state"] - 1] == rows["label"])[order]
            yield f"{model}, {defence}", right.reshape(-1, len(np.unique(rows["image"])))


if __name__ == "__main__":
    main()
