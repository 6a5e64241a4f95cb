"""The plain way: a robust DEQ computed as its equations read, one after the other, and nothing saved.

What the authors' code spends, this spends: N + 1 evaluations of f to reach any state of an attack, gradients of the
parameters where only the image's is wanted, the natural branch of TRADES anew at every attack step, a memory of Broyden
that is copied with every pair, the head anew for every state, a final state that nobody asked for. It follows the
paper (`protocol: paper`) and takes its parameters, stem and head from a classifier, whose counter counts here, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.dealt import Dealt
from deqpipe.model.cell import NormedConv2d, PostFuse, ResidualBlock, Upsample
from deqpipe.model.classifier import DEQClassifier

Map: TypeAlias = Callable[[Tensor], Tensor]
"""z -> f(z; x)."""
TINY = 1e-9


# --- f and h ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """What stays the same while images pass once: effective weights, one dropout mask per scale (or none)."""

    blocks: Sequence[tuple[Tensor, Tensor]]
    post: Sequence[Tensor]
    masks: Sequence[Tensor]


@dataclass(frozen=True)
class PlainDEQ:
    """A DEQ.

    Attributes:
        network: whose parameters it has; its own computing of f is not used.
        steps: N.
        unroll: K_a of the unroll behind z^[N] and in training.
        damping: lambda of that unroll.
    """

    network: DEQClassifier
    steps: int
    unroll: int
    damping: float = 0.5

    def weights(self, batch: int = 0, generator: torch.Generator | None = None) -> Weights:
        """Weight normalisation done, and in training mode masks drawn for so many images."""
        cell, rounding = self.network.cell, self.network.function.precision
        blocks, post = [], []
        for block, last in zip(cell.branches, cell.post, strict=True):
            assert isinstance(block, ResidualBlock)
            assert isinstance(last, PostFuse)
            blocks.append((rounding.weight(normed(block.conv1)), rounding.weight(normed(block.conv2))))
            post.append(rounding.weight(normed(last.conv)))
        masks = []
        if cell.training and cell.dropout and generator is not None:
            like = next(cell.parameters())
            for channels in cell.channels:
                kept = torch.rand(batch, channels, 1, 1, generator=generator) < 1 - cell.dropout
                masks.append(kept.to(like.device, like.dtype) / (1 - cell.dropout))
        return Weights(blocks, post, masks)

    def of(self, x: Tensor, weights: Weights) -> Map:
        """The map z -> f(z; x)."""
        injections = [self.network.stem(x)]
        for channels, height, width in self.network.function.shapes[1:]:
            injections.append(x.new_zeros(len(x), channels, height, width))

        def f(z: Tensor) -> Tensor:
            first, *others = weights.post
            watched = self.network.counter.watched(first, images=len(z))
            value = self._evaluated(z, injections, replace(weights, post=[watched, *others]))
            self.network.counter.count(value)
            return value

        return f

    def _evaluated(self, z: Tensor, injections: Sequence[Tensor], weights: Weights) -> Tensor:
        scales, groups = self.split(z), self.network.function.groups
        hidden = [self._block(i, scales[i], injections[i], weights) for i in range(len(scales))]
        values = []
        for target in range(len(scales)):
            total = torch.zeros_like(hidden[target])
            for source in range(len(scales)):
                total = total + self._exchanged(hidden[source], source, target)
            convolved = self._conv(F.relu(total), weights.post[target])
            values.append(F.group_norm(convolved, groups // 2))
        return torch.cat([value.flatten(1) for value in values], dim=1)

    def _block(self, scale: int, z: Tensor, injection: Tensor, weights: Weights) -> Tensor:
        block, (first, second) = self.network.cell.branches[scale], weights.blocks[scale]
        assert isinstance(block, ResidualBlock)
        h = F.relu(block.gn1(self._conv(z, first, padding=1)))
        h = self._conv(h, second, padding=1)
        if weights.masks:
            h = h * weights.masks[scale]
        h = block.gn2(h + injection) + z
        out: Tensor = block.gn3(F.relu(h))
        return out

    def _exchanged(self, h: Tensor, source: int, target: int) -> Tensor:
        if source == target:
            return h
        layers, rounding = self.network.cell.fuse[f"{source}to{target}"], self.network.function.precision
        if isinstance(layers, Upsample):
            h = layers.gn(self._conv(h, rounding.weight(layers.conv.weight)))
            return F.interpolate(h, scale_factor=2 ** (source - target), mode="nearest")
        assert isinstance(layers, nn.Sequential)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                h = self._conv(h, rounding.weight(layer.weight), stride=2, padding=1)
            else:
                h = layer(h)
        return h

    def _conv(self, x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        return self.network.function.precision.conv2d(x, weight, stride=stride, padding=padding)

    def split(self, z: Tensor) -> list[Tensor]:
        """One (batch, channels, height, width) tensor per scale."""
        scales, start = [], 0
        for channels, height, width in self.network.function.shapes:
            size = channels * height * width
            scales.append(z[:, start : start + size].reshape(-1, channels, height, width))
            start += size
        return scales

    def logits(self, z: Tensor) -> Tensor:
        """h(z)."""
        out: Tensor = self.network.head(self.split(z))
        return out

    def zero(self, x: Tensor) -> Tensor:
        """z^[0]."""
        return x.new_zeros(len(x), self.network.state_size)

    def unrolled(self, f: Map, z: Tensor, *, steps: int, damping: float) -> Tensor:
        """Eq. (11)."""
        for _ in range(steps):
            z = (1 - damping) * z + damping * f(z)
        return z


def normed(convolution: NormedConv2d) -> Tensor:
    """The weight v g / ||v||, the norm taken per output channel; v where there is no g."""
    v, g = convolution.v, convolution.g
    if g is None:
        return v
    norm: Tensor = v.flatten(1).norm(dim=1)
    return v * (g / norm.view(-1, 1, 1, 1))


# --- Broyden's method ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """z^[n], g(z^[n]) = f(z^[n]) - z^[n], and B^-1 = -I + sum of left_k right_k^T."""

    z: Tensor
    g: Tensor
    left: Tensor
    right: Tensor

    def inverse(self, vector: Tensor) -> Tensor:
        """B^-1 vector."""
        coefficients = torch.einsum("bkd,bd->bk", self.right, vector)
        return -vector + torch.einsum("bkd,bk->bd", self.left, coefficients)

    def transposed(self, vector: Tensor) -> Tensor:
        """vector^T B^-1."""
        coefficients = torch.einsum("bkd,bd->bk", self.left, vector)
        return -vector + torch.einsum("bkd,bk->bd", self.right, coefficients)


def started(f: Map, z: Tensor) -> Point:
    """At z^[0], where B = -I."""
    empty = z.new_zeros(len(z), 0, z.shape[1])
    return Point(z, f(z) - z, empty, empty)


def moved(f: Map, at: Point) -> Point:
    """At z^[n+1], with the pair that makes B^-1 dg = dz."""
    z = at.z - at.inverse(at.g)
    g = f(z) - z
    dz, dg = z - at.z, g - at.g
    right = at.transposed(dz)
    left = (dz - at.inverse(dg)) / torch.einsum("bd,bd->b", right, dg)[:, None]
    left, right = (torch.where(each.isnan(), 0.0, each) for each in (left, right))
    return Point(z, g, torch.cat([at.left, left[:, None]], dim=1), torch.cat([at.right, right[:, None]], dim=1))


def relative_residual(z: Tensor, g: Tensor) -> Tensor:
    """norm(f(z) - z) / norm(f(z)) of every image."""
    ratio: Tensor = g.norm(dim=1) / ((g + z).norm(dim=1) + TINY)
    return ratio


@torch.no_grad()
def solved(f: Map, z0: Tensor, steps: int, tolerance: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
    """z^[1] .. z^[steps] and their relative residuals; ends early where the batch's residual is below a tolerance."""
    at, states, residuals = started(f, z0), [], []
    for _ in range(steps):
        at = moved(f, at)
        states.append(at.z)
        residuals.append(relative_residual(at.z, at.g))
        if at.g.norm().item() / ((at.g + at.z).norm().item() + TINY) < tolerance:
            break
    return states, residuals


