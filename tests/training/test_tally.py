"""What is counted on the device says what Python's own numbers would say."""

import math

import pytest
import torch
from torch import Tensor

from deqpipe.training.tally import EXPLODED, Reading, Tally, largest_loss, magnitude

CPU = torch.device("cpu")
BOUND = 10.0
LOSSES = [0.1, 1 / 3, 2.7182818284590452, 1e-9, 123.456]


def number(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_have_the_bits_of_pythons_floats(dtype: torch.dtype) -> None:
    tally, expected = Tally.start(CPU), 0.0
    for images, value in enumerate(LOSSES, start=3):
        loss = number(value, dtype)
        tally = tally.added(loss, torch.tensor(2), images=images)
        expected += loss.item() * images
    found = tally.read()
    assert (found.loss_sum, found.correct) == (expected, 2 * len(LOSSES))


def test_a_tally_goes_on_from_sums_that_were_read() -> None:
    whole = Tally.start(CPU)
    for value in LOSSES:
        whole = whole.added(number(value), torch.tensor(1), images=7)
    parts = Tally.start(CPU)
    for value in LOSSES:
        found = parts.read()
        parts = Tally.start(CPU, loss_sum=found.loss_sum, correct=found.correct)
        parts = parts.added(number(value), torch.tensor(1), images=7)
    assert parts.read() == whole.read()


def judged(*steps: tuple[float, float]) -> Tally:
    """After steps of these losses and magnitudes of the gradient; the first step is 5."""
    tally = Tally.start(CPU)
    for step, (loss, gradient) in enumerate(steps, start=5):
        tally = tally.judged(number(loss), number(gradient), penalty=number(loss) / 2, bound=BOUND, step=step)
    return tally


def test_where_all_is_finite_nothing_is_withheld() -> None:
    tally = judged((1.0, 2.0), (BOUND, 3e38))
    assert tally.withheld == 0
    assert tally.read() == Reading(0.0, 0, None, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 10.001, 1e38])
def test_the_first_bad_step_is_kept_and_everything_after_it_withheld(bad: float) -> None:
    first = judged((1.0, 2.0), (bad, 2.0))
    then = judged((1.0, 2.0), (bad, 2.0), (9.0, 1.0), (1.0, bad))
    assert first.withheld == then.withheld == 1
    for tally in (first, then):
        assert tally.read().bad_step == 6
        assert tally.read().bad_loss == pytest.approx(bad, nan_ok=True)
        assert tally.read().bad_penalty == pytest.approx(bad / 2, nan_ok=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_is_noticed_and_its_loss_kept(bad: float) -> None:
    tally = judged((0.25, 2.0), (0.5, bad), (math.nan, 1.0))
    assert tally.withheld == 1
    assert (tally.read().bad_step, tally.read().bad_loss) == (6, 0.5)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_loss_explodes_far_above_that_of_guessing(classes: int) -> None:
    guessing = torch.nn.functional.cross_entropy(torch.zeros(1, classes), torch.zeros(1, dtype=torch.int64)).item()
    assert largest_loss(classes) == pytest.approx(EXPLODED * guessing)


def test_a_step_without_penalty_blames_none() -> None:
    tally = judged((1.0, 1.0)).judged(number(math.nan), number(1.0), penalty=None, bound=BOUND, step=6)
    assert (tally.read().bad_step, tally.read().bad_penalty) == (6, 0.0)


def test_withheld_is_what_fused_optimisers_ask_for() -> None:
    assert (judged().withheld.dtype, judged().withheld.shape) == (torch.float32, ())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_magnitude_is_finite_only_if_all_numbers_are(bad: float, where: int, dtype: torch.dtype) -> None:
    gradients = [torch.full(shape, -2.0, dtype=dtype) for shape in ((3, 4), (), (100,))]
    assert magnitude(gradients) == 2 * 113
    gradients[where].view(-1)[-1] = bad
    assert not magnitude(gradients).isfinite()


def test_magnitude_of_large_numbers_is_finite() -> None:
    """Their squares are not."""
    assert magnitude([torch.full((1000,), 1e30)]).isfinite()
