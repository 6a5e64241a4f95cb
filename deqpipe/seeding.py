"""Random numbers from keyed streams: no global generator, nothing to save.

A stream is named by a seed and a purpose. What it gives for a key (an image, an epoch, a training step) depends on the
seed, the purpose and the key alone, so shards, batch sizes and resumed runs agree. Numbers are drawn on the CPU and
moved, so that devices agree too.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """A source of random numbers for one purpose."""

    seed: int
    purpose: str

    def generator(self, *key: int) -> torch.Generator:
        """A fresh CPU generator for a key, such as an epoch or a training step."""
        text = f"{self.seed}/{self.purpose}/{'/'.join(map(str, key))}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

    def uniform(self, images: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1), float32, of shape (len(images), *shape): one stream per image."""
        return torch.stack([torch.rand(*shape, generator=self.generator(image)) for image in images])
