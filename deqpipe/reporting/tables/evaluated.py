"""What a table is made of that needs nothing but evaluations of whole models."""

from collections.abc import Mapping
from dataclasses import dataclass

from deqpipe.analysis.decision import Decision
from deqpipe.analysis.evaluation import Evaluation
from deqpipe.analysis.reading import Source


@dataclass(frozen=True)
class EvaluatedModels:
    """The evaluations of whole models."""

    by_decision: Mapping[Decision, Evaluation]

    def __getitem__(self, decision: Decision) -> Evaluation:
        return self.by_decision[decision]

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Of all their decisions."""
        return tuple(self.by_decision.values())

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files behind them."""
        return tuple(source for one in self.evaluations for source in one.sources)
