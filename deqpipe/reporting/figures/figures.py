"""Figures 2 to 6: png, pdf and csv, with a sidecar that says what is to be seen and where it comes from."""

import csv
import io
from pathlib import Path
from typing import Protocol

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.lazy import named
from deqpipe.reporting import absent, conditions
from deqpipe.reporting.cells import no_formula
from deqpipe.reporting.figures import plotting
from deqpipe.reporting.figures.described import Described
from deqpipe.reporting.figures.plotting import Drawing
from deqpipe.reporting.sidecar import origin, sidecar_text
from deqpipe.results import records
from deqpipe.workflow.products import FIGURES


class FigureMaker(Protocol):
    """What the module of a figure offers (`workflow.products.Definition.module`)."""

    def draw(self, tree: Tree) -> Drawing:
        """The figure of one seed."""


def write(number: int, config: Config, results: Path, *, output_stem: Path) -> None:
    """Write a figure at `output_stem`: png, pdf, csv, and json with its words and origin. It shows the first seed.

    Raises:
        UserError: there is no such figure, or records are missing, incomplete, or of another configuration.
    """
    if number not in FIGURES:
        raise UserError(f"figure is {number}, but must be one of {', '.join(map(str, FIGURES))}")
    with plotting.style():
        drawing = _draw(number, Tree(results, config, config.seeds[0]))
        plotting.save(drawing.figure, output_stem)
    described = Described(
        number=number,
        title=FIGURES[number].title,
        caption=drawing.caption,
        alt=drawing.alt,
        notes=drawing.notes,
        conditions=(*drawing.conditions, *conditions.against_paper(config)[:1]),
        origin=origin(config, "figure", drawing.sources),
    )
    sidecar = sidecar_text(described)
    records.write_text(output_stem.with_suffix(".csv"), _csv(drawing))
    records.write_text(output_stem.with_suffix(".json"), sidecar)


def _draw(number: int, tree: Tree) -> Drawing:
    """The figure, or the reason why it is absent."""
    definition = FIGURES[number]
    if definition.every_attack and absent.reason(tree.config):
        return _absent(tree)
    maker: FigureMaker = named(definition.module)
    return maker.draw(tree)


def _absent(tree: Tree) -> Drawing:
    why = absent.reason(tree.config) or ""
    figure, axes = plotting.new()
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", wrap=True, transform=axes.transAxes)
    return Drawing(
        caption=why,
        alt=why,
        figure=figure,
        columns=("note",),
        rows=((why,),),
        notes=(),
        conditions=conditions.setup(tree.config, seed=tree.seed),
        sources=(),
    )


def _csv(drawing: Drawing) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(drawing.columns)
    writer.writerows([_field(value) for value in row] for row in drawing.rows)
    return text.getvalue()


def _field(value: str | float | int | bool | None) -> str | int | None:
    if isinstance(value, float):
        return f"{value:.6g}"
    return no_formula(value) if isinstance(value, str) else value
