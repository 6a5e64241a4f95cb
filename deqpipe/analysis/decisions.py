"""What the records say of every decision, checked to be complete before anything is counted.

A decision is a trained model with a test-time defence. Its answer is the class at its early state; a ResNet and the
pretrained trunk answer at the final state.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqpipe.config import Config, Framework
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.results.records import Records
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Correct
from deqpipe.workflow import gridpoints, shards, specs, vocabulary
from deqpipe.workflow.defences import DefenceName, defence_of
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.layout import files, needed
from deqpipe.workflow.products import Need
from deqpipe.workflow.stages import StageName, training_stage

FINAL = 0
"""Stands for the final state where a state is asked for; the others count from 1."""

_FRAMEWORKS: dict[Framework | None, str] = {"pgd_at": "PGD-AT", "trades": "TRADES"}
_COLUMNS = (
    "image", "label", "model", "defence", "state", "steps", "damping", "predicted", "perturbation", "lost_gradient",
    "status",
)  # fmt: skip
_NONFINITE = 3  # solver.solve.Status

Kind: TypeAlias = Literal["grid", "sweep"]
"""Which attacks race: those of the grid, or those of Table 5."""


@dataclass(frozen=True)
class Decision:
    """A trained model with a test-time defence."""

    model: str
    defence: DefenceName

    @property
    def framework(self) -> str:
        """Adversarial training framework, as the paper writes it."""
        return _FRAMEWORKS.get(vocabulary.MODELS[self.model].framework, "clean")

    @property
    def method(self) -> str:
        """The paper's name of the method; ResNet or trunk for what is none of its four."""
        if self.model in vocabulary.RESNETS:
            return "ResNet"
        if self.model == vocabulary.TRUNK:
            return "pretrained trunk"
        value = defence_of(self.defence)
        if value.control_of:
            return f"{replace(self, defence=value.control_of).method}, {value.label}"
        trained = ["Sec. 3.3"] if vocabulary.MODELS[self.model].random_states else []
        return _with([label for label in (value.label, *trained) if label])

    @property
    def row(self) -> str:
        """Its row in tables, such as `TRADES + Sec. 3.2`."""
        return self.method if self.model == vocabulary.TRUNK else f"{self.framework} {self.method}"


def _with(labels: Sequence[str]) -> str:
    """What is added to adversarial training as in Yang et al. (2022), as the paper writes it."""
    sections = [label.removeprefix("Sec. ") for label in labels if label.startswith("Sec. ")]
    if len(sections) > 1:
        labels = [f"Secs. {' & '.join(sections)}", *(label for label in labels if not label.startswith("Sec. "))]
    return f"+ {' + '.join(labels)}" if labels else "baseline"


def controls(config: Config) -> tuple[Decision, ...]:
    """The control decisions of Sec. 3.2, in the order of `eight`."""
    return tuple(
        Decision(model, control)
        for model in vocabulary.DEQS
        for control in vocabulary.MODELS[model].controls(config.entropy)
    )


def eight(*frameworks: Framework) -> tuple[Decision, ...]:
    """The paper's four methods in each framework, in the paper's order."""
    return tuple(
        Decision(model, defence)
        for framework in frameworks
        for model in vocabulary.DEQS
        if vocabulary.MODELS[model].framework == framework
        for defence in vocabulary.MODELS[model].defences
    )


