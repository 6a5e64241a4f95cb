"""The suite of attacks that know what they attack, one value each, in the order in which they run.

How they run stands in deqpipe/attack/suite.py, which needs torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from deqpipe.config.suite import AttackSuiteConfig

SuiteAttackName: TypeAlias = str
Kind: TypeAlias = Literal["network", "plain", "defended", "ensemble"]
"""What is attacked: a network without states, a DEQ's undefended dynamics, dynamics that update the input, several
undefended DEQs together."""
Knowledge: TypeAlias = Literal["nothing", "states", "defence"]
"""What an attack knows beside the images' classes: the decision's answers alone; the model and its states; the defence
as well."""
Search: TypeAlias = Literal["apgd", "pgd", "square", "rays", "noise"]
LossName: TypeAlias = Literal["margin", "cross_entropy", "dlr", "targeted", "low_entropy", "features"]
GradientName: TypeAlias = Literal[
    "decision", "unrolled", "adjoint", "received", "updated", "straight_through", "smoothed", "average", "before_update"
]
"""Whose gradient (deqpipe/attack/suite.py)."""


@dataclass(frozen=True)
class AttackGroup:
    """Attacks that share an idea: a column of Table 11.

    Attributes:
        name: in notes and results.json.
        label: the column.
        meaning: in a sentence.
    """

    name: str
    label: str
    meaning: str


EXACT = AttackGroup("exact", "Exact", "gradients of the decision itself, through the solver's own steps")
UNROLLED = AttackGroup("unrolled", "Unrolled", "gradients of unrolled intermediate states (Eq. 11), blind to a defence")
ADJOINT = AttackGroup("adjoint", "Adjoint", "an adjoint state carried along with the solver (Yang et al., 2022)")
BPDA = AttackGroup("bpda", "BPDA", "unrolled defended states, the input's updates passed straight through")
UPDATES = AttackGroup("updates", "Updates", "gradients through the input's updates, their sign passed on or smoothed")
TRAJECTORY = AttackGroup("trajectory", "Trajectory", "many states at once, states before updates, confident mistakes")
FEATURES = AttackGroup("features", "Features", "the largest change of the deciding state")
WARM = AttackGroup("warm", "Warm", "from the best images of the attacks before")
LONG = AttackGroup("long", "Long", "PGD with many small steps")
QUERIES = AttackGroup("queries", "Queries", "answers alone, no gradient")
TRANSFERRED = AttackGroup("transferred", "Transfer", "images that were made against other models and seeds")
NOISE = AttackGroup("noise", "Noise", "a random corner of the ball: no attack, a control")
GROUPS: tuple[AttackGroup, ...] = (
    EXACT, UNROLLED, ADJOINT, BPDA, UPDATES, TRAJECTORY, FEATURES, WARM, LONG, QUERIES, TRANSFERRED,
)  # fmt: skip
"""In the order of Table 11."""

_DEQ: tuple[Kind, ...] = ("plain", "defended")
_WITH_STATES: tuple[Kind, ...] = (*_DEQ, "ensemble")
_ALL: tuple[Kind, ...] = ("network", *_WITH_STATES)


@dataclass(frozen=True)
class SuiteAttack:
    """One attack of the suite.

    Attributes:
        name: in records.
        label: in tables and notes.
        group: that it belongs to.
        knows: what it needs to know.
        search: how it moves.
        loss: what it makes large; of queries the margin.
        gradient: whose gradient; of what takes none, the decision's answers.
        against: what it can be run on, and is no copy of another attack there.
        starts: how many starts an image has (targeted losses: targets), with so many wrong classes to aim at.
        steps: gradients, or queries, from each start.
        warm: it starts from the best images of the attacks before it, not from random ones.
    """

    name: SuiteAttackName
    label: str
    group: AttackGroup
    knows: Knowledge
    search: Search
    loss: LossName
    gradient: GradientName
    against: tuple[Kind, ...]
    starts: Callable[[AttackSuiteConfig, int], int]
    steps: Callable[[AttackSuiteConfig], int]
    warm: bool = False


def _restarts(suite: AttackSuiteConfig, others: int) -> int:
    return suite.restarts


def _one(suite: AttackSuiteConfig, others: int) -> int:
    return 1


def _targets(suite: AttackSuiteConfig, others: int) -> int:
    return min(suite.targets, others)


def _iterations(suite: AttackSuiteConfig) -> int:
    return suite.iterations


def _apgd(
    name: str, label: str, group: AttackGroup, knows: Knowledge, loss: LossName, gradient: GradientName,
    against: tuple[Kind, ...] = _DEQ, starts: Callable[[AttackSuiteConfig, int], int] = _restarts, warm: bool = False,
) -> SuiteAttack:  # fmt: skip
    return SuiteAttack(name, label, group, knows, "apgd", loss, gradient, against, starts, _iterations, warm)


def _length(length: int) -> Callable[[AttackSuiteConfig], int]:
    return lambda suite: length


_FIXED = (
    SuiteAttack("noise", "random noise", NOISE, "nothing", "noise", "margin", "decision", _ALL, _restarts,
                lambda suite: 1),
    _apgd("exact_margin", "exact, margin", EXACT, "states", "margin", "decision", _ALL),
    _apgd("exact_targeted", "exact, targeted margin", EXACT, "states", "targeted", "decision", _ALL, _targets),
    _apgd("exact_dlr", "exact, DLR", EXACT, "states", "dlr", "decision", _ALL, _one),
    _apgd("exact_cross_entropy", "exact, cross-entropy", EXACT, "states", "cross_entropy", "decision", _ALL, _one),
    _apgd("unrolled_margin", "unrolled states, margin", UNROLLED, "states", "margin", "unrolled"),
    _apgd("unrolled_cross_entropy", "unrolled states, cross-entropy", UNROLLED, "states", "cross_entropy", "unrolled"),
    _apgd("adjoint_margin", "simultaneous adjoint, margin", ADJOINT, "states", "margin", "adjoint"),
    _apgd("bpda_received", "BPDA at the received input", BPDA, "defence", "margin", "received", ("defended",)),
    _apgd("bpda_updated", "BPDA at the updated input", BPDA, "defence", "margin", "updated", ("defended",)),
    _apgd("straight_through", "straight through the updates", UPDATES, "defence", "margin", "straight_through",
          ("defended",), _one),
    _apgd("smoothed", "smoothed updates", UPDATES, "defence", "margin", "smoothed", ("defended",), _one),
    _apgd("average_margin", "average over all states", TRAJECTORY, "states", "margin", "average", _WITH_STATES),
    _apgd("before_update", "states before the updates", TRAJECTORY, "defence", "margin", "before_update",
          ("defended",)),
    _apgd("low_entropy", "confident mistakes", TRAJECTORY, "defence", "low_entropy", "decision", ("defended",),
          _targets),
    _apgd("features", "change of the deciding state", FEATURES, "states", "features", "decision", _DEQ, _one),
    _apgd("warm", "from the best images", WARM, "states", "margin", "decision", _ALL, _one, warm=True),
    _apgd("warm_targeted", "from the best images, targeted", WARM, "states", "targeted", "decision", _ALL, _targets,
          warm=True),
    _apgd("warm_average", "from the best images, average over all states", WARM, "states", "margin", "average",
          _WITH_STATES, _one, warm=True),
    _apgd("warm_before_update", "from the best images, states before the updates", WARM, "defence", "margin",
          "before_update", ("defended",), _one, warm=True),
    _apgd("warm_straight_through", "from the best images, straight through the updates", WARM, "defence", "margin",
          "straight_through", ("defended",), _one, warm=True),
)  # fmt: skip
_BY_QUERIES = (
    SuiteAttack("square", "Square", QUERIES, "nothing", "square", "margin", "decision", _ALL, _one,
                lambda suite: suite.queries),
    SuiteAttack("rays", "RayS", QUERIES, "nothing", "rays", "margin", "decision", _ALL, _one,
                lambda suite: suite.decision_queries),
)  # fmt: skip


CONTROLS: tuple[SuiteAttackName, ...] = tuple(attack.name for attack in _FIXED if attack.group is NOISE)
"""What stands among the attacks and is none: nothing leaves by it, and nothing of it is transferred."""


AT_RADII: tuple[SuiteAttackName, ...] = ("exact_margin", "noise")
"""Those of Figure 7, with one start each."""


def _long(length: int) -> SuiteAttack:
    return SuiteAttack(
        f"pgd_{length}", f"PGD-{length}", LONG, "states", "pgd", "cross_entropy", "decision", _ALL, _one,
        _length(length),
    )  # fmt: skip


def suite_attacks(suite: AttackSuiteConfig) -> Mapping[SuiteAttackName, SuiteAttack]:
    """All attacks of a suite by name, in the order in which they run: the strongest per cost first."""
    attacks = (*_FIXED, *(_long(length) for length in suite.long), *_BY_QUERIES)
    return {attack.name: attack for attack in attacks}


def against(suite: AttackSuiteConfig, kind: Kind) -> tuple[SuiteAttack, ...]:
    """The attacks that a kind of decision faces."""
    return tuple(attack for attack in suite_attacks(suite).values() if kind in attack.against)
