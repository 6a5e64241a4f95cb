"""Is the attack on the trained models an attack? Epsilon sweep, more steps, random noise, lost gradients.

    python benchmarks/sanity.py results/demo > sanity.md

Reads a finished results folder (config.yaml, models, early states, data). Every column is accuracy at the early state
on the first test images; the attack is PGD on the ready-made surrogate (z^[N], unrolled as the final state is), with
step size epsilon / 4. With a working attack accuracy falls to chance or below as epsilon grows, more steps are never
much weaker, and noise of the same size does far less than the attack. The second table has AutoAttack's APGD-CE and
Square beside PGD, for a ResNet and one DEQ, on 100 images: the gradient attacks end at 0 or near it, and Square,
without gradients, is not far ahead of them anywhere.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from deqpipe import config
from deqpipe.attack.autoattack import Flags, LibraryAttacks
from deqpipe.config import AttackName, Config
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import Chunk
from deqpipe.evaluation.scoring import attack_rows
from deqpipe.workflow import specs, vocabulary

EPSILONS_255 = (0.0, 8.0, 19.0, 38.0, 57.0, 76.0, 102.0, 128.0, 255.0)
MORE_STEPS = (7, 20, 50)
BESIDE = ("resnet18_pgd_at", "deq_pgd_at_base")
ITERATIONS, QUERIES = 20, 100  # of APGD-CE and of Square


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    loaded = config.load([options.results / "config.yaml"])
    print("| model | epsilon x 255 | PGD steps | plain | + Sec. 3.2 | plain, noise | lost gradients |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in vocabulary.DEQS:
        early = json.loads((options.results / "select" / model / f"seed{loaded.seeds[0]}.json").read_text())
        states = {defence: early[defence]["state"] for defence in ("plain", "entropy")}
        for epsilon, steps in _settings(loaded):
            evaluated = _subject(loaded, options.results, model, epsilon=epsilon, steps=steps)
            print(_row(evaluated, states, epsilon=epsilon, steps=steps), flush=True)
    print("\n| model, undefended | epsilon x 255 | PGD | APGD-CE | Square | noise |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in BESIDE:
        for epsilon in EPSILONS_255:
            evaluated = _subject(loaded, options.results, model, epsilon=epsilon, steps=ITERATIONS)
            print(_row_beside(evaluated, _early_state(options.results, model, loaded), epsilon=epsilon), flush=True)


def _early_state(results: Path, model: str, loaded: Config) -> int:
    if model not in vocabulary.DEQS:
        return 1  # a network has no other
    chosen = json.loads((results / "select" / model / f"seed{loaded.seeds[0]}.json").read_text())
    return int(chosen["plain"]["state"])


def _settings(loaded: Config) -> Iterator[tuple[float, int]]:
    yield from ((epsilon, 20) for epsilon in EPSILONS_255)
    yield from ((loaded.threat_model.epsilon_255, steps) for steps in MORE_STEPS)


def _subject(loaded: Config, results: Path, model: str, *, epsilon: float, steps: int) -> EvaluatedModel:
    changed = config.parse(
        config.merge(
            loaded.model_dump(mode="json"),
            {
                "threat_model": {"epsilon_255": epsilon},
                "attack": {"pgd": {"steps": steps, "step_size_255": epsilon / 4}},
            },
        )
    )
    seed = loaded.seeds[0]
    job = EvaluationJob(
        spec=specs.build("attack_grid" if model in vocabulary.DEQS else "attack_pgd", changed, model=model, seed=seed),
        data=results / "data" / "dataset.safetensors",
        checkpoint=results / "models" / model / f"seed{seed}" / "best.safetensors",
        output=Path(tempfile.gettempdir()) / "unused",
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        threads=1,
        batch_size=loaded.evaluation.expected_batch_size,
    )
    return load_evaluated_model(job)


def _row(evaluated: EvaluatedModel, states: dict[str, int], *, epsilon: float, steps: int) -> str:
    count = min(len(evaluated.dataset.test), 200)
    chunk = Chunk(evaluated.dataset.test, range(count))
    columns = attack_rows(
        evaluated, evaluated.final_point(), chunk, references=lambda judge, images: None, purpose="sanity/start"
    )
    right = {
        defence: np.mean((columns["predicted"][:, state - 1] == columns["label"])[columns["defence"] == defence])
        for defence, state in states.items()
    }
    noise = _noise_accuracy(evaluated, chunk, state=states["plain"])
    lost = float(columns["lost_gradient"].mean())
    cells = [evaluated.name, f"{epsilon:g}", str(steps), f"{right['plain']:.1%}", f"{right['entropy']:.1%}"]
    return "| " + " | ".join([*cells, f"{noise:.1%}", f"{lost:.2%}"]) + " |"


def _row_beside(evaluated: EvaluatedModel, state: int, *, epsilon: float) -> str:
    chunk = Chunk(evaluated.dataset.test, range(min(len(evaluated.dataset.test), 100)))
    point, references = evaluated.final_point(), lambda judge, images: None
    columns = attack_rows(evaluated, point, chunk, references=references, purpose="sanity/start")
    right = (columns["predicted"][:, state - 1] == columns["label"])[columns["defence"] == "plain"]
    found = [_library_accuracy(evaluated, chunk, name, state=state) for name in ("apgd_ce", "square")]
    cells = [float(right.mean()), *found, _noise_accuracy(evaluated, chunk, state=state)]
    return "| " + " | ".join([evaluated.name, f"{epsilon:g}", *(f"{cell:.1%}" for cell in cells)]) + " |"


def _library_accuracy(evaluated: EvaluatedModel, chunk: Chunk, name: AttackName, *, state: int) -> float:
    """Share of images that the plain decision is right on both at highest loss and as they fool the logits."""
    x, y = chunk.load(chunk.images, evaluated.job.device)
    attack = LibraryAttacks(evaluated.ball, iterations=ITERATIONS, queries=QUERIES)
    crafted = attack(name, evaluated.logits_of(evaluated.final_point()), x, y, seed=0, flags=Flags())
    plain = next(judge for judge in evaluated.judges if judge.defence == "plain")
    right = [
        plain(images, y, None).columns["predicted"][:, state - 1] == y.cpu().numpy()
        for images in (crafted.best, crafted.fooled)
    ]
    return float((right[0] & right[1]).mean())


def _noise_accuracy(evaluated: EvaluatedModel, chunk: Chunk, *, state: int) -> float:
    """Accuracy of the plain decision under random corners of the ball."""
    x, y = chunk.load(chunk.images, evaluated.job.device)
    draw = evaluated.stream("sanity/noise").uniform(chunk.images, tuple(x.shape[1:])).to(x.device)
    noisy = evaluated.ball.project(x + (2 * draw - 1).sign() * evaluated.ball.epsilon, x)
    plain = next(judge for judge in evaluated.judges if judge.defence == "plain")
    predicted = plain(noisy, y, None).columns["predicted"][:, state - 1]
    return float((predicted == y.cpu().numpy()).mean())


if __name__ == "__main__":
    main()
