"""What the records say of every decision, checked to be complete before anything is counted.

A decision is a trained model with a test-time defence. Its answer is the class at its early state; a ResNet and the
pretrained trunk answer at the final state.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis import reading
from deqpipe.analysis.reading import Files, Judge, RowQuery, Rows, Source
from deqpipe.config import Config, Framework
from deqpipe.errors import UserError
from deqpipe.results import early_states as early_states_file
from deqpipe.results import race, records
from deqpipe.results.early_states import EarlyState
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Correct
from deqpipe.workflow import gridpoints, shards, specs, vocabulary
from deqpipe.workflow.defences import ENTROPY, DefenceName, defence_of
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.layout import files, needed
from deqpipe.workflow.products import Need
from deqpipe.workflow.stages import StageName, training_stage

FINAL = 0
"""Stands for the final state where a state is asked for; the others count from 1."""

_FRAMEWORKS: dict[Framework | None, str] = {"pgd_at": "PGD-AT", "trades": "TRADES"}
_CHECKED = ("perturbation", "lost_gradient", "status")
_NONFINITE = 3  # solver.solve.Status

Kind: TypeAlias = Literal["grid", "sweep"]
"""Which attacks race: those of the grid, or those of Table 5."""


@dataclass(frozen=True)
class Decision:
    """A trained model with a test-time defence."""

    model: str
    defence: DefenceName

    @property
    def judge(self) -> Judge:
        """Its name in records."""
        return self.model, self.defence

    @property
    def framework(self) -> str:
        """Adversarial training framework, as the paper writes it."""
        return _FRAMEWORKS.get(vocabulary.MODELS[self.model].framework, "clean")

    @property
    def method(self) -> str:
        """The paper's name of the method; network or trunk for what is none of its four."""
        if network := vocabulary.MODELS[self.model].architecture.method:
            return network
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
    """The control decisions of Sec. 3.2, in the order of the paper's decisions."""
    return tuple(
        Decision(model, control)
        for model in vocabulary.DEQS
        for control in vocabulary.MODELS[model].controls(config.entropy)
    )


def paper_decisions(*frameworks: Framework) -> tuple[Decision, ...]:
    """The paper's four methods in each framework, in the paper's order."""
    return tuple(one for one in all_decisions(*frameworks) if defence_of(one.defence).published)


def all_decisions(*frameworks: Framework) -> tuple[Decision, ...]:
    """Every decision of the DEQs in some frameworks, model by model: the paper's, and those with further defences."""
    return tuple(
        Decision(model, defence)
        for framework in frameworks
        for model in vocabulary.DEQS
        if vocabulary.MODELS[model].framework == framework
        for defence in vocabulary.MODELS[model].defences
    )


