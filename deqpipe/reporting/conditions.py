"""Under which conditions numbers were made, and where these are not the paper's."""

from collections.abc import Sequence
from typing import Any

from deqpipe import specs
from deqpipe.config import Config

# The paper's experiment (Sec. 4 and Appendix A) as far as its numbers depend on it: key, what it is, the paper's value.
# A test holds this list against config.yaml.
PAPER: tuple[tuple[str, str, Any], ...] = (
    ("data.source", "data", "cifar10"),
    ("data.augment", "augmentation", "crop_flip"),
    ("evaluation.images", "test images", 10000),
    ("threat_model.epsilon_255", "epsilon in 1/255", 8),
    ("attack.pgd.steps", "PGD steps", 10),
    ("attack.pgd.step_size_255", "PGD step size in 1/255", 2),
    ("attack.grid.states", "attacked states i", (1, 2, 3, 4, 5, 6, 7, 8)),
    ("attack.grid.steps", "unroll steps K_a", (1, 2, 3, 4, 5, 6, 7, 8, 9)),
    ("attack.grid.damping", "damping lambda", (0.5, 1.0)),
    ("training.epochs", "epochs of the DEQs", 210),
    ("pretrain.steps", "pretraining steps", 16000),
    ("training.batch_size", "batch size", 96),
    ("training.learning_rate", "learning rate", 1e-3),
    ("training.attack.steps", "PGD steps in training", 10),
    ("training.attack.step_size_255", "PGD step size in training in 1/255", 2),
    ("training.trades.inverse_lambda", "1/lambda of TRADES", 6),
    ("jacobian.weight.pgd_at", "Jacobian weight with PGD-AT", 2),
    ("jacobian.weight.trades", "Jacobian weight with TRADES", 0.4),
    ("model.channels", "channels of the DEQ", (32, 64, 128, 256)),
    ("model.head_channels", "head channels", (14, 28, 56, 112)),
    ("model.final_channels", "final channels", 1680),
    ("model.expansion", "expansion", 5),
    ("model.groups", "groups", 8),
    ("model.dropout", "dropout", 0.22),
    ("solver.name", "solver", "broyden"),
    ("solver.steps", "solver steps N", 8),
    ("resnet.layers", "blocks of the ResNet", (2, 2, 2, 2)),
    ("resnet.training.epochs", "epochs of the ResNet", 110),
    ("selection.attack.steps", "PGD steps in selection", 10),
    ("entropy.solver_steps", "T_f", 2),
    ("entropy.input_steps", "R", 10),
    ("entropy.step_size_255", "beta in 1/255", 2),
)

_MDEQ_LARGE = ("model.channels", "model.head_channels", "model.final_channels", "model.expansion")
_SOURCES = {"digits": "scikit-learn's handwritten digits (8x8)", "cifar10": "CIFAR-10", "folder": "an image folder"}


def differences(config: Config) -> tuple[tuple[str, str, str], ...]:
    """What differs from the paper's experiment: (what, here, paper)."""
    return tuple(
        (what, _written(here), _written(paper)) for key, what, paper in PAPER if (here := _get(config, key)) != paper
    )


def comparable(config: Config) -> bool:
    """Whether numbers may be subtracted from the paper's: CIFAR-10, all test images, every setting above."""
    return not differences(config)


def data(config: Config) -> str:
    """The data set in words."""
    return _SOURCES[config.data.source]


def architecture(config: Config, method: str) -> str:
    """What a model is called: DEQ-Large and ResNet-18 only where it is one."""
    if method == "ResNet":
        return f"ResNet-{2 * sum(config.resnet.layers) + 2}"
    large = all(_get(config, key) == paper for key, _, paper in PAPER if key in _MDEQ_LARGE)
    return "DEQ-Large" if large else "small DEQ"


def setup(config: Config, *, seed: int) -> tuple[str, ...]:
    """Data, threat model, attacks and intervals, in sentences."""
    threat, pgd = config.threat_model.epsilon_255, config.attack.pgd
    return (
        f"Data: {data(config)}, the first {config.evaluation.images:,} test images; seed {seed}.",
        f"Threat model: every pixel may change by at most {threat:g}/255, within [0, 1]. PGD: {pgd.steps} steps of "
        f"{pgd.step_size_255:g}/255 from a random start.",
        _grid(config),
        f"Intervals ({100 * config.statistics.confidence:g} %): Wilson for one accuracy; for a minimum a bootstrap "
        f"over images ({config.statistics.resamples:,} resamples), the minimum taken inside each resample, reflected "
        "at the value; differences are paired by image.",
    )


def against_paper(config: Config) -> tuple[str, ...]:
    """What was reduced or changed, and what that makes of the paper's numbers."""
    changed = differences(config)
    if not changed:
        return ("The settings are the paper's; `difference` is here minus paper, in points.",)
    listed = "; ".join(f"{what} {here} (paper {paper})" for what, here, paper in changed)
    return (
        f"Reduced or changed relative to the paper: {listed}.",
        "The paper's numbers stand beside as context only; no difference is computed.",
    )


def _grid(config: Config) -> str:
    grid, points = config.attack.grid, specs.grid_points(config)
    ready = specs.ready_made(config)
    return (
        f"Grid of Eq. (11): i in {_written(grid.states)}, K_a in {_written(grid.steps)}, lambda in "
        f"{_written(grid.damping)}; with the ready-made attack (i = {ready.state}, K_a = {ready.steps}, lambda = "
        f"{ready.damping:g}) {len(points)} attacks, crafted without knowledge of Sec. 3.2."
    )


def _get(config: Config, key: str) -> object:
    node: Any = config
    for part in key.split("."):
        node = getattr(node, part)
    return node


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return _range(value)
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _range(values: Sequence[int | float]) -> str:
    whole = all(float(value).is_integer() for value in values)
    if whole and len(values) > 2 and list(values) == list(range(int(values[0]), int(values[0]) + len(values))):
        return f"{values[0]:g} to {values[-1]:g}"
    return ", ".join(f"{value:g}" for value in values)