# --- Eq. (11) and the attacks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Threat:
    """The l-infinity ball and the steps in it, in units of the pixel range."""

    epsilon: float
    step_size: float

    def inside(self, images: Tensor, centre: Tensor) -> Tensor:
        """The nearest images in the ball and in [0, 1]."""
        images = torch.min(torch.max(images, centre - self.epsilon), centre + self.epsilon)
        return torch.clamp(images, 0, 1)


@dataclass(frozen=True)
class Surrogate:
    """i (from 1), K_a and lambda of Eq. (11)."""

    state: int
    steps: int
    damping: float

    def __call__(self, deq: PlainDEQ, x: Tensor) -> Tensor:
        """h(z_a^[i + K_a]): the whole solve, then the unroll behind the one state that is attacked."""
        f = deq.of(x, deq.weights())
        states, _ = solved(f, deq.zero(x), deq.steps)
        return deq.logits(deq.unrolled(f, states[self.state - 1], steps=self.steps, damping=self.damping))


def attacked(
    deq: PlainDEQ, surrogate: Surrogate, images: tuple[Tensor, Tensor], start: Tensor, *, threat: Threat, steps: int
) -> Tensor:
    """PGD on Eq. (11). The gradients of all parameters are computed as well, and thrown away."""
    (x, y), adversarial = images, start
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        loss = F.cross_entropy(surrogate(deq, adversarial), y, reduction="sum")
        deq.network.zero_grad()
        loss.backward()
        assert adversarial.grad is not None
        adversarial = threat.inside(adversarial.detach() + threat.step_size * adversarial.grad.sign(), x)
    return adversarial


