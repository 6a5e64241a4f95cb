"""Solvers and Sec. 3.2 image by image, as they stand in textbooks and in the paper: dense matrices, no batch.

Where images influence each other (scope batch) they walk side by side, and one norm over all of them decides.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Map: TypeAlias = Callable[[Tensor], Tensor]
Pair: TypeAlias = tuple[Tensor, Tensor]
"""(dz, dg) of a step."""
Method: TypeAlias = Callable[[Tensor, Tensor, Sequence[Pair]], Tensor]
"""(z, g(z), pairs of the steps before) -> where a step leads."""
Scope: TypeAlias = Literal["sample", "batch"]


def sherman_morrison(inverse: Tensor, dz: Tensor, dg: Tensor) -> Tensor:
    """B^-1 after Broyden's rank-one update of B that makes `B dz = dg`."""
    return inverse + torch.outer(dz - inverse @ dg, dz @ inverse) / (dz @ inverse @ dg)


def broyden(f: Map, z0: Tensor, steps: int) -> list[Tensor]:
    """z^[1] .. z^[steps] of Broyden's good method for g(z) = f(z) - z, from B = -I."""
    z, inverse, states = z0, -torch.eye(len(z0), dtype=z0.dtype), []
    for _ in range(steps):
        z_new = z - inverse @ (f(z) - z)
        dg = (f(z_new) - z_new) - (f(z) - z)
        inverse = sherman_morrison(inverse, z_new - z, dg)
        z = z_new
        states.append(z)
    return states


def anderson(f: Map, z0: Tensor, steps: int, *, memory: int) -> list[Tensor]:
    """z^[1] .. z^[steps] of Anderson mixing: the combination of the last `memory` states with the least residual."""
    history, states = [z0], []
    for _ in range(steps):
        window = history[-memory:]
        residuals = torch.stack([f(z) - z for z in window], dim=1)
        basis = residuals[:, :-1] - residuals[:, -1:]
        weights = torch.linalg.lstsq(basis, -residuals[:, -1:]).solution[:, 0] if len(window) > 1 else torch.zeros(0)
        weights = torch.cat([weights.to(z0.dtype), 1 - weights.sum(0, keepdim=True).to(z0.dtype)])
        history.append(sum(weight * f(z) for weight, z in zip(weights, window, strict=True)))
        states.append(history[-1])
    return states


def fixed_point(f: Map, z0: Tensor, steps: int) -> list[Tensor]:
    """f(z^[0]), f(f(z^[0])), .."""
    states = [f(z0)]
    while len(states) < steps:
        states.append(f(states[-1]))
    return states


