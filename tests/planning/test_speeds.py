"""Seconds per unit of work: by the paper's tables, and by the rates of a GPU."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from deqpipe import config
from deqpipe.config import Config
from deqpipe.evaluation.judge import at
from deqpipe.planning import arithmetic, cost, formulas, rates, sources, speeds
from deqpipe.planning.rates import Rate
from deqpipe.planning.speeds import Speed
from deqpipe.reporting.paper import published
from deqpipe.workflow import gridpoints, vocabulary
from deqpipe.workflow.library_attacks import APGD_T, SQUARE, LibraryAttack
from tests import tiny

FILE = tiny.ROOT / "config.yaml"


@cache
def full() -> Config:
    return config.load([FILE])


def paper(settings: Config) -> Speed:
    return speeds.papers(settings, sources.images_of(settings), told=speeds.papers_config(FILE))


@pytest.mark.parametrize(
    ("model", "hours"),
    [
        ("deq_pgd_at_base", 80),
        ("deq_pgd_at_random_states", 61),
        ("deq_trades_base", 101),
        ("deq_trades_random_states", 80),
    ],
)
def test_trainings_take_the_hours_that_the_papers_images_per_second_make(model: str, hours: int) -> None:
    settings, images = full(), sources.images_of(full())
    steps = settings.training.epochs * 511 - settings.pretrain.steps  # of 49,000 images, 96 at once
    by_hand = steps * 96 / (published.value(9, speeds.ROWS[model], "images/s") or 0) / 3600
    assert by_hand == pytest.approx(hours, abs=0.7)
    wildcards = {"model": model, "seed": "0"}
    seen = cost.taken("train_deq", wildcards, settings, images)
    step = cost.training_work(cost.training_step(settings, model) * seen, f"train/{model}")
    assert paper(settings).minutes(step) / 60 == pytest.approx(by_hand, rel=0.002)  # epochs end with a smaller batch
    whole = paper(settings).minutes(cost.job("train_deq", wildcards, settings, images)) / 60
    assert by_hand < whole < 1.04 * by_hand  # the Jacobian term on a step in fifty, and validation


def test_the_names_of_speeds_and_the_formula_of_limits_are_there_without_torch() -> None:
    code = (
        "import sys; from deqpipe.planning import speed_names; from deqpipe.planning.cluster import limits;"
        "sys.exit('torch' in sys.modules or speed_names.SPEEDS != ('paper', 'rates', 'here'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_decisions_take_what_the_paper_says_of_them() -> None:
    speed, settings = paper(full()), full()
    last = at(settings.solver.steps)
    alone, defended = (60 * speed.minutes(cost.decision(settings, name, last)) for name in ("plain", "entropy"))
    assert (1 / alone, 1 / defended) == pytest.approx((94.9, 11.7))


@pytest.mark.parametrize(("attack", "hours"), [(APGD_T, 5.45), (SQUARE, 29.7)])
def test_an_attack_on_a_batch_takes_what_its_passes_take_at_table_10s_speed(
    attack: LibraryAttack, hours: float
) -> None:
    """And the unroll behind the last state, which is not part of Table 10: with gradient or without."""
    settings, speed = full(), paper(full())
    passes = attack.passes(settings.autoattack, settings.autoattack.targets)
    by_hand = (passes.gradients + passes.forwards) * 250 / 11.7 / 3600
    assert by_hand == pytest.approx(hours, abs=0.05)
    deepest = cost.deepest_points(gridpoints.grid_points(settings))
    target = cost.attacked(settings, "deq_trades_random_states", "entropy", deepest)
    work = target.gradient * (250 * passes.gradients) + target.forward * (250 * passes.forwards)
    unrolled = deepest[0].steps * 250 * (2 * passes.gradients + passes.forwards)
    assert speed.minutes(work) / 60 == pytest.approx(by_hand + unrolled * speed.prices["solve"] / 3600)


def test_another_model_takes_by_operations() -> None:
    demo = config.load([FILE, tiny.ROOT / "config" / "demo.yaml"])
    ratio = arithmetic.operations_of_f(demo, sources.images_of(demo)) / arithmetic.operations_of_f(
        full(), sources.images_of(full())
    )
    small, large = paper(demo).prices, paper(full()).prices
    for part in ("solve", "unroll", "descent", "pretrain", "train/deq_trades_base"):
        assert small[part] == pytest.approx(ratio * large[part])


def test_every_part_of_every_job_has_its_price() -> None:
    demo = config.load([FILE, tiny.ROOT / "config" / "demo.yaml"])
    images = sources.images_of(demo)
    both = paper(demo), speeds.of_rates(demo, images, rates.rates(Path("nothing")))
    assert both[0].prices.keys() == both[1].prices.keys()
    used = {f"train/{model}" for model in vocabulary.DEQS} | {"pass", "solve", "unroll", "descent", "read", "pretrain"}
    assert (
        used | {"resnet/decide", "resnet/gradient", "resnet/train/trades", "start", "report"} <= both[0].prices.keys()
    )


def test_rates_are_operations_per_second_of_training_and_of_evaluation() -> None:
    settings, images = full(), sources.images_of(full())
    known = {
        **rates.rates(Path("nothing")),
        ("fp32", "training"): Rate(10.0, "a card"),
        ("tf32", "training"): Rate(1.0),
    }
    speed = speeds.of_rates(settings, images, known)
    step = cost.training_work(cost.training_step(settings, "deq_trades_base"), "train/deq_trades_base")
    by_hand = step.evaluations.total * arithmetic.operations_of_f(settings, images) / 10e12
    assert 60 * speed.minutes(step) == pytest.approx(by_hand)
    plain = cost.Work(parts={"solve": formulas.up_to(settings, None, 8).total})
    assert 60 * speed.minutes(plain) == pytest.approx(8 * arithmetic.operations_of_f(settings, images) / 22e12)
    assert "fp32 training 10 TFLOP/s (measured: a card), evaluation 22 TFLOP/s (assumed)" in speed.words
    assert "tf32" not in speed.words
