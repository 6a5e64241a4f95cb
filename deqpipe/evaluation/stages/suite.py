"""The jobs that attack a decision with all that is known of it (Table 11, Figure 8), and within other radii (Figure 7).

A piece is one attack on one batch: so many of the images that it is run on, in order. In standard mode an image leaves
once the decision errs on what an attack made of it; in individual mode every attack meets every image that is right
when clean. Random noise is no attack: nothing leaves by it. Random numbers are keyed by attack and image, so parts,
batches and tries agree. Pieces keep their images, where attacks that start from the best ones find them, until the job
is published with all of them.

Where the solver couples the images of a batch, batches are not cut: all of a batch's images are attacked as long as an
attack is run on one of them, and those alone that it is run on have rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqpipe.attack import suite as attacks
from deqpipe.attack.judged import Crafted
from deqpipe.attack.suite import Batch
from deqpipe.config import AttackSuiteConfig
from deqpipe.evaluation.evaluated_model import EvaluationJob
from deqpipe.evaluation.images import suite_piece
from deqpipe.evaluation.resumable import Part, Piece, PieceResult, file_of, run_pieces
from deqpipe.evaluation.scoring import joined
from deqpipe.evaluation.suite_target import (
    SuiteTarget,
    suite_in,
    target_of,
)
from deqpipe.results import records, saved_images
from deqpipe.results.saved_images import Saved
from deqpipe.shapes import Images, Labels
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.suite_attacks import AT_RADII, CONTROLS, SuiteAttack, against, suite_attacks

CLEAN = "clean"


def attack_suite(job: EvaluationJob, part: Part, select: Path | None) -> int:
    """Every attack of the suite on one decision; returns the exit status."""
    target = target_of(job, part.images, select)
    evaluated = target.evaluated
    suite = suite_in(evaluated.settings)
    sequence = SuiteSequence(target, part, suite, against(suite, target.victim.kind), standard=suite.mode == "standard")
    pieces = sequence.pieces()
    return run_pieces(evaluated, part, pieces, piece_spec=job.spec, publish=partial(publish, sequence, tuple(pieces)))


def attack_radius(job: EvaluationJob, part: Part, select: Path | None) -> int:
    """One attack and random noise on one decision, within balls of other radii (Figure 7); returns the exit status.

    Every radius attacks every image that is right when clean, whatever became of it within a smaller one.
    """
    target = target_of(job, part.images, select)
    evaluated = target.evaluated
    suite = suite_in(evaluated.settings, restarts=1, long=())
    faced = tuple(suite_attacks(suite)[name] for name in AT_RADII)
    pieces: dict[str, Piece] = {}
    for number, times in enumerate(suite.radii):
        within = target.within(LinfBall(times * evaluated.ball.epsilon))
        pieces |= SuiteSequence(
            within, part, suite, faced, standard=False, prefix=f"radius{number}_", keeps=False
        ).pieces()
    return run_pieces(evaluated, part, pieces, piece_spec=job.spec)


@dataclass(frozen=True)
class SuiteSequence:
    """Attacks on a part of the images, one after the other, each batch by batch.

    Attributes:
        target: what is attacked.
        part: which images.
        suite: how much is spent.
        attacks: in order.
        standard: an image leaves once the decision errs.
        prefix: of the pieces' names, where several sequences share a part.
        keeps: whether what the attacks have made is kept.
    """

    target: SuiteTarget
    part: Part
    suite: AttackSuiteConfig
    attacks: tuple[SuiteAttack, ...]
    standard: bool
    prefix: str = ""
    keeps: bool = True

    def pieces(self) -> dict[str, Piece]:
        """The clean images, then each batch of each attack; whose it is, is known once those before are done."""
        clean: dict[str, Piece] = {CLEAN: self._clean}
        return clean | {
            self._name(attack, number): partial(self._attacked, attack, number)
            for attack in self.attacks
            for number in range(self._batches(attack))
        }

    @property
    def _coupled(self) -> bool:
        return self.target.victim.couples_images

    def _size(self, attack: SuiteAttack) -> int:
        """Of a piece; that of a batch whose images influence each other, which is fixed."""
        if self._coupled:
            return self.target.evaluated.batch_size
        others = len(self.target.evaluated.dataset.classes) - 1
        return suite_piece(attack.starts(self.suite, others) * attack.steps(self.suite))

    def _batches(self, attack: SuiteAttack) -> int:
        """As many as there can be; some may be without images."""
        return -(-len(self.part.images) // self._size(attack))

    def _name(self, attack: SuiteAttack, number: int) -> str:
        return f"{self.prefix}{attack.name}_batch{number}"

    def _clean(self) -> PieceResult:
        """Rows of the images as they are, and whether the decision is the same when it is asked again."""
        parts, differ = [], 0
        for images in self._chunks(self.part.images):
            x, y = self.target.load(images)
            parts.append(self.target.clean_rows(images, x, y))
            differ += _differing(self.target.victim.logits(x), self.target.victim.logits(x))
        told = f"{differ} of {len(self.part.images)} images have other logits when they are judged again"
        return PieceResult(joined(parts), (f"decision is not deterministic: {told}",) if differ else ())

    def _chunks(self, images: Sequence[int]) -> list[Sequence[int]]:
        """Images at once."""
        size = self.target.evaluated.batch_size
        return [images[first : first + size] for first in range(0, len(images), size)]

    def _attacked(self, attack: SuiteAttack, number: int) -> PieceResult:
        taken, counted = self._images(attack, number)
        if not counted:
            return PieceResult(self.target.no_rows(), images={} if self.keeps else None)
        before, made = self.target.evaluated.evaluations, []
        starts = self._best(attack, taken) if attack.warm else None
        for images in self._chunks(taken):
            x, y = self.target.load(images)
            made.append(_Made(images, x, y, self._run(attack, images, x, y, starts)))
        spent = self.target.evaluated.evaluations - before
        steps = sum(int(one.crafted.taken.sum()) for one in made)
        per_step = spent.total / steps if steps and self.target.evaluated.evaluates_f else np.nan
        return self._told(attack, made, counted, per_step)

    def _run(
        self, attack: SuiteAttack, images: Sequence[int], x: Images, y: Labels, starts: Mapping[int, Tensor] | None
    ) -> Crafted:
        if self.target.victim.ball.epsilon == 0:
            return _untouched(x)
        warm = None if starts is None else torch.stack([starts[image] for image in images]).to(x.device) + x
        return attacks.run(
            attack, self.target.victim, Batch(x, y, images, warm), stream=self.target.stream(attack), suite=self.suite
        )

    def _told(self, attack: SuiteAttack, made: Sequence["_Made"], counted: set[int], per_step: float) -> PieceResult:
        """The rows and the images of those that the attack was run on for their own sake."""
        rows, kept = [], []
        for one in made:
            columns = self.target.attacked_rows(attack.name, one.images, one.x, one.y, one.crafted, per_step=per_step)
            mask = np.isin(columns["image"], list(counted))
            rows.append({name: column[mask] for name, column in columns.items()})
            if not self.keeps:
                continue
            margin = self.target.margin(self.target.judge(saved_images.rounded(one.crafted.images), one.y))
            saved = saved_images.saved(one.images, one.x, one.crafted.images, torch.from_numpy(margin))
            kept.append({attack.name: saved.part(torch.from_numpy(mask))})
        return PieceResult(joined(rows), images=saved_images.joined(kept) if self.keeps else None)

    def _images(self, attack: SuiteAttack, number: int) -> tuple[Sequence[int], set[int]]:
        """The images that a piece takes, in order, and those of them that it is run for."""
        left = self._open(attack)
        size = self._size(attack)
        part = slice(number * size, (number + 1) * size)
        if not self._coupled:
            return left[part], set(left[part])
        batch = self.part.images[part]
        return batch, set(batch) & set(left)

    def _open(self, attack: SuiteAttack) -> list[int]:
        """The images that an attack is run on, in order."""
        return self._left_by(self._before(attack))

    @property
    def left(self) -> list[int]:
        """The images that are open still once all attacks have run, in order."""
        return self._left_by(self.attacks)

    def _left_by(self, attacks: Iterable[SuiteAttack]) -> list[int]:
        """The images that are right when clean and, in standard mode, after some attacks."""
        pieces = [CLEAN]
        if self.standard:
            pieces += [name for one in attacks if one.name not in CONTROLS for name in self._names(one)]
        fallen = self._fallen(pieces)
        return [image for image in self.part.images if image not in fallen]

    def _before(self, attack: SuiteAttack) -> tuple[SuiteAttack, ...]:
        return self.attacks[: self.attacks.index(attack)]

    def _names(self, attack: SuiteAttack) -> list[str]:
        return [self._name(attack, number) for number in range(self._batches(attack))]

    def _fallen(self, pieces: Iterable[str]) -> set[int]:
        """Images that the decision errs on in finished pieces."""
        fallen: set[int] = set()
        for piece in pieces:
            rows = records.read(self.file(piece), ("image", "label", "predicted"))
            fallen |= set(rows["image"][self.target.errs(rows["predicted"], rows["label"])].tolist())
        return fallen

    def file(self, piece: str) -> Path:
        """Where a piece is kept."""
        return file_of(self.target.evaluated, self.part, piece)

    def _best(self, attack: SuiteAttack, images: Sequence[int]) -> dict[int, Tensor]:
        """The changes with the lowest margins that the attacks before came to; none: no change."""
        x, _ = self.target.load(images[:1])
        best = dict.fromkeys(images, torch.zeros_like(x[0], device="cpu"))
        lowest = dict.fromkeys(images, np.inf)
        for piece in (name for one in self._before(attack) for name in self._names(one)):
            for image, margin, delta in self._margins(piece):
                if margin < lowest.get(image, -np.inf):
                    lowest[image], best[image] = margin, delta
        return best

    def _margins(self, piece: str) -> list[tuple[int, float, Tensor]]:
        """Every image of a finished piece, the decision's margin on what was made of it, and the change."""
        file = self.file(piece)
        rows = records.read(file, ("image", "margin"))
        kept = [one for made in saved_images.read(saved_images.beside(file))[0].values() for one in made.delta]
        margins = rows["margin"][:, self.target.victim.state - 1].tolist()
        return list(zip(rows["image"].tolist(), margins, kept, strict=True))


