"""Anybody's model with states as one that the package can attack: evaluations of f are counted, no number changes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deqpipe.compute.evaluations import Counter
from deqpipe.model.interface import FixedPointModel, UserModel
from deqpipe.shapes import Images, Logits, State


@dataclass(frozen=True, eq=False)
class AdaptedMap:
    """z -> f(z; x) of a user's model for fixed images.

    Attributes:
        function: f.
        model: whose.
        x: the images.
    """

    function: Callable[[Tensor], Tensor]
    model: "AdaptedModel"
    x: Images

    def __call__(self, z: State) -> State:
        """f(z; x)."""
        value = self.function(z)
        self.model.counter.count(value)
        return value

    @property
    def eager(self) -> "AdaptedMap":
        """This one: nothing is compiled."""
        return self

    def of_first(self, count: int) -> "AdaptedMap":
        """The map of the first images alone, bound anew."""
        return self.model.bind(self.x[:count])


class AdaptedModel(nn.Module):
    """A user's model, in evaluation mode and its parameters frozen unless it is to be trained.

    Attributes:
        inner: the user's.
        image_shape: (channels, height, width) of the images that it takes.
        state_size: numbers in the state of one image.
        classes: how many logits it gives.
        counter: of the evaluations of its f.
    """

    def __init__(self, inner: nn.Module, example: Images, *, trainable: bool = False) -> None:
        """Take a model over.

        Args:
            inner: a `UserModel`.
            example: at least one image of the kind that it takes, on its device.
            trainable: it stays in its mode, and its parameters are not frozen.
        """
        super().__init__()
        assert isinstance(inner, UserModel)
        self.inner = inner if trainable else inner.eval().requires_grad_(False)
        self.counter = Counter()
        channels, height, width = example.shape[1:]
        self.image_shape = (channels, height, width)
        with torch.no_grad():
            z = self.initial_state(example[:1])
            self.state_size = z.shape[1]
            self.classes = self.logits(z).shape[1]

    def bind(self, x: Images) -> AdaptedMap:
        """The map z -> f(z; x)."""
        return AdaptedMap(self.inner.bind(x), self, x)

    def holding(self, z: State) -> Callable[[Images], State]:
        """The map x -> f(z; x); the model is bound for every image anew."""
        return lambda x: self.bind(x)(z)

    def initial_state(self, x: Images) -> State:
        """z^[0]."""
        z: State = self.inner.initial_state(x)
        return z

    def logits(self, z: State) -> Logits:
        """What is read off a state."""
        out: Tensor = self.inner.logits(z)
        return out

    def trajectory_logits(self, states: Float[Tensor, "step batch state"]) -> Float[Tensor, "step batch classes"]:
        """What is read off every state, one after the other."""
        return torch.stack([self.logits(z) for z in states])


def adapted(model: nn.Module, example: Images) -> nn.Module:
    """A model as the package can attack it, in evaluation mode and frozen: with states, or an ordinary network.

    Args:
        model: a `FixedPointModel`, a `UserModel`, or a network of images.
        example: at least one image of the kind that it takes, on its device.
    """
    if isinstance(model, FixedPointModel) or not isinstance(model, UserModel):
        return model.eval().requires_grad_(False)
    return AdaptedModel(model, example)
