"""Memory and evaluations of f that the suite's gradients take on MDEQ-Large: docs/adaptive_memory.md.

python -m benchmarks.gradients [--batch 3] [--only straight_through ...]

Every gradient is taken in a process of its own, twice: with one image and with a batch. What the batch takes more at
its peak, divided by its further images, is the memory of an image.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from deqpipe import build
from deqpipe.attack.suite import RECOMPUTED_FROM, Batch, Victim, _objectives
from deqpipe.config import AttackSuiteConfig, load
from deqpipe.model.classifier import build_classifier
from deqpipe.settings import Settings
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.suite_attacks import suite_attacks

ATTACKS = (
    "exact_margin", "unrolled_margin", "adjoint_margin", "bpda_received", "bpda_updated", "average_margin",
    "before_update", "features", "straight_through", "smoothed",
)  # fmt: skip
PLAIN = ("exact_margin", "unrolled_margin", "adjoint_margin", "average_margin", "features")
"""Those that the undefended decision faces too."""
LONGER = ("exact_margin", "average_margin")
"""Those that go through the undefended solve that costs what Sec. 3.2 does."""
DECISIONS = {"plain": "undefended", "longer_solve": "undefended, longer solve", "entropy": "Sec. 3.2"}
PAGE = Path("docs/adaptive_memory.md")
KEYS = ("solver", "entropy", "threat_model", "attack.unroll", "precision", "suite")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=3, help="images of the larger batch")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=ATTACKS)
    parser.add_argument("--one", nargs=3, metavar=("ATTACK", "DEFENCE", "IMAGES"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        attack, defence, images = options.one
        print(json.dumps(measured(attack, defence, int(images))))
        return 0
    rows = [row(attack, "plain", options.batch) for attack in options.only if attack in PLAIN]
    rows += [row(attack, "longer_solve", options.batch) for attack in options.only if attack in LONGER]
    rows += [row(attack, "entropy", options.batch) for attack in options.only]
    PAGE.write_text(page(rows, options.batch))
    print(PAGE.read_text())
    return 0


def row(attack: str, defence: str, batch: int) -> str:
    """A line of the table."""
    one, several = (in_its_own_process(attack, defence, images) for images in (1, batch))
    more = (several["peak"] - one["peak"]) / (batch - 1)
    fits = int((24 * 2**30 - one["peak"]) / more) + 1 if more > 0 else 0
    label, forward, backward = suite_attacks(_suite())[attack].label, several["forward"], several["backward"]
    return f"| {DECISIONS[defence]} | {label} | {forward:.0f} + {backward:.0f} | {more / 2**20:,.0f} | {fits} |"


def in_its_own_process(attack: str, defence: str, images: int) -> dict[str, float]:
    """What a process that takes one gradient of a batch measures of itself."""
    command = [sys.executable, "-m", "benchmarks.gradients", "--one", attack, defence, str(images)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    print(f"{attack} on {defence}, {images} images: {found}", flush=True)
    return found


def measured(attack: str, defence: str, images: int) -> dict[str, float]:
    """Evaluations of f per image, seconds and peak memory of one gradient at the last state."""
    config = load([Path("config.yaml")])
    nested = config.model_dump(mode="json")
    settings = Settings({key: _at(nested, key) for key in KEYS})
    model = build_classifier(config.model, image_shape=(3, 32, 32), classes=10, seed=0).eval().requires_grad_(False)
    plain = build.plain_dynamics(settings)
    ball = LinfBall(config.threat_model.epsilon_255 / 255)
    victim = Victim(model, ball, build.dynamics(settings, defence), config.solver.steps, plain)
    assert model.state_size >= RECOMPUTED_FROM
    x = torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(images) % 10
    batch, clean = Batch(x, y, range(images)), victim.logits(x)
    objective = _objectives(suite_attacks(_suite())[attack], victim, batch, clean)(0)
    before, started = model.counter.counted, time.monotonic()
    leaf = x.clone().requires_grad_()
    loss = objective(leaf, torch.arange(images)).loss
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert gradient.isfinite().all()
    spent = model.counter.counted - before
    return {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        "seconds": time.monotonic() - started,
        "forward": spent.forward / images,
        "backward": spent.backward_input / images,
    }


def _at(nested: dict[str, object], key: str) -> object:
    node: object = nested
    for part in key.split("."):
        assert isinstance(node, dict)
        node = node[part]
    return node


def _suite() -> AttackSuiteConfig:
    suite = load([Path("config.yaml")]).suite
    assert isinstance(suite, AttackSuiteConfig)
    return suite


def page(rows: Sequence[str], batch: int) -> str:
    """The page, but for its words: those stand in docs/adaptive.md."""
    return "\n".join(
        [
            "# Memory of the suite's gradients",
            "",
            "What one gradient takes on MDEQ-Large, fp32, on a CPU; f is computed again in the backward pass where a "
            "gradient goes through the way to a state.",
            f"Measured with 1 and with {batch} images by `python -m benchmarks.gradients`. The last column: images at "
            "once within 24 GiB.",
            "",
            "| decision | gradient | f forward + backward per image | MiB per image | images in 24 GiB |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
