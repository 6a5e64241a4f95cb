"""Records of the suite on one decision, made by hand: who turned which image, and after how many steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deqpipe.analysis import radius, suite
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.radius import RadiusCurve
from deqpipe.analysis.suite import SuiteOutcome
from deqpipe.config import AttackSuiteConfig
from deqpipe.results import records
from deqpipe.results.records import Records
from deqpipe.workflow.suite_attacks import CONTROLS, Kind, against

DECISION = Decision("deq_trades_base", "entropy")
STATE, STATES = 3, 4


def asked(**changes: Any) -> AttackSuiteConfig:
    """A suite with few of everything."""
    values: dict[str, Any] = {
        "enabled": True, "mode": "individual", "images": 100, "images_per_job": 100, "controls": True, "static": True,
        "iterations": 20,
        "restarts": 2, "targets": 2, "long": (50, 100), "queries": 1000, "decision_queries": 1000, "radii": (0.0, 1.0),
        "radius_images": 100,
    }  # fmt: skip
    return AttackSuiteConfig(**values | changes)


@dataclass(frozen=True)
class Did:
    """What one attack did.

    Attributes:
        turned: images that it turned.
        at: after so many steps each.
        taken: steps on those that withstood.
        per_step: evaluations of f.
        margin: of those that withstood; the turned ones have its negative.
        spread: between starts.
        lost: share of steps without gradient.
    """

    turned: Sequence[int] = ()
    at: int = 5
    taken: int = 40
    per_step: float = 10.0
    margin: float = 1.0
    spread: float = 0.1
    lost: float = 0.0


IDLE = Did()


@dataclass(frozen=True)
class Made:
    """A suite's records: what each attack did to which images, of those that it had to face.

    Attributes:
        images: how many.
        wrong: when clean.
        did: by attack; others turn nothing.
        suite: that was asked for.
        kind: of the decision.
        flags: of the job.
    """

    images: int = 100
    wrong: Sequence[int] = ()
    did: Mapping[str, Did] = field(default_factory=dict)
    suite: AttackSuiteConfig = field(default_factory=asked)
    kind: Kind = "defended"
    flags: Sequence[str] = ()

    def rows(self) -> Records:
        """The records."""
        every = np.arange(self.images)
        parts = [part("clean", every, Did(turned=self.wrong))]
        alive = np.setdiff1d(every, self.wrong)
        for attack in against(self.suite, self.kind):
            done = self.did.get(attack.name, IDLE)
            if len(alive):
                parts.append(part(attack.name, alive, done))
            if self.suite.mode == "standard" and attack.name not in CONTROLS:
                alive = np.setdiff1d(alive, done.turned)
        return Records(stored(parts), ({"flags": list(self.flags)},))

    def outcome(self) -> SuiteOutcome:
        """As it is read."""
        return suite.outcome(self.rows(), DECISION, self.suite, state=STATE, images=self.images, sources=())


def part(attack: str, images: np.ndarray, done: Did) -> dict[str, np.ndarray]:
    """Rows of one attack."""
    n, turned = len(images), np.isin(images, list(done.turned))
    label = images % 10
    predicted, margin = np.full((n, STATES + 1), -2), np.full((n, STATES + 1), np.nan)
    predicted[:, STATE - 1] = np.where(turned, (label + 1) % 10, label)
    margin[:, STATE - 1] = np.where(turned, -done.margin, done.margin)
    return {
        "image": images, "label": label, "model": np.full(n, DECISION.model), "defence": np.full(n, DECISION.defence),
        "attack": np.full(n, attack), "crafted_on": np.full(n, DECISION.model), "state": np.zeros(n),
        "steps": np.zeros(n), "damping": np.zeros(n), "predicted": predicted, "margin": margin,
        "lost_gradient": np.full(n, done.lost), "broken_at": np.where(turned, done.at, -1),
        "taken": np.where(turned, done.at, done.taken), "per_step": np.full(n, done.per_step),
        "spread": np.full(n, done.spread), "radius": np.full(n, 0.1, np.float32),
    }  # fmt: skip


def stored(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows of several parts, in the types that records have."""
    columns = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    kinds = {**records.SCALARS, **records.FURTHER, **records.PER_STATE}
    return {name: values.astype(object if kinds[name] is str else kinds[name]) for name, values in columns.items()}


def curve(attack: Sequence[int], noise: Sequence[int], *, images: int = 100, labels: int = 10) -> RadiusCurve:
    """A curve over balls of radius 0, 0.5, 1, ...: how many of the first images are right in each."""
    radii = [0.5 * number for number in range(len(attack))]
    parts = [part("clean", np.arange(images), Did()) | {"radius": np.zeros(images, np.float32)}]
    for name, left in ((radius.ATTACK, attack), (radius.NOISE, noise)):
        parts += [
            part(name, np.arange(images), Did(turned=range(count, images)))
            | {"radius": np.full(images, at, np.float32)}
            for at, count in zip(radii, left, strict=True)
        ]
    columns = stored(parts)
    shifted = (columns["predicted"] - columns["label"][:, None]) % 10
    columns["label"] = columns["image"] % labels
    columns["predicted"] = np.where(columns["predicted"] < 0, -2, (columns["label"][:, None] + shifted) % 10)
    columns |= {name: columns[name].astype(np.int16) for name in ("label", "predicted")}
    return radius.curve(Records(columns, ()), DECISION, state=STATE, images=images, within=radii, sources=())
