"""A decision that the suite attacks, and what its records say of an attacked image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deqpipe import build
from deqpipe.attack.judged import Crafted
from deqpipe.attack.suite import Victim
from deqpipe.config import AttackSuiteConfig, parse_solver
from deqpipe.dynamics import PlainDynamics
from deqpipe.errors import UserError
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import check_images, load_test_images
from deqpipe.evaluation.judge import Judge, Judgement, at
from deqpipe.evaluation.scoring import Columns, no_rows, record_rows
from deqpipe.model.interface import FixedPointModel
from deqpipe.results import early_states
from deqpipe.results.records import FURTHER
from deqpipe.seeding import Stream
from deqpipe.settings import Settings
from deqpipe.shapes import Images, Labels
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import specs, vocabulary
from deqpipe.workflow.defences import DefenceName, defence_of
from deqpipe.workflow.suite_attacks import SuiteAttack

OF_SUITE = tuple(name for name in FURTHER if not name.startswith("crafted_"))
"""Further columns of records of attacks that a job itself has made."""
OF_TRANSFER = tuple(FURTHER)
"""Further columns of records of images that others have made."""


@dataclass(frozen=True)
class SuiteTarget:
    """A decision under attack.

    Attributes:
        evaluated: the model.
        judge: of the decision; it looks at the deciding state alone.
        victim: the same, as attacks see it.
    """

    evaluated: EvaluatedModel
    judge: Judge
    victim: Victim

    @property
    def states(self) -> int:
        """How many states a row has, but for the final one."""
        final = self.evaluated.final_point()
        return final.state if final else 0

    def load(self, images: Sequence[int]) -> tuple[Images, Labels]:
        """Test images in [0, 1] and their labels."""
        return load_test_images(self.evaluated, images)

    def stream(self, attack: SuiteAttack) -> Stream:
        """Random numbers of an attack; an image's are its own, whatever job it is in."""
        return self.evaluated.stream(f"suite/{attack.name}")

    def within(self, ball: LinfBall) -> "SuiteTarget":
        """The same decision, attacked within another ball."""
        return replace(self, victim=replace(self.victim, ball=ball))

    def errs(self, predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Whether the decision is wrong; `predicted` is (images, states) as in records."""
        return np.asarray(predicted[:, self.victim.state - 1] != label)

    def margin(self, judged: Judgement) -> np.ndarray:
        """The decision's margin on each image."""
        return judged.columns["margin"][:, self.victim.state - 1]

    def clean_rows(self, images: Sequence[int], x: Images, y: Labels) -> Columns:
        """Rows of images as they are."""
        judged, label = self.judge(x, y), y.cpu().numpy()
        errs = self.errs(judged.columns["predicted"], label)
        facts = {
            **_facts("clean", "", np.zeros(len(images))),
            **{"broken_at": np.where(errs, 0, -1), "taken": 0, "per_step": np.nan, "spread": np.nan, "radius": 0.0},
        }
        return self._rows(judged, images, label, facts)

    def attacked_rows(
        self, attack: str, images: Sequence[int], x: Images, y: Labels, crafted: Crafted, *, per_step: float
    ) -> Columns:
        """Rows of what an attack ended with, judged anew: whether it errs is what this judgement says.

        `broken_at` is the attack's own word: an image that fell to it, and that the decision is right about now, shows
        a decision that does not answer twice the same (analysis/sanity.py).
        """
        judged, label, ball = self.judge(crafted.images, y), y.cpu().numpy(), self.victim.ball
        change = ball.distance(crafted.images, x).cpu().numpy()
        assert change.max(initial=0) <= ball.epsilon + 1e-6, "an attack left its ball"
        taken, broken_at = _host(crafted.taken), _host(crafted.broken_at)
        errs = self.errs(judged.columns["predicted"], label)
        facts = {
            **_facts(attack, self.evaluated.name, change),
            "lost_gradient": _host(crafted.lost_gradient),
            "broken_at": np.where(errs & (broken_at < 0), taken, broken_at),
            "taken": taken,
            "per_step": per_step,
            "spread": _host(crafted.spread),
            "radius": ball.epsilon,
        }
        return self._rows(judged, images, label, facts)

    def transferred_rows(
        self,
        attack: np.ndarray,
        images: np.ndarray,
        x: Images,
        y: Labels,
        attacked: Images,
        *,
        of: tuple[str, int, DefenceName],
    ) -> Columns:
        """Rows of images made against another decision, `of` a model, a seed and a defence; one query each."""
        judged, label = self.judge(attacked, y), y.cpu().numpy()
        change = self.victim.ball.distance(attacked, x).cpu().numpy()
        assert change.max(initial=0) <= self.victim.ball.epsilon + 1e-6, "a saved image is outside of the ball"
        errs = self.errs(judged.columns["predicted"], label)
        facts = {
            **_facts("", of[0], change),
            **{"attack": attack, "crafted_seed": of[1], "crafted_defence": of[2], "radius": self.victim.ball.epsilon},
            **{"broken_at": np.where(errs, 1, -1), "taken": 1, "per_step": np.nan, "spread": np.nan},
        }
        return self._rows(judged, images.tolist(), label, facts)

    def _rows(self, judged: Judgement, images: Sequence[int], label: np.ndarray, facts: Mapping[str, Any]) -> Columns:
        return record_rows(self.judge, judged, images, label, facts)

    def no_rows(self, further: Sequence[str] = OF_SUITE) -> Columns:
        """The rows of no image."""
        none = {name: np.array([], str if FURTHER[name] is str else float) for name in further}
        return no_rows(self.states) | none


def _host(values: Tensor) -> np.ndarray:
    host: np.ndarray = values.cpu().numpy()
    return host


def _facts(attack: str, crafted_on: str, perturbation: np.ndarray) -> dict[str, Any]:
    return {
        "attack": attack, "crafted_on": crafted_on, "state": 0, "steps": 0, "damping": 0.0,
        "perturbation": perturbation, "lost_gradient": np.nan,
    }  # fmt: skip


def evaluated_for(job: EvaluationJob, decisions: Sequence[DefenceName], images: range) -> EvaluatedModel:
    """The model, f as it is called (batches shrink, and each size would be compiled anew), with some decisions' judges.

    Raises:
        UserError: as `load_evaluated_model`; or there are no such images, or they would cut a batch of coupled ones.
    """
    own = vocabulary.MODELS[job.spec["model"]].defences
    controls = [name for name in decisions if name not in own]
    called = replace(job, ways=replace(job.ways, compiled=False, graphs=False))
    evaluated = load_evaluated_model(called, beside=controls)
    check_images(evaluated, images)
    return evaluated


def target_of(job: EvaluationJob, images: range, select: Path | None) -> SuiteTarget:
    """The decision that a job attacks.

    Raises:
        UserError: as `evaluated_for` and `targets_of`.
    """
    defence = defence_in(job.spec)
    return targets_of(evaluated_for(job, [defence], images), [defence], select)[defence]


def targets_of(
    evaluated: EvaluatedModel, decisions: Sequence[DefenceName], select: Path | None
) -> dict[DefenceName, SuiteTarget]:
    """Some decisions of a model.

    Args:
        evaluated: the model.
        decisions: their defences and controls.
        select: the states at which they are taken; a network without states has none.

    Raises:
        UserError: the states are missing, or there is nothing that has such.
    """
    early = _early_states(evaluated, decisions, select)
    judges: dict[str, Judge] = {judge.defence: judge for judge in (*evaluated.judges, *evaluated.controls)}
    return {name: _target(evaluated, judges[name], early[name]) for name in decisions}


def _target(evaluated: EvaluatedModel, judge: Judge, state: int) -> SuiteTarget:
    model = evaluated.loaded.model
    if not isinstance(model, FixedPointModel):
        return SuiteTarget(evaluated, judge, Victim(model, evaluated.ball))
    settings = evaluated.settings
    dynamics, undefended = build.dynamics(settings, judge.defence), build.plain_dynamics(settings)
    if isinstance(dynamics, PlainDynamics):
        dynamics = undefended
    victim = Victim(model, evaluated.ball, dynamics, state, undefended, evaluated.rule(judge.defence))
    return SuiteTarget(evaluated, judge.restricted(at(state)), victim)


def _early_states(
    evaluated: EvaluatedModel, decisions: Sequence[DefenceName], select: Path | None
) -> dict[DefenceName, int]:
    if not evaluated.is_deq:
        if select is not None:
            raise UserError(f"--select is {select}, but {evaluated.name} has no states")
        return dict.fromkeys(decisions, 1)
    if select is None:
        raise UserError(f"--select is missing, but {evaluated.name} decides at the states that were selected")
    last = evaluated.settings.variant("solver", parse_solver).steps
    matched = {name: last for name in decisions if defence_of(name).matched_to}  # nobody selects a state of theirs
    chooses = {name: defence_of(name).control_of or name for name in decisions if name not in matched}
    chosen, told = early_states.read(select, dict.fromkeys(chooses.values()))
    if specs.fingerprint(told["spec"]) != evaluated.job.spec["upstream"]["select"]:
        raise UserError(f"early states {select} were selected by another spec than the one that this job depends on")
    return {name: chosen[whose].state for name, whose in chooses.items()} | matched


def defence_in(spec: Mapping[str, Any]) -> DefenceName:
    """The decision that a job attacks.

    Raises:
        UserError: the model has no such one.
    """
    model, name = vocabulary.MODELS[spec["model"]], defence_of(str(spec.get("defence"))).name
    if name not in model.defences and defence_of(name).beside not in model.defences:
        raise UserError(
            f"spec has defence {name!r}, but must have one of {', '.join(model.defences)} or what stands beside them"
        )
    return name


def suite_in(settings: Settings, **fixed: Any) -> AttackSuiteConfig:
    """The keys of the suite that a job depends on; others are no attributes of what is returned."""
    names = [name for name in AttackSuiteConfig.model_fields if f"suite.{name}" in settings]
    values = {name: settings[f"suite.{name}"] for name in names}
    tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return AttackSuiteConfig.model_construct(enabled=True, **(values | tuples | fixed))
