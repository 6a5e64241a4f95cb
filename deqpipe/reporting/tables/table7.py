"""Table 7: by how much the entropies of clean and attacked images differ (Eq. (13))."""

from collections.abc import Mapping

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Block, Cell
from deqpipe.reporting.tables import entropies
from deqpipe.reporting.tables.entropies import DELTA, EntropyPairs


def gather(tree: Tree) -> EntropyPairs:
    """The entropies of the four undefended DEQs."""
    return entropies.gather(tree)


def caption(config: Config) -> str:
    """What is measured."""
    return (
        f"Delta H (nats) of Eq. (13) on {conditions.data(config)}: mean over the images of clean minus attacked "
        f"entropy, under PGD-{config.attack.pgd.steps}. MIN is the most negative."
    )


def cells(gathered: EntropyPairs, tree: Tree) -> tuple[Cell, ...]:
    """Average, minimum and maximum over attacks, at z^[N] and at the final state."""
    return DELTA.cells(gathered, tree)


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """The paper's four rows, for each of the two states."""
    return DELTA.blocks(cells)


def notes(gathered: EntropyPairs, config: Config) -> tuple[str, ...]:
    """What the states are, and what is left out."""
    return entropies.notes(gathered, config)