SWEEP_DECISION = Decision(vocabulary.SWEEP_MODEL, ENTROPY.name)
"""TRADES with Secs. 3.2 and 3.3: the decision of Tables 4, 8 and Figure 5."""


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

    def opened(
        self, stage: StageName, model: str, paths: Sequence[Path], *, defence: DefenceName | None = None
    ) -> Files:
        """Records of a stage that were seen to be of the configuration.

        Raises:
            UserError: a file is missing, no records file, or of another configuration.
        """
        spec = specs.build(stage, self.config, model=model, seed=self.seed, defence=defence)
        return reading.opened(paths, spec, root=self.root)

    def rows(
        self,
        files: Files,
        asked: Mapping[Judge, RowQuery],
        *columns: str,
        grid: bool = True,
        crafted_on: str | None = None,
    ) -> dict[Judge, Rows]:
        """Rows of the evaluated images, by decision; of the grid's attacks, or of one whatever its surrogate is called.

        Raises:
            UserError: as `reading.read`.
        """
        points = gridpoints.grid_points(self.config) if grid else None
        return reading.read(
            files, asked, columns, grid=points, images=self.config.evaluation.images, crafted_on=crafted_on
        )

    def source(self, path: Path, provenance: Mapping[str, Any]) -> Source:
        """A file of this tree, with the provenance that it was read with."""
        return Source(str(path.relative_to(self.root)), dict(provenance))

    def checked_source(self, stage: StageName, model: str | None, path: Path, provenance: Mapping[str, Any]) -> Source:
        """A file of a stage that was seen to be of the configuration.

        Raises:
            UserError: its provenance is of another configuration.
        """
        spec = specs.build(stage, self.config, model=model, seed=self.seed)
        reading.refuse_other_spec(provenance, spec, path)
        return self.source(path, provenance)

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
        dropped: those that ran on the images before `shards.race_cut` only.
        sources: the file that says which, if there was a race.
    """

    points: tuple[GridPoint, ...]
    dropped: tuple[GridPoint, ...]
    sources: tuple[Source, ...]


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
    """Right and wrong answers of one decision, at the state that decides.

    Attributes:
        decision: whose answers.
        state: the state that decides, or FINAL.
        points: the attacks that ran on all images, in their sort order (lambda, i, K_a).
        clean: (images,); None where it was not asked for.
        right: (points, images).
        checks: of the attacks.
        sources: the files behind it.
        dropped: how many attacks more ran on the first images only, because they lost a race.
    """

    decision: Decision
    state: int
    points: tuple[GridPoint, ...]
    clean: Correct | None
    right: Correct
    checks: AttackChecks
    sources: tuple[Source, ...]
    dropped: int = 0

    @property
    def right_when_clean(self) -> Correct:
        """(images,)."""
        assert self.clean is not None, "clean images were not asked for"
        return self.clean

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
    kind = vocabulary.MODELS[model]
    chosen, _ = _selection(tree, model)
    return chosen | {control: chosen[_controlled(control)] for control in kind.controls(tree.config.entropy)}


def _controlled(control: DefenceName) -> DefenceName:
    """The defence that a control is one of."""
    controlled = defence_of(control).control_of
    assert controlled is not None, f"{control} is no control"
    return controlled


def selection_source(tree: Tree, model: str) -> Source:
    """The file that early states come from."""
    _, source = _selection(tree, model)
    return source


def _selection(tree: Tree, model: str) -> tuple[dict[DefenceName, EarlyState], Source]:
    path = tree.select(model)
    chosen, provenance = early_states_file.read(path, vocabulary.MODELS[model].defences)
    source = tree.checked_source("select", model, path, provenance)
    return chosen, source


def evaluate(tree: Tree, model: str, *, clean: bool = True) -> tuple[Evaluation, ...]:
    """The evaluations of all decisions of a model; on clean images as well if `clean`.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    deq = model in vocabulary.DEQS
    unattacked = tree.opened("clean", model, [tree.clean(model)]) if clean else None
    attacked = tree.opened("attack_grid" if deq else "attack_pgd", model, tree.attacked(model))
    states = _deciding(tree, model)
    ran = attacks(tree, model) if deq else None
    asked = {decision.judge: RowQuery(state - 1) for decision, state in states.items()}
    rows = tree.rows(attacked, asked, "label", "predicted", *_CHECKED, grid=deq)
    alone = tree.rows(unattacked, asked, "label", "predicted", grid=False) if unattacked else {}
    behind = (*(unattacked.sources if unattacked else ()), *attacked.sources)
    behind += (selection_source(tree, model), *ran.sources) if ran else ()
    return tuple(
        _evaluation(tree, decision, (alone.get(decision.judge), rows[decision.judge], ran), behind, state)
        for decision, state in states.items()
    )


def _deciding(tree: Tree, model: str) -> dict[Decision, int]:
    """The state that decides, or FINAL, for each decision of a model."""
    kind = vocabulary.MODELS[model]
    chosen = early_states(tree, model) if model in vocabulary.DEQS else {}
    return {
        Decision(model, defence): chosen[defence].state if chosen else FINAL
        for defence in (*kind.defences, *kind.controls(tree.config.entropy))
    }


