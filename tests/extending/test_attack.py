"""An attack of one's own: what it is given, and what is refused of what it gives."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe import extending
from deqpipe.attack import losses
from deqpipe.attack.own import Target, crafted
from deqpipe.attack.suite import Victim
from deqpipe.dynamics import PlainDynamics
from deqpipe.errors import UserError
from deqpipe.extending import Attack
from deqpipe.model.adapter import AdaptedModel
from deqpipe.seeding import Stream
from deqpipe.settings import Settings
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from tests.extending.attack import MARGIN
from tests.extending.model import Dense

X = torch.rand(4, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])


def target(*keys: int) -> Target:
    """A dense DEQ under attack, and the keys of some images."""
    torch.manual_seed(3)
    model = AdaptedModel(Dense((1, 4, 4), 3).double(), X)
    dynamics = PlainDynamics(Anderson(memory=3), Termination(4))
    return Target(Victim(model, LinfBall(0.1), dynamics, 4, dynamics), Settings({}), Stream(0, "own/test"), keys)


def test_it_lowers_the_margin_of_every_image_within_the_ball() -> None:
    attacked = target(0, 1, 2, 3)
    made = crafted(MARGIN, attacked, X, Y)
    before, after = (losses.margin(attacked.decide(x), Y) for x in (X, made.images))
    assert (after > before).all()  # what an attack makes large: minus the decision's margin
    assert torch.equal(made.images, X + made.delta)
    assert made.taken.tolist() == [MARGIN.gradients] * 4


def test_what_is_made_of_an_image_depends_on_no_other() -> None:
    together = crafted(MARGIN, target(0, 1, 2, 3), X, Y).images
    for image in range(4):
        alone = crafted(MARGIN, target(image), X[image : image + 1], Y[image : image + 1]).images
        assert torch.allclose(alone[0], together[image], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("craft", "told"),
    [
        (lambda target, x, y: x[:1], r"gives shape \(1, 1, 4, 4\), but must give images of shape \(4, 1, 4, 4\)"),
        (lambda target, x, y: None, "gives a NoneType"),
        (
            lambda target, x, y: x.float(),
            r"gives torch\.float32 on cpu, but must give images as it got: torch\.float64",
        ),
        (lambda target, x, y: x.to("meta"), r"gives torch\.float64 on meta, but must give images as it got"),
        (lambda target, x, y: x * torch.nan, "gives pixels that are no numbers"),
        (lambda target, x, y: (x - 0.1 - 2e-6).clamp(-1, 1), r"gives pixels from -0\.\d+ to"),
        (lambda target, x, y: (x + 0.11).clamp(0, 1), r"changes a pixel by 0\.11, but must change it by at most 0\.1"),
    ],
)
def test_what_is_no_attack_is_refused(craft: Callable[[Any, Any, Any], Any], told: str) -> None:
    with pytest.raises(UserError, match=f"attack mine: craft {told}"):
        crafted(Attack("mine", "mine", craft=craft, gradients=1), target(0, 1, 2, 3), X, Y)


def climbing(target: Any, x: Any, y: Any) -> Any:
    """Images that leave the ball step by step, as each is measured from the one before."""
    for _ in range(5):
        x += 0.1
        x = target.ball.project(x, x)
    return x


def falsifying(target: Any, x: Any, y: Any) -> Any:
    """Labels that make every decision wrong."""
    y += 1
    return x


def requiring(target: Any, x: Any, y: Any) -> Any:
    """A step as most write it: the images given are the leaf of the gradient, and come back."""
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(target.logits(x).sum(), x)
    return target.ball.project(x + 0.1 * gradient.sign(), x)


def test_images_that_are_written_into_are_measured_from_what_they_were() -> None:
    x, y = X.clone(), Y.clone()
    with pytest.raises(UserError, match=r"changes a pixel by 0\.\d+, but must change it by at most 0\.1"):
        crafted(Attack("mine", "mine", craft=climbing, gradients=1), target(0, 1, 2, 3), x, y)
    crafted(Attack("mine", "mine", craft=falsifying, gradients=1), target(0, 1, 2, 3), x, y)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_images_that_gradients_were_asked_of_are_judged_without_any() -> None:
    x = X.clone()
    made = crafted(Attack("mine", "mine", craft=requiring, gradients=1), target(0, 1, 2, 3), x, Y)
    assert not made.images.requires_grad
    assert not made.delta.requires_grad
    assert not x.requires_grad


def test_what_it_draws_itself_is_the_same_whenever_it_is_asked_and_in_nobody_elses_way() -> None:
    def drawing(target: Any, x: Any, y: Any) -> Any:
        noise = torch.rand_like(x) * float(np.random.rand()) * random.random()  # noqa: NPY002
        return target.ball.project(x + noise - 0.1, x)

    attack, attacked = Attack("mine", "mine", craft=drawing, gradients=1), target(0, 1, 2, 3)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = crafted(attack, attacked, X, Y).images
    assert torch.equal(torch.rand(3), expected)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    assert torch.equal(crafted(attack, target(0, 1, 2, 3), X, Y).images, first)
    assert not torch.equal(crafted(attack, target(4, 1, 2, 3), X, Y).images, first)


def from_file(tmp_path: Path, body: str, keys: str = "") -> Attack:
    """An attack from a user's file, its `craft` of some lines."""
    path = tmp_path / "mine.py"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    end = f"A = Attack('mine', 'mine', craft=craft, gradients=1{keys})\n"
    path.write_text(f"from deqpipe.extending import Attack\ndef craft(target, x, y):\n{lines}{end}")
    extending.activate([str(path)])
    found = extending.find(Attack, "mine")
    assert found is not None
    return found


