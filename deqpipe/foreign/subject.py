"""A model as it is attacked: checked, normalising images by itself, with the dynamics and the state that decide.

Each check looks for a mistake that would make every number of an evaluation worth nothing, and answers it by one line.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deqpipe.attack import suite
from deqpipe.attack.suite import Victim
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.errors import UserError
from deqpipe.extending import blame
from deqpipe.foreign import description
from deqpipe.foreign.description import Description
from deqpipe.machine import faults
from deqpipe.model import alone
from deqpipe.model.adapter import adapted
from deqpipe.model.interface import FixedPointModel, UserModel
from deqpipe.shapes import Images, Labels, Logits
from deqpipe.solver.solve import GROWTH, Status


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under evaluation.

    Attributes:
        victim: as attacks see it.
        classes: how many logits it gives.
        logits: of the first images, the `TRIED` that checks looked at.
        residual: median over the images tried of norm(f(z) - z) / norm(f(z)) at the undefended z^[N]; None: no states.
    """

    victim: Victim
    classes: int
    logits: Logits
    residual: float | None


class Normalised(nn.Module):
    """A network that subtracts a mean and divides by a deviation before it looks."""

    inner: Any
    mean: Tensor
    std: Tensor

    def __init__(self, inner: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    def normalised(self, x: Images) -> Tensor:
        """Images as the network was trained on."""
        value: Tensor = (x - self.mean) / self.std
        return value

    def forward(self, x: Images) -> Logits:
        """Logits of images in [0, 1]."""
        logits: Logits = self.inner(self.normalised(x))
        return logits


class NormalisedStates(Normalised):
    """The same with states."""

    def bind(self, x: Images) -> Callable[[Tensor], Tensor]:
        """The map z -> f(z; x)."""
        fn: Callable[[Tensor], Tensor] = self.inner.bind(self.normalised(x))
        return fn

    def initial_state(self, x: Images) -> Tensor:
        """z^[0]."""
        z: Tensor = self.inner.initial_state(self.normalised(x))
        return z

    def logits(self, z: Tensor) -> Logits:
        """What is read off a state."""
        logits: Logits = self.inner.logits(z)
        return logits


def subject_of(described: Description, x: Tensor, y: Tensor) -> Subject:
    """A model as it is attacked, once it has passed every check.

    Args:
        described: what is said of it; its model is moved to the images' device, into evaluation mode, and frozen.
        x: the images of the evaluation.
        y: their classes.

    Raises:
        UserError: one line on the first mistake: of images, labels, model, solver, or of what decides.
    """
    check_images(x, y)
    some = x[: alone.TRIED]
    model = _normalising(described, some).to(x.device).eval().requires_grad_(False)
    _refuse_training(model)
    _refuse_parts(described.model)
    if not isinstance(model, UserModel | FixedPointModel):
        _check_network(model, some)
        victim = Victim(model, described.ball)
    else:
        victim = _with_states(described, model, some)
    logits = _check_logits(victim, some)
    classes = logits.shape[1]
    _check_labels(y, classes)
    _check_alone(victim, some, logits)
    _check_gradient(victim, some)
    return Subject(victim, classes, logits, None if victim.dynamics is None else _check_solve(victim, some))


def check_images(x: Tensor, y: Tensor) -> None:
    """Refuse what are no images in [0, 1] with a class each.

    Raises:
        UserError: they are not.
    """
    if x.dim() != 4 or not len(x):
        raise UserError(f"images have shape {tuple(x.shape)}, but must be (images, channels, height, width)")
    if x.dtype != torch.float32:
        raise UserError(f"images are {x.dtype}, but must be torch.float32")
    if not bool(x.isfinite().all()):
        raise UserError("images hold numbers that are not finite")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise UserError(
            f"images are from {low:g} to {high:g}, but must be in [0, 1]: divide bytes by 255, and leave normalisation "
            "to `mean` and `std`"
        )
    if y.shape != (len(x),) or y.is_floating_point():
        raise UserError(f"labels are {y.dtype} of shape {tuple(y.shape)}, but must be {len(x)} whole numbers")


def _check_labels(y: Labels, classes: int) -> None:
    wrong = y[(y < 0) | (y >= classes)]
    if len(wrong):
        raise UserError(f"label {int(wrong[0])} is among the labels, but the model has classes 0 to {classes - 1}")


def _normalising(described: Description, x: Images) -> nn.Module:
    mean, std, channels = described.mean, described.std, x.shape[1]
    if mean is None and std is None:
        return described.model
    values = [[0.0] * channels if mean is None else list(mean), [1.0] * channels if std is None else list(std)]
    for name, one in zip(("mean", "std"), values, strict=True):
        if len(one) != channels or (name == "std" and not all(value > 0 for value in one)):
            positive = " above 0" if name == "std" else ""
            raise UserError(f"{name} is {one}, but must be {channels} numbers{positive}, one per channel")
    kind = NormalisedStates if isinstance(described.model, UserModel) else Normalised
    return kind(described.model, *(torch.tensor(one, dtype=torch.float32) for one in values))


def _refuse_training(model: nn.Module) -> None:
    left = [name or "itself" for name, module in model.named_modules() if module.training]
    if left:
        raise UserError(f"the model stays in training mode after eval(): {left[0]} ({len(left)} modules)")


def _refuse_parts(model: nn.Module) -> None:
    """Refuse a model that has an f, and not all that belongs to it."""
    parts = {name: callable(getattr(model, name, None)) for name in ("bind", "initial_state", "logits")}
    lacking = [name for name, there in parts.items() if not there]
    if parts["bind"] and lacking:
        raise UserError(f"the model has bind(x), but lacks {' and '.join(lacking)}: a model with states has all three")


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Answer by one line what goes wrong in a model of somebody else."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code may raise anything, and sys.exit(0) is no success
        if faults.is_out_of_memory(error):
            raise
        raise UserError(f"the model fails at {what}: {blame.words(error)}") from error


def _check_network(model: nn.Module, x: Images) -> None:
    with torch.no_grad(), asking(f"model(x) with images of shape {tuple(x.shape)}"):
        _refuse_no_logits(model(x), len(x), "model(x)")


def _refuse_no_logits(value: Any, images: int, what: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"{what} gives {kind}, but must give logits: a float tensor (images, classes)")
    if value.dim() != 2 or value.shape[0] != images or value.shape[1] < 2:
        raise UserError(
            f"{what} has shape {tuple(value.shape)}, but must be (images, classes): {images} images, 2 classes or more"
        )


def _with_states(described: Description, model: nn.Module, x: Images) -> Victim:
    _check_parts(model, x)
    own = adapted(model, x)
    plain = description.plain_dynamics(described.solver)
    with asking("making the defence"):
        deciding = description.dynamics(described.defence, plain, described.ball)
    last = deciding.termination.max_steps
    state = last if described.state is None else described.state
    if not 1 <= state <= last:
        raise UserError(f"state is {state}, but the dynamics have states 1 to {last}")
    return Victim(own, described.ball, deciding, state, plain)


def _check_parts(model: Any, x: Images) -> None:
    """Refuse an initial state, an f and logits that do not fit each other."""
    with torch.no_grad(), asking("initial_state(x)"):
        z = model.initial_state(x)
        if not isinstance(z, Tensor) or z.dim() != 2 or len(z) != len(x) or not z.is_floating_point():
            seen = f"of shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise UserError(f"initial_state(x) is {seen}, but must be flat: ({len(x)}, numbers in a state)")
    with torch.no_grad(), asking("bind(x)"):
        fn = model.bind(x)
    with torch.no_grad(), asking(f"f(z) with a state of shape {tuple(z.shape)}"):
        value = fn(z)
        if not isinstance(value, Tensor) or value.shape != z.shape:
            seen = f"has shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"is a {type(value).__name__}"
            raise UserError(f"f(z) {seen}, but must have that of z, {tuple(z.shape)}: bind(x) does not take its states")
    with torch.no_grad(), asking("logits(z)"):
        _refuse_no_logits(model.logits(z), len(x), "logits(z)")


def _check_solve(victim: Victim, x: Images) -> float:
    """Refuse a solver that leaves the finite numbers, or ever more of them; the median residual otherwise."""
    plain = victim.blind
    solution = plain(victim.deq, x).solution
    what = f"{type(plain.solver).__name__}, {plain.termination.max_steps} steps"
    lost = (solution.status == Status.NONFINITE).nonzero().flatten()
    if len(lost):
        raise UserError(f"the solver diverges ({what}): the states of image {int(lost[0])} are not finite")
    residuals = solution.residuals * solution.states.norm(dim=2)
    grown = (residuals[-1] > GROWTH * residuals[0].clamp_min(1e-12)).nonzero().flatten()
    if len(grown):
        times = float(residuals[-1, grown[0]] / residuals[0, grown[0]].clamp_min(1e-12))
        raise UserError(f"the solver diverges ({what}): norm(f(z) - z) of image {int(grown[0])} grows {times:.0f}-fold")
    return float(solution.residuals[-1].median())


def _check_logits(victim: Victim, x: Images) -> Logits:
    """Refuse logits that are no numbers, the same for all images, or others when asked again."""
    if victim.dynamics is not None:
        with asking("a solve"):
            _check_solve(victim, x)
    with asking("its decision"):
        logits, again = victim.logits(x), victim.logits(x)
    if not bool(logits.isfinite().all()):
        row = int((~logits.isfinite().all(1)).nonzero()[0])
        raise UserError(f"the logits of image {row} are not finite: {logits[row].tolist()}")
    alone.refuse_other_answers(logits, again)
    if bool((logits == logits[:, :1]).all()):
        raise UserError(f"the logits of an image are all equal ({float(logits[0, 0]):g}): the model decides nothing")
    if len(x) > 1 and bool((logits == logits[:1]).all()) and not bool((x == x[:1]).all()):
        raise UserError(f"the logits of {len(x)} different images are the same: the model does not look at them")
    return logits


def _check_alone(victim: Victim, x: Images, logits: Logits) -> None:
    def ask(images: Images) -> Logits:
        with asking("some of the images"):
            return victim.logits(images)

    alone.refuse_influence(ask, x, logits)


def _check_gradient(victim: Victim, x: Images) -> None:
    """Refuse logits that no gradient leads from to the images."""
    with torch.enable_grad(), asking("its gradient to the images"):
        leaf = x.detach().clone().requires_grad_()
        logits = differentiable(victim)(leaf)
        if not logits.requires_grad:
            raise UserError(
                "no gradient leads from the logits to the images: detach, no_grad or numpy on the way (torchdeq's own "
                "solve in evaluation mode, for one: give f by bind(x) instead)"
            )
        (gradient,) = torch.autograd.grad(logits.square().sum(), leaf, allow_unused=True)
    if gradient is None:
        raise UserError("no gradient leads from the logits to the images, though one leads to something else")
    if not bool(gradient.isfinite().all()):
        raise UserError("the gradient of the logits to the images is not finite")


def differentiable(victim: Victim) -> Callable[[Images], Logits]:
    """The decision's logits with gradient: a network's own, or through every step of the solver."""
    return suite.decision_of(victim)


def described_dynamics(dynamics: Dynamics, plain: PlainDynamics) -> str:
    """How states come about, in words."""
    solver = f"{type(plain.solver).__name__}, {plain.termination.max_steps} steps"
    return solver if dynamics is plain or not dynamics.is_defended else f"{solver}; {type(dynamics).__name__}"