@dataclass(frozen=True)
class Source:
    """A file that was read, and where its content comes from."""

    path: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Tree:
    """A results folder, the configuration that it must match, and a repetition in it."""

    root: Path
    config: Config
    seed: int

    def files(
        self, stage: StageName, model: str | None = None, *, below: int | None = None, **fixed: str
    ) -> tuple[Path, ...]:
        """The files of a stage, as `workflow.layout.files` has them."""
        return tuple(self.root / path for path in files(stage, self.config, model, self.seed, below=below, **fixed))

    def file(self, stage: StageName, model: str | None = None) -> Path:
        """The file of a stage that has one for each model and repetition."""
        (only,) = self.files(stage, model)
        return only

    def history(self, model: str) -> Path:
        """The training history of a model."""
        return self.weights(model).with_name("history.csv")

    def weights(self, model: str) -> Path:
        """The weights that were kept."""
        return self.file(training_stage(model), model)

    def select(self, model: str) -> Path:
        """The early states of a model."""
        return self.file("select", model)

    def clean(self, model: str) -> Path:
        """Records of a model on clean images."""
        return self.file("clean", model)

    def attacked(self, model: str, *, below: int | None = None) -> tuple[Path, ...]:
        """Records of a model under attack: the shards of the grid, or of its images below one; or ready-made PGD."""
        if model not in vocabulary.DEQS:
            return (self.file("attack_pgd", model),)
        return self.files("attack_grid", model, below=below)

    def autoattack(self, decision: Decision) -> tuple[Path, ...]:
        """Records of AutoAttack on a decision."""
        return self.files("autoattack", decision.model, defence=decision.defence)

    def top(self, model: str) -> tuple[Path, ...]:
        """Records of APGD-CE and Square at the strongest points (Table 4)."""
        return self.files("attack_top", model)

    def in_loop(self, model: str) -> tuple[Path, ...]:
        """Records of points crafted through Sec. 3.2 (Table 3)."""
        return self.files("attack_in_loop", model)

    def sweep(self, model: str, *, below: int | None = None) -> tuple[Path, ...]:
        """Records of attacks scored on Sec. 3.2 with every T_f and R (Table 5); or those of images below one."""
        return self.files("attack_sweep", model, below=below)

    def example(self, model: str) -> Path:
        """The images of Figure 2 (c)."""
        return self.file("attack_example", model)

    def strongest(self, model: str) -> Path:
        """The ranked points of the grid."""
        return self.file("strongest", model)

    def race(self, kind: Kind, model: str) -> Path:
        """The points that a race left."""
        return self.file("race_sweep" if kind == "sweep" else "race", model)

    @property
    def timed_training(self) -> Path:
        """Speed of training steps (Table 9)."""
        return self.file("time_training")

    def timed_inference(self, model: str) -> Path:
        """Speed of inference (Table 10)."""
        return self.file("time_inference", model)

    def source(self, path: Path, entry: Mapping[str, Any]) -> Source:
        """A file of this tree, with the provenance that it was read with."""
        return Source(str(path.relative_to(self.root)), dict(entry))

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals of minima and differences are made."""
        settings = self.config.statistics
        return Bootstrap(resamples=settings.resamples, confidence=settings.confidence, seed=self.seed)

    def complete(self, needs: Iterable[Need]) -> bool:
        """Whether the files of some needs all exist; of speeds only the first repetition has any."""
        first = self.seed == self.config.seeds[0]
        return all((need.every_seed or first) and all(map(Path.exists, self._needed(need))) for need in needs)

    def _needed(self, need: Need) -> Iterator[Path]:
        return (self.root / path for path in needed(need, self.config, self.seed))


@dataclass(frozen=True)
class Attacks:
    """The attacks of a grid, by the images that they ran on; without a race all attacks run on all images.

    Attributes:
        points: those that ran on all images, in their sort order.
        dropped: those that ran on the images before `specs.race_cut` only.
        sources: the file that says which, if there was a race.
    """

    points: tuple[GridPoint, ...]
    dropped: tuple[GridPoint, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class EarlyState:
    """The state that decides, and what it was chosen by.

    Attributes:
        state: counted from 1.
        accuracy: validation accuracy of the states 1 .. N under ready-made PGD.
        final: the same of the final state.
        n: validation images.
    """

    state: int
    accuracy: tuple[float, ...]
    final: float
    n: int


@dataclass(frozen=True)
class AttackChecks:
    """Whether attacks were attacks, over all rows of a decision.

    Attributes:
        perturbation: largest change of a pixel, in units of the pixel range.
        lost_gradient: share of attack steps whose gradient was zero, or no number, in every pixel.
        nonfinite: judged images whose solve ended with a state that is not finite.
    """

    perturbation: float
    lost_gradient: float
    nonfinite: int


@dataclass(frozen=True)
class Evaluation:
    """Right and wrong answers of one decision, at every state.

    Attributes:
        decision: whose answers.
        state: the state that decides, or FINAL.
        points: the attacks that ran on all images, in their sort order (lambda, i, K_a).
        clean: (images, states), the last column being the final state; None where it was not asked for.
        attacked: (points, images, states).
        checks: of the attacks.
        sources: the files behind it.
        dropped: how many attacks more ran on the first images only, because they lost a race.
    """

    decision: Decision
    state: int
    points: tuple[GridPoint, ...]
    clean: Correct | None
    attacked: Correct
    checks: AttackChecks
    sources: tuple[Source, ...]
    dropped: int = 0

    @property
    def right_when_clean(self) -> Correct:
        """(images,) at the deciding state."""
        assert self.clean is not None, "clean images were not asked for"
        return self.clean[:, self.state - 1]

    @property
    def right(self) -> Correct:
        """(points, images) at the deciding state."""
        return self.attacked[:, :, self.state - 1]

    @property
    def strongest(self) -> int:
        """Index of the attack with the lowest accuracy; ties by lambda, i, K_a."""
        return intervals.strongest(self.right)

    def at(self, *, damping: float, state: int) -> NDArray[np.intp]:
        """Indices of the attacks on one state with one damping."""
        return np.flatnonzero([point.damping == damping and point.state == state for point in self.points])


def early_states(tree: Tree, model: str) -> dict[DefenceName, EarlyState]:
    """The early state of each defence of a DEQ; a control decides at the state of the defence that it controls.

    Raises:
        UserError: the file is missing, no JSON, of another configuration, or names a state that does not exist.
    """
    raw = _selection(tree, model)
    kind = vocabulary.MODELS[model]
    found = {defence: _early_state(raw, defence, tree, model) for defence in kind.defences}
    return found | {control: found[_controlled(control)] for control in kind.controls(tree.config.entropy)}


def _controlled(control: DefenceName) -> DefenceName:
    """The defence that a control is one of."""
    controlled = defence_of(control).control_of
    assert controlled is not None, f"{control} is no control"
    return controlled


def selection_source(tree: Tree, model: str) -> Source:
    """The file that early states come from."""
    return tree.source(tree.select(model), _selection(tree, model)["provenance"])


def _selection(tree: Tree, model: str) -> dict[str, Any]:
    return read_made(tree, "select", model, tree.select(model))


def read_made(tree: Tree, stage: StageName, model: str | None, path: Path) -> dict[str, Any]:
    """The JSON that a stage wrote.

    Raises:
        UserError: the file is missing, no JSON, or of another configuration.
    """
    raw = _read_json(path)
    entry = raw.get("provenance")
    if not isinstance(entry, dict) or "spec" not in entry:
        raise UserError(f"{path} carries no provenance: not written by deqpipe")
    check_specs(tree, stage, model, [entry], path)
    return raw


def _early_state(raw: dict[str, Any], defence: DefenceName, tree: Tree, model: str) -> EarlyState:
    last = tree.config.solver.steps
    try:
        entry = raw[defence]
        chosen = EarlyState(int(entry["state"]), tuple(entry["accuracy"]), float(entry["final"]), int(entry["n"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"early states {tree.select(model)} lack {error} of {defence}") from None
    if not 1 <= chosen.state <= last:
        raise UserError(
            f"early states {tree.select(model)} choose state {chosen.state}, but the solver has states 1 to {last}"
        )
    return chosen


def evaluate(tree: Tree, model: str, *, clean: bool = True) -> tuple[Evaluation, ...]:
    """The evaluations of all decisions of a model; on clean images as well if `clean`.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    unattacked = load(tree, "clean", model, (tree.clean(model),)) if clean else None
    attacked = load(tree, "attack_grid" if model in vocabulary.DEQS else "attack_pgd", model, tree.attacked(model))
    chosen = early_states(tree, model) if model in vocabulary.DEQS else {}
    ran = attacks(tree, model) if model in vocabulary.DEQS else None
    behind = [*_named(tree, [tree.clean(model)], unattacked), *_named(tree, tree.attacked(model), attacked)]
    behind += [tree.source(tree.select(model), _selection(tree, model)["provenance"])] if chosen else []
    behind += ran.sources if ran else ()
    return tuple(
        _evaluation(tree, Decision(model, defence), (unattacked, attacked, ran), tuple(behind), chosen.get(defence))
        for defence in (*vocabulary.MODELS[model].defences, *vocabulary.MODELS[model].controls(tree.config.entropy))
    )


