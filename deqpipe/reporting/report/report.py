"""report.html: one file with everything in it. It reads finished tables and figures, not records."""

import base64
import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml
from markupsafe import Markup

from deqpipe.analysis.decision import Decision, all_decisions
from deqpipe.analysis.early_states import early_states
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.counts import sum_of
from deqpipe.errors import DamagedFileError, UserError
from deqpipe.reporting import cells, conditions, pages
from deqpipe.reporting.cells import Table
from deqpipe.reporting.figures import described
from deqpipe.reporting.figures.described import Described, Overview
from deqpipe.reporting.report import claims, further, standings, summary
from deqpipe.reporting.report.remarks import NONE, Remarks, told
from deqpipe.reporting.sidecar import Input, Origin
from deqpipe.reporting.tables import table1, tables
from deqpipe.results import history, integrity, records, weights
from deqpipe.results.early_states import EarlyState
from deqpipe.workflow import gridpoints, products, specs, vocabulary
from deqpipe.workflow.products import FIGURES

_KINDS = {
    "csv": "text/csv;charset=utf-8",
    "md": "text/markdown;charset=utf-8",
    "tex": "text/x-tex;charset=utf-8",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class File:
    """A file that is part of the report: its address is its content, so that it is found wherever the report lies."""

    name: str
    kind: str
    address: str


@dataclass(frozen=True)
class Tabled:
    """A table, its blocks as HTML, its files, and what is said below it."""

    table: Table
    body: Markup
    files: tuple[File, ...]
    remarks: Remarks


@dataclass(frozen=True)
class Picture:
    """A figure with its image as an address; without words it is absent, for a reason, and made by a command."""

    number: int
    words: Described | None = None
    image: str = ""
    files: tuple[File, ...] = ()
    rows: tuple[dict[str, str], ...] = ()
    reason: str = ""
    command: str = ""
    remarks: Remarks = NONE


@dataclass(frozen=True)
class First:
    """The picture at the top: its words, itself for light and for dark screens, and its files."""

    words: Overview
    light: str
    dark: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class TrainingSummary:
    """How one model was trained, as text; `folder` is what its files' folder is called."""

    name: str
    folder: str
    epochs: int
    chosen: int
    clean: str
    robust: str
    minutes: str
    parameters: str


@dataclass(frozen=True)
class EarlyStateChoice:
    """The early state of one decision."""

    row: str
    early: EarlyState

    @property
    def accuracies(self) -> tuple[str, ...]:
        """Validation accuracies (%) of the states 1 .. N and, last, of the final state."""
        return tuple(f"{100 * accuracy:.1f}" for accuracy in (*self.early.accuracy, self.early.final))


@dataclass(frozen=True)
class ReportProvenance:
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
        told = {name: sorted({one.versions.get(name) or "none" for one in self.inputs}) for name in names}
        return {name: ", ".join(values) for name, values in told.items()}

    @property
    def minutes(self) -> str:
        """Computing time of all inputs together."""
        return _minutes(sum(one.seconds for one in self.inputs))

    @property
    def evaluations(self) -> dict[str, str]:
        """Evaluations of f in all inputs together: forward, backward to inputs, backward to weights."""
        return {way: f"{number:,}" for way, number in asdict(sum_of(one.evaluations for one in self.inputs)).items()}


def write(config: Config, results: Path, output: Path) -> None:
    """Write the report of a results folder whose tables and figures are finished, and its first picture beside it.

    Raises:
        UserError: a table, figure, history or early state is missing.
    """
    wanted = [table for table in products.tables(config).values() if table.wanted(config)]
    written = {table.number: tables.read(results / "tables" / f"{table.name}.json") for table in wanted}
    pictures = [_picture(number, config, results) for number in FIGURES]
    by_number = {number: one.table for number, one in written.items()}
    origins = [one.origin for one in written.values()]
    origins += [picture.words.origin for picture in pictures if picture.words]
    trainings = [_training(Tree(results, config, config.seeds[0]), model) for model in _trained(config)]
    first = _first(by_number, config, output.parent)
    page = _page(config, results, by_number, pictures, first=first, trainings=trainings, made=_made(origins))
    records.write_text(output, page)


def _page(
    config: Config,
    results: Path,
    by_number: Mapping[int, Table],
    pictures: Sequence[Picture],
    *,
    first: First,
    trainings: Sequence[TrainingSummary],
    made: ReportProvenance,
) -> str:
    tree = Tree(results, config, config.seeds[0])
    shared = (*conditions.setup(config, seed=tree.seed), *conditions.against_paper(config))
    parts: list[Table | Described] = [*by_number.values(), *(picture.words for picture in pictures if picture.words)]
    remarks = told([(part.notes, part.conditions) for part in parts], shared)
    under = {id(part): one for part, one in zip(parts, remarks, strict=True)}
    return pages.template("report.html").render(
        config=config,
        spec=specs.fingerprint(specs.build_product("report", config)),
        data=conditions.data(config),
        points=len(gridpoints.grid_points(config)),
        differences=conditions.differences(config),
        setup=conditions.setup(config, seed=tree.seed),
        names=table1.file_names(config),
        first=first,
        warnings=tuple(text for table in by_number.values() for text in table.warnings),
        standings=standings.standings(by_number),
        tones=standings.TONES,
        summary=summary.sentences(by_number, config),
        further=further.sentences(by_number, config),
        claims=claims.overview(
            {number: table.cells for number, table in by_number.items()},
            {picture.number: picture.rows for picture in pictures},
            config,
        ),
        tables=[_tabled(table, results, under[id(table)]) for table in by_number.values()],
        figures=[replace(one, remarks=under[id(one.words)]) if one.words else one for one in pictures],
        trainings=trainings,
        choices=[_choice(tree, decision) for decision in all_decisions("pgd_at", "trades")],
        made=made,
        settings=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100),
    )


