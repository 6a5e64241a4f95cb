"""A defence is what was declared as one; any other name is an error, and never the undefended model."""

import pytest

from deqpipe import build
from deqpipe.analysis.decision import Decision
from deqpipe.defence.entropy import InputEntropyReduction, RestartedEntropyReduction
from deqpipe.defence.strided import Strided
from deqpipe.dynamics import PlainDynamics
from deqpipe.errors import UserError
from deqpipe.evaluation import evaluated_model
from deqpipe.evaluation.judge import CLASSES
from deqpipe.evaluation.stages import autoattack
from deqpipe.planning import cost, formulas
from deqpipe.settings import Settings
from deqpipe.workflow import specs, vocabulary
from deqpipe.workflow.defences import CONTROLS, DECIDING, DEFENCES, MATCHED, Defence, defence_of, entropy_keys
from deqpipe.workflow.stages import StageName
from tests import tiny

MODEL = "deq_trades_random_states"


def settings() -> Settings:
    config = tiny.settings({"entropy": {"solver_steps": 2}})
    return Settings(specs.build("clean", config, model=MODEL, seed=0)["config"])


def test_a_defence_that_nobody_declared_is_refused_wherever_it_is_named() -> None:
    allowed = r"defence is 'surprise', but must be one of plain, entropy, entropy_zero_steps"
    with pytest.raises(UserError, match=allowed):
        defence_of("surprise")
    with pytest.raises(UserError, match=allowed):
        build.dynamics(settings(), "surprise")
    with pytest.raises(UserError, match=allowed):
        formulas.decision(tiny.settings(), "surprise")
    with pytest.raises(UserError, match="spec has defence 'surprise', but must have one of plain, entropy for"):
        autoattack._defence_of({"model": MODEL, "defence": "surprise"})


def test_a_defence_has_the_dynamics_that_its_value_names() -> None:
    kinds = {name: type(build.dynamics(settings(), name)) for name in DEFENCES}
    assert kinds == {
        "plain": PlainDynamics,
        "entropy": InputEntropyReduction,
        "entropy_zero_steps": PlainDynamics,  # Algorithm 1 without descent steps
        "entropy_restart_only": RestartedEntropyReduction,
        "entropy_one_round": PlainDynamics,  # a single round of the authors' solver
        "longer_solve": Strided,
        "ensemble": PlainDynamics,  # of each of its members
    }


def test_a_defence_of_another_module_is_found_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = Defence("plain", "Sec. 9", build="tests.workflow.test_defences:cut_short")
    monkeypatch.setitem(DEFENCES, "plain", declared)
    assert build.dynamics(settings(), "plain").termination.max_steps == 1
    assert Decision(MODEL, "plain").method == "+ Secs. 9 & 3.3"


def cut_short(settings: Settings, plain: PlainDynamics, defence: Defence) -> PlainDynamics:
    return plain.up_to(1)


def test_a_defence_of_its_own_is_counted_by_its_cost_and_never_as_the_undefended_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny.settings({"entropy": {"controls": False}})
    plain = formulas.decision(config, "plain", CLASSES)
    before = cost.decisions(config, MODEL, wanted=CLASSES).evaluations
    monkeypatch.setitem(
        DEFENCES, "entropy", Defence("entropy", "slow", "tests.workflow.test_defences:cut_short", cost=3.0)
    )
    after = cost.decisions(config, MODEL, wanted=CLASSES).evaluations
    slow, final = formulas.decision(config, "entropy", CLASSES), formulas.final(config)
    assert slow - final == (plain - final) * 3
    assert after == plain + slow != before


def test_a_spec_of_other_decisions_is_refused_where_images_are_judged() -> None:
    evaluated_model._check_decisions({"decisions": ["plain", "entropy"]}, ("plain", "entropy"))
    evaluated_model._check_decisions({}, ("plain", "entropy"))
    with pytest.raises(UserError, match="spec has the decisions plain, but this version has plain, entropy"):
        evaluated_model._check_decisions({"decisions": ["plain"]}, ("plain", "entropy"))


def test_controls_are_those_of_a_defence_that_decides() -> None:
    assert {DEFENCES[name].control_of for name in CONTROLS} <= set(DECIDING)
    assert [*DECIDING, *CONTROLS, *MATCHED] == list(DEFENCES)
    assert vocabulary.MODELS[MODEL].defences == DECIDING
    assert vocabulary.MODELS["resnet18_trades"].defences == ("plain",)


def test_controls_run_without_the_point_of_what_they_control() -> None:
    entropy = tiny.settings({"entropy": {"input_steps": 3, "solver_steps": 2}}).entropy
    assert entropy_keys("plain", entropy, steps=8) is None
    assert entropy_keys("entropy", entropy, steps=8) == entropy
    changed = {name: entropy_keys(name, entropy, steps=8) for name in CONTROLS}
    assert [(keys.input_steps, keys.solver_steps, keys.resolve) for keys in changed.values() if keys] == [
        (0, 2, "alg1"),
        (0, 2, "quasi_newton"),
        (3, 8, "quasi_newton"),
    ]


def test_a_further_defence_marks_what_is_judged_and_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    judging: tuple[StageName, ...] = ("select", "clean", "attack_grid", "attack_in_loop")
    others: tuple[StageName, ...] = ("train_deq",)
    before = {stage: specs.build(stage, tiny.settings(), model=MODEL, seed=0) for stage in (*judging, *others)}
    monkeypatch.setattr(vocabulary, "DECIDING", (*DECIDING, "entropy_one_round"))
    after = {stage: specs.build(stage, tiny.settings(), model=MODEL, seed=0) for stage in (*judging, *others)}
    assert {stage for stage in before if before[stage] != after[stage]} == set(judging)
    resnet = specs.build("clean", tiny.settings(), model="resnet18_trades", seed=0)
    assert resnet["decisions"] == ["plain"]
