"""The random numbers of one training step, so that every side of a comparison computes from the same ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.release_code import Dice
from deqpipe.training.forward import DEQForward, LossStates, draws
from deqpipe.training.objectives import PGDAdversarial, TradesAdversarial


@dataclass(frozen=True)
class Dealt:
    """What one training step draws.

    Attributes:
        noise: that the attack starts from: uniform in [0, 1) for PGD-AT, standard Gaussian for TRADES.
        crafting: the states that each step of the attack sees.
        loss: the states that the loss is computed from.
        extra: by how many steps the solves of the loss are longer.
        dropout: where dropout masks come from.
        probes: where the probes of the Jacobian come from; None: no such term.
    """

    noise: Tensor
    crafting: tuple[LossStates, ...]
    loss: LossStates
    extra: int
    dropout: torch.Generator
    probes: torch.Generator | None


def deal(objective: PGDAdversarial | TradesAdversarial, x: Tensor, *, seed: int, step: int) -> Dealt:
    """The numbers that our own training draws at a step, in its order."""
    forward, sources = objective.forward, draws(seed, step)
    assert isinstance(forward, DEQForward)
    length, random = forward.termination.max_steps, forward.random_states
    regularised = forward.jacobian.due(step, sources.jacobian)
    extra = forward.jacobian.extra_steps(sources.jacobian) if regularised else 0
    loss = forward.states(sources, length=length + extra, random=True)
    in_attack = random is not None and random.in_attack
    crafting = [forward.states(sources, length=length, random=in_attack) for _ in range(objective.attack.steps)]
    return Dealt(
        noise=_noise(objective, x.shape, step).to(x.device),
        crafting=tuple(crafting),
        loss=loss,
        extra=extra,
        dropout=sources.dropout,
        probes=sources.jacobian if regularised else None,
    )


def _noise(objective: PGDAdversarial | TradesAdversarial, shape: torch.Size, step: int) -> Tensor:
    generator = objective.stream.generator(step)
    if isinstance(objective, TradesAdversarial):
        return torch.randn(shape, generator=generator)
    return torch.rand(shape, generator=generator)


def to_release(objective: PGDAdversarial | TradesAdversarial, dealt: Dealt, x: Tensor, *, state_size: int) -> Dice:
    """The same numbers in the order in which the release asks for them."""
    if isinstance(objective, PGDAdversarial):
        lengths = [states.adversarial.steps for states in (*dealt.crafting, dealt.loss)]
        start = (2 * dealt.noise - 1) * objective.attack.ball.epsilon
        return Dice(lengths=lengths, uniforms=[start])
    lengths = [] if dealt.probes is None else [dealt.extra]
    lengths += [length for states in dealt.crafting for length in (states.adversarial.steps, states.natural.steps)]
    lengths += [dealt.loss.natural.steps, dealt.loss.adversarial.steps]
    start = (objective.start_noise * dealt.noise).to(x.dtype) / objective.start_noise  # ours rounds the product
    return Dice(lengths=lengths, normals=[start, *_probes(objective, dealt, x, state_size)])


def _probes(objective: TradesAdversarial, dealt: Dealt, x: Tensor, state_size: int) -> Iterator[Tensor]:
    if dealt.probes is None:
        return
    forward = objective.forward
    assert isinstance(forward, DEQForward)
    for _ in range(2 * forward.jacobian.probes):
        probe = torch.randn((len(x), state_size), generator=dealt.probes)
        yield probe.to(x.device, x.dtype).unsqueeze(2)
