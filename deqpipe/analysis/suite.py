"""What the attacks of the suite did to one decision: which attack breaks which image, and after how much work.

Records hold, per image and attack, the image that the attack ended with, judged by the decision. In standard mode an
image leaves once the decision errs, so that later attacks have no row of it; in individual mode every attack has a row
of every image that is right when clean.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis.answers import FINAL, refuse_uncomputed
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.reading import Source
from deqpipe.config.suite import AttackSuiteConfig
from deqpipe.errors import UserError
from deqpipe.results.records import Records
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import defence_of
from deqpipe.workflow.suite_attacks import (
    CONTROLS,
    GROUPS,
    TRANSFERRED,
    AttackGroup,
    Kind,
    SuiteAttack,
    suite_attacks,
)

CLEAN = "clean"
COLUMNS = (
    "image", "label", "model", "defence", "attack", "crafted_on", "state", "steps", "damping", "predicted", "margin",
    "lost_gradient", "broken_at", "taken", "per_step", "spread",
)  # fmt: skip
WITHSTOOD = -1
"""`broken_at` of an image that the attack did not turn."""

Mode: TypeAlias = Literal["standard", "individual"]
_Images: TypeAlias = NDArray[np.int64]
_Numbers: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AttackRun:
    """What one attack did to the images that it faced.

    Attributes:
        attack: that ran.
        images: (faced,) their indices, rising.
        right: (faced,) whether the decision was right about the image that the attack ended with.
        broken_at: (faced,) steps or queries, over all starts, when the decision first erred; WITHSTOOD: it never did.
        taken: (faced,) steps or queries taken.
        per_step: (faced,) evaluations of f per step or query, judging included; NaN without states.
        margin: (faced,) lowest true margin that was met.
        spread: (faced,) largest minus smallest of the lowest margins of the starts; NaN with one start.
        lost_gradient: (faced,) share of steps without a gradient.
    """

    attack: SuiteAttack
    images: _Images
    right: Correct
    broken_at: NDArray[np.int64]
    taken: NDArray[np.int64]
    per_step: _Numbers
    margin: _Numbers
    spread: _Numbers
    lost_gradient: _Numbers

    def left(self, before: Correct) -> Correct:
        """Which of the images (images,) that were right before still are; it changes nothing of those not faced."""
        right = before.copy()
        right[self.images] &= self.right
        return right

    def work(self, count: int) -> _Numbers:
        """Evaluations of f spent on each of `count` images, those not faced included."""
        spent = np.zeros(count)
        spent[self.images] = self.taken * self.per_step
        return spent

    def fallen_after(self, count: int) -> _Numbers:
        """Evaluations of f until each of `count` images fell under this attack alone; infinite where it did not.

        What fell at the start cost one step: it was looked at there.
        """
        spent = np.full(count, np.inf)
        fell = ~self.right
        first = np.where(self.broken_at == WITHSTOOD, self.taken, np.maximum(self.broken_at, 1))
        spent[self.images[fell]] = np.nan_to_num(first * self.per_step)[fell]
        return spent


@dataclass(frozen=True)
class SuiteOutcome:
    """The suite on one decision.

    Attributes:
        decision: whose answers.
        state: that decides, or FINAL.
        mode: whether images leave.
        labels: (images,).
        clean: (images,) right when clean.
        clean_margin: (images,) the decision's margin when clean.
        runs: each attack that ran, by name, in the order in which they run.
        transferred: (images,) right under all images that were made against other decisions; None: none were judged.
        flags: what the jobs said of the decision, with the number of jobs that said it.
        jobs: how many there were.
        sources: the files behind it.
    """

    decision: Decision
    state: int
    mode: Mode
    labels: NDArray[np.int64]
    clean: Correct
    clean_margin: _Numbers
    runs: Mapping[str, AttackRun]
    transferred: Correct | None
    flags: Mapping[str, int]
    jobs: int
    sources: tuple[Source, ...]

    @property
    def images(self) -> int:
        """How many were attacked."""
        return len(self.clean)

    @cached_property
    def attacking(self) -> tuple[AttackRun, ...]:
        """The runs in their order, without those that are no attacks: controls such as noise."""
        return tuple(run for name, run in self.runs.items() if name not in CONTROLS)

    @cached_property
    def crafted(self) -> Correct:
        """(images,) right when clean and under every attack that was made against this decision."""
        return self.right_under(self.runs.values())

    def group(self, group: AttackGroup) -> Correct | None:
        """(images,) right when clean and under a group's attacks alone; None: none of them ran.

        In standard mode a group faces what the groups before it left: this is what was left after it. Noise is no
        group: what it turns counts in the union alone.
        """
        if group == TRANSFERRED:
            return self._transferred()
        own = [run for run in self.runs.values() if run.attack.group == group]
        if not own:
            return None
        if self.mode == "individual":
            return self.right_under(own)
        last = max(self.attacking.index(run) for run in own)
        return self.right_under(self.attacking[: last + 1])

    def _transferred(self) -> Correct | None:
        if self.transferred is None:
            return None
        before = self.clean if self.mode == "individual" else self.right_under(self.attacking)
        left: Correct = before & self.transferred
        return left

    def turned_by(self, groups: Sequence[AttackGroup]) -> Correct:
        """(images,) right when clean and wrong under an attack of some groups, whatever else broke them."""
        own = [run for run in self.runs.values() if run.attack.group in groups]
        turned: Correct = self.clean & ~self.right_under(own)
        return turned

    def right_under(self, runs: Iterable[AttackRun]) -> Correct:
        """(images,) right when clean and under some attacks."""
        right = self.clean
        for run in runs:
            right = run.left(right)
        return right

    @property
    def evaluations(self) -> float:
        """Evaluations of f that the suite's attacks spent, per image; NaN without states."""
        return float(sum(run.work(self.images).mean() for run in self.attacking))

    def after_each(self) -> Iterator[tuple[AttackRun, float, float]]:
        """Each attack in its order, what all so far cost an image that withstands them, and the accuracy by then."""
        spent, right = np.zeros(self.images), self.clean
        for run in self.attacking:
            spent, right = spent + run.work(self.images), run.left(right)
            yield run, float(spent.max(initial=0.0)), float(right.mean())

    def fallen_after(self) -> _Numbers:
        """Evaluations of f, over all attacks in their order, until each image fell; 0 where wrong when clean.

        Infinite where it withstands. In individual mode an image is followed until it falls for the first time.
        """
        spent, before = np.full(self.images, np.inf), np.zeros(self.images)
        spent[~self.clean] = 0.0
        for run in self.attacking:
            spent = np.minimum(spent, before + run.fallen_after(self.images))
            before += run.work(self.images)
        return spent


