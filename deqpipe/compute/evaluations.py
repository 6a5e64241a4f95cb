"""Counts evaluations of f while it is computed.

Counting happens around f, never inside: what is compiled or captured holds no counter. What counts as what:

- An application of f is one forward evaluation, whoever wants it.
- A gradient that arrives at its value is one backward to inputs. It counts whole even where autograd leaves a part of
  it out, as behind a state that is held constant, whose own gradient nobody wants.
- A gradient that arrives at its weights is one backward to weights.
- A product of its Jacobian that autograd made differentiable (the Jacobian term of training) is a backward pass that a
  second one goes through. See `count_differentiated`.

Who counts is also where work can be left: nothing takes longer than an evaluation of f (`machine.stopping`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from deqpipe.counts import Evaluations
from deqpipe.machine import stopping

__all__ = ["Counter", "Evaluations"]


class Counter:
    """Counts the evaluations of one model."""

    def __init__(self) -> None:
        self._counted = Evaluations()

    @property
    def counted(self) -> Evaluations:
        """All evaluations so far."""
        return self._counted

    def add(self, more: Evaluations) -> None:
        """Count evaluations that nobody else saw, such as those of a replayed graph."""
        self._counted += more

    def watched(self, weight: Tensor, *, images: int) -> Tensor:
        """A weight for one application of f: the gradient that arrives at it is that of this application alone.

        One weight stands for all. No gradient arrives where only one to the inputs is asked for.
        """
        if not (weight.requires_grad and torch.is_grad_enabled()):
            return weight
        own = weight.view_as(weight)
        self._count_at(own, Evaluations(backward_weights=images))
        return own

    def count(self, value: Tensor) -> None:
        """Count one application of f, and a backward pass whenever a gradient arrives at its value.

        Args:
            value: f(z; x) for a batch.

        Raises:
            Interrupted: the work under way is to be left; here, and in the backward pass.
        """
        stopping.check()
        self.add(Evaluations(forward=len(value)))
        self._count_at(value, Evaluations(backward_input=len(value)))

    def count_differentiated(self, products: Sequence[Tensor]) -> None:
        """Count the second backward pass, through gradients of one application that are differentiable themselves.

        Each product was counted as one backward to inputs when it was computed. The gradient that arrives at it
        goes through that backward pass: to the vector that came in, which takes as much as a backward to inputs, and
        to the weights. All of them meet in f itself, which they go through once: one more backward to inputs, and one
        to weights, which is seen where it arrives (`watched`).

        Args:
            products: vectors times f's Jacobian, one per image of a batch, all from one application; one gradient
                arrives at all of them.
        """
        images = len(products[0])
        for product in products:
            self._count_at(product, Evaluations(backward_input=images, backward_weights=images))
        self._count_at(products[0], Evaluations(backward_input=images))

    def count_second_pass(self, gradient: Tensor) -> None:
        """Count the second backward pass through a gradient of one application that is differentiable itself.

        The gradient was counted as one backward to inputs when it was computed. What arrives at it goes through that
        backward pass: one more. From there it reaches f's value, where it is counted as every gradient that arrives.
        """
        self._count_at(gradient, Evaluations(backward_input=len(gradient)))

    def _count_at(self, tensor: Tensor, evaluations: Evaluations) -> None:
        """Count these whenever a gradient arrives."""
        if tensor.requires_grad:
            tensor.register_hook(lambda _: self._arrived(evaluations))

    def _arrived(self, evaluations: Evaluations) -> None:
        stopping.check()
        self.add(evaluations)