def broyden_step(z: Tensor, residual: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """Where Broyden's method goes from z: the inverse is built from -I, pair by pair."""
    inverse = -torch.eye(len(z), dtype=z.dtype)
    for dz, dg in pairs:
        inverse = sherman_morrison(inverse, dz, dg)
    return z - inverse @ residual


def anderson_step(z: Tensor, residual: Tensor, pairs: Sequence[Pair], *, memory: int) -> Tensor:
    """Where Anderson mixing of `memory` states goes from z: by least squares over the last differences."""
    kept = pairs[-(memory - 1) :]
    if not kept:
        return z + residual
    dz, dg = (torch.stack(vectors, dim=1) for vectors in zip(*kept, strict=True))
    gamma = torch.linalg.lstsq(dg, residual[:, None]).solution[:, 0]
    return z + residual - (dz + dg) @ gamma


def fixed_point_step(z: Tensor, residual: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """f(z)."""
    return z + residual


def relative_norm(values: Sequence[Tensor], states: Sequence[Tensor]) -> float:
    """norm(f(z) - z) / norm(f(z)) of one image, or of several laid end to end."""
    difference = sum(float((value - z) @ (value - z)) for value, z in zip(values, states, strict=True))
    return math.sqrt(difference) / math.sqrt(sum(float(value @ value) for value in values))


def batch_outcome(norms: Sequence[float], *, rtol: float) -> tuple[int, str]:
    """After which step a batch stops, and why; `norms` are those after each step."""
    for n, norm in enumerate(norms, start=1):
        if norm < rtol:
            return n, "converged"
        if norm > 1000 * norms[0]:
            return n, "diverged"
    return len(norms), "max_steps"


def first_lowest(norms: Sequence[float]) -> int:
    """Position of the lowest number: a later one must be strictly lower, and what is no number never is."""
    best, lowest = 0, math.inf
    for n, norm in enumerate(norms):
        if norm < lowest:
            best, lowest = n, norm
    return best


def entropy(logits: Tensor) -> Tensor:
    """H of the softmax of one image's logits, in nats."""
    p = torch.exp(logits) / torch.exp(logits).sum()
    return -(p * torch.log(p)).sum()


@dataclass(frozen=True)
class Record:
    """All images after a step: their states and f of these, under the inputs of that moment."""

    states: list[Tensor]
    values: list[Tensor]


def norms_of(record: Record, scope: Scope) -> list[float]:
    """One number per image: its own relative residual, or that of all images as one vector."""
    if scope == "batch":
        return [relative_norm(record.values, record.states)] * len(record.states)
    return [relative_norm([value], [z]) for value, z in zip(record.values, record.states, strict=True)]


def lowest_states(records: Sequence[Record], scope: Scope) -> list[Tensor]:
    """Of each image the state of lowest residual, its own or that of all images."""
    norms = [norms_of(record, scope) for record in records]
    chosen = [first_lowest(column) for column in zip(*norms, strict=True)]
    return [records[step].states[image] for image, step in enumerate(chosen)]


@dataclass(frozen=True)
class Defence:
    """Input entropy reduction; letters as in Algorithm 1: N, T_f, R, beta."""

    f: Callable[[Tensor, Tensor], Tensor]
    head: Map
    method: Method
    steps: int
    solver_steps: int
    input_steps: int
    step_size: float
    epsilon: float
    sign: bool = True
    update_last: bool = True
    lowest: bool = False
    scope: Scope = "sample"
    rtol: float = 0.0

    def residual(self, z: Tensor, x: Tensor) -> Tensor:
        """g(z; x)."""
        return self.f(z, x) - z

    def due(self, n: int) -> bool:
        """Whether the input changes after z^[n]."""
        return n % self.solver_steps == 0 and (n < self.steps or self.update_last)

    def descend(self, z: Tensor, x: Tensor, received: Tensor) -> Tensor:
        """Eq. (8), R times (lines 8 to 10)."""
        for _ in range(self.input_steps):
            image = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(entropy(self.head(self.f(z, image))), image)
            moved = x - self.step_size * (torch.sign(gradient) if self.sign else gradient)
            x = torch.clamp(torch.minimum(torch.maximum(moved, received - self.epsilon), received + self.epsilon), 0, 1)
        return x


@dataclass
class Walk:
    """Images on their way through a defended solve, each with its state, input and pairs."""

    defence: Defence
    received: list[Tensor]
    x: list[Tensor]
    z: list[Tensor]
    pairs: list[list[Pair]]
    records: list[Record] = field(default_factory=list)

    @classmethod
    def of(cls, defence: Defence, images: Sequence[Tensor], z0: Tensor) -> "Walk":
        """At z^[0]."""
        return cls(defence, list(images), list(images), [z0 for _ in images], [[] for _ in images])

    def record(self, states: list[Tensor]) -> Record:
        """Some states under the inputs of this moment."""
        return Record(states, [self.defence.f(z, x) for z, x in zip(states, self.x, strict=True)])

    def stopped(self, *, before_the_first_step: bool) -> list[bool]:
        """Which images have arrived. A batch is never asked before a first step."""
        rtol, norms = self.defence.rtol, norms_of(self.record(self.z), self.defence.scope)
        if self.defence.scope == "sample":
            return [rtol > 0 and norm <= rtol for norm in norms]
        return [not before_the_first_step and norm < rtol for norm in norms]

    def proposed(self, pairs: list[list[Pair]], stopped: list[bool]) -> list[Tensor]:
        """Where a step leads that uses these pairs."""
        g = [self.defence.residual(z, x) for z, x in zip(self.z, self.x, strict=True)]
        moved = [self.defence.method(z, r, known) for z, r, known in zip(self.z, g, pairs, strict=True)]
        return [z if stays else new for z, new, stays in zip(self.z, moved, stopped, strict=True)]

    def move(self, new: list[Tensor], stopped: list[bool]) -> None:
        """Take a step, with a pair of residuals under the inputs of this moment."""
        for i, (old, z, x) in enumerate(zip(self.z, new, self.x, strict=True)):
            if not stopped[i]:
                self.pairs[i].append((z - old, self.defence.residual(z, x) - self.defence.residual(old, x)))
        self.z = new
        self.records.append(self.record(new))

    def update_inputs(self, at: list[Tensor]) -> None:
        """Let the inputs descend, the entropy taken at some states."""
        steps = zip(at, self.x, self.received, strict=True)
        self.x = [self.defence.descend(z, x, received) for z, x, received in steps]


def algorithm_1(defence: Defence, images: Sequence[Tensor], z0: Tensor) -> Walk:
    """Algorithm 1; a state is solved again right after the input changed."""
    walk = Walk.of(defence, images, z0)
    candidates: list[Record] = []
    for n in range(1, defence.steps + 1):
        stopped = walk.stopped(before_the_first_step=n == 1)
        new = walk.proposed(walk.pairs, stopped)  # line 4
        candidates.append(walk.record(new))
        if defence.due(n):
            walk.update_inputs(lowest_states(candidates, defence.scope) if defence.lowest else new)
            stopped = walk.stopped(before_the_first_step=n == 1)
            new = walk.proposed(walk.pairs, stopped)  # line 13
            candidates = []
        walk.move(new, stopped)
    return walk


def restarted(defence: Defence, images: Sequence[Tensor], z0: Tensor) -> tuple[Walk, list[Record]]:
    """The variant of the authors' code, and the records of its last round.

    A round of T_f steps begins with no pairs of its own; only its first step uses what the round before left. After a
    round the input changes, the round's last pair is corrected by the change of the residual (new input, state that
    the next round starts from; old input, last state), and nothing is solved again, except z^[N] if that is wanted.
    """
    walk = Walk.of(defence, images, z0)
    for begin in range(0, defence.steps, defence.solver_steps):
        length = min(defence.solver_steps, defence.steps - begin)
        left, walk.pairs = walk.pairs, [[] for _ in images]
        for k in range(length):
            before, known = walk.z, [list(pairs) for pairs in (left if k == 0 else walk.pairs)]
            stopped = walk.stopped(before_the_first_step=k == 0)
            walk.move(walk.proposed(known, stopped), stopped)
        this_round = walk.records[-length:]
        if not defence.due(begin + length):
            continue
        at = lowest_states(this_round, defence.scope) if defence.lowest else walk.z
        old = [defence.residual(z, x) for z, x in zip(walk.z, walk.x, strict=True)]
        walk.update_inputs(at)
        if begin + length < defence.steps:
            walk.z = at
            _correct(walk, old)
        else:
            walk.z = before
            walk.records.pop()
            stopped = walk.stopped(before_the_first_step=length == 1)
            walk.move(walk.proposed(known, stopped), stopped)
            this_round = walk.records[-length:]
    return walk, this_round


def _correct(walk: Walk, old: list[Tensor]) -> None:
    for i, pairs in enumerate(walk.pairs):
        if pairs:
            dz, dg = pairs.pop()
            pairs.append((dz, dg + walk.defence.residual(walk.z[i], walk.x[i]) - old[i]))