def shown_groups(outcomes: Sequence[SuiteOutcome]) -> tuple[AttackGroup, ...]:
    """The groups that faced any of some decisions, in the order of Table 11."""
    return tuple(group for group in GROUPS if any(one.group(group) is not None for one in outcomes))


def outcome(
    rows: Records, decision: Decision, suite: AttackSuiteConfig, *, state: int, images: int, sources: Sequence[Source]
) -> SuiteOutcome:
    """The suite on a decision, from its rows, once they were seen to be complete.

    Args:
        rows: of all its jobs.
        decision: whose answers.
        suite: that was asked for.
        state: that decides, counted from 1, or FINAL.
        images: how many, counted from 0.
        sources: the files.

    Raises:
        UserError: rows are missing, doubled, or of another decision, attack or state.
    """
    where = f"records of the suite against {decision.row}"
    _refuse_others(rows, decision, where)
    known = suite_attacks(suite)
    _refuse_unknown(rows, known, where)
    clean = _taken_apart(rows, CLEAN, state, where)
    _refuse_lacking(clean["image"], np.arange(images), f"{where}, clean images")
    right: Correct = clean["right"]
    runs: dict[str, AttackRun] = {}
    kind, alive = _kind(rows, known, decision), right.copy()
    for name, attack in known.items():
        run = _run(attack, _taken_apart(rows, name, state, where))
        if kind in attack.against:
            due = np.flatnonzero(alive if suite.mode == "standard" else right)
            _refuse_lacking(run.images, due, f"{where} under {attack.label}", more=True)
            runs[name] = run  # even where nobody was left for it to meet
        if len(run.images):
            runs[name] = run
            alive = alive if name in CONTROLS else run.left(alive)
    return SuiteOutcome(
        decision=decision, state=state, mode=suite.mode, labels=clean["label"], clean=right,
        clean_margin=clean["margin"].astype(np.float64), runs=runs, transferred=None, flags=_flags(rows),
        jobs=len(rows.provenance), sources=tuple(sources),
    )  # fmt: skip