def test_what_is_refused_is_named_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        crafted(from_file(tmp_path, "return x.float()"), target(0, 1, 2, 3), X, Y)
    assert str(refused.value) == (
        f"extension {tmp_path / 'mine.py'}, line 4: attack mine: craft gives torch.float32 on cpu, but must give "
        "images as it got: torch.float64 on cpu"
    )


@pytest.mark.parametrize(
    ("body", "line", "told"),
    [
        ("return x.nonsense", 3, "AttributeError: 'Tensor' object has no attribute 'nonsense'"),
        ("x = x[:, :, :2]\nreturn target.logits(x)", 4, "Error: "),
        ("return target.ball.project(x)", 3, "TypeError: "),
    ],
)
def test_an_exception_in_it_and_a_wrong_call_of_the_package_are_one_line(
    tmp_path: Path, body: str, line: int, told: str
) -> None:
    with pytest.raises(UserError) as refused:
        crafted(from_file(tmp_path, body), target(0, 1, 2, 3), X, Y)
    message = str(refused.value)
    assert message.startswith(f"extension {tmp_path / 'mine.py'}, line {line}: ")
    assert told in message
    assert message.endswith("(craft of attack mine, images of shape (4, 1, 4, 4))")


def test_a_key_that_it_reads_and_does_not_name_is_refused(tmp_path: Path) -> None:
    attack = from_file(tmp_path, "return x * target.settings['attack.pgd']", ", keys=('solver',)")
    with pytest.raises(UserError, match=r"craft reads attack\.pgd, which its keys do not name: they are solver"):
        crafted(attack, target(0, 1, 2, 3), X, Y)


def test_an_exception_of_the_package_keeps_its_traceback_where_it_may_be_ours(tmp_path: Path) -> None:
    attacked, asking = target(0, 1, 2, 3), from_file(tmp_path, "return target.logits(x)")
    broken = replace(attacked, victim=replace(attacked.victim, state=9))  # fails whatever the images are
    with pytest.raises(IndexError, match="state 9 was asked for"):
        crafted(asking, broken, X, Y)
    asserting = from_file(tmp_path, "return target.victim.blind")
    without = replace(attacked, victim=replace(attacked.victim, undefended=None))
    with pytest.raises(AssertionError):
        crafted(asserting, without, X, Y)
