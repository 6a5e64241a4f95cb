"""Sec. 3.2 at test time, and its sweep (Table 5)."""

from typing import Annotated, Literal

from pydantic import Field

from deqpipe.config.base import Count, Depth, Section, StepSize255


class EntropyConfig(Section):
    """Input entropy reduction along the neural dynamics (Sec. 3.2, Algorithm 1)."""

    solver_steps: Depth
    """T_f: the input is updated after every so many solver steps."""
    input_steps: Annotated[int, Field(ge=0, le=1_000)]
    """R: entropy descent steps per update; with resolve: alg1, 0 equals the undefended dynamics bit for bit."""
    step_size_255: StepSize255
    """beta, in 1/255 of the pixel range."""
    step: Literal["sign", "raw"]
    """Whether Eq. (8) steps along the sign of the gradient or the gradient itself."""
    resolve: Literal["alg1", "quasi_newton"]
    """What a new input does to the solve. alg1: the last state is solved again (Algorithm 1, line 13); quasi_newton: no
    state is, the newest entry of the solver's memory is corrected, and the memory starts anew every T_f steps."""
    last_update: Literal["resolve", "dead"]
    """The update after z^[N]. resolve: z^[N] is solved again, as in alg1; dead: left out, as no state follows it."""
    state: Literal["last", "lowest"]
    """The state of a round (the steps since the update before) that the entropy is taken at, and with quasi_newton that
    the next round starts from: its last one, or that with the lowest residual, by solver.scope."""
    final_input: Literal["updated", "original"]
    """The input that the final state is unrolled with."""
    controls: bool
    """Whether the control rows are scored as well: without entropy descent, with the restarts only, and with one round
    only (T_f = N); the latter two with the authors' code's keys. They need the attacked images, so that a change
    crafts them again."""


class EntropySweepConfig(Section):
    """Table 5: Sec. 3.2 with other T_f and R, on the weights of TRADES with random states."""

    solver_steps: Annotated[tuple[Depth, ...], Field(min_length=1, strict=False)]
    """T_f; those above solver.steps never update the input."""
    input_steps: Annotated[tuple[Depth, ...], Field(min_length=1, strict=False)]
    """R; R = 0 and the restarts alone are added as controls."""
    points: Literal["all"] | Count
    """all: minimum over the whole grid; a number: over so many of its strongest points."""