@dataclass(frozen=True, eq=False)
class _Made:
    """What an attack made of some images at once."""

    images: Sequence[int]
    x: Images
    y: Labels
    crafted: Crafted


def _differing(one: Tensor, other: Tensor) -> int:
    """How many images have other logits; no number is equal to itself here."""
    same = torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all(1)
    return int((~same).sum())


def _untouched(x: Images) -> Crafted:
    """What attacks within a ball of one point come to."""
    count, device = len(x), x.device
    unknown, none = torch.full((count,), torch.nan, device=device), torch.zeros(count, dtype=torch.int64, device=device)
    return Crafted(torch.zeros_like(x), x, unknown, none - 1, none, unknown, unknown)


def publish(
    sequence: SuiteSequence, pieces: Sequence[str], columns: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write rows and images; then the pieces need theirs no longer.

    Args:
        sequence: of attacks.
        pieces: their names.
        columns: of all rows.
        provenance: of the job.
    """
    output = sequence.target.evaluated.job.output
    kept = [saved_images.beside(sequence.file(piece)) for piece in pieces if piece != CLEAN]
    images: dict[str, Saved] = saved_images.joined(saved_images.read(file)[0] for file in kept)
    saved_images.write(saved_images.beside(output), images, provenance=provenance)
    records.write(output, columns, provenance=provenance)
    _forget(kept)


def _forget(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
