"""Adversarial images: PGD on the surrogate of one attack, or of several at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deqpipe.attack.pgd import PGD, Attacked, cross_entropy_objective, uniform_start
from deqpipe.config import PgdConfig
from deqpipe.evaluation.evaluated_model import EvaluatedModel
from deqpipe.evaluation.images import Chunk
from deqpipe.workflow.defences import DefenceName
from deqpipe.workflow.gridpoints import GridPoint


@dataclass(frozen=True)
class Attack:
    """PGD on one surrogate.

    Attributes:
        point: of the grid; None for an ordinary network.
        through: the defence whose dynamics the surrogate's z^[i] comes from.
        name: as records have it.
    """

    point: GridPoint | None
    through: DefenceName = "plain"
    name: str = "pgd"


def craft(
    evaluated: EvaluatedModel, attack: Attack, chunk: Chunk, images: range, *, pgd: PgdConfig, purpose: str
) -> Attacked:
    """PGD on the surrogate of a point. Random starts are keyed by image: all points of a seed share them."""
    (made,) = craft_together(evaluated, [attack], chunk, images, pgd=pgd, purpose=purpose)
    return made


def craft_together(
    evaluated: EvaluatedModel, attacks: Sequence[Attack], chunk: Chunk, images: range, *, pgd: PgdConfig, purpose: str
) -> list[Attacked]:
    """PGD on several surrogates. Those that differ in the length of their unroll only are attacked as one batch."""
    x, y = chunk.load(images, evaluated.job.device)
    start = uniform_start(
        x, ball=evaluated.ball, stream=evaluated.stream(purpose), images=images, clamp=pgd.clamp_start
    )
    ascent = PGD(evaluated.ball, steps=pgd.steps, step_size=pgd.step_size_255 / 255, run=evaluated.run)
    made: dict[int, Attacked] = {}
    for alike in _alike(attacks, evaluated.final_point()):
        logits_of, count = _logits_of(evaluated, [attacks[number] for number in alike]), len(alike)
        objective = cross_entropy_objective(logits_of, y.repeat(count))
        together = ascent(objective, x.repeat(count, 1, 1, 1), start=start.repeat(count, 1, 1, 1))
        made |= dict(zip(alike, together.parts(count), strict=True))
    return [made[number] for number in range(len(attacks))]


def _logits_of(evaluated: EvaluatedModel, attacks: Sequence[Attack]) -> Callable[[Tensor], Tensor]:
    points = [attack.point for attack in attacks if attack.point is not None]
    if len(points) > 1:
        return evaluated.logits_of_several(points)
    return evaluated.logits_of(attacks[0].point, through=attacks[0].through)


def _alike(attacks: Sequence[Attack], ready_made: GridPoint | None) -> list[list[int]]:
    """Numbers of attacks whose surrogates can be stacked, the longest unroll first.

    The ready-made one stays alone: Figure 2 crafts it again, and wants the same rounding.
    """
    groups: dict[Any, list[int]] = {}
    for number, attack in enumerate(attacks):
        point = attack.point
        alone = point == ready_made or attack.through != "plain"
        key = number if point is None or alone else (point.state, point.damping)
        groups.setdefault(key, []).append(number)
    return [sorted(group, key=lambda number: -_unroll_steps(attacks[number])) for group in groups.values()]


def _unroll_steps(attack: Attack) -> int:
    return attack.point.steps if attack.point else 0
