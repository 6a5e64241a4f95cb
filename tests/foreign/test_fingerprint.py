"""An evaluation goes on with the same decision only, even where weights and text are the same."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.foreign import fingerprint
from deqpipe.foreign.description import Defence, Description
from deqpipe.threat_model import LinfBall
from tests.foreign.test_mistakes import Network, States

LOGITS = torch.tensor([[0.0, 1.0, 4.0], [2.0, 3.0, 1.0]])


class Strong:
    """A defence by an object that does not say what it is made of."""

    def __init__(self, strength: float, inner: Any = None) -> None:
        self.strength, self.inner = strength, inner

    def __call__(self, plain: PlainDynamics, ball: LinfBall) -> Dynamics:
        return plain


def closed(strength: Any) -> Callable[[PlainDynamics, LinfBall], Dynamics]:
    def defence(plain: PlainDynamics, ball: LinfBall) -> Dynamics:
        return Strong(strength)(plain, ball)

    return defence


def strengthened(plain: PlainDynamics, ball: LinfBall, *, strength: float) -> Dynamics:
    return Strong(strength)(plain, ball)


def settings(model: Any = None, defence: Defence = None) -> dict[str, str]:
    return fingerprint.settings_of(Description(States() if model is None else model, defence=defence))


@pytest.mark.parametrize(
    "made",
    [
        Strong,
        closed,
        lambda strength: partial(strengthened, strength=strength),
        lambda strength: Strong(1, Strong(strength)),
        lambda strength: Strong(strength).__call__,
        lambda strength: closed({"a": [np.array([strength])], "b": {1, 2}}),
        lambda strength: closed(torch.tensor([strength])),
        lambda strength: closed(np.float32(strength)),
        lambda strength: closed(closed(strength)),
    ],
)
def test_a_defence_is_what_it_is_made_of(made: Callable[[float], Defence]) -> None:
    assert settings(defence=made(1.0)) == settings(defence=made(1.0))
    assert settings(defence=made(1.0))["defence"] != settings(defence=made(2.0))["defence"]


def test_a_defence_that_holds_itself_comes_to_an_end() -> None:
    endless = Strong(1)
    endless.inner = endless
    around: list[Any] = [endless]
    around.append(around)
    assert settings(defence=closed(around)) == settings(defence=closed(around))


def test_attributes_of_modules_are_settings() -> None:
    first, other = settings(States(scale=0.1)), settings(States(scale=0.9))
    assert {name for name in first if first[name] != other[name]} == {"scale"}
    nested = torch.nn.Sequential(States(scale=0.1))
    assert settings(nested)["0.scale"] == first["scale"]
    assert settings(Network(torch.relu)) != settings(Network(torch.tanh))
    dilated = (torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=n, dilation=n)) for n in (1, 2))
    assert len({settings(model)["layers"] for model in dilated}) == 2


def test_what_changes_when_a_model_is_asked_is_no_setting() -> None:
    first = fingerprint.taken({"calls": "1", "scale": "a"}, {"calls": "2", "scale": "a", "seen": "x"}, LOGITS)
    later = fingerprint.taken(
        {"calls": "7", "scale": "a", "seen": "x"}, {"calls": "8", "scale": "a", "seen": "x"}, LOGITS
    )
    assert first["settings"] == {"scale": "a"}
    assert fingerprint.differing(first, later) == []
    other = fingerprint.taken({"scale": "b"}, {"scale": "b"}, LOGITS)
    assert fingerprint.differing(first, other) == ["settings (scale)"]


@pytest.mark.parametrize(("by", "allowed"), [(0.0, True), (0.039, True), (0.041, False), (-1.0, False)])
def test_logits_may_differ_by_a_hundredth_of_their_range(by: float, allowed: bool) -> None:
    again = LOGITS.clone()
    again[1, 0] += by
    words = fingerprint.differing(fingerprint.taken({}, {}, LOGITS), fingerprint.taken({}, {}, again))
    assert bool(words) is not allowed
    assert all(word.startswith("logits (by up to") and word.endswith("on the first 2 images)") for word in words)


def test_other_classes_are_another_model() -> None:
    def taken(logits: Tensor) -> fingerprint.Fingerprint:
        return fingerprint.taken({}, {}, logits)

    assert fingerprint.differing(taken(LOGITS), taken(LOGITS[:, :2])) == ["classes"]
