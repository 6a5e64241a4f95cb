"""Which attacks ran on which images: all of them on all, those that a race left, or the strongest that records hold."""

from collections.abc import Iterable
from dataclasses import dataclass

from deqpipe.analysis.layout import AttacksOf, Tree
from deqpipe.analysis.reading import Rows, Source
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.results import race
from deqpipe.workflow import gridpoints, shards
from deqpipe.workflow.gridpoints import GridPoint


@dataclass(frozen=True)
class Attacks:
    """The attacks of a grid, by the images that they ran on; without a race all attacks run on all images.

    Attributes:
        points: those that ran on all images, in their sort order.
        dropped: those that ran on the images before `shards.race_cut` only.
        sources: the file that says which, if there was a race.
    """

    points: tuple[GridPoint, ...]
    dropped: tuple[GridPoint, ...]
    sources: tuple[Source, ...]


def attacks(tree: Tree, model: str, of: AttacksOf = "grid") -> Attacks:
    """The attacks that a DEQ must have records of.

    Args:
        tree: the results.
        model: the attacked model.
        of: the attacks of the grid, or those of Table 5 where these are the whole grid as well.

    Raises:
        UserError: there was a race, and its result is missing, of another configuration, or names other points.
    """
    every = gridpoints.grid_points(tree.config)
    if not (shards.races_in_sweep(tree.config) if of == "sweep" else shards.races(tree.config)):
        return Attacks(every, (), ())
    path = tree.race(of, model)
    result, provenance = race.read(path)
    source = tree.checked_source("race_sweep" if of == "sweep" else "race", model, path, provenance)
    foreign = sorted(set(result.points) - set(every))
    if foreign:
        raise UserError(f"{path} names {foreign[0].name}, but must name points of the grid")
    return Attacks(
        points=tuple(point for point in every if point in result.points),
        dropped=tuple(point for point in every if point not in result.points),
        sources=(source,),
    )


def strongest_present(every_rows: Iterable[Rows], most: int, config: Config, *, where: str) -> Attacks:
    """The attacks of the grid that the rows are of, where the strongest of them were taken.

    Raises:
        UserError: they are not as many as the configuration asks for.
    """
    grid = gridpoints.grid_points(config)
    there = {point for rows in every_rows for point in rows.present}
    points = tuple(point for point in grid if point in there)
    wanted = min(most, len(grid))
    lacking = len(points) < (1 if shards.races(config) else wanted)  # a race may leave fewer
    if lacking or len(points) > wanted:
        raise UserError(f"{where} hold {len(points)} attacks of the grid, but must hold {wanted}")
    return Attacks(points, (), ())
