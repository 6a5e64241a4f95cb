"""The generated part of README.md: how long the full reproduction takes, from its counts and speeds."""

from collections.abc import Sequence
from pathlib import Path

from deqpipe.planning.cluster.needs import Need
from documentation.cluster_limits import needs_at


def blocks(root: Path) -> dict[str, str]:
    """The generated blocks, by name.

    Args:
        root: the repository.
    """
    (paper, of_paper), (rates, of_rates) = needs_at(root, "paper"), needs_at(root, "rates")
    words = (
        f"By counts of operations it takes about **{_hours(of_rates):,.0f} GPU-hours** at {rates.words},\n"
        f"or {_hours(of_paper):,.0f} at {paper.words.partition(';')[0]}; rule by rule in "
        "[docs/cluster_times.md](docs/cluster_times.md).\n"
    )
    return {"hours": words}


def _hours(needs: Sequence[Need]) -> float:
    return sum(need.minutes for need in needs) / 60
