"""What Sec. 3.2 costs, in evaluations of f, and how long a solve without it may be for as much."""

from deqpipe.config import EntropyConfig
from deqpipe.counts import Evaluations


def undefended(config: EntropyConfig, *, steps: int) -> bool:
    """Whether Sec. 3.2 with these keys is the plain dynamics bit for bit, which are not computed twice.

    It is where the input is never updated, and in Algorithm 1 also without descent steps. The authors' code differs in
    restarting its solver, but a single round is the plain solve.

    Args:
        config: of the defence.
        steps: N, solver steps of the whole solve.
    """
    every = config.solver_steps
    if every > steps or (every == steps and config.last_update == "dead"):
        return True
    return config.resolve == "alg1" and config.input_steps == 0


def added(config: EntropyConfig, *, steps: int) -> Evaluations:
    """What Sec. 3.2 evaluates f for beyond the plain solve of so many steps, per image."""
    if undefended(config, steps=steps):
        return Evaluations()
    due = _updates(config, steps)
    descents = Evaluations(forward=1, backward_input=1) * (config.input_steps * len(due))
    if config.resolve == "alg1":  # the new input's residual, and a look ahead for the lowest state
        return descents + Evaluations(len(due) * (1 + (config.state == "lowest")))
    between = len([n for n in due if n < steps])
    last_round_again = config.solver_steps + 1 if steps in due else 0  # its residual and its steps
    return descents + Evaluations(between + last_round_again)


def way_to(config: EntropyConfig, state: int, *, steps: int) -> Evaluations:
    """A decision with Sec. 3.2 at z^[state], of which nothing else is looked at, per image.

    It is solved again where Algorithm 1 says so; the authors' keys do so with z^[N] only, if at all.

    Args:
        config: of the defence.
        state: that decides.
        steps: N.
    """
    if state < steps:
        last = "resolve" if config.resolve == "alg1" else "dead"
        config = config.model_copy(update={"last_update": last})
    return Evaluations(state) + added(config, steps=state)


def _updates(config: EntropyConfig, steps: int) -> list[int]:
    """The states that an update of the input follows."""
    last = config.last_update == "resolve"
    return [n for n in range(1, steps + 1) if n % config.solver_steps == 0 and (n < steps or last)]


def times_as_long(config: EntropyConfig, steps: int) -> int:
    """How many times N steps an undefended solve takes that costs what Sec. 3.2 does as far as z^[N].

    The largest power of two that costs no more: 8 under both protocols of the paper, so 64 steps of a solve where
    N = 8. Known from the configuration alone, whatever early states are selected.

    Args:
        config: of the defence.
        steps: N.
    """
    whole = int(way_to(config, steps, steps=steps).total)
    return 1 << ((whole // steps).bit_length() - 1)
