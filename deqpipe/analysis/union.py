"""Everything that was run on a decision: the grid, AutoAttack, the suite, and what was made against others.

The union counts an image as right only where it is right when clean and under all of that. Differences between two
decisions are taken over what both of them faced, on the same images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from deqpipe.analysis import autoattack_outcomes, early_states, own_attacks, radius, reading, suite
from deqpipe.analysis.answers import FINAL, refuse_uncomputed
from deqpipe.analysis.autoattack_outcomes import AutoAttackOutcome
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.early_states import deciding_state
from deqpipe.analysis.evaluation import Evaluation, evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.own_attacks import OwnOutcome
from deqpipe.analysis.radius import RadiusCurve
from deqpipe.analysis.reading import Source
from deqpipe.analysis.suite import SuiteOutcome
from deqpipe.config import AttackSuiteConfig, Config
from deqpipe.errors import UserError
from deqpipe.results.columns import OWN_SEED
from deqpipe.results.records import Records
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import PLAIN, defence_of
from deqpipe.workflow.products import Need
from deqpipe.workflow.shards import radius_images, suite_ranges

Part: TypeAlias = Literal["suite", "grid", "AutoAttack", "transferred", "own attacks"]

_TRANSFERRED = (
    "image", "label", "model", "defence", "attack", "crafted_on", "crafted_seed", "crafted_defence", "state", "steps",
    "damping", "predicted",
)  # fmt: skip


@dataclass(frozen=True)
class Faced:
    """All that one decision faced, on the images of the suite.

    Attributes:
        outcome: the suite, with what was made against other decisions.
        evaluation: under the grid, or a network under ready-made PGD; None: it was not scored there.
        autoattack: on the decision; None: it was not run.
        own: attacks from users' files; none were run on what only explains a gain.
    """

    outcome: SuiteOutcome
    evaluation: Evaluation | None
    autoattack: AutoAttackOutcome | None
    own: tuple[OwnOutcome, ...] = ()

    @property
    def decision(self) -> Decision:
        """Whose answers."""
        return self.outcome.decision

    @cached_property
    def parts(self) -> Mapping[Part, Correct]:
        """(images,) right under each part, by its name."""
        count, found = self.outcome.images, dict[Part, Correct]()
        found["suite"] = self.outcome.crafted
        if self.outcome.transferred is not None:
            found["transferred"] = self.outcome.transferred
        if self.evaluation is not None:
            found["grid"] = intervals.worst_case(self.evaluation.right)[:count]
        if self.autoattack is not None:
            found["AutoAttack"] = self.autoattack.survived[:count]
        if self.own:
            found["own attacks"] = np.logical_and.reduce([one.right[:count] for one in self.own])
        return found

    def union(self, *, without: frozenset[Part] = frozenset()) -> Correct:
        """(images,) right when clean and under all parts, or all but some."""
        kept = [right for name, right in self.parts.items() if name not in without]
        together: Correct = np.logical_and.reduce([self.outcome.clean, *kept])
        return together

    @property
    def grid(self) -> Correct | None:
        """(attacks, images) of the grid on the suite's images."""
        return None if self.evaluation is None else self.evaluation.right[:, : self.outcome.images]

    @property
    def library(self) -> Correct | None:
        """(attacks, images) whose lowest accuracy is that under AutoAttack, on the suite's images."""
        return None if self.autoattack is None else self.autoattack.rows[:, : self.outcome.images]

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files behind it."""
        parts = (self.outcome, self.evaluation, self.autoattack, *self.own)
        return tuple(source for part in parts if part is not None for source in part.sources)


@dataclass(frozen=True)
class Faces:
    """Every decision that the suite attacked.

    Attributes:
        by_decision: in the order of the rows of Table 11.
        curves: over the radius, of the decisions of Figure 7.
    """

    by_decision: Mapping[Decision, Faced]
    curves: tuple[RadiusCurve, ...]

    @property
    def outcomes(self) -> tuple[SuiteOutcome, ...]:
        """The suite on each."""
        return tuple(one.outcome for one in self.by_decision.values())

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files behind it."""
        faced = tuple(source for one in self.by_decision.values() for source in one.sources)
        return (*faced, *(source for one in self.curves for source in one.sources))


def shared_difference(one: Faced, other: Faced) -> tuple[Correct, Correct, frozenset[Part]]:
    """The unions (images,) of two decisions over the parts that both faced, and the parts that one of them lacks."""
    lacking = frozenset(one.parts.keys() ^ other.parts.keys())
    return one.union(without=lacking), other.union(without=lacking), lacking


def decisions(config: Config) -> tuple[Decision, ...]:
    """Those that the suite attacks: networks, then the DEQs, framework by framework; controls behind their method."""
    models = sorted(vocabulary.faces_suite(config), key=_place)
    return tuple(
        Decision(model, one)
        for model in models
        for one in (*vocabulary.suite_decisions(config, model), *vocabulary.ensembles(config, model))
    )


def _place(model: str) -> tuple[int, bool]:
    kind = vocabulary.MODELS[model]
    assert kind.framework is not None
    return vocabulary.FRAMEWORKS.index(kind.framework), kind.architecture.has_states