def _named(tree: Tree, paths: Sequence[Path], found: Records | None) -> list[Source]:
    if found is None:
        return []
    return [tree.source(path, entry) for path, entry in zip(paths, found.provenance, strict=True)]


def evaluate_all(tree: Tree, models: Sequence[str], *, clean: bool = True) -> dict[Decision, Evaluation]:
    """The evaluations of all decisions of several models."""
    return {one.decision: one for model in models for one in evaluate(tree, model, clean=clean)}


def _evaluation(
    tree: Tree,
    decision: Decision,
    parts: tuple[Records | None, Records, Attacks | None],
    sources: tuple[Source, ...],
    chosen: EarlyState | None,
) -> Evaluation:
    unattacked, attacked, ran = parts
    rows, where = attacked.where(_of(attacked, decision)), f"attack records of {decision.row}"
    whole = finished(rows, ran, tree.config, where=where) if ran else rows
    labels, classes = _cube(whole, ran.points if ran else None, tree.config, where=where)
    return Evaluation(
        decision=decision,
        state=chosen.state if chosen else FINAL,
        points=ran.points if ran else (GridPoint(damping=0.0, state=0, steps=0),),
        clean=None if unattacked is None else _right_when_clean(tree, decision, unattacked, labels),
        attacked=classes == labels[None, :, None],
        checks=_checks(rows),
        sources=sources,
        dropped=len(ran.dropped) if ran else 0,
    )


