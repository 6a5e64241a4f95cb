"""Ways to make states of the dynamics differentiable; the same objects serve training and attacks.

A state comes out of the solver without gradient. Either what follows it is differentiated (`Unrolled`, `Implicit`:
`at_state`), or the way there is (`through`: the solver's own steps, and updates of the input between them), or an
adjoint state is carried along that way (`adjoint`).
"""

from deqpipe.gradient.at_state import Implicit, StateGradient, Unrolled

__all__ = ["Implicit", "StateGradient", "Unrolled"]