# --- Sec. 3.2 --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reduction:
    """T_f, R and beta of Algorithm 1, and the ball that the input stays in."""

    solver_steps: int
    input_steps: int
    threat: Threat


@dataclass(frozen=True)
class Course:
    """The states of a solve, their relative residuals, and f at its end."""

    states: list[Tensor]
    residuals: list[Tensor]
    f: Map


def plain_course(deq: PlainDEQ, x: Tensor) -> Course:
    """The undefended dynamics."""
    f = deq.of(x, deq.weights())
    states, residuals = solved(f, deq.zero(x), deq.steps)
    return Course(states, residuals, f)


def reduced_course(deq: PlainDEQ, x: Tensor, reduction: Reduction) -> Course:
    """Algorithm 1, line by line."""
    weights, now, states, residuals = deq.weights(), x, list[Tensor](), list[Tensor]()
    with torch.no_grad():
        f = deq.of(x, weights)
        at = started(f, deq.zero(x))
    for n in range(1, deq.steps + 1):
        with torch.no_grad():
            before, at = at, moved(f, at)
        if n % reduction.solver_steps == 0:
            now = _descended(deq, at.z, now, x, weights, reduction)
            with torch.no_grad():
                f = deq.of(now, weights)
                at = moved(f, Point(before.z, f(before.z) - before.z, before.left, before.right))
        states.append(at.z)
        residuals.append(relative_residual(at.z, at.g))
    return Course(states, residuals, f)


def _descended(
    deq: PlainDEQ, z: Tensor, now: Tensor, received: Tensor, weights: Weights, reduction: Reduction
) -> Tensor:
    """Eq. (8), R times. Each factor of the entropy reads the state off anew."""
    for _ in range(reduction.input_steps):
        now = now.detach().requires_grad_()
        with torch.enable_grad():
            value = deq.of(now, weights)(z)
            entropy = -(deq.logits(value).softmax(1) * deq.logits(value).log_softmax(1)).sum()
            (gradient,) = torch.autograd.grad(entropy, now)
        threat = reduction.threat
        now = threat.inside(now.detach() - threat.step_size * gradient.sign(), received)
    return now.detach()


def course(deq: PlainDEQ, x: Tensor, reduction: Reduction | None) -> Course:
    """Plain or reduced."""
    return plain_course(deq, x) if reduction is None else reduced_course(deq, x, reduction)


def final_state(deq: PlainDEQ, solve: Course) -> Tensor:
    """z^[N], unrolled; with a graph, which nobody uses."""
    with torch.enable_grad():
        z = solve.states[-1].detach().requires_grad_()
        return deq.unrolled(solve.f, z, steps=deq.unroll, damping=deq.damping)


def decided(deq: PlainDEQ, x: Tensor, reduction: Reduction | None) -> Tensor:
    """Logits at z^[N]; what the final state says is computed, too."""
    solve = course(deq, x, reduction)
    deq.logits(final_state(deq, solve))
    with torch.no_grad():
        return deq.logits(solve.states[-1])


def scored(deq: PlainDEQ, x: Tensor, y: Tensor, reduction: Reduction | None) -> dict[str, Tensor]:
    """Of every state and the final one, (states, batch): class, margin, entropy; of the states their residuals."""
    solve = course(deq, x, reduction)
    final = final_state(deq, solve)
    with torch.no_grad():
        columns: dict[str, list[Tensor]] = {"predicted": [], "margin": [], "entropy": []}
        for z in (*solve.states, final):
            logits = deq.logits(z)
            own = logits.gather(1, y[:, None])[:, 0]
            others = logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf).max(1).values
            columns["predicted"].append(logits.argmax(1))
            columns["margin"].append(own - others)
            columns["entropy"].append(-(logits.softmax(1) * logits.log_softmax(1)).sum(1))
        return {name: torch.stack(of_states) for name, of_states in columns.items()} | {
            "residual": torch.stack(solve.residuals)
        }