def _of(found: Records, decision: Decision) -> NDArray[np.bool_]:
    """Which rows a decision judged: records of a transferred attack hold those of another model, too."""
    mask: NDArray[np.bool_] = (found["model"] == decision.model) & (found["defence"] == decision.defence)
    return mask


def _checks(rows: Records) -> AttackChecks:
    return AttackChecks(
        perturbation=float(rows["perturbation"].max()),
        lost_gradient=float(rows["lost_gradient"].mean()),
        nonfinite=int((rows["status"] == _NONFINITE).sum()),
    )


def _right_when_clean(tree: Tree, decision: Decision, found: Records, labels: NDArray[np.int16]) -> Correct:
    rows = found.where(_of(found, decision))
    labels_again, classes = _cube(rows, None, tree.config, where=f"clean records of {decision.row}")
    if (labels != labels_again).any():
        raise UserError(f"clean and attacked records of {decision.row} have different labels: not the same images")
    right: Correct = classes[0] == labels[:, None]
    return right


def attacks(tree: Tree, model: str, of: Kind = "grid") -> Attacks:
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
    raw = _read_json(path)
    entry, names = raw.get("provenance"), raw.get("points")
    if not isinstance(entry, dict) or "spec" not in entry or not isinstance(names, list):
        raise UserError(f"{path} is no result of a race: not written by deqpipe")
    check_specs(tree, "race_sweep" if of == "sweep" else "race", model, [entry], path)
    foreign = sorted(set(names) - {point.name for point in every})
    if foreign or not names:
        raise UserError(f"{path} names {foreign[0] if foreign else 'nothing'}, but must name points of the grid")
    return Attacks(
        points=tuple(point for point in every if point.name in names),
        dropped=tuple(point for point in every if point.name not in names),
        sources=(tree.source(path, entry),),
    )


def finished(rows: Records, ran: Attacks, config: Config, *, where: str) -> Records:
    """The rows of the attacks that ran on all images, once those of the others are seen to be complete as well.

    Args:
        rows: of one decision.
        ran: which attacks ran on which images.
        config: the configuration.
        where: what the rows are called in messages.

    Raises:
        UserError: an attack that lost the race lacks an image that it ran on, or has other images.
    """
    if not ran.dropped:
        return rows
    every = tuple(sorted((*ran.points, *ran.dropped)))
    kept = np.array([point in ran.points for point in every])[_positions(rows, every, where)]
    lost = f"{where} of attacks that lost the race"
    _cube(rows.where(~kept), ran.dropped, config, where=lost, images=shards.race_cut(config))
    return rows.where(kept)


def before_race(rows: Records, config: Config, *, where: str) -> Correct:
    """Whether the images that face every attack were classified right: (points, images, states).

    Args:
        rows: of one decision, on these images alone.
        config: the configuration.
        where: what the rows are called in messages.

    Raises:
        UserError: rows are missing, doubled, or of other attacks or images.
    """
    cut = shards.race_cut(config)
    labels, classes = _cube(rows, gridpoints.grid_points(config), config, where=where, images=cut)
    right: Correct = classes == labels[None, :, None]
    return right


