"""Right and wrong answers to attacked images that are no plain grid: transferred, crafted in the loop, or a sweep's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deqpipe.analysis import decisions
from deqpipe.analysis.decisions import Attacks, Tree
from deqpipe.analysis.reading import Files, Judge, RowQuery, Rows
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import gridpoints, shards
from deqpipe.workflow.gridpoints import GridPoint


@dataclass(frozen=True)
class Scored:
    """Answers of one decision at the state that decides.

    Attributes:
        points: the attacks, in their sort order (lambda, i, K_a).
        right: (points, images).
    """

    points: tuple[GridPoint, ...]
    right: Correct

    @property
    def strongest(self) -> str:
        """The attack with the lowest accuracy, as (i, K_a, lambda)."""
        return self.points[intervals.strongest(self.right)].triple

    def among(self, points: Sequence[GridPoint]) -> "Scored":
        """The same for some of the attacks; each must be there."""
        return Scored(tuple(points), self.right[[self.points.index(point) for point in points]])


def read(tree: Tree, files: Files, states: Mapping[Judge, int], *, crafter: str) -> dict[Judge, Rows]:
    """The rows of some decisions, with the class at the state that decides.

    Args:
        tree: the results.
        files: what is read.
        states: that decide, counted from 1.
        crafter: the model whose gradients made the images.

    Raises:
        UserError: files are damaged, rows stand twice, or images were crafted on another model.
    """
    asked = {judge: RowQuery(state - 1) for judge, state in states.items()}
    return tree.rows(files, asked, "label", "predicted", crafted_on=crafter)


def score(rows: Rows, ran: Attacks, *, state: int, config: Config, where: str) -> Scored:
    """The answers at a state, counted from 1, to the attacks that ran on all images.

    Raises:
        UserError: as `decisions.answers`.
    """
    _, right = decisions.answers(rows, ran, config, state=state, where=where)
    return Scored(ran.points, right)


def strongest_present(found: Iterable[Rows], most: int, config: Config, *, where: str) -> Attacks:
    """The attacks of the grid that the rows are of, where the strongest of them were taken.

    Raises:
        UserError: they are not as many as the configuration asks for.
    """
    grid = gridpoints.grid_points(config)
    there = {point for rows in found for point in rows.present}
    points = tuple(point for point in grid if point in there)
    wanted = min(most, len(grid))
    lacking = len(points) < (1 if shards.races(config) else wanted)  # a race may leave fewer
    if lacking or len(points) > wanted:
        raise UserError(f"{where} hold {len(points)} attacks of the grid, but must hold {wanted}")
    return Attacks(points, (), ())
