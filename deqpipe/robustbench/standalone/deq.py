"""A multiscale deep equilibrium model (Bai et al., 2020) as one classifier in plain PyTorch.

Images go through a stem; a solver takes steps towards a fixed point of the cell, z = f(z; x), from z = 0; a head reads
logits off the state that it has come to. The number of steps is fixed, nothing is random, and nothing is optimised at
test time. No step is detached: the gradient to the images is the exact one, through all of the solver's steps.

Weight norm is folded into the convolutions. The network is for inference: call `eval()` before use.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Map = Callable[[Tensor], Tensor]


class Solver(Protocol):
    """One solve: where it goes next, by what it has learnt. g is the residual f(z) - z; all are (batch, state)."""

    def propose(self, z: Tensor, g: Tensor) -> Tensor:
        """The next state."""
        ...

    def learn(self, dz: Tensor, dg: Tensor, g: Tensor) -> None:
        """Take in a step of z by dz, which changed the residual by dg to g."""
        ...


class FixedPoint:
    """Plain iteration, z <- f(z)."""

    def __init__(self, g: Tensor) -> None:
        """Begin at a state of residual g; so begin all solvers."""

    def propose(self, z: Tensor, g: Tensor) -> Tensor:
        """f(z)."""
        return z + g

    def learn(self, dz: Tensor, dg: Tensor, g: Tensor) -> None:
        """Nothing: there is no memory."""


class Anderson:
    """Anderson mixing of type II (Anderson, 1965) of the last `memory` states, image by image."""

    regularisation = 10  # in units of the rounding error of the largest entry

    def __init__(self, g: Tensor, memory: int = 5) -> None:
        self.differences: list[tuple[Tensor, Tensor]] = []
        self.memory = memory

    def propose(self, z: Tensor, g: Tensor) -> Tensor:
        """The mixed state: z + g less the part of it that the last differences explain."""
        if not self.differences:
            return z + g
        dz, dg = (torch.stack(vectors, dim=1) for vectors in zip(*self.differences, strict=True))
        gram = torch.bmm(dg, dg.transpose(1, 2))
        largest = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
        number = torch.finfo(gram.dtype)
        ridge = (self.regularisation * number.eps * largest).clamp_min(number.tiny)
        identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        gamma, _ = torch.linalg.solve_ex(gram + ridge * identity, torch.bmm(dg, g.unsqueeze(2)))
        return z + g - torch.bmm(gamma.transpose(1, 2), dz + dg).squeeze(1)

    def learn(self, dz: Tensor, dg: Tensor, g: Tensor) -> None:
        """Remember a step."""
        self.differences = [*self.differences, (dz, dg)][-(self.memory - 1) :]


class Broyden:
    """Broyden's good method (Broyden, 1965), image by image: B^-1 = -I + sum_k left_k right_k^T."""

    def __init__(self, g: Tensor) -> None:
        self.left: list[Tensor] = []
        self.right: list[Tensor] = []
        self.correction = -g  # B^-1 g

    def propose(self, z: Tensor, g: Tensor) -> Tensor:
        """The quasi-Newton step, z - B^-1 g."""
        return z - self.correction

    def learn(self, dz: Tensor, dg: Tensor, g: Tensor) -> None:
        """Add the pair for which B^-1 dg = dz; one whose denominator is no use is left out."""
        product = self._times(self.left, self.right, g)
        right = self._times(self.right, self.left, dz)
        denominator = self._dot(right, dg)
        usable = denominator.isfinite() & (denominator != 0)
        left = (dz - (product - self.correction)) / torch.where(usable, denominator, 1)
        left, right = torch.where(usable, left, 0), torch.where(usable, right, 0)
        self.left, self.right = [*self.left, left], [*self.right, right]
        self.correction = product.addcmul(left, self._dot(right, g))

    @staticmethod
    def _times(left: list[Tensor], right: list[Tensor], vector: Tensor) -> Tensor:
        """(-I + sum_k left_k right_k^T) vector."""
        if not left:
            return -vector
        dots = torch.bmm(vector.unsqueeze(1), torch.stack(right, dim=1).transpose(1, 2))
        return torch.bmm(dots, torch.stack(left, dim=1)).squeeze(1) - vector

    @staticmethod
    def _dot(one: Tensor, other: Tensor) -> Tensor:
        return torch.bmm(one.unsqueeze(1), other.unsqueeze(1).transpose(1, 2)).squeeze(1)


