"""What racing leaves out: tables and figures that need every attack on every image are written with the reason alone.

Their files exist all the same, so that targets do, and the report says why there is nothing in them.
"""

from collections.abc import Sequence

from deqpipe.analysis.evaluation import Evaluation
from deqpipe.config import Config
from deqpipe.reporting.cells import Cell, Table
from deqpipe.workflow import shards, vocabulary


def reason(config: Config) -> str | None:
    """Why what needs every attack on every image is absent; None: it is not."""
    if not shards.races(config):
        return None
    return (
        f"Absent: it needs every attack on all {config.evaluation.images:,} test images, and with racing only the "
        f"first {shards.race_cut(config):,} face every attack (racing.enabled: true)."
    )


def raced(evaluations: Sequence[Evaluation], config: Config) -> tuple[str, ...]:
    """What racing did to the attacks of these decisions, as a note; none where nothing raced."""
    race = shards.race(config)
    if race is None:
        return ()
    counts = {one.decision.model: (len(one.points), len(one.points) + one.dropped) for one in evaluations if one.points}
    listed = "; ".join(
        f"{model} {kept} of {every} attacks"
        for model, (kept, every) in counts.items()
        if vocabulary.MODELS[model].is_deq
    )
    return (
        f"Racing: every attack ran on the first {shards.race_cut(config):,} test images; on all "
        f"{config.evaluation.images:,}, and so in these minima, are those that could still be the strongest of a "
        f"decision (paired one-sided sign tests; the strongest attack of a decision stays with a probability of at "
        f"least {100 * race.confidence:g} %): {listed}.",
    )


def table(number: int, title: str, config: Config, *, conditions: tuple[str, ...]) -> Table:
    """A table that says why it is absent: no block, and one cell with the reason as its note."""
    why = reason(config) or ""
    cell = Cell(row="", column="", note=why)
    return Table(number, title, caption=why, blocks=(), cells=(cell,), notes=(), conditions=conditions)