def evaluate_all(tree: Tree, models: Sequence[str], *, clean: bool = True) -> dict[Decision, Evaluation]:
    """The evaluations of all decisions of several models."""
    return {one.decision: one for model in models for one in evaluate(tree, model, clean=clean)}


def _evaluation(
    tree: Tree,
    decision: Decision,
    parts: tuple[Rows | None, Rows, Attacks | None],
    sources: tuple[Source, ...],
    state: int,
) -> Evaluation:
    unattacked, rows, ran = parts
    where = f"attack records of {decision.row}"
    labels, right = answers(rows, ran, tree.config, state=state, where=where)
    return Evaluation(
        decision=decision,
        state=state,
        points=ran.points if ran else (GridPoint(damping=0.0, state=0, steps=0),),
        clean=None if unattacked is None else _right_when_clean(tree, decision, unattacked, labels, state),
        right=right,
        checks=_checks(rows),
        sources=sources,
        dropped=len(ran.dropped) if ran else 0,
    )


def _checks(rows: Rows) -> AttackChecks:
    return AttackChecks(
        perturbation=float(rows["perturbation"].max()),
        lost_gradient=float(rows["lost_gradient"].mean()),
        nonfinite=int((rows["status"] == _NONFINITE).sum()),
    )


def _right_when_clean(tree: Tree, decision: Decision, rows: Rows, labels: NDArray[np.int16], state: int) -> Correct:
    labels_again, right = answers(rows, None, tree.config, state=state, where=f"clean records of {decision.row}")
    if (labels != labels_again).any():
        raise UserError(f"clean and attacked records of {decision.row} have different labels: not the same images")
    alone: Correct = right[0]
    return alone


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


def answers(
    rows: Rows, ran: Attacks | None, config: Config, *, state: int, where: str
) -> tuple[NDArray[np.int16], Correct]:
    """Labels (images,), and which attacks' images (attacks, images) got them: of the attacks that ran on all images.

    Args:
        rows: of one decision, with labels, and classes at the state that decides.
        ran: which attacks ran on which images; None: one attack on all.
        config: the configuration.
        state: that decides, counted from 1, or FINAL.
        where: what the rows are called in messages.

    Raises:
        UserError: rows are missing, doubled, or of other attacks or images; an image has two labels; the state was not
            computed; or an attack that lost the race lacks an image that it ran on, or has other images.
    """
    rows.refuse_foreign(where)
    if ran and ran.dropped:
        lost = f"{where} of attacks that lost the race"
        (label,) = rows.table("label", points=ran.dropped, images=shards.race_cut(config), where=lost)
        reading.same_labels(label, lost)
    return _right(rows, ran.points if ran else None, state=state, images=config.evaluation.images, where=where)


def before_race(rows: Rows, config: Config, *, state: int, where: str) -> Correct:
    """Whether the images that face every attack were classified right: (attacks, images).

    Args:
        rows: of one decision, on these images alone.
        config: the configuration.
        state: that decides, counted from 1.
        where: what the rows are called in messages.

    Raises:
        UserError: rows are missing, doubled, or of other attacks or images.
    """
    _, right = _right(rows, None, state=state, images=shards.race_cut(config), where=where)
    return right


def _right(
    rows: Rows, points: tuple[GridPoint, ...] | None, *, state: int, images: int, where: str
) -> tuple[NDArray[np.int16], Correct]:
    label, predicted = rows.table("label", "predicted", points=points, images=images, where=where)
    labels = reading.same_labels(label, where)
    refuse_uncomputed(predicted, state, where)
    return labels, predicted == labels


def refuse_uncomputed(predicted: NDArray[np.int16], state: int, where: str) -> None:
    """Refuse records that say nothing of the state that decides: they are of a run that decided at another one.

    Args:
        predicted: classes at that state.
        state: counted from 1.
        where: what the rows are called.

    Raises:
        UserError: a class was not computed.
    """
    if (predicted == records.NOT_COMPUTED).any():
        raise UserError(f"{where} say nothing of state {state}, which decides; run the workflow again")
