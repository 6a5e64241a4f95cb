"""One solve that many of its states are read from, one after another."""

from dataclasses import replace
from typing import Any

import torch

from deqpipe.shapes import State
from deqpipe.solver.base import FixedPointMap, Solver
from deqpipe.solver.solve import Lowest, Returned, Solution, Termination, following, solve


class GrowingSolve:
    """A solve from z^[0] that goes on as far as the latest state that was asked for.

    States are causal: what is read is bit for bit what `reach` would solve anew. All states stay in memory.
    """

    def __init__(self, solver: Solver[Any], fn: FixedPointMap, z0: State, *, termination: Termination) -> None:
        """Start at `z0`; `termination.max_steps` is no limit here. Calls `fn` once."""
        self._solver, self._fn, self._one = solver, fn, replace(termination, max_steps=1)
        with torch.no_grad():
            self._state = solver.init(fn, z0)
        self._steps: list[Solution] = []  # one each
        self._lowest: dict[Returned, list[Lowest]] = {"lowest_sample": [], "lowest_batch": []}  # of each prefix

    @torch.no_grad()
    def reach(self, steps: int, returned: Returned = "last") -> State:
        """z* of a solve of so many steps.

        Calls `fn` only for what nobody asked for before: `steps` calls in all for z^[steps], one more where residuals
        decide.
        """
        assert steps >= 1, "a solve has at least one step"
        if returned != "last":
            self._go_on_to(steps)
            return self._lowest_of_prefix(steps, returned)
        self._go_on_to(steps - 1)
        if steps <= len(self._steps):
            return self._steps[steps - 1].z
        return following(self._solver, self._state, termination=self._one, **self._before())

    def _go_on_to(self, steps: int) -> None:
        while len(self._steps) < steps:
            step, self._state = solve(self._solver, self._fn, self._state, termination=self._one, **self._before())
            self._steps.append(step)

    def _before(self) -> dict[str, Any]:
        """What a solve in segments is told of those that came before."""
        first = self._steps[0].batch_residuals[0] if self._steps else None
        return {"resumed": bool(self._steps), "grown_from": first}

    def _lowest_of_prefix(self, steps: int, returned: Returned) -> State:
        known = self._lowest[returned]
        for step in self._steps[len(known) : steps]:
            before = known[-1] if known else Lowest.unknown(step.z)
            known.append(
                before.or_lower(step.z, step.residuals[0] if returned == "lowest_sample" else step.batch_residuals[0])
            )
        return known[steps - 1].z
