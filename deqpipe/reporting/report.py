"""report.html: one file with everything in it. It reads finished tables and figures, not records."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from deqpipe import records, specs
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import conditions, figures, formats, history, summary, tables, weights
from deqpipe.reporting.decisions import Decision, EarlyState, Tree, early_states, eight
from deqpipe.reporting.figures import FIGURES, Described
from deqpipe.reporting.origin import Input, Origin
from deqpipe.reporting.tables import TABLES


@dataclass(frozen=True)
class Picture:
    """A figure with its image as text."""

    words: Described
    image: str


@dataclass(frozen=True)
class Training:
    """How one model was trained, as text."""

    name: str
    epochs: int
    chosen: int
    clean: str
    robust: str
    minutes: str
    parameters: str


@dataclass(frozen=True)
class Choice:
    """The early state of one decision."""

    row: str
    early: EarlyState

    @property
    def accuracies(self) -> tuple[str, ...]:
        """Validation accuracies (%) of the states 1 .. N and, last, of the final state."""
        return tuple(f"{100 * accuracy:.1f}" for accuracy in (*self.early.accuracy, self.early.final))


@dataclass(frozen=True)
class Made:
    """What everything in the report was made with."""

    inputs: tuple[Input, ...]

    @property
    def codes(self) -> tuple[str, ...]:
        """Hashes of the package that made the inputs."""
        return tuple(sorted({one.code for one in self.inputs}))

    @property
    def devices(self) -> tuple[str, ...]:
        """Where they were computed."""
        return tuple(sorted({one.device for one in self.inputs}))

    @property
    def versions(self) -> dict[str, str]:
        """Of everything that records its version; several where inputs differ."""
        names = sorted({name for one in self.inputs for name in one.versions})
        found = {name: sorted({one.versions.get(name) or "none" for one in self.inputs}) for name in names}
        return {name: ", ".join(values) for name, values in found.items()}

    @property
    def minutes(self) -> str:
        """Computing time of all inputs together."""
        return _minutes(sum(one.seconds for one in self.inputs))

    @property
    def f_evaluations(self) -> str:
        """Applications of f, times images, in all inputs together."""
        return f"{sum(one.f_evaluations for one in self.inputs):,}"


def write(config: Config, results: Path, output: Path) -> None:
    """Write the report of a results folder whose tables and figures are finished.

    Raises:
        UserError: a table, figure, history or early state is missing.
    """
    written = {number: tables.read(results / "tables" / f"table{number}.json") for number in TABLES}
    pictures = [_picture(number, results) for number in FIGURES]
    tree = Tree(results, config, config.seeds[0])
    html = _template().render(
        config=config,
        data=conditions.data(config),
        points=len(specs.grid_points(config)),
        differences=conditions.differences(config),
        setup=conditions.setup(config, seed=tree.seed),
        summary=summary.sentences(written[1].table, written[2].table, config),
        tables=[(one.table, Markup(formats.to_html(one.table))) for one in written.values()],
        pictures=pictures,
        trainings=[_training(tree, model) for model in specs.MODELS if model not in config.imported],
        choices=[_choice(tree, decision) for decision in eight("pgd_at", "trades")],
        made=_made([*(one.origin for one in written.values()), *(picture.words.origin for picture in pictures)]),
        settings=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100),
    )
    records.write_text(output, html)


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("deqpipe.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _picture(number: int, results: Path) -> Picture:
    stem = results / "figures" / f"figure{number}"
    try:
        image = stem.with_suffix(".png").read_bytes()
    except FileNotFoundError:
        raise UserError(f"figure {stem.with_suffix('.png')} does not exist") from None
    return Picture(figures.read(stem.with_suffix(".json")), base64.b64encode(image).decode("ascii"))


def _training(tree: Tree, model: str) -> Training:
    epochs = history.read(tree.history(model))
    file = weights.read(tree.weights(model))
    if file.epoch is None:
        raise UserError(f"weights {tree.weights(model)} do not say of which epoch they are")
    kept = history.at(tree.history(model), file.epoch)
    return Training(
        name=Decision(model, "plain").row,
        epochs=epochs[-1].epoch,
        chosen=kept.epoch,
        clean=_percent(kept.clean),
        robust=_percent(kept.robust),
        minutes=_minutes(epochs[-1].seconds),
        parameters=f"{file.parameters:,}",
    )


def _percent(accuracy: float | None) -> str:
    return formats.DASH if accuracy is None else f"{100 * accuracy:.1f}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _choice(tree: Tree, decision: Decision) -> Choice:
    return Choice(decision.row, early_states(tree, decision.model)[decision.defence])


def _made(origins: Sequence[Origin]) -> Made:
    """The inputs of all tables and figures; a file stands twice if it was made again between two of them."""
    unique = {(one.path, one.spec, one.code): one for origin in origins for one in origin.inputs}
    return Made(tuple(unique[key] for key in sorted(unique)))