def _first(by_number: Mapping[int, Table], config: Config, folder: Path) -> First:
    """Draw the picture of Table 1 and the union into a folder, and hold it for both kinds of screens."""
    from deqpipe.reporting.figures import overview  # matplotlib, for who writes a report and not for who reads one

    stem = folder / overview.NAME
    numbers = overview.shown(by_number)
    words = overview.write(numbers, config, stem)
    picture, drawing = (_file(stem.with_suffix(ending)) for ending in overview.ENDINGS)
    dark = overview.svg(numbers, config, overview.DARK)
    return First(words, drawing.address, _address("svg", dark.encode()), (picture, drawing))


def _trained(config: Config) -> tuple[str, ...]:
    """The models that were trained here, those of Figure 6 last."""
    trained = vocabulary.with_weights(config)
    others = vocabulary.OTHER_JACOBIAN if config.figures.jacobian else ()
    return (*(model for model in trained if model not in config.imported), *others)


def _tabled(table: Table, results: Path, remarks: Remarks) -> Tabled:
    stem = results / "tables" / f"table{table.number}"
    files = tuple(_file(stem.with_suffix(f".{kind}")) for kind in ("csv", "md", "tex"))
    return Tabled(table, pages.body(table), files, remarks)


def _picture(number: int, config: Config, results: Path) -> Picture:
    if not FIGURES[number].wanted(config):
        return _unwanted(number, results)
    stem = results / "figures" / f"figure{number}"
    image, *files = (_file(stem.with_suffix(f".{kind}")) for kind in ("png", "pdf", "csv"))
    rows = _rows(stem.with_suffix(".csv"))
    return Picture(number, described.read(stem.with_suffix(".json")), image.address, (image, *files), rows)


def _rows(path: Path) -> tuple[dict[str, str], ...]:
    """The numbers of a figure; its file was opened before.

    Raises:
        UserError: they are none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error):
        raise DamagedFileError(f"figure {path} is damaged: it is no table; {integrity.ADVICE}") from None


def _unwanted(number: int, results: Path) -> Picture:
    figure = FIGURES[number]
    path = results / "figures" / f"{figure.name}.png"
    command = f"snakemake --cores all {shlex.quote(str(path))}" if figure.on_request else ""
    return Picture(number, reason=figure.unwanted, command=command)


def _file(path: Path) -> File:
    """A file as a data: URI.

    Raises:
        UserError: it is missing.
    """
    kind = path.suffix.removeprefix(".")
    what = "table" if path.parent.name == "tables" else "figure"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    return File(path.name, kind, _address(kind, content))


def _address(kind: str, content: bytes) -> str:
    return f"data:{_KINDS[kind]};base64,{base64.b64encode(content).decode('ascii')}"


def _training(tree: Tree, model: str) -> TrainingSummary:
    file = weights.read(tree.weights(model))
    epochs = history.read(tree.history(model), file.history)
    if file.epoch is None:
        raise UserError(f"weights {tree.weights(model)} do not say of which epoch they are")
    kept = history.at(tree.history(model), file.history, file.epoch)
    return TrainingSummary(
        name=_name(model, tree.config),
        folder=model,
        epochs=epochs[-1].epoch,
        chosen=kept.epoch,
        clean=_percent(kept.clean),
        robust=_percent(kept.robust),
        minutes=_minutes(epochs[-1].seconds),
        parameters=f"{file.parameters:,}",
    )


def _name(model: str, config: Config) -> str:
    """The row of a trained model; of Figure 6's two with what sets them apart."""
    row, kind = Decision(model, "plain").row, vocabulary.MODELS[model]
    if not kind.other_jacobian or kind.framework is None:
        return row
    return f"{row}, Jacobian weight {getattr(config.jacobian.other_weight, kind.framework):g}"


def _percent(accuracy: float | None) -> str:
    return cells.DASH if accuracy is None else f"{100 * accuracy:.1f}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _choice(tree: Tree, decision: Decision) -> EarlyStateChoice:
    return EarlyStateChoice(decision.row, early_states(tree, decision.model)[decision.defence])


def _made(origins: Sequence[Origin]) -> ReportProvenance:
    """The inputs of all tables and figures; a file stands twice if it was made again between two of them."""
    unique = {(one.path, one.spec, one.code): one for origin in origins for one in origin.inputs}
    return ReportProvenance(tuple(unique[key] for key in sorted(unique)))
