"""From the rows of an evaluation to what its card says: accuracies with intervals, what attacks turned, findings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deqpipe.analysis import sanity
from deqpipe.analysis.answers import FINAL
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.radius import ATTACK, NOISE, RadiusCurve
from deqpipe.analysis.suite import AttackRun, SuiteOutcome
from deqpipe.foreign.plan import SECTIONS, Entry, Section
from deqpipe.foreign.running import CLEAN, Evaluation, Progress, Rows
from deqpipe.reporting import evaluation_card
from deqpipe.results import columns as layout
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Correct

CONFIDENCE = 0.95
RESIDUAL = 0.1
"""Relative residual from which on the last state is called no equilibrium."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of an evaluation.

    Attributes:
        evaluation: that ran.
        progress: how far it came.
    """

    evaluation: Evaluation
    progress: Progress

    @property
    def clean(self) -> Correct:
        """(images,) right when clean."""
        rows = self.progress.rows[CLEAN]
        right: Correct = rows["predicted"] == rows["label"]
        return right

    def left(self, entries: Sequence[Entry]) -> Correct:
        """(images,) right when clean and under some attacks."""
        right = self.clean.copy()
        for entry in entries:
            rows = self.progress.rows.get(entry.name)
            if rows is not None:
                right[rows["image"]] &= rows["predicted"] == rows["label"]
        return right

    @property
    def attacks(self) -> tuple[Entry, ...]:
        """Those that count: no controls."""
        return tuple(entry for entry in self.evaluation.entries if entry.removes)

    @property
    def union(self) -> Correct:
        """(images,) right when clean and under everything within the ball, controls such as noise included."""
        return self.left([entry for entry in self.evaluation.entries if entry.counts])

    def facts(self) -> dict[str, Any]:
        """Everything that the card says of the decision, as JSON values."""
        return {
            "clean": _share(self.clean),
            "union": _share(self.union),
            "sections": [self._section(name) for name in dict.fromkeys(entry.section for entry in self.attacks)],
            "attacks": [self._attack(entry) for entry in self.evaluation.entries if entry.images is None],
            "radius": self._radius(),
            "skipped": self._skipped(),
            "findings": [asdict(one) for one in self.findings()],
        }

    def _section(self, name: Section) -> dict[str, Any]:
        """What is left after a section: in standard mode of what the sections before it left, else of all."""
        own = [entry for entry in self.attacks if entry.section == name]
        ran = [entry for entry in own if self._came_to_its_turn(entry)]
        counted = own
        if self.evaluation.standard and own:
            counted = list(self.attacks[: self.attacks.index(own[-1]) + 1])
        share = _share(self.left(counted)) if ran else None
        return {"name": name, "label": SECTIONS[name], "attacks": len(own), "ran": len(ran), "left": share}

    def _came_to_its_turn(self, entry: Entry) -> bool:
        """Whether an attack ran, on some images at least, or would have and none was left for it."""
        return entry.name in self.progress.rows or entry.name not in self.progress.skipped

    def _attack(self, entry: Entry) -> dict[str, Any]:
        rows = self.progress.rows.get(entry.name)
        known = entry.attack
        facts: dict[str, Any] = {
            "name": entry.name,
            "label": known.label,
            "section": entry.section,
            "knows": known.knows,
        }
        facts["ran"] = self._came_to_its_turn(entry)
        if rows is None:
            return {**facts, "faced": 0, "turned": 0, "evaluations": None, "steps": None}
        spent = float((rows["taken"] * rows["per_step"]).sum()) / max(1, len(rows["image"]))
        return {
            **facts,
            "faced": len(rows["image"]),
            "turned": int((rows["predicted"] != rows["label"]).sum()),
            "steps": float(rows["taken"].mean()) if len(rows["image"]) else 0.0,
            "evaluations": spent if np.isfinite(spent) else None,
        }

    def _skipped(self) -> list[dict[str, Any]]:
        named = self.evaluation.by_name
        return [
            {"name": name, "label": _label(named[name]), "lacking": lacking, "attack": named[name].removes}
            for name, lacking in self.progress.skipped.items()
        ]

    def _radius(self) -> list[dict[str, Any]]:
        curve = self._curve()
        if curve is None:
            return []
        return [
            {
                "epsilon_255": 255 * radius,
                "attack": _share(curve.right[ATTACK][n]),
                "noise": _share(curve.right[NOISE][n]),
            }
            for n, radius in enumerate(curve.radii)
        ]

    # Sanity

    def findings(self) -> tuple[sanity.Finding, ...]:
        """Signs that the attacks failed, and not that the decision is robust."""
        curve = self._curve()
        return sanity.findings([self._suite()], [] if curve is None else [curve])

    def _suite(self) -> SuiteOutcome:
        runs = {entry.name: _run(entry, self.progress.rows[entry.name]) for entry in self._ran() if not entry.images}
        return SuiteOutcome(
            decision=self._decision, state=FINAL, mode="standard" if self.evaluation.standard else "individual",
            labels=self.progress.rows[CLEAN]["label"], clean=self.clean,
            clean_margin=self.progress.rows[CLEAN]["margin"].astype(np.float64), runs=runs, transferred=None, flags={},
            jobs=1, sources=(),
        )  # fmt: skip

    @property
    def _decision(self) -> Decision:
        return Decision("this model", "plain")

    def _ran(self) -> list[Entry]:
        return [entry for entry in self.evaluation.entries if entry.name in self.progress.rows]

    def _curve(self) -> RadiusCurve | None:
        """The controls over the radius, once all of them are there."""
        controls = [entry for entry in self.evaluation.entries if entry.images is not None]
        if not controls or any(entry.name in self.progress.skipped for entry in controls):
            return None
        count = min(controls[0].images or 0, len(self.clean))
        radii = sorted({entry.times for entry in controls})
        right = {
            name: np.stack([self._within(times, name, controls, count) for times in radii]) for name in (ATTACK, NOISE)
        }
        epsilon = self.evaluation.subject.victim.ball.epsilon
        labels = self.progress.rows[CLEAN]["label"][:count]
        return RadiusCurve(
            self._decision, tuple(times * epsilon for times in radii), self.clean[:count], labels, right, ()
        )

    def _within(self, times: float, attack: str, controls: Sequence[Entry], count: int) -> Correct:
        own = [entry for entry in controls if entry.times == times and entry.attack.name == attack]
        return self.left(own)[:count]

    # Rows

    def columns(self) -> dict[str, np.ndarray]:
        """Per image and attack, as records have it (docs/records.md); the deciding state is the one that is there."""
        parts = [self._columns(name, rows) for name, rows in self.progress.rows.items() if len(rows["image"])]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _columns(self, name: str, rows: Rows) -> dict[str, np.ndarray]:
        entry, count = self.evaluation.by_name.get(name), len(rows["image"])
        words = {
            "model": "model", "defence": "defended" if self.evaluation.subject.victim.kind == "defended" else "plain",
            "attack": name if entry is None else entry.attack.name, "crafted_on": "" if name == CLEAN else "model",
        }  # fmt: skip
        numbers = {"state": 0, "steps": 0, "damping": 0.0, "status": 0}
        plain = {key: np.full(count, value) for key, value in {**words, **numbers}.items()}
        told = ("image", "label", "perturbation", "lost_gradient", "broken_at", "taken", "per_step", "spread", "radius")
        per_state = {key: rows[key][:, None] for key in ("predicted", "margin", "entropy")}
        empty = {key: np.full((count, 1), np.nan, np.float32) for key in layout.PER_STATE if key not in per_state}
        return plain | {key: rows[key] for key in told} | per_state | empty


def _label(entry: Entry) -> str:
    return entry.attack.label if entry.images is None else f"{entry.attack.label} at {entry.times:g} epsilon"


def _run(entry: Entry, rows: Rows) -> AttackRun:
    order = np.argsort(rows["image"], kind="stable")
    return AttackRun(
        attack=entry.attack,
        images=rows["image"][order],
        right=(rows["predicted"] == rows["label"])[order],
        broken_at=rows["broken_at"][order].astype(np.int64),
        taken=rows["taken"][order].astype(np.int64),
        **{name: rows[name][order].astype(np.float64) for name in ("per_step", "margin", "spread", "lost_gradient")},
    )


def _share(right: Correct) -> dict[str, Any]:
    share = intervals.wilson(int(right.sum()), len(right), confidence=CONFIDENCE)
    return {"value": share.value, "low": share.low, "high": share.high, "right": int(right.sum()), "n": share.n}


def warnings(facts: Mapping[str, Any], residual: float | None) -> list[str]:
    """What a reader must know before any number, loudest first."""
    said = []
    lacking = [one["label"] for one in evaluation_card.lacking_of(facts)]
    attacks = evaluation_card.attacks_of(facts)
    if lacking:
        said.append(
            f"The time budget was used up: {len(lacking)} of {len(attacks)} attacks did not run, or not "
            f"on all images ({'; '.join(lacking[:3])}{'; ...' if len(lacking) > 3 else ''}). "
            "What is left may be far from robust."
        )
    if any(not one["attack"] for one in facts["skipped"]):
        said.append("Controls did not run within the budget: some sanity checks say nothing.")
    failed = [one["check"] for one in facts["findings"] if one["verdict"] == "failed"]
    if failed:
        said.append(
            f"Sanity checks failed ({', '.join(failed)}): the attacks may have failed, not the model be robust."
        )
    clean = facts["clean"]
    if clean["right"] == 0:
        said.append("No clean image is classified right: labels, class order or normalisation may be wrong.")
    if residual is not None and residual > RESIDUAL:
        said.append(
            f"The last state is no equilibrium: its relative residual is {residual:.2g} (median). What is judged is "
            "the state after so many steps; another solver or more steps are another decision."
        )
    return said
