"""Random numbers from keyed streams: no global generator, nothing to save.

A stream is named by a seed and a purpose. What it gives for a key (an image, an epoch, a training step) depends on the
seed, the purpose and the key alone, so shards, batch sizes and resumed runs agree. Numbers are drawn on the CPU and
moved, so that devices agree too.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
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

    @contextmanager
    def globally(self, *key: int, device: torch.device) -> Iterator[None]:
        """Somebody else's code, which draws from the global generators of torch, NumPy and Python: as the key says.

        Behind it they go on as if nothing had been drawn.

        Args:
            key: such as the first image of a batch.
            device: where torch draws, beside the CPU.
        """
        seed = Stream(self.seed, f"{self.purpose}/global").generator(*key).initial_seed()
        of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            try:
                yield
            finally:
                random.setstate(of_python)
                np.random.set_state(of_numpy)  # noqa: NPY002
