"""From the device to the host: everything at once, as every copy waits until the device has come so far."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors of one device as arrays of their shapes and types, by one copy for all of them."""
    in_order = sorted(tensors, key=lambda name: -tensors[name].element_size())  # so that numbers lie where they may
    joined = torch.cat([_bytes(tensors[name]) for name in in_order]).cpu().numpy()
    sizes = [tensors[name].element_size() * tensors[name].numel() for name in in_order]
    parts = dict(zip(in_order, np.split(joined, np.cumsum(sizes)[:-1]), strict=True))
    return {name: _array(parts[name], tensor) for name, tensor in tensors.items()}


def _bytes(tensor: Tensor) -> Tensor:
    flat: Tensor = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return flat


def _array(raw: np.ndarray, like: Tensor) -> np.ndarray:
    kind = torch.empty(0, dtype=like.dtype).numpy().dtype
    array: np.ndarray = raw.view(kind).reshape(tuple(like.shape))
    return array