def load(tree: Tree, stage: StageName, model: str, paths: Sequence[Path]) -> Records:
    """The records of some files of one stage, as one.

    Raises:
        UserError: a file is missing or of another configuration, or they do not belong together.
    """
    parts = [records.read(path, _COLUMNS) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        check_specs(tree, stage, model, part.provenance, path)
    return records.merge(parts)


def check_specs(tree: Tree, stage: StageName, model: str | None, entries: Sequence[Any], path: Path) -> None:
    """Refuse a file with provenance of another configuration.

    Raises:
        UserError: an entry's spec is not the one that the configuration asks for.
    """
    expected = specs.build(stage, tree.config, model=model, seed=tree.seed)
    for entry in entries:
        if specs.dumps(entry["spec"]) != specs.dumps(expected):
            raise UserError(
                f"{path} was made by spec {specs.fingerprint(entry['spec'])}, but the configuration asks for "
                f"{specs.fingerprint(expected)}; run the workflow again"
            )


def _cube(
    rows: Records, points: tuple[GridPoint, ...] | None, config: Config, *, where: str, images: int | None = None
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Labels (images,) and predicted classes (points, images, states), every pair of point and image exactly once.

    All evaluated images are asked for, or the first `images` of them.
    """
    images = images or config.evaluation.images
    order = ordered(rows, points, images=images, where=where)
    labels = rows["label"][order].reshape(-1, images)
    if (labels != labels[0]).any():
        raise UserError(f"{where} give one image different labels")
    return labels[0], rows["predicted"][order].reshape(len(labels), images, -1)


def ordered(rows: Records, points: tuple[GridPoint, ...] | None, *, images: int, where: str) -> NDArray[np.intp]:
    """The order of the rows by point and image, once it is sure that each of their pairs is there exactly once.

    Args:
        rows: of one decision.
        points: what must be there; None: one attack, whatever its surrogate is called.
        images: how many there must be, counted from 0.
        where: what the rows are called where they are refused.

    Raises:
        UserError: rows are missing, doubled, or belong to other points or images.
    """
    position = _positions(rows, points, where)
    outside = (rows["image"] < 0) | (rows["image"] >= images)
    if outside.any():
        raise UserError(f"{where} hold image {rows['image'][outside][0]}, but images 0 to {images - 1} are evaluated")
    cell = position * images + rows["image"]
    counts = np.bincount(cell, minlength=len(points or (0,)) * images)
    if (counts != 1).any():
        raise UserError(f"{where} {_incomplete(counts, points, images)}")
    return np.argsort(cell)


def refuse_uncomputed(predicted: NDArray[np.int16], state: int, where: str) -> None:
    """Refuse records that say nothing of the state that decides: they are of a run that decided at another one.

    Args:
        predicted: classes, (rows, states).
        state: counted from 1.
        where: what the rows are called.

    Raises:
        UserError: the class at that state was not computed.
    """
    if (predicted[:, state - 1] == records.NOT_COMPUTED).any():
        raise UserError(f"{where} say nothing of state {state}, which decides; run the workflow again")


def _positions(rows: Records, points: tuple[GridPoint, ...] | None, where: str) -> NDArray[np.int64]:
    """Which of the points each row belongs to."""
    if points is None:
        return np.zeros(len(rows), dtype=np.int64)
    position = np.full(len(rows), -1, dtype=np.int64)
    for index, point in enumerate(points):
        position[rows.under(point)] = index
    if (position < 0).any():
        row = int(np.argmax(position < 0))
        extra = GridPoint(float(rows["damping"][row]), int(rows["state"][row]), int(rows["steps"][row]))
        raise UserError(f"{where} hold the attack {extra.name}, which the configuration does not ask for")
    return position


def _incomplete(counts: NDArray[np.intp], points: tuple[GridPoint, ...] | None, images: int) -> str:
    first = int(np.argmax(counts != 1))
    attack = f"attack {points[first // images].name}, " if points else ""
    what = f"{attack}image {first % images}"
    if counts[first]:
        return f"hold {what} {counts[first]} times"
    return f"lack {(counts == 0).sum()} of {len(counts)} rows, the first of them {what}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, but must hold keys and values")
    return value
