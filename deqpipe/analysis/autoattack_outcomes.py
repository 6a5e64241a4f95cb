"""What the records of AutoAttack's attacks say, checked to be complete before anything is counted."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis import reading
from deqpipe.analysis.answers import refuse_uncomputed
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.evaluation import Evaluation
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.config import AttackName, Config
from deqpipe.errors import UserError
from deqpipe.results.records import Records
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import vocabulary
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.library_attacks import APGD_CE, LIBRARY_ATTACKS, SQUARE

CLEAN = "clean"
_COLUMNS = (
    "image", "label", "model", "defence", "attack", "crafted_on", "state", "steps", "damping", "predicted",
    "perturbation",
)  # fmt: skip

_Images = NDArray[np.int64]


@dataclass(frozen=True)
class AttackOutcome:
    """What one attack did to the images that it saw.

    Attributes:
        images: (seen,) their indices, rising.
        right: (seen,) whether the decision was right all the same.
        untouched: how many it handed back as they were.
    """

    images: _Images
    right: Correct
    untouched: int


@dataclass(frozen=True)
class AutoAttackOutcome:
    """AutoAttack on one decision.

    Attributes:
        evaluation: of the same decision on the grid.
        alone: each attack, in the order in which they ran; one that saw no image is left out.
        rows: (attacks, images), whose lowest accuracy is that under AutoAttack. Mode standard: one row, right under
            everything that an image met. Mode individual: one row per attack that saw every image.
        survived: (images,) right in every row of the files, the clean one included.
        flags: what the library's checks said, with the number of jobs that they said it in.
        jobs: how many there were.
        sources: the files behind it.
    """

    evaluation: Evaluation
    alone: Mapping[AttackName, AttackOutcome]
    rows: Correct
    survived: Correct
    flags: Mapping[str, int]
    jobs: int
    sources: tuple[Source, ...]

    @property
    def decision(self) -> Decision:
        """Whose answers."""
        return self.evaluation.decision

    @property
    def with_grid(self) -> Correct:
        """(attacks, images): the grid's attacks, or ready-made PGD, and AutoAttack below them."""
        stacked: Correct = np.concatenate([self.evaluation.right, self.rows])
        return stacked


def outcome(tree: Tree, evaluation: Evaluation) -> AutoAttackOutcome:
    """AutoAttack on the decision of an evaluation.

    Raises:
        UserError: records are missing, incomplete, doubled, of another configuration or of another point than the
            strongest; or, in mode standard, hold an image that an earlier attack had turned.
    """
    decision, config = evaluation.decision, tree.config
    where = f"AutoAttack records of {decision.row}"
    files = tree.opened("autoattack", decision.model, tree.autoattack(decision), defence=decision.defence)
    rows = reading.whole(files, _COLUMNS)
    _check_decision_and_point(rows, evaluation, where)
    clean = _alone(rows, CLEAN, evaluation.state, where)
    _check_images(clean.images, np.arange(config.evaluation.images), f"{where} on clean images")
    _check_labels(rows, where)
    alone = _attacks(rows, clean, evaluation.state, config, where)
    survived = _survived(clean, alone.values())
    return AutoAttackOutcome(
        evaluation=evaluation,
        alone={name: one for name, one in alone.items() if len(one.images)},
        rows=_rows(alone, survived, config, where),
        survived=survived,
        flags=_flags(rows),
        jobs=len(files.paths),
        sources=files.sources,
    )


def top(tree: Tree, evaluation: Evaluation, points: Sequence[GridPoint]) -> tuple["Top", tuple[Source, ...]]:
    """Right and wrong answers of the decision under APGD-CE and Square at these points (Table 4).

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration, decision or point.
    """
    decision, config = evaluation.decision, tree.config
    where = f"records of the top points of {decision.row}"
    files = tree.opened("attack_top", decision.model, tree.top(decision.model))
    rows = reading.whole(files, _COLUMNS)
    _check_decision(rows, decision, where)
    _check_labels(rows, where)
    _refuse(rows, ~np.isin(rows["attack"], (APGD_CE.name, SQUARE.name)), where)
    _refuse(rows, ~np.any([rows.under(point) for point in points], axis=0), where)
    full, part = config.evaluation.images, square_images(config)
    return Top(
        apgd=_at_points(rows, evaluation, points, attack=APGD_CE.name, images=full, where=where),
        square=_at_points(rows, evaluation, points, attack=SQUARE.name, images=part, where=where),
    ), files.sources


@dataclass(frozen=True)
class Top:
    """Right and wrong answers at the top points.

    Attributes:
        apgd: (points, images).
        square: (points, the first images).
    """

    apgd: Correct
    square: Correct


def square_images(config: Config) -> int:
    """How many of the first test images Square attacks."""
    return min(config.autoattack.square_images, config.evaluation.images)


def _at_points(
    rows: Records, evaluation: Evaluation, points: Sequence[GridPoint], *, attack: AttackName, images: int, where: str
) -> Correct:
    right = []
    for point in points:
        said = f"{where} under {LIBRARY_ATTACKS[attack].label} at {point.name}"
        one = _alone(rows.where(rows.under(point)), attack, evaluation.state, said)
        _check_images(one.images, np.arange(images), said)
        right.append(one.right)
    stacked: Correct = np.stack(right)
    return stacked