def solve(
    f: Map, z: Tensor, method: Callable[[Tensor], Solver], *, steps: int, tolerance: float, lowest: bool
) -> Tensor:
    """The state after `steps` steps from z, (batch, state); no image has a part in another's.

    Args:
        f: the map whose fixed point is sought.
        z: the first state.
        method: makes the solver.
        steps: how many; f is called once for each, and once more with `lowest`.
        tolerance: an image whose relative residual is at most this keeps its state; 0: none does.
        lowest: take of the states the one of lowest residual instead of the last.
    """
    g = f(z) - z
    solver, best, least = method(g), z, torch.full_like(z[:, :1], torch.inf)
    going = ~(relative(z, g) <= tolerance)
    for number in range(1, steps + 1):
        following = solver.propose(z, g)
        following = torch.where(going, following, z) if tolerance else following
        if number == steps and not lowest:
            return following
        g_following = f(following) - following
        solver.learn(following - z, g_following - g, g_following)
        z, g = following, g_following
        residual = relative(z, g)
        going = going & ~(residual <= tolerance)
        if lowest:
            lower = (residual < least) | (number == 1)
            best, least = torch.where(lower, z, best), torch.fmin(residual, least)
    return best


def relative(z: Tensor, g: Tensor) -> Tensor:
    """norm(f(z) - z) / norm(f(z)), (batch, 1)."""
    norms: list[Tensor] = [vector.detach().norm(dim=1, keepdim=True) for vector in (g, g + z)]
    return norms[0] / (norms[1] + 1e-9)


