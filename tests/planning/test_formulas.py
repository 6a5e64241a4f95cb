"""Closed formulas against what the counter of a real model says, to the last evaluation."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe import build
from deqpipe import config as configuration
from deqpipe.attack.autoattack import Flags, LibraryAttacks, check
from deqpipe.attack.pgd import PGD, cross_entropy_objective
from deqpipe.attack.surrogate import defended_surrogate_of, surrogate_of
from deqpipe.config import Config
from deqpipe.counts import Evaluations
from deqpipe.evaluation.judge import CLASSES, CLASSES_ALONG, EVERYTHING, DEQJudge, Wanted, at
from deqpipe.model.classifier import DEQClassifier, build_classifier
from deqpipe.planning import formulas
from deqpipe.planning.calibration import Bench, _plan
from deqpipe.planning.cost import Images
from deqpipe.settings import Settings
from deqpipe.threat_model import LinfBall
from deqpipe.training.forward import DEQForward, StateChoice, draws
from deqpipe.training.loop import TrainingPlan, descend
from deqpipe.training.objectives import Batch, PGDAdversarial, TradesAdversarial
from deqpipe.training.weight_perturbation import WeightPerturbed
from deqpipe.workflow import defences, gridpoints, specs, vocabulary
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.library_attacks import LIBRARY_ATTACKS
from deqpipe.workflow.stages import StageName
from tests import tiny
from tests.reference.tiny import images, tiny_model
from tests.sampling import one_in

COUNT = 2  # images
PAPER, RELEASE = "paper", "release"
PROTOCOLS = (PAPER, RELEASE)
WHOLE: dict[str, Any] = {"solver": {"tolerance": 0.0}}
"""No solve stops before its last step, as formulas assume."""
IMAGES = Images(tiny.TRAIN, tiny.VALIDATION, tiny.TEST, (1, 8, 8), classes=len(tiny.CLASSES))


def experiment(protocol: str, **changes: Any) -> Config:
    return tiny.settings(configuration.merge(configuration.merge({"protocol": protocol}, WHOLE), changes))


def full(protocol: str) -> Config:
    """config.yaml."""
    return configuration.parse(
        configuration.merge(configuration.read_yaml(tiny.ROOT / "config.yaml"), {"protocol": protocol})
    )


def frozen() -> DEQClassifier:
    return tiny_model(2).requires_grad_(False).float()


def counted(model: DEQClassifier, once: Callable[[], object], *, count: int = COUNT) -> Evaluations:
    """Per image, of so many."""
    before = model.counter.counted
    once()
    return (model.counter.counted - before) * (1 / count)


def settings(config: Config) -> Settings:
    keys = ("solver", "entropy", "threat_model", "attack.unroll", "evaluation.final_unroll_steps")
    return Settings(specs.pick(config.model_dump(mode="json"), *keys))


# Solves and decisions

ENTROPY = [
    {"resolve": resolve, "last_update": last, "state": state, "solver_steps": every}
    for resolve in ("alg1", "quasi_newton")
    for last in ("resolve", "dead")
    for state in ("last", "lowest")
    for every in (1, 2, 3, 4)
]


WANTED = {"everything": EVERYTHING, "classes": CLASSES, "along": CLASSES_ALONG, "z^[2]": at(2), "z^[4]": at(4)}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED.keys())
@pytest.mark.parametrize("returned", one_in(2, ["last", "lowest_sample", "lowest_batch"]))
@pytest.mark.parametrize("defence", one_in(2, ["plain", *defences.CONTROLS, "entropy"]))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_decision(protocol: str, defence: defences.DefenceName, returned: str, wanted: Wanted) -> None:
    config = experiment(protocol, solver={"returned": returned}, entropy={"controls": True})
    model, built = frozen(), settings(config)
    judge = DEQJudge(model, build.dynamics(built, defence), defence, build.final_unroll(built), wanted=wanted)
    x, y = images(COUNT).float(), torch.zeros(COUNT, dtype=torch.int64)
    assert counted(model, lambda: judge(x, y)) == formulas.decision(config, defence, wanted)


@pytest.mark.parametrize("entropy", one_in(3, ENTROPY))
def test_the_dynamics_of_sec_3_2(entropy: Mapping[str, Any]) -> None:
    config = experiment(PAPER, entropy=entropy)
    model, dynamics = frozen(), build.dynamics(settings(config), "entropy")
    for residual in (True, False):
        found = counted(model, lambda: dynamics(model, images(COUNT).float(), last_residual=residual))  # noqa: B023
        assert found == formulas.dynamics(config.solver, config.entropy, residual=residual)


# Attacks

POINTS = [GridPoint(0.5, 1, 1), GridPoint(1.0, 3, 2), GridPoint(0.5, 4, 5)]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pgd_attack_on_a_surrogate(protocol: str, point: GridPoint) -> None:
    config, model = experiment(protocol), frozen()
    lead = config.attack.unroll.lead_step
    surrogate = surrogate_of(point, dynamics=build.plain_dynamics(settings(config)), lead_step=lead)
    found = counted(model, lambda: pgd(model, surrogate, steps=7))
    assert found == formulas.surrogate_gradient(config, point.state, point.steps) * 7


def pgd(model: DEQClassifier, surrogate: Callable[[DEQClassifier, Tensor], Tensor], *, steps: int) -> None:
    x, y = images(COUNT).float(), torch.zeros(COUNT, dtype=torch.int64)
    attack = PGD(LinfBall(0.1), steps=steps, step_size=0.05)
    attack(cross_entropy_objective(lambda image: surrogate(model, image), y), x, start=x)


@pytest.mark.parametrize("state", [1, 2, 4])
@pytest.mark.parametrize("entropy", one_in(4, [{}, *ENTROPY]))
def test_a_pgd_attack_through_sec_3_2(entropy: Mapping[str, Any], state: int) -> None:
    config, model = experiment(PAPER, entropy=entropy), frozen()
    dynamics = build.dynamics(settings(config), "entropy")
    surrogate = defended_surrogate_of(GridPoint(0.5, state, 2), dynamics=dynamics, lead_step=False)
    found = counted(model, lambda: pgd(model, surrogate, steps=2))
    once = formulas.surrogate_gradient(config, state, 2) + formulas.through_defence(config, "entropy", state)
    assert found == once * 2


def test_the_grid_of_the_paper_costs_what_its_documents_say() -> None:
    for protocol, total in ((PAPER, 20_880), (RELEASE, 23_760)):
        config = full(protocol)
        grid = [point for point in gridpoints.grid_points(config) if point.steps <= 9]
        assert len(grid) == 144
        steps = config.attack.pgd.steps
        assert sum((formulas.surrogate_gradient(config, p.state, p.steps) * steps).total for p in grid) == total


BUDGETS: dict[str, Any] = {"iterations": 2, "restarts": 2, "targets": 3, "queries": 3}


@dataclass(frozen=True)
class Unfooled:
    """AutoAttack in a ball so small that it turns no image, on logits that are right."""

    config: Config
    model: DEQClassifier
    through: defences.DefenceName = "plain"

    @property
    def attacks(self) -> LibraryAttacks:
        return LibraryAttacks(LinfBall(1e-7), **BUDGETS, misclassified=self.config.autoattack.keep == "best_loss")

    def logits_of(self, x: Tensor) -> Tensor:
        built, lead_step = settings(self.config), self.config.attack.unroll.lead_step
        point = GridPoint(0.5, 3, 2)
        if self.through == "plain":
            return surrogate_of(point, dynamics=build.plain_dynamics(built), lead_step=lead_step)(self.model, x)
        dynamics = build.dynamics(built, self.through)
        return defended_surrogate_of(point, dynamics=dynamics, lead_step=lead_step)(self.model, x)

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        x = images(COUNT).float()
        return x, self.logits_of(x).argmax(1)

    def passed(self, *, gradients: int, forwards: int) -> Evaluations:
        more = formulas.through_defence(self.config, self.through, 3)
        with_gradient = formulas.surrogate_gradient(self.config, 3, 2) + more
        return with_gradient * gradients + (formulas.surrogate(self.config, 3, 2) + more) * forwards


@pytest.mark.parametrize("attack", ["apgd_ce", "apgd_t", "fab_t", "square"])
@pytest.mark.parametrize("through", one_in(2, ["plain", "entropy"], first=1))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_attack_of_autoattack(protocol: str, through: defences.DefenceName, attack: Any) -> None:
    one = Unfooled(experiment(protocol, autoattack=BUDGETS), frozen(), through)
    x, y = one.images
    found = counted(one.model, lambda: one.attacks(attack, one.logits_of, x, y, seed=1, flags=Flags()))
    targets = min(one.config.autoattack.targets, one.model.classes - 1)
    passes = LIBRARY_ATTACKS[attack].passes(one.config.autoattack, targets)
    assert found == one.passed(gradients=passes.gradients, forwards=passes.forwards)


def test_the_checks_of_autoattack() -> None:
    one = Unfooled(experiment(PAPER), frozen())
    x, y = one.images
    found = counted(one.model, lambda: check(one.logits_of, x, y, attacks=["apgd_ce", "square"], flags=Flags()))
    assert found == one.passed(gradients=0, forwards=formulas.CHECKS)


# Training


def plan_of(config: Config, model: str) -> TrainingPlan:
    stages: dict[StageName, str | None] = {"pretrain": None}
    if model != vocabulary.TRUNK:
        stages["train_deq"] = model
    return _plan(Bench(config, IMAGES, torch.device("cpu")), stages, model)


def fresh(config: Config) -> DEQClassifier:
    return build_classifier(config.model, image_shape=(1, 8, 8), classes=3, seed=0)


def one_step(config: Config, model: str, *, step: int) -> Evaluations:
    """What a training step counts per image."""
    plan, network = plan_of(config, model), fresh(config)
    generator = torch.Generator().manual_seed(step)
    batch = Batch(torch.rand(COUNT, 1, 8, 8, generator=generator), torch.arange(COUNT))
    optimizer = plan.optimizer(network)
    return counted(network, lambda: descend(plan, network, optimizer, batch, step=step))


def drawn_by(plan: TrainingPlan, model: DEQClassifier, *, step: int) -> tuple[formulas.DrawnStates, bool]:
    """What a step draws, and whether it carries the Jacobian term."""
    objective = plan.objective.objective if isinstance(plan.objective, WeightPerturbed) else plan.objective
    assert isinstance(objective, PGDAdversarial | TradesAdversarial)
    assert isinstance(objective.forward, DEQForward)
    passes = objective.forward.prepare(model, draws(plan.seed, step))
    crafted = [passes.crafting_states() for _ in range(objective.attack.steps)]
    natural = [states.natural.steps for states in crafted]
    states = formulas.DrawnStates(
        crafting=sum(states.adversarial.steps for states in crafted) / len(crafted),
        longest=max(natural),
        different=len(set(natural)),
        adversarial=passes.loss_states.adversarial.steps,
        natural=passes.loss_states.natural.steps,
    )
    return states, passes.regularised


JACOBIAN = {"never": {"frequency": 0.0}, "always": {"frequency": 1.0, "probes": 3}}
RANDOM_STATES: dict[str, dict[str, Any]] = {
    "shared": {"natural": "shared"},
    "lowest": {"natural": "independent", "pick": "prefix_lowest"},
    "in the loss alone": {"natural": "independent", "in_attack": False},
}


def assert_step(config: Config, model: str, *, step: int, regularised: bool = False, perturbed: bool = False) -> None:
    states, carries = drawn_by(plan_of(config, model), fresh(config), step=step)
    assert carries == regularised
    expected = formulas.training_step(config, model, states, regularised=int(regularised), perturbed=int(perturbed))
    assert_equal(one_step(config, model, step=step), expected)


GRADIENTS = ({"name": "phantom"}, {"name": "exact", "steps": 3})


@pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda gradient: gradient["name"])
@pytest.mark.parametrize("jacobian", JACOBIAN.values(), ids=JACOBIAN.keys())
@pytest.mark.parametrize("model", one_in(3, vocabulary.DEQS))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_training_step(protocol: str, model: str, jacobian: Mapping[str, Any], gradient: Any) -> None:
    training = {"gradient": gradient, "attack": {"steps": 3}}
    config = experiment(protocol, jacobian=jacobian, training=training)
    assert_step(config, model, step=1, regularised=jacobian["frequency"] == 1)


@pytest.mark.parametrize("changes", one_in(2, RANDOM_STATES.values()), ids=RANDOM_STATES.keys())
@pytest.mark.parametrize("model", ["deq_pgd_at_random_states", "deq_trades_random_states"])
def test_a_training_step_with_other_keys_of_sec_3_3(model: str, changes: Mapping[str, Any]) -> None:
    config = experiment(PAPER, random_state=changes, jacobian=JACOBIAN["never"], training={"attack": {"steps": 4}})
    for step in (0, 1, 2):
        assert_step(config, model, step=step)


PERTURBED = {
    "enabled": True, "size": {"pgd_at": 0.01, "trades": 0.005}, "warmup_epochs": 2,
}  # fmt: skip


PERTURBED_DEQS = [name for name in vocabulary.EVERY_DEQ if name not in vocabulary.DEQS]


@pytest.mark.parametrize(
    ("model", "jacobian", "gradient"), one_in(9, itertools.product(PERTURBED_DEQS, JACOBIAN, GRADIENTS), first=6)
)
def test_a_training_step_at_perturbed_weights(model: str, jacobian: str, gradient: Any) -> None:
    training, always = {"gradient": gradient, "attack": {"steps": 3}}, jacobian == "always"
    config = experiment(RELEASE, jacobian=JACOBIAN[jacobian], training=training, weight_perturbation=PERTURBED)
    first = config.pretrain.steps + 2 * 3  # epochs of three steps
    for step in (first - 1, first):
        assert_step(config, model, step=step, regularised=always, perturbed=step == first)


def assert_equal(found: Evaluations, expected: Evaluations) -> None:
    """Up to rounding of what was divided."""
    for name in ("forward", "backward_input", "backward_weights"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12), name


def test_the_jacobian_term_of_one_trades_branch() -> None:
    config = experiment(PAPER, jacobian={"frequency": 1.0, "trades_terms": "adversarial", "length_jitter": [0, 0]})
    model = "deq_trades_base"
    states, _ = drawn_by(plan_of(config, model), fresh(config), step=0)
    assert one_step(config, model, step=0) == formulas.training_step(config, model, states, regularised=1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", vocabulary.DEQS)
def test_what_a_step_draws_on_average_is_the_mean_over_all_draws(protocol: str, model: str) -> None:
    config = experiment(protocol, training={"attack": {"steps": 3}})
    last, found = config.solver.steps, formulas.drawn(config, model, extra=-0.5)
    draws = list(itertools.product(range(1, last + 1), repeat=3))
    random = vocabulary.MODELS[model].random_states
    independent = random and protocol == RELEASE
    assert found.crafting == (sum(map(sum, draws)) / (3 * len(draws)) if random else last)
    assert found.longest == pytest.approx(sum(map(max, draws)) / len(draws) if independent else last)
    assert found.different == pytest.approx(sum(len(set(draw)) for draw in draws) / len(draws) if independent else 1)
    assert found.adversarial == ((last - 0.5 + 1) / 2 if random else last - 0.5)
    assert found.natural == ((last - 0.5 + 1) / 2 if independent else last - 0.5)


@pytest.mark.parametrize(
    ("protocol", "model", "total"),
    [
        (PAPER, "deq_pgd_at_base", 203),
        (PAPER, "deq_trades_base", 239),
        (RELEASE, "deq_pgd_at_base", 237),
        (RELEASE, "deq_trades_base", 279),
    ],
)
def test_the_steps_of_the_paper_cost_what_its_documents_say(protocol: str, model: str, total: int) -> None:
    config = full(protocol)
    assert formulas.training_step(config, model, formulas.drawn(config, model)).total == total


def test_a_pretraining_step_and_its_validation() -> None:
    config = experiment(PAPER)
    plan, network = plan_of(config, vocabulary.TRUNK), fresh(config)
    assert one_step(config, vocabulary.TRUNK, step=0) == formulas.pretraining_step(config)
    found = counted(network, lambda: plan.validate(network), count=tiny.VALIDATION)
    assert_equal(found, formulas.pretraining_validation(config))


@pytest.mark.parametrize("gradient", GRADIENTS, ids=lambda gradient: gradient["name"])
@pytest.mark.parametrize("model", one_in(2, vocabulary.DEQS))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_validation(protocol: str, model: str, gradient: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"gradient": gradient, "batch_size": 100}  # one batch: its random states are all there are
    config = experiment(protocol, training=training, selection={"attack": {"steps": 5}}, pretrain={"steps": 5})
    plan, network, read = plan_of(config, model), fresh(config), list[int]()
    solve = DEQForward.solve

    def spied(self: DEQForward, model: DEQClassifier, fn: Any, x: Tensor, state: StateChoice) -> Tensor:
        read.append(state.steps)
        return solve(self, model, fn, x, state)

    monkeypatch.setattr(DEQForward, "solve", spied)
    split = tiny.VALIDATION if config.selection.split == "validation" else tiny.TEST
    found = counted(network, lambda: plan.validate(network), count=split)
    assert len(read) == 1 + 5 + 1
    assert_equal(found, formulas.validation(config, model, state=sum(read[1:-1]) / 5))
