"""How fast jobs compute: as the paper says, as one GPU is measured or assumed to, or as this machine does.

A speed is seconds per unit of every part of work (`cost.Part`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deqpipe import config as configuration
from deqpipe.config import Config
from deqpipe.counts import Number
from deqpipe.model.architecture import FEEDFORWARD
from deqpipe.planning import arithmetic, cost, formulas
from deqpipe.planning.rates import KINDS, Rate, Rates, words
from deqpipe.planning.sources import images_of
from deqpipe.planning.speed_names import SpeedName
from deqpipe.reporting.paper import experiment, published
from deqpipe.workflow import vocabulary
from deqpipe.workflow.vocabulary import MODELS

START, REPORT = 60.0, 30.0
"""Seconds that a job takes to start on a node, with its imports and its model, and a table or figure: assumed."""
ROWS = {
    "deq_pgd_at_base": "PGD-AT baseline",
    "deq_pgd_at_random_states": "PGD-AT + Sec. 3.3",
    "deq_trades_base": "TRADES baseline",
    "deq_trades_random_states": "TRADES + Sec. 3.3",
}
"""The row of Table 9 of each method."""


@dataclass(frozen=True)
class Speed:
    """How fast jobs compute.

    Attributes:
        name: which speed it is.
        words: where it is from.
        prices: seconds per unit of every part.
    """

    name: SpeedName
    words: str
    prices: Mapping[cost.Part, Number]

    def minutes(self, work: cost.Work) -> float:
        """How long some work takes."""
        return float(work.seconds(self.prices)) / 60


def papers_config(base: Path = Path("config.yaml")) -> Config:
    """The configuration whose speeds the paper tells; of what the paper leaves open, what a file says.

    Raises:
        UserError: the file cannot be read.
    """
    return configuration.parse(configuration.merge(configuration.read([base]), experiment.nested("paper")))


def papers(config: Config, images: cost.Images, *, told: Config) -> Speed:
    """The speeds of Tables 9 and 10, on an RTX 3090.

    Training: images per second of each method, over its evaluations of f per image. Decisions: those without Sec. 3.2,
    and what they take longer with it at the paper's T_f and R, over their evaluations. What the paper does not time is
    reckoned by operations: a gradient to the image as one application more, at the speed of decisions; the trunk and
    the networks without states at that of PGD-AT's training. Other models than the paper's take by operations, too.

    Args:
        config: of the run.
        images: of its source.
        told: the paper's own configuration.
    """
    paper_operations = arithmetic.operations_of_f(told, images_of(told))
    each = arithmetic.operations_of_f(config, images) / paper_operations
    training = {model: each * _training_seconds(told, model) for model in vocabulary.DEQS}
    forward, descent = (each * seconds for seconds in _decision_seconds(told))
    pgd_at = _training_seconds(told, "deq_pgd_at_base")
    prices: dict[cost.Part, Number] = {
        "solve": forward, "unroll": 2 * forward, "descent": descent, "pretrain": each * pgd_at,
        **{f"train/{model}": seconds for model, seconds in training.items()},
        **_networks(config, images, training=pgd_at / paper_operations, evaluation=pgd_at / paper_operations),
    }  # fmt: skip
    return Speed("paper", "the paper's speeds (an RTX 3090, Tables 9 and 10)", prices | _NOT_COUNTED)


_NOT_COUNTED: dict[cost.Part, Number] = {"pass": 0, "read": 0, "start": START, "report": REPORT}
"""Stem and head are left out, as everywhere in the counts."""


def _published(table: int, row: str, column: str) -> float:
    value = published.value(table, row, column)
    assert value is not None, f"Table {table} has no {row}, {column}"
    return value


def _training_seconds(told: Config, model: str) -> float:
    """Per evaluation of f in a training step."""
    return 1 / (_published(9, ROWS[model], "images/s") * cost.training_step(told, model).total)


def _decision_seconds(told: Config) -> tuple[float, float]:
    """Per evaluation of f in a solve, and in the updates of Sec. 3.2."""
    entropy, last = told.entropy, told.solver.steps
    plain, defended = (formulas.up_to(told, keys, last).total for keys in (None, entropy))
    alone = 1 / _published(10, "any T_f", "R = 0")
    whole = 1 / _published(10, f"T_f = {entropy.solver_steps}", f"R = {entropy.input_steps}")
    return alone / plain, (whole - alone) / (defended - plain)


def of_rates(config: Config, images: cost.Images, rates: Rates) -> Speed:
    """By the operations of f and the rates of a GPU, in the precision of the configuration."""
    training, evaluation = (_seconds(rates[config.precision, kind]) for kind in KINDS)
    of_f = arithmetic.operations_of_f(config, images)
    prices: dict[cost.Part, Number] = {
        "solve": evaluation * of_f, "unroll": 2 * evaluation * of_f, "descent": evaluation * of_f,
        "pretrain": training * of_f,
        **{f"train/{model}": training * of_f for model in vocabulary.DEQS},
        **_networks(config, images, training=training, evaluation=evaluation),
    }  # fmt: skip
    return Speed("rates", f"one H100's speed: {words(rates, [config.precision])}", prices | _NOT_COUNTED)


def _seconds(rate: Rate) -> float:
    """Per operation."""
    return 1 / (1e12 * rate.teraflops)


def _networks(config: Config, images: cost.Images, *, training: float, evaluation: float) -> dict[cost.Part, Number]:
    """Seconds per image of every part of networks without states, by seconds per operation."""
    prices: dict[cost.Part, Number] = {}
    for model in vocabulary.FEEDFORWARD:
        name, settings = MODELS[model].architecture.name, vocabulary.feedforward(config, model)
        of_network = FEEDFORWARD[name].operations(settings, image_shape=images.shape, classes=images.classes)
        for part in (f"train/{MODELS[model].framework}", "gradient", "decide"):
            passes = arithmetic.feedforward_passes(config, {f"{name}/{part}": 1}, name=name)
            rate = training if part.startswith("train/") else evaluation
            prices[f"{name}/{part}"] = passes * of_network * rate
    return prices
