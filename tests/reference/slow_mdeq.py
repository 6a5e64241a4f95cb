"""The multiscale DEQ in evaluation mode, one image and one scale at a time, straight from its description.

Only convolutions come from a library. Parameters are taken from a state_dict, by name.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5
Weights = Mapping[str, Tensor]


def batch_norm(h: Tensor, w: Weights, name: str) -> Tensor:
    """Of one image, (channels, height, width), with running statistics."""
    scale = w.get(f"{name}.weight", torch.ones_like(w[f"{name}.running_var"]))
    shift = w.get(f"{name}.bias", torch.zeros_like(scale))
    rows = []
    for channel, mean, var, s, b in zip(
        h, w[f"{name}.running_mean"], w[f"{name}.running_var"], scale, shift, strict=True
    ):
        rows.append((channel - mean) / torch.sqrt(var + EPS) * s + b)
    return torch.stack(rows)


def group_norm(h: Tensor, groups: int, w: Weights, name: str) -> Tensor:
    """Of one image; without parameters where there are none of that name."""
    members = h.shape[0] // groups
    parts = []
    for group in range(groups):
        part = h[group * members : (group + 1) * members]
        parts.append((part - part.mean()) / torch.sqrt(((part - part.mean()) ** 2).mean() + EPS))
    normalised = torch.cat(parts)
    if f"{name}.weight" not in w:
        return normalised
    return normalised * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def conv(h: Tensor, weight: Tensor, *, stride: int = 1, bias: Tensor | None = None) -> Tensor:
    """Convolution of one image, padded to keep its size."""
    return F.conv2d(h[None], weight, bias, stride=stride, padding=weight.shape[2] // 2)[0]


def normed_weight(w: Weights, name: str) -> Tensor:
    """v g / ||v||, one output channel after the other."""
    if f"{name}.g" not in w:
        return w[f"{name}.v"]
    return torch.stack([v * g / torch.sqrt((v**2).sum()) for v, g in zip(w[f"{name}.v"], w[f"{name}.g"], strict=True)])


def inject(w: Weights, x: Tensor, *, scales: int) -> Tensor:
    """Stem and, with more than two scales, stage0."""
    h = x
    for layer in (0, 3, 6)[: 3 if scales > 2 else 2]:
        h = F.relu(batch_norm(conv(h, w[f"stem.{layer}.weight"]), w, f"stem.{layer + 1}"))
    return h


def branch(w: Weights, i: int, z: Tensor, injection: Tensor | None, groups: int, mask: Tensor | None) -> Tensor:
    """b_i."""
    name = f"cell.branches.{i}"
    h = F.relu(group_norm(conv(z, normed_weight(w, f"{name}.conv1")), groups, w, f"{name}.gn1"))
    h = conv(h, normed_weight(w, f"{name}.conv2"))
    if mask is not None:
        h = h * mask
    if injection is not None:
        h = h + injection
    h = group_norm(h, groups, w, f"{name}.gn2") + z
    return group_norm(F.relu(h), groups, w, f"{name}.gn3")


def exchange(w: Weights, b: Tensor, j: int, i: int, groups: int) -> Tensor:
    """fuse[i][j](b_j)."""
    name = f"cell.fuse.{j}to{i}"
    if j == i:
        return b
    if j > i:
        h = group_norm(conv(b, w[f"{name}.conv.weight"]), groups, w, f"{name}.gn")
        factor = 2 ** (j - i)
        return h.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    h = b
    for k in range(i - j):
        h = group_norm(conv(h, w[f"{name}.{3 * k}.weight"], stride=2), groups, w, f"{name}.{3 * k + 1}")
        if k < i - j - 1:
            h = F.relu(h)
    return h


def split(z: Tensor, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """The scales of one flat state, finest first."""
    parts, start = [], 0
    for c, height, width in shapes:
        parts.append(z[start : start + c * height * width].reshape(c, height, width))
        start += c * height * width
    return parts


def f(
    w: Weights,
    z: Tensor,
    x: Tensor,
    *,
    shapes: Sequence[tuple[int, int, int]],
    groups: int,
    masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """f(z; x) of one flat state and one image; `masks` are (channels, 1, 1) per scale."""
    scales = split(z, shapes)
    hidden = []
    for i, part in enumerate(scales):
        injection = inject(w, x, scales=len(shapes)) if i == 0 else None
        hidden.append(branch(w, i, part, injection, groups, None if masks is None else masks[i]))
    result = []
    for i in range(len(scales)):
        y = torch.zeros_like(hidden[i])
        for j in range(len(scales)):
            y = y + exchange(w, hidden[j], j, i, groups)
        y = conv(F.relu(y), normed_weight(w, f"cell.post.{i}.conv"))
        result.append(group_norm(y, groups // 2, w, f"cell.post.{i}.gn"))
    return torch.cat([part.reshape(-1) for part in result])


def bottleneck(w: Weights, i: int, z: Tensor) -> Tensor:
    """incre_i."""
    name = f"head.incre.{i}"
    h = F.relu(batch_norm(conv(z, w[f"{name}.conv1.weight"]), w, f"{name}.bn1"))
    h = F.relu(batch_norm(conv(h, w[f"{name}.conv2.weight"]), w, f"{name}.bn2"))
    h = batch_norm(conv(h, w[f"{name}.conv3.weight"]), w, f"{name}.bn3")
    if f"{name}.short.0.weight" in w:
        z = batch_norm(conv(z, w[f"{name}.short.0.weight"]), w, f"{name}.short.1")
    return F.relu(h + z)


def head(w: Weights, z: Tensor, *, shapes: Sequence[tuple[int, int, int]]) -> Tensor:
    """Logits of one flat state."""
    scales = split(z, shapes)
    y = bottleneck(w, 0, scales[0])
    for i in range(len(scales) - 1):
        down = conv(y, w[f"head.down.{i}.0.weight"], stride=2, bias=w[f"head.down.{i}.0.bias"])
        y = bottleneck(w, i + 1, scales[i + 1]) + F.relu(batch_norm(down, w, f"head.down.{i}.1"))
    y = conv(y, w["head.final.0.weight"], bias=w["head.final.0.bias"])
    y = F.relu(batch_norm(y, w, "head.final.1"))
    pooled = torch.stack([channel.sum() / channel.numel() for channel in y])
    return w["head.fc.weight"] @ pooled + w["head.fc.bias"]
