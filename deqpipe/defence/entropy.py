"""Input entropy reduction along the neural dynamics (Sec. 3.2, Algorithm 1)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deqpipe.config import Entropy as EntropyConfig
from deqpipe.dynamics import Trajectory
from deqpipe.model.classifier import DEQClassifier
from deqpipe.shapes import Images, Logits, PerImage, State
from deqpipe.solver.base import Solver
from deqpipe.solver.solve import Solution, Status, Termination, following, solve
from deqpipe.threat_model import LinfBall


def prediction_entropy(logits: Logits) -> PerImage:
    """H of the softmax, in nats (Eq. 6)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@dataclass(frozen=True)
class InputEntropyReduction:
    """Dynamics that update the input every few steps, so that the prediction's entropy falls.

    After z^[t+1] with t + 1 a multiple of `solver_steps`, the input takes `input_steps` descent steps on
    H(h(f(z^[t+1]; x))), z^[t+1] held constant (Eq. 8). Then z^[t+1] is solved again: from z^[t] and the memory before
    that step, with residuals of the new input (Algorithm 1, line 13). Without `input_steps`: the plain dynamics.

    Attributes:
        solver: the fixed-point solver.
        termination: N, and when an image stops before.
        ball: the updated input stays in it around the received one, and in [0, 1].
        solver_steps: T_f in Algorithm 1.
        input_steps: R in Algorithm 1.
        step_size: beta in Eq. (8), in units of the pixel range.
        sign: step along the gradient's sign (the authors' code) or the gradient itself (Eq. 8 as written).
        update_last: update after z^[N] too and solve it again; otherwise that update is left out.
        final_updated: the final state is unrolled with the updated input, otherwise with the received one.
    """

    solver: Solver[Any]
    termination: Termination
    ball: LinfBall
    solver_steps: int
    input_steps: int
    step_size: float
    sign: bool = True
    update_last: bool = True
    final_updated: bool = True

    @torch.no_grad()
    def __call__(self, model: DEQClassifier, x: Images) -> Trajectory:
        """States z^[1] .. z^[N] under the updated inputs; z^[t+1] is recorded as solved again."""
        received = model.bind(x)
        x_now, fn = x, received
        state = self.solver.init(fn, model.initial_state(x))
        segments: list[Solution] = []
        for n in range(1, self.termination.max_steps + 1):
            if self._updates_after(n):
                z = following(self.solver, state, termination=self.termination)
                x_now = self._reduce(model, z, x_now, x)
                fn = model.bind(x_now)
                state = self.solver.reevaluate(fn, state)
            segment, state = solve(self.solver, fn, state, termination=replace(self.termination, max_steps=1))
            segments.append(segment)
        return Trajectory(_joined(segments), fn if self.final_updated else received, x_now)

    def _updates_after(self, n: int) -> bool:
        due = n % self.solver_steps == 0 and self.input_steps > 0
        return due and (n < self.termination.max_steps or self.update_last)

    def _reduce(self, model: DEQClassifier, z: State, x: Images, received: Images) -> Images:
        for _ in range(self.input_steps):
            gradient = _entropy_gradient(model, z, x)
            direction = gradient.sign() if self.sign else gradient
            x = self.ball.project(x - self.step_size * direction, received)
        return x


def _entropy_gradient(model: DEQClassifier, z: State, x: Images) -> Tensor:
    """Gradient of H(h(f(z; x))) with respect to x, image by image."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        entropy = prediction_entropy(model.logits(model.bind(x)(z))).sum()
        (gradient,) = torch.autograd.grad(entropy, x)
    return gradient


def _joined(segments: list[Solution]) -> Solution:
    status = torch.stack([segment.status for segment in segments])
    broken = (status == Status.NONFINITE).any(0)
    return Solution(
        states=torch.cat([segment.states for segment in segments]),
        residuals=torch.cat([segment.residuals for segment in segments]),
        status=torch.where(broken, Status.NONFINITE, status[-1]),
        steps=torch.stack([segment.steps for segment in segments]).sum(0),
    )


def build_entropy_reduction(
    config: EntropyConfig, *, solver: Solver[Any], termination: Termination, ball: LinfBall
) -> InputEntropyReduction:
    """The defence that a config describes."""
    return InputEntropyReduction(
        solver=solver,
        termination=termination,
        ball=ball,
        solver_steps=config.solver_steps,
        input_steps=config.input_steps,
        step_size=config.step_size_255 / 255,
        sign=config.step == "sign",
        update_last=config.last_update == "resolve",
        final_updated=config.final_input == "updated",
    )