def gather(tree: Tree) -> Faces:
    """All that the decisions of a repetition faced.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    _asked(tree.config)
    graded = evaluate_all(tree, vocabulary.faces_suite(tree.config))
    found = {}
    for model in vocabulary.faces_suite(tree.config):
        foreign, behind = transferred(tree, model)
        for defence in vocabulary.suite_decisions(tree.config, model):
            decision = Decision(model, defence)
            own = replace(outcome(tree, decision), transferred=foreign[decision])
            own = replace(own, sources=(*own.sources, *behind))
            found[decision] = _faced(tree, own, graded.get(decision))
        found |= {one: Faced(ensemble(tree, one), None, None) for one in _ensembles(tree, model)}
    ordered = {decision: found[decision] for decision in decisions(tree.config) if decision in found}
    return Faces(ordered, curves(tree))


def _ensembles(tree: Tree, model: str) -> list[Decision]:
    """Those of a model, once they are there: they wait for all seeds, and the first one's numbers do not."""
    if not tree.complete([Need("attack_ensemble", (model,))]):
        return []
    return [Decision(model, name) for name in vocabulary.ensembles(tree.config, model)]


def ensemble(tree: Tree, decision: Decision) -> SuiteOutcome:
    """The suite on what the networks of all seeds decide together, the images of others included.

    Raises:
        UserError: as `gather`.
    """
    files = tree.opened("attack_ensemble", decision.model, tree.files("attack_ensemble", decision.model))
    rows = reading.whole(files, tuple(dict.fromkeys((*suite.COLUMNS, *_TRANSFERRED))))
    own, images = rows["crafted_seed"] == OWN_SEED, attacked_images(tree.config)
    found = suite.outcome(
        rows.where(own), decision, _asked(tree.config), state=FINAL, images=images, sources=files.sources
    )
    return replace(found, transferred=_right_under_all(rows.where(~own), decision, FINAL, images))


def members(tree: Tree, decision: Decision) -> tuple[int, ...]:
    """The states at which the networks of an ensemble are read, seed by seed.

    Raises:
        UserError: as `gather`.
    """
    seeds = (replace(tree, seed=seed) for seed in tree.config.seeds)
    return tuple(early_states.early_states(one, decision.model)[PLAIN.name].state for one in seeds)


def _faced(tree: Tree, own: SuiteOutcome, evaluation: Evaluation | None) -> Faced:
    if own.decision.defence not in vocabulary.MODELS[own.decision.model].defences:
        return Faced(own, evaluation, None)
    library = None if evaluation is None else autoattack_outcomes.outcome(tree, evaluation)
    return Faced(own, evaluation, library, own_attacks.outcomes(tree, own.decision))


def outcome(tree: Tree, decision: Decision) -> SuiteOutcome:
    """The suite on one decision.

    Raises:
        UserError: as `gather`.
    """
    model, defence = decision.model, decision.defence
    paths = tree.files("attack_suite", model, defence=defence)
    files = tree.opened("attack_suite", model, paths, defence=defence)
    rows = reading.whole(files, suite.COLUMNS)
    return suite.outcome(
        rows, decision, _asked(tree.config), state=deciding_state(tree, decision), images=attacked_images(tree.config),
        sources=files.sources,
    )  # fmt: skip


def _asked(config: Config) -> AttackSuiteConfig:
    if not isinstance(config.suite, AttackSuiteConfig):
        raise UserError("suite.enabled is false, but must be true for what the suite's attacks leave")
    return config.suite


def attacked_images(config: Config) -> int:
    """How many of the first test images the suite attacks."""
    _asked(config)
    return suite_ranges(config)[-1][1] + 1


def transferred(tree: Tree, model: str) -> tuple[dict[Decision, Correct], tuple[Source, ...]]:
    """Which images each decision of a model is right about, however they were changed against other decisions.

    Raises:
        UserError: as `gather`.
    """
    files = tree.opened("attack_transferred", model, tree.files("attack_transferred", model))
    rows, found = reading.whole(files, _TRANSFERRED), {}
    for defence in vocabulary.suite_decisions(tree.config, model):
        decision = Decision(model, defence)
        own = rows.where((rows["model"] == model) & (rows["defence"] == defence))
        state = deciding_state(tree, decision)
        found[decision] = _right_under_all(own, decision, state, attacked_images(tree.config))
    return found, files.sources


def _right_under_all(rows: Records, decision: Decision, state: int, images: int) -> Correct:
    place = rows["predicted"].shape[1] - 1 if state == FINAL else state - 1
    predicted = rows["predicted"][:, place]
    refuse_uncomputed(predicted, state, f"records of images transferred to {decision.row}")
    right = np.ones(images, bool)
    right[rows["image"][predicted != rows["label"]]] = False
    return right


def curves(tree: Tree) -> tuple[RadiusCurve, ...]:
    """Every decision of Figure 7 over the radius.

    Raises:
        UserError: as `gather`.
    """
    _asked(tree.config)
    deciding = (one for one in decisions(tree.config) if not defence_of(one.defence).beside)
    return tuple(_curve(tree, decision) for decision in deciding)


def _curve(tree: Tree, decision: Decision) -> RadiusCurve:
    model, defence = decision.model, decision.defence
    files = tree.opened("attack_radius", model, tree.files("attack_radius", model, defence=defence), defence=defence)
    rows = reading.whole(files, radius.COLUMNS)
    within = [times * (tree.config.threat_model.epsilon_255 / 255) for times in _asked(tree.config).radii]
    return radius.curve(
        rows, decision, state=deciding_state(tree, decision), images=radius_images(tree.config), within=within,
        sources=files.sources,
    )  # fmt: skip
