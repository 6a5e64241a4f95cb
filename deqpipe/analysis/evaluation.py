"""What every decision of a model answers to clean and attacked images, at the state at which it is taken."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis.answers import FINAL, answers
from deqpipe.analysis.attacks import Attacks, attacks
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.early_states import early_states, selection_source
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Judge, RowQuery, Rows, Source
from deqpipe.errors import UserError
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import defence_of
from deqpipe.workflow.gridpoints import GridPoint

_CHECKED = ("perturbation", "lost_gradient", "status")
_NONFINITE = 3  # solver.solve.Status
_NO_CLASS = -1  # logits that are not all finite


@dataclass(frozen=True)
class AttackChecks:
    """Whether attacks were attacks, over all rows of a decision.

    Attributes:
        perturbation: largest change of a pixel, in units of the pixel range.
        lost_gradient: share of attack steps whose gradient was zero, or no number, in every pixel.
        nonfinite: judged images whose solve ended with a state that is not finite.
        undecided: judged images without a class, as the logits that decide are not all finite; they count as wrong.
        judged: all of them.
    """

    perturbation: float
    lost_gradient: float
    nonfinite: int
    undecided: int = 0
    judged: int = 0


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
        by_state: (points, images) at other states that were asked for, counted from 1: what the same weights and
            defence would have answered there.
    """

    decision: Decision
    state: int
    points: tuple[GridPoint, ...]
    clean: Correct | None
    right: Correct
    checks: AttackChecks
    sources: tuple[Source, ...]
    dropped: int = 0
    by_state: Mapping[int, Correct] = field(default_factory=dict, repr=False)

    @property
    def right_when_clean(self) -> Correct:
        """(images,)."""
        assert self.clean is not None, "clean images were not asked for"
        return self.clean

    @property
    def strongest(self) -> int:
        """Index of the attack with the lowest accuracy; ties by lambda, i, K_a."""
        return intervals.strongest(self.right)

    def read_at(self, state: int) -> Correct:
        """(points, images) had the decision been taken at a state that was asked for, counted from 1."""
        return self.right if state == self.state else self.by_state[state]

    def at(self, *, damping: float, state: int) -> NDArray[np.intp]:
        """Indices of the attacks on one state with one damping."""
        return np.flatnonzero([point.damping == damping and point.state == state for point in self.points])


def evaluate(tree: Tree, model: str, *, clean: bool = True, elsewhere: Collection[int] = ()) -> tuple[Evaluation, ...]:
    """The evaluations of all decisions of a model; on clean images as well if `clean`.

    Args:
        tree: the results.
        model: whose decisions.
        clean: whether clean images are wanted.
        elsewhere: states, counted from 1, that decisions which are no controls are read at beside their own.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    deq = vocabulary.MODELS[model].is_deq
    unattacked = tree.opened("clean", model, [tree.clean(model)]) if clean else None
    attacked = tree.opened("attack_grid" if deq else "attack_pgd", model, tree.attacked(model))
    states = _deciding(tree, model)
    ran = attacks(tree, model) if deq else None
    asked = {decision.judge: RowQuery(state - 1) for decision, state in states.items()}
    rows = tree.rows(attacked, asked | _everywhere(states, elsewhere), "label", "predicted", *_CHECKED, grid=deq)
    alone = tree.rows(unattacked, asked, "label", "predicted", grid=False) if unattacked else {}
    behind = (*(unattacked.sources if unattacked else ()), *attacked.sources)
    behind += (selection_source(tree, model), *ran.sources) if ran else ()
    return tuple(
        _evaluation(tree, decision, (alone.get(decision.judge), rows[decision.judge], ran), behind, state, elsewhere)
        for decision, state in states.items()
    )


def _everywhere(states: Mapping[Decision, int], elsewhere: Collection[int]) -> dict[Judge, RowQuery]:
    """Queries for all states, of the decisions that are read at others than their own."""
    return {one.judge: RowQuery() for one in states if elsewhere and not defence_of(one.defence).control_of}


def _deciding(tree: Tree, model: str) -> dict[Decision, int]:
    """The state that decides, or FINAL, for each decision of a model."""
    kind = vocabulary.MODELS[model]
    chosen = early_states(tree, model) if kind.is_deq else {}
    return {
        Decision(model, defence): chosen[defence].state if chosen else FINAL
        for defence in (*kind.defences, *kind.controls(tree.config.entropy))
    }


def evaluate_all(
    tree: Tree, models: Sequence[str], *, clean: bool = True, elsewhere: Collection[int] = ()
) -> dict[Decision, Evaluation]:
    """The evaluations of all decisions of several models; DEQs' at some states beside their own."""
    return {
        one.decision: one
        for model in models
        for one in evaluate(tree, model, clean=clean, elsewhere=elsewhere if _read_elsewhere(model) else ())
    }


def _read_elsewhere(model: str) -> bool:
    """Whether gains are taken over a model's own decisions: not of those with perturbed weights."""
    return model in vocabulary.DEQS or bool(vocabulary.MODELS[model].origin)


def _evaluation(
    tree: Tree,
    decision: Decision,
    parts: tuple[Rows | None, Rows, Attacks | None],
    sources: tuple[Source, ...],
    state: int,
    elsewhere: Collection[int],
) -> Evaluation:
    unattacked, every, ran = parts
    where = f"attack records of {decision.row}"
    rows = _at(every, state)
    labels, right = answers(rows, ran, tree.config, state=state, where=where)
    others = [] if every["predicted"].ndim == 1 else [other for other in elsewhere if other != state]
    return Evaluation(
        decision=decision,
        state=state,
        points=ran.points if ran else (GridPoint(damping=0.0, state=0, steps=0),),
        clean=None if unattacked is None else _right_when_clean(tree, decision, unattacked, labels, state),
        right=right,
        checks=_checks(rows),
        sources=sources,
        dropped=len(ran.dropped) if ran else 0,
        by_state={other: answers(_at(every, other), ran, tree.config, state=other, where=where)[1] for other in others},
    )


def _at(rows: Rows, state: int) -> Rows:
    """Rows that hold the class at one state alone."""
    predicted = rows["predicted"]
    if predicted.ndim == 1:
        return rows
    return replace(rows, columns={**rows.columns, "predicted": predicted[:, state - 1]})


def _checks(rows: Rows) -> AttackChecks:
    return AttackChecks(
        perturbation=float(rows["perturbation"].max()),
        lost_gradient=float(rows["lost_gradient"].mean()),
        nonfinite=int((rows["status"] == _NONFINITE).sum()),
        undecided=int((rows["predicted"] == _NO_CLASS).sum()),
        judged=len(rows["predicted"]),
    )


def _right_when_clean(tree: Tree, decision: Decision, rows: Rows, labels: NDArray[np.int16], state: int) -> Correct:
    labels_again, right = answers(rows, None, tree.config, state=state, where=f"clean records of {decision.row}")
    if (labels != labels_again).any():
        raise UserError(f"clean and attacked records of {decision.row} have different labels: not the same images")
    alone: Correct = right[0]
    return alone
