"""What the package asks of a model with states: f(.; x), z^[0], and logits of a state.

Dynamics, gradients, defences and attacks need no more than `FixedPointModel`. `DEQClassifier` is one; whatever says
`UserModel` becomes one by `model.adapter.AdaptedModel`.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from deqpipe.compute.evaluations import Counter
from deqpipe.shapes import Images, Logits, State


@runtime_checkable
class BoundFunction(Protocol):
    """z -> f(z; x) for fixed images, (batch, state) -> (batch, state); its evaluations are counted."""

    def __call__(self, z: State) -> State:
        """f(z; x)."""
        ...

    @property
    def eager(self) -> "BoundFunction":
        """The same map as it can be differentiated twice, or its backward pass run again: not compiled."""
        ...

    def of_first(self, count: int) -> "BoundFunction":
        """The map of the first images alone."""
        ...


@runtime_checkable
class FixedPointModel(Protocol):
    """A classifier whose logits are read off states of z -> f(z; x).

    Attributes:
        image_shape: (channels, height, width) of the images that it takes.
        classes: how many logits it gives.
        counter: of the evaluations of f so far.
    """

    image_shape: tuple[int, int, int]
    classes: int
    counter: Counter

    @property
    def state_size(self) -> int:
        """Numbers in the state of one image."""
        ...

    def bind(self, x: Images) -> BoundFunction:
        """The map z -> f(z; x), with gradient to x."""
        ...

    def holding(self, z: State) -> Callable[[Images], State]:
        """The map x -> f(z; x) for a state that is held, with gradient to x alone; evaluations are counted."""
        ...

    def initial_state(self, x: Images) -> State:
        """z^[0]."""
        ...

    def logits(self, z: State) -> Logits:
        """What is read off a state."""
        ...

    def trajectory_logits(self, states: Float[Tensor, "step batch state"]) -> Float[Tensor, "step batch classes"]:
        """What is read off every state."""
        ...


@runtime_checkable
class UserModel(Protocol):
    """The least that a model with states says of itself; it is a torch.nn.Module beside that."""

    def bind(self, x: Images) -> Callable[[Tensor], Tensor]:
        """The map z -> f(z; x), (batch, state) -> (batch, state), with gradient to x and to z."""
        ...

    def initial_state(self, x: Images) -> State:
        """z^[0], flat: (batch, state)."""
        ...

    def logits(self, z: State) -> Logits:
        """What is read off a state."""
        ...


def eager(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A map as it can be differentiated twice, or its backward pass run again: not compiled."""
    return fn.eager if isinstance(fn, BoundFunction) else fn