def convolution(channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the resolution, divided by its stride."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=bias)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution without bias; on a CPU a product of matrices per image.

    Of images of a few pixels PyTorch's convolution adds up in another order than of others, and where f does not pull
    states together the solver's steps make such differences of rounding a hundred times as large.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_out, height, width)."""
        if x.device.type != "cpu":
            return super().forward(x)
        matrices = self.weight.flatten(1).expand(len(x), -1, -1)
        product: Tensor = torch.bmm(matrices, x.flatten(2)).unflatten(2, x.shape[2:])
        return product


class Block(nn.Module):
    """The transformation of one scale; the input is injected between its convolutions and the shortcut."""

    def __init__(self, channels: int, *, expansion: int, groups: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv1, self.gn1 = convolution(channels, wide, 3), nn.GroupNorm(groups, wide)
        self.conv2, self.gn2 = convolution(wide, channels, 3), nn.GroupNorm(groups, channels)
        self.gn3 = nn.GroupNorm(groups, channels)

    def forward(self, z: Tensor, injection: Tensor | None) -> Tensor:
        """(batch, channels, height, width)."""
        h = self.conv2(F.relu(self.gn1(self.conv1(z))))
        h = h if injection is None else h + injection
        out: Tensor = self.gn3(F.relu(self.gn2(h) + z))
        return out


class Up(nn.Module):
    """From a coarser scale to a finer one."""

    def __init__(self, channels_in: int, channels_out: int, *, factor: int, groups: int) -> None:
        super().__init__()
        self.conv, self.gn = Pointwise(channels_in, channels_out), nn.GroupNorm(groups, channels_out)
        self.factor = factor

    def forward(self, h: Tensor) -> Tensor:
        """(batch, channels_out, factor height, factor width)."""
        return F.interpolate(self.gn(self.conv(h)), scale_factor=self.factor, mode="nearest")


def down(channels_in: int, channels_out: int, *, halvings: int, groups: int) -> nn.Sequential:
    """From a finer scale to a coarser one; the last convolution changes the channels."""
    layers: list[nn.Module] = []
    for width in (*[channels_in] * (halvings - 1), channels_out):
        layers += [convolution(channels_in, width, 3, stride=2), nn.GroupNorm(groups, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class After(nn.Module):
    """What follows the sum over the scales."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.conv, self.groups = Pointwise(channels, channels), groups // 2

    def forward(self, h: Tensor) -> Tensor:
        """(batch, channels, height, width)."""
        return F.group_norm(self.conv(F.relu(h)), self.groups)


class Cell(nn.Module):
    """f(z; x). A state is flat, (batch, state): all scales one after the other, finest first."""

    def __init__(self, channels: Sequence[int], resolution: tuple[int, int], *, groups: int, expansion: int) -> None:
        super().__init__()
        height, width = resolution
        self.shapes = [(c, height >> i, width >> i) for i, c in enumerate(channels)]
        self.branches = nn.ModuleList(Block(c, expansion=expansion, groups=groups) for c in channels)
        self.fuse = nn.ModuleDict()
        for i, target in enumerate(channels):
            for j, source in enumerate(channels):
                if j > i:
                    self.fuse[f"{j}to{i}"] = Up(source, target, factor=2 ** (j - i), groups=groups)
                elif j < i:
                    self.fuse[f"{j}to{i}"] = down(source, target, halvings=i - j, groups=groups)
        self.post = nn.ModuleList(After(c, groups=groups) for c in channels)

    @property
    def state_size(self) -> int:
        """Numbers in the state of an image."""
        return sum(math.prod(shape) for shape in self.shapes)

    def scales(self, z: Tensor) -> list[Tensor]:
        """A state as one (batch, channels, height, width) tensor per scale."""
        parts = z.split([math.prod(shape) for shape in self.shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def forward(self, z: Tensor, injection: Tensor) -> Tensor:
        """f(z; x), (batch, state); the injection belongs to the finest scale."""
        scales = self.scales(z)
        hidden = [
            block(h, None if i else injection) for i, (block, h) in enumerate(zip(self.branches, scales, strict=True))
        ]
        return torch.cat([after(self._sum(hidden, i)).flatten(1) for i, after in enumerate(self.post)], dim=1)

    def _sum(self, hidden: Sequence[Tensor], i: int) -> Tensor:
        """All scales at the resolution of scale i."""
        parts = [h if j == i else self.fuse[f"{j}to{i}"](h) for j, h in enumerate(hidden)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


class Bottleneck(nn.Module):
    """Four times `width` channels of one scale; the batch norms of the main path have no parameters."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.conv1, self.bn1 = Pointwise(channels, width), nn.BatchNorm2d(width, affine=False)
        self.conv2, self.bn2 = convolution(width, width, 3), nn.BatchNorm2d(width, affine=False)
        self.conv3, self.bn3 = Pointwise(width, wide), nn.BatchNorm2d(wide, affine=False)
        self.short: nn.Module = nn.Identity()
        if channels != wide:
            self.short = nn.Sequential(Pointwise(channels, wide), nn.BatchNorm2d(wide))

    def forward(self, z: Tensor) -> Tensor:
        """(batch, 4 width, height, width of the scale)."""
        h = F.relu(self.bn1(self.conv1(z)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.short(z))


class Head(nn.Module):
    """Logits of a state: the scales merged from the finest one down, averaged over pixels."""

    def __init__(self, channels: Sequence[int], *, widths: Sequence[int], final_channels: int, classes: int) -> None:
        super().__init__()
        wide = [4 * width for width in widths]
        self.incre = nn.ModuleList(Bottleneck(c, width) for c, width in zip(channels, widths, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(convolution(fine, coarse, 3, stride=2, bias=True), nn.BatchNorm2d(coarse), nn.ReLU())
            for fine, coarse in pairwise(wide)
        )
        last = convolution(wide[-1], final_channels, 1, bias=True)
        self.final = nn.Sequential(last, nn.BatchNorm2d(final_channels), nn.ReLU())
        self.fc = nn.Linear(final_channels, classes)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """(batch, classes)."""
        y = self.incre[0](scales[0])
        for merge, widen, z in zip(self.down, self.incre[1:], scales[1:], strict=True):
            y = widen(z) + merge(y)
        logits: Tensor = self.fc(self.final(y).mean((2, 3)))
        return logits


def stem(channels_in: int, channels: int, *, scales: int) -> nn.Sequential:
    """From images to the injection; with more than two scales it ends with a 1x1 convolution."""
    layers: list[nn.Module] = []
    for incoming, kernel in ((channels_in, 3), (channels, 3), *[(channels, 1)] * (scales > 2)):
        layers += [convolution(incoming, channels, kernel), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class DEQ(nn.Module):
    """Images (batch, channels, height, width) in [0, 1], as they are, to logits (batch, classes)."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        channels: Sequence[int],
        groups: int,
        expansion: int,
        head_widths: Sequence[int],
        final_channels: int,
        method: Callable[[Tensor], Solver],
        steps: int,
        tolerance: float = 0.0,
        lowest: bool = False,
        dampings: Sequence[float] = (),
    ) -> None:
        """Initialised as PyTorch does; the weights come from a file.

        Args:
            image_shape: channels, height and width of the images.
            classes: how many logits.
            channels: of every scale, finest first; each has half the resolution of the one before.
            groups: of the GroupNorms of the cell.
            expansion: how much wider the cell's blocks are inside.
            head_widths: of the head's bottlenecks.
            final_channels: of the head before averaging.
            method: makes the solver from the residual of the first state.
            steps: of the solver.
            tolerance: see `solve`.
            lowest: see `solve`.
            dampings: for each, z <- (1 - damping) z + damping f(z) behind the solver.
        """
        super().__init__()
        self.stem = stem(image_shape[0], channels[0], scales=len(channels))
        self.cell = Cell(channels, image_shape[1:], groups=groups, expansion=expansion)
        self.head = Head(channels, widths=head_widths, final_channels=final_channels, classes=classes)
        self.method, self.steps, self.tolerance, self.lowest = method, steps, tolerance, lowest
        self.dampings = tuple(dampings)

    def forward(self, x: Tensor) -> Tensor:
        """The logits, with gradient through every step."""
        injection = self.stem(x)

        def f(z: Tensor) -> Tensor:
            value: Tensor = self.cell(z, injection)
            return value

        z = x.new_zeros(len(x), self.cell.state_size)
        z = solve(f, z, self.method, steps=self.steps, tolerance=self.tolerance, lowest=self.lowest)
        for damping in self.dampings:
            z = f(z) if damping == 1 else (1 - damping) * z + damping * f(z)
        logits: Tensor = self.head(self.cell.scales(z))
        return logits
