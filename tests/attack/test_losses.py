"""What attacks make large, against loops over the images."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deqpipe.attack import losses

CLASSES = 5
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(40, CLASSES, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(CLASSES, (40,), generator=GENERATOR)
TARGETS = (LABELS + 1 + torch.randint(CLASSES - 1, (40,), generator=GENERATOR)) % CLASSES


def largest_other(logits: list[float], y: int) -> float:
    return max(value for number, value in enumerate(logits) if number != y)


def probabilities(logits: list[float]) -> list[float]:
    weights = [math.exp(value) for value in logits]
    return [weight / sum(weights) for weight in weights]


def margin(logits: list[float], y: int) -> float:
    return largest_other(logits, y) - logits[y]


def cross_entropy(logits: list[float], y: int) -> float:
    return -math.log(probabilities(logits)[y])


def dlr(logits: list[float], y: int) -> float:
    first, _, third = sorted(logits, reverse=True)[:3]
    return -(logits[y] - largest_other(logits, y)) / (first - third)


@pytest.mark.parametrize("name", ["margin", "cross_entropy", "dlr"])
def test_a_loss_is_that_of_every_image_by_itself(name: str) -> None:
    by_hand = {"margin": margin, "cross_entropy": cross_entropy, "dlr": dlr}[name]
    expected = [by_hand(logits, y) for logits, y in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]
    assert getattr(losses, name)(LOGITS, LABELS).tolist() == pytest.approx(expected, rel=1e-9)


def test_a_targeted_margin_is_that_of_one_class() -> None:
    rows = zip(LOGITS.tolist(), LABELS.tolist(), TARGETS.tolist(), strict=True)
    expected = [logits[target] - logits[y] for logits, y, target in rows]
    assert losses.targeted_margin(LOGITS, LABELS, TARGETS).tolist() == pytest.approx(expected)


def test_a_confident_mistake_is_likely_and_of_low_entropy() -> None:
    expected = []
    for logits, target in zip(LOGITS.tolist(), TARGETS.tolist(), strict=True):
        p = probabilities(logits)
        expected.append(math.log(p[target]) + sum(one * math.log(one) for one in p))
    assert losses.confident_mistake(LOGITS, LABELS, TARGETS).tolist() == pytest.approx(expected)


some_logits = st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=6)


@given(some_logits, st.data())
@settings(max_examples=40, deadline=None)
def test_margins_are_above_zero_exactly_where_the_class_is_wrong(row: list[float], data: st.DataObject) -> None:
    y = data.draw(st.integers(0, len(row) - 1))
    logits, label = torch.tensor([row]), torch.tensor([y])
    value = float(losses.margin(logits, label))
    if value:  # between equal logits the order of the classes decides
        assert (value > 0) == (int(logits.argmax(1)) != y)
        assert (float(losses.dlr(logits, label)) > 0) == (value > 0)
    others = [k for k in range(len(row)) if k != y]
    targeted = [float(losses.targeted_margin(logits, label, torch.tensor([k]))) for k in others]
    assert max(targeted) == value


@pytest.mark.parametrize(("scale", "shift"), [(1e-2, 0.0), (1e3, 0.0), (1.0, -40.0), (0.3, 100.0)])
def test_the_difference_of_logits_ratio_knows_no_scale_and_no_shift(scale: float, shift: float) -> None:
    torch.testing.assert_close(losses.dlr(scale * LOGITS + shift, LABELS), losses.dlr(LOGITS, LABELS))


def test_equal_logits_have_a_finite_loss() -> None:
    equal, y = torch.zeros(1, 4), torch.tensor([1])
    assert losses.dlr(equal, y).tolist() == [0]


@pytest.mark.parametrize("classes", [1, 2])
def test_the_difference_of_logits_ratio_needs_three_classes(classes: int) -> None:
    with pytest.raises(ValueError, match=rf"there are {classes} classes, but this loss needs at least 3"):
        losses.dlr(torch.zeros(2, classes), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("loss", [losses.margin, losses.cross_entropy])
def test_a_step_along_the_gradient_makes_the_label_less_likely(loss: losses.Loss) -> None:
    leaf = LOGITS.clone().requires_grad_()
    loss(leaf, LABELS).sum().backward()
    assert leaf.grad is not None
    step: Tensor = (LOGITS + 1e-3 * leaf.grad).softmax(1)
    chosen = LABELS[:, None]
    assert (step.gather(1, chosen) < LOGITS.softmax(1).gather(1, chosen)).all()