# --- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """Numbers of adversarial training.

    Attributes:
        threat: of the attack.
        attack_steps: of the attack.
        start_noise: standard deviation of TRADES' start.
        inverse_lambda: weight of TRADES' KL term.
        jacobian: weight of the Jacobian term; 0: none.
        probes: Gaussian vectors of its estimate.
    """

    threat: Threat
    attack_steps: int
    start_noise: float
    inverse_lambda: float
    jacobian: float
    probes: int


@dataclass(frozen=True)
class Step:
    """One training step of either framework.

    Attributes:
        deq: the model.
        numbers: of the training.
        optimizer: over its parameters.
    """

    deq: PlainDEQ
    numbers: Training
    optimizer: Optimizer

    def pgd_at(self, images: tuple[Tensor, Tensor], dealt: Dealt) -> Tensor:
        """Cross-entropy at images that PGD made, and the update; the loss."""
        (x, y), network, threat = images, self.deq.network, self.numbers.threat
        network.eval()
        adversarial = torch.clamp(x + (2 * dealt.noise - 1) * threat.epsilon, 0, 1)
        for states in dealt.crafting:
            adversarial = adversarial.detach().requires_grad_()
            loss = F.cross_entropy(self._crafting(adversarial, states.adversarial.steps), y, reduction="sum")
            network.zero_grad()
            loss.backward()
            assert adversarial.grad is not None
            adversarial = threat.inside(adversarial.detach() + threat.step_size * adversarial.grad.sign(), x)
        network.train()
        logits, term = self._training(adversarial.detach(), dealt.loss.adversarial.steps, dealt)
        return self._update(F.cross_entropy(logits, y) + term)

    def trades(self, images: tuple[Tensor, Tensor], dealt: Dealt) -> Tensor:
        """Natural cross-entropy and the KL term at images that PGD made, and the update; the loss."""
        (x, y), network, threat = images, self.deq.network, self.numbers.threat
        network.eval()
        adversarial = x + self.numbers.start_noise * dealt.noise
        for states in dealt.crafting:
            adversarial = adversarial.detach().requires_grad_()
            perturbed = self._crafting(adversarial, states.adversarial.steps)
            natural = self._crafting(x, states.natural.steps)
            (gradient,) = torch.autograd.grad(_divergence(perturbed, natural), adversarial)
            adversarial = threat.inside(adversarial.detach() + threat.step_size * gradient.sign(), x)
        network.train()
        natural, natural_term = self._training(x, dealt.loss.natural.steps, dealt)
        perturbed, perturbed_term = self._training(adversarial.detach(), dealt.loss.adversarial.steps, dealt)
        robust = _divergence(perturbed, natural) / len(y)
        loss = F.cross_entropy(natural, y) + self.numbers.inverse_lambda * robust
        return self._update(loss + natural_term + perturbed_term)

    def _crafting(self, x: Tensor, length: int) -> Tensor:
        """Logits behind z^[length], in evaluation mode."""
        deq = self.deq
        f = deq.of(x, deq.weights())
        states, _ = solved(f, deq.zero(x), length)
        return deq.logits(deq.unrolled(f, states[-1], steps=deq.unroll, damping=deq.damping))

    def _training(self, x: Tensor, length: int, dealt: Dealt) -> tuple[Tensor, Tensor]:
        """Logits behind z^[length] in training mode, and the weighted Jacobian term there."""
        deq = self.deq
        f = deq.of(x, deq.weights(len(x), dealt.dropout))
        states, _ = solved(f, deq.zero(x), length)
        logits = deq.logits(deq.unrolled(f, states[-1], steps=deq.unroll, damping=deq.damping))
        if dealt.probes is None:
            return logits, logits.new_zeros(())
        return logits, self.numbers.jacobian * self._jacobian(f, states[-1], dealt.probes)

    def _jacobian(self, f: Map, z: Tensor, source: torch.Generator) -> Tensor:
        """Hutchinson's estimate of the squared norm of the Jacobian of f, per entry of z."""
        z = z.detach().requires_grad_()
        value, products = f(z), list[Tensor]()
        for _ in range(self.numbers.probes):
            probe = torch.randn(z.shape, generator=source).to(z.device, z.dtype)
            products += torch.autograd.grad(value, z, probe, create_graph=True)
        self.deq.network.counter.count_differentiated(products)
        return torch.stack([(product**2).sum() for product in products]).sum() / len(products) / z.numel()

    def _update(self, loss: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()  # for the log of the training
        return loss.detach()


def _divergence(perturbed: Tensor, natural: Tensor) -> Tensor:
    """KL divergence of the natural prediction from the perturbed one, summed over images."""
    return F.kl_div(perturbed.log_softmax(1), natural.softmax(1), reduction="sum")
