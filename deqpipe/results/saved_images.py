"""Adversarial images as exact changes of the images that they were made of: x + delta is each of them, bit for bit.

One safetensors file per job of the suite. For every attack it has `ATTACK.image` (n,), the indices in the split;
`ATTACK.delta` (n, channels, height, width) in float32, in units of the pixel range; and `ATTACK.rounded_margin` (n,),
the decision's margin on the image as a file of 8 bits per channel would keep it: rounded to 255ths.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deqpipe.errors import UserError
from deqpipe.results import checkpoint
from deqpipe.results.integrity import ADVICE
from deqpipe.results.provenance import checked
from deqpipe.shapes import Images

_PARTS = ("image", "delta", "rounded_margin")
_WHAT = "saved images"


@dataclass(frozen=True, eq=False)
class Saved:
    """What one attack made of some images.

    Attributes:
        image: (n,) int32, their indices in the split.
        delta: (n, channels, height, width) float32, what it added to them.
        rounded_margin: (n,) float32, the margin of the rounded image; NaN: not asked.
    """

    image: Tensor
    delta: Tensor
    rounded_margin: Tensor

    def rebuilt(self, x: Images) -> Images:
        """The attacked images, bit for bit as they were made.

        Args:
            x: the images of `image`, in this order.
        """
        return x + self.delta.to(x.device)

    def part(self, rows: Tensor) -> "Saved":
        """Some of the images, by a mask or by numbers."""
        return Saved(self.image[rows], self.delta[rows], self.rounded_margin[rows])


def saved(images: Iterable[int], x: Images, attacked: Images, rounded_margin: Tensor) -> Saved:
    """Attacked images as changes of `x`.

    Raises:
        ValueError: x + delta is not the attacked image in every bit.
    """
    delta = attacked - x
    if not torch.equal(x + delta, attacked):
        raise ValueError("an attacked image is not the sum of its original and a change in float32")
    return Saved(torch.tensor(list(images), dtype=torch.int32), delta.cpu(), rounded_margin.float().cpu())


def rounded(images: Images) -> Images:
    """Images as a file of 8 bits per channel keeps them."""
    return (images * 255).round() / 255


def joined(parts: Iterable[Mapping[str, Saved]]) -> dict[str, Saved]:
    """The images of several parts, attack by attack."""
    by_attack: dict[str, list[Saved]] = {}
    for part in parts:
        for attack, made in part.items():
            by_attack.setdefault(attack, []).append(made)
    return {attack: _concatenated(made) for attack, made in by_attack.items()}


def _concatenated(made: list[Saved]) -> Saved:
    return Saved(*(torch.cat([getattr(one, part) for one in made]) for part in _PARTS))


def write(path: Path, attacks: Mapping[str, Saved], *, provenance: Mapping[str, Any]) -> None:
    """Write the images of some attacks whole: under a temporary name, then renamed."""
    tensors = {f"{attack}.{part}": getattr(made, part) for attack, made in attacks.items() for part in _PARTS}
    checkpoint.write(path, tensors, {"provenance": provenance, "attacks": list(attacks)})


def read(path: Path) -> tuple[dict[str, Saved], dict[str, Any]]:
    """The images by attack, in the order in which the attacks ran, and their provenance.

    Raises:
        DamagedFileError: the file is cut short, or not as it was written.
        UserError: it is missing, cannot be read, or holds something else.
    """
    found = checkpoint.read(path, what=_WHAT)
    try:
        attacks = {str(attack): _of(found, str(attack)) for attack in found.metadata["attacks"]}
        return attacks, dict(found.metadata["provenance"])
    except (KeyError, TypeError):
        raise UserError(f"{_WHAT} {path} hold no attacked images; {ADVICE}") from None


def provenance_of(path: Path) -> dict[str, Any]:
    """The provenance alone; no image is read.

    Raises:
        DamagedFileError: as `read`.
        UserError: as there.
    """
    told = checkpoint.read_metadata(path, what=_WHAT).get("provenance")
    return checked(told, path)


def _of(found: checkpoint.Checkpoint, attack: str) -> Saved:
    parts = found.part(attack)
    return Saved(**{part: parts[part] for part in _PARTS})


def beside(file: Path) -> Path:
    """Where the images of a records file lie."""
    return file.with_suffix(".safetensors")
