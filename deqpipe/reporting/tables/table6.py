"""Table 6: how often a clean image has a lower entropy than its attacked one (Eq. (12))."""

from collections.abc import Mapping

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Block, Cell
from deqpipe.reporting.tables import entropies
from deqpipe.reporting.tables.entropies import EntropyPairs, P


def gather(tree: Tree) -> EntropyPairs:
    """The entropies of the four undefended DEQs."""
    return entropies.gather(tree)


def caption(config: Config) -> str:
    """What is measured."""
    return (
        f"P (%) of Eq. (12) on {conditions.data(config)}: share of the images whose clean entropy is below that of the "
        f"attacked one, under PGD-{config.attack.pgd.steps}."
    )


def cells(gathered: EntropyPairs, tree: Tree) -> tuple[Cell, ...]:
    """Average, minimum and maximum over attacks, at z^[N] and at the final state."""
    return P.cells(gathered, tree)


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """The paper's four rows, for each of the two states."""
    return P.blocks(cells)


def notes(gathered: EntropyPairs, config: Config) -> tuple[str, ...]:
    """What the states are, and what is left out."""
    return entropies.notes(gathered, config)