def _check_decision(rows: Records, decision: Decision, where: str) -> None:
    other = (rows["model"] != decision.model) | (rows["defence"] != decision.defence)
    other |= (rows["attack"] != CLEAN) & (rows["crafted_on"] != decision.model)
    if other.any():
        row = int(np.argmax(other))
        raise UserError(
            f"{where} hold answers of {rows['model'][row]} with defence {rows['defence'][row]} to images crafted on "
            f"{rows['crafted_on'][row] or 'no model'}, but must be of {decision.model} with {decision.defence}"
        )


def _check_decision_and_point(rows: Records, evaluation: Evaluation, where: str) -> None:
    """Whose answers these are, and whether every attack was made at the strongest point."""
    _check_decision(rows, evaluation.decision, where)
    point = evaluation.points[evaluation.strongest]
    if not vocabulary.MODELS[evaluation.decision.model].is_deq:
        point = GridPoint(damping=0.0, state=0, steps=0)
    elsewhere = (rows["attack"] != CLEAN) & ~rows.under(point)
    if elsewhere.any():
        row = int(np.argmax(elsewhere))
        raise UserError(f"{where} hold an attack at {_point(rows, row)}, but the strongest point is {point.name}")


def _refuse(rows: Records, foreign: NDArray[np.bool_], where: str) -> None:
    if foreign.any():
        row = int(np.argmax(foreign))
        raise UserError(f"{where} hold the attack {rows['attack'][row]} at {_point(rows, row)}, which is not asked for")


def _point(rows: Records, row: int) -> str:
    return GridPoint(float(rows["damping"][row]), int(rows["state"][row]), int(rows["steps"][row])).name


def _check_labels(rows: Records, where: str) -> None:
    _, first, back = np.unique(rows["image"], return_index=True, return_inverse=True)
    differ = rows["label"] != rows["label"][first][back]
    if differ.any():
        raise UserError(f"{where} give image {rows['image'][differ][0]} different labels")


def _alone(rows: Records, attack: str, state: int, where: str) -> AttackOutcome:
    own = rows.where(rows["attack"] == attack)
    order = np.argsort(own["image"], kind="stable")
    images: _Images = own["image"][order].astype(np.int64)
    twice = images[1:][images[1:] == images[:-1]]
    if len(twice):
        raise UserError(f"{where} hold image {twice[0]} under {attack} twice")
    predicted = own["predicted"][:, state - 1]
    refuse_uncomputed(predicted, state, where)
    right: Correct = (predicted == own["label"])[order]
    return AttackOutcome(images, right, int((own["perturbation"] == 0).sum()))


def _check_images(images: _Images, expected: _Images, where: str) -> None:
    lacking, extra = np.setdiff1d(expected, images), np.setdiff1d(images, expected)
    if len(lacking):
        raise UserError(f"{where} lack {len(lacking)} of {len(expected)} images, the first of them {lacking[0]}")
    if len(extra):
        raise UserError(
            f"{where} hold image {extra[0]}, which is not among the {len(expected)} images that it had to attack"
        )


def _attacks(
    rows: Records, clean: AttackOutcome, state: int, config: Config, where: str
) -> dict[AttackName, AttackOutcome]:
    """Each attack with the images that it saw, which must be the ones that it had to."""
    settings = config.autoattack
    attacks = _run(rows, settings.attacks)
    _refuse(rows, ~np.isin(rows["attack"], (CLEAN, *attacks)), where)
    standard = settings.mode == "standard"
    alive = clean.images[clean.right] if standard else clean.images
    alone: dict[AttackName, AttackOutcome] = {}
    for attack in attacks:
        said = f"{where} under {LIBRARY_ATTACKS[attack].label}"
        one = _alone(rows, attack, state, where)
        due = alive[alive < settings.square_images] if LIBRARY_ATTACKS[attack].first_images_only else alive
        _check_images(one.images, due, said)
        alive = np.setdiff1d(alive, one.images[~one.right]) if standard else alive
        alone[attack] = one
    return alone


def _run(rows: Records, attacks: Sequence[AttackName]) -> tuple[AttackName, ...]:
    """The attacks that were run: some need more classes than there are, and the flags say so."""
    said = _flags(rows)
    left_out = {name: f"{LIBRARY_ATTACKS[name].label} is left out" for name in attacks}
    return tuple(name for name in attacks if not any(flag.startswith(left_out[name]) for flag in said))


def _survived(clean: AttackOutcome, attacks: Iterable[AttackOutcome]) -> Correct:
    survived = clean.right.copy()
    for one in attacks:
        survived[one.images] &= one.right
    return survived


def _rows(alone: Mapping[AttackName, AttackOutcome], survived: Correct, config: Config, where: str) -> Correct:
    if config.autoattack.mode == "standard":
        return survived[None]
    whole = [one.right for one in alone.values() if len(one.images) == len(survived)]
    if not whole:
        raise UserError(f"{where} have no attack on every image: autoattack.attacks must name one beside square")
    stacked: Correct = np.stack(whole)
    return stacked


def _flags(rows: Records) -> dict[str, int]:
    said = [flag for entry in rows.provenance for flag in dict.fromkeys(map(_uncounted, entry.get("flags", ())))]
    return {flag: said.count(flag) for flag in dict.fromkeys(said)}


def _uncounted(flag: str) -> str:
    """A flag without how often a job met it."""
    return re.sub(r" \(first of \d+ such warnings\)$", "", flag)