def _kind(rows: Records, known: Mapping[str, SuiteAttack], decision: Decision) -> Kind:
    """What was attacked: a defence that leaves the dynamics as they are faced no attack on updates of the input."""
    if not vocabulary.MODELS[decision.model].architecture.has_states:
        return "network"
    if defence_of(decision.defence).of_seeds:
        return "ensemble"
    of_defences = [name for name, attack in known.items() if attack.against == ("defended",)]
    return "defended" if np.isin(rows["attack"].astype(str), of_defences).any() else "plain"


def _refuse_others(rows: Records, decision: Decision, where: str) -> None:
    other = (rows["model"] != decision.model) | (rows["defence"] != decision.defence)
    if other.any():
        row = int(np.argmax(other))
        raise UserError(
            f"{where} hold answers of {rows['model'][row]} with defence {rows['defence'][row]}, but must be of "
            f"{decision.model} with {decision.defence}"
        )


def _refuse_unknown(rows: Records, known: Mapping[str, SuiteAttack], where: str) -> None:
    foreign = ~np.isin(rows["attack"].astype(str), (CLEAN, *known))
    if foreign.any():
        name = rows["attack"][int(np.argmax(foreign))]
        raise UserError(f"{where} hold the attack {name}, which the configuration does not ask for")


def _refuse_lacking(images: NDArray[np.int64], due: NDArray[np.int64], where: str, *, more: bool = False) -> None:
    """Refuse where an image that was due has no row; rows of images that had fallen before may be there."""
    lacking, extra = np.setdiff1d(due, images), np.setdiff1d(images, due)
    if len(lacking):
        raise UserError(f"{where}, lack {len(lacking)} of {len(due)} images, the first of them {lacking[0]}")
    if len(extra) and not more:
        raise UserError(f"{where}, hold image {extra[0]}, which is none of the {len(due)} that are attacked")


def _taken_apart(rows: Records, attack: str, state: int, where: str) -> dict[str, np.ndarray]:
    """The columns of one attack, by image, at the state that decides."""
    own = rows.where(rows["attack"] == attack)
    order = np.argsort(own["image"], kind="stable")
    images = own["image"][order].astype(np.int64)
    twice = images[1:][images[1:] == images[:-1]]
    if len(twice):
        raise UserError(f"{where} hold image {twice[0]} under {attack} twice")
    place = own["predicted"].shape[1] - 1 if state == FINAL else state - 1
    predicted = own["predicted"][:, place]
    refuse_uncomputed(predicted, state, where)
    scalars = {name: own[name][order] for name in ("broken_at", "taken", "per_step", "spread", "lost_gradient")}
    return scalars | {
        "image": images,
        "label": own["label"][order].astype(np.int64),
        "right": (predicted == own["label"])[order],
        "margin": own["margin"][:, place][order],
    }


def _run(attack: SuiteAttack, columns: Mapping[str, np.ndarray]) -> AttackRun:
    return AttackRun(
        attack=attack,
        images=columns["image"],
        right=columns["right"],
        broken_at=columns["broken_at"].astype(np.int64),
        taken=columns["taken"].astype(np.int64),
        per_step=columns["per_step"].astype(np.float64),
        margin=columns["margin"].astype(np.float64),
        spread=columns["spread"].astype(np.float64),
        lost_gradient=columns["lost_gradient"].astype(np.float64),
    )


def _flags(rows: Records) -> dict[str, int]:
    said = [flag for entry in rows.provenance for flag in dict.fromkeys(entry.get("flags", ()))]
    return {flag: said.count(flag) for flag in dict.fromkeys(said)}
