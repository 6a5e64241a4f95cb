"""An MDEQ in a checkpoint as the code of locuslab/deq writes it."""

from torch import Tensor, nn

from deqpipe.model.convert import from_release


def load(tensors: dict[str, Tensor]) -> nn.Module:
    return from_release(tensors, groups=4, image_size=8)


solver = {"name": "broyden", "steps": 8}
