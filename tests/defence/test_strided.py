"""An undefended solve that costs as much as Sec. 3.2: its states, what it costs, and who takes notice of it."""

from typing import Any

import pytest
import torch

from deqpipe import build
from deqpipe.attack.suite import Victim
from deqpipe.config import Config
from deqpipe.counts import Evaluations
from deqpipe.defence.strided import Strided, longer
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.evaluation.judge import DEQJudge, at
from deqpipe.planning import formulas
from deqpipe.settings import Settings
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import equal_cost, specs, vocabulary
from deqpipe.workflow.defences import LONGER, PLAIN
from deqpipe.workflow.stages import STAGES
from tests import tiny
from tests.reference.tiny import images, tiny_model

N, K = 3, 4
MODEL = tiny_model(2)
every_solver = pytest.mark.parametrize("solver", [Broyden(room=N), Anderson(3)], ids=["broyden", "anderson"])


def pair(solver: Any, **stops: Any) -> tuple[Dynamics, PlainDynamics]:
    """With every K-th state, and all of them."""
    return (
        longer(PlainDynamics(solver, Termination(N, **stops)), K),
        PlainDynamics(solver, Termination(N * K, **stops)),
    )


@every_solver
@pytest.mark.parametrize("stops", [{}, {"rtol": 1e-2}, {"rtol": 1e-2, "scope": "batch"}], ids=str)
def test_states_are_every_kth_of_the_longer_solve_to_the_last_bit(solver: Any, stops: dict[str, Any]) -> None:
    (strided, whole), x = pair(solver, **stops), images(2)
    found, expected = strided(MODEL, x), whole(MODEL, x)
    assert strided.termination.max_steps == N == len(found.solution.states)
    for n in range(1, N + 1):
        assert torch.equal(found.state(n), expected.state(n * K))
        ended = strided.up_to(n)(MODEL, x, last_residual=False)
        assert torch.equal(ended.state(n), expected.state(n * K))
        assert len(ended.solution.states) == n
    assert torch.equal(found.solution.residuals, expected.solution.residuals[K - 1 :: K])
    assert torch.equal(found.equilibrium, expected.equilibrium)
    assert torch.equal(found.solution.moved[0], expected.solution.moved[:K].any(0))
    assert torch.equal(found.solution.status, expected.solution.status)


@every_solver
def test_states_with_gradient_are_the_same_and_so_is_the_gradient(solver: Any) -> None:
    (strided, whole), x = pair(solver), images(2).requires_grad_()
    found = strided.up_to(2).with_gradient(MODEL, x).state(2)
    expected = whole.up_to(2 * K).with_gradient(MODEL, x).state(2 * K)
    assert torch.equal(found, expected)
    assert torch.equal(found, strided(MODEL, x.detach()).state(2))
    (one,), (other,) = (torch.autograd.grad(z.square().sum(), x) for z in (found, expected))
    assert torch.equal(one, other)
    assert one.any()


def test_once_as_long_is_the_undefended_solve_and_a_stride_must_divide_it() -> None:
    plain = PlainDynamics(Broyden(), Termination(N))
    assert longer(plain, 1) is plain
    assert isinstance(longer(plain, K), Dynamics)
    with pytest.raises(ValueError, match="the stride is 2, but must divide the 3 steps of the solve"):
        Strided(plain, 2)


def test_attacks_see_an_undefended_decision() -> None:
    strided, _ = pair(Broyden())
    assert Victim(MODEL, LinfBall(0.1), strided, N).kind == "plain"


# Its length


def settings(config: Config) -> Settings:
    keys = ("solver", "entropy", "threat_model", "attack.unroll", "evaluation.final_unroll_steps")
    return Settings(specs.pick(config.model_dump(mode="json"), *keys))


@pytest.mark.parametrize(
    ("entropy", "times"),
    [
        ({"resolve": "alg1", "last_update": "resolve", "solver_steps": 2, "input_steps": 10}, 8),  # 8 + 4 (20 + 1)
        ({"resolve": "quasi_newton", "last_update": "dead", "solver_steps": 2, "input_steps": 10}, 8),  # 8 + 3 (20 + 1)
        ({"resolve": "alg1", "last_update": "resolve", "solver_steps": 2, "input_steps": 1}, 2),  # 8 + 4 (2 + 1)
        ({"resolve": "alg1", "last_update": "resolve", "solver_steps": 2, "input_steps": 0}, 1),  # the undefended solve
    ],
)
def test_the_solve_is_as_long_as_sec_32_pays_for(entropy: dict[str, Any], times: int) -> None:
    config = tiny.settings({"solver": {"steps": 8}, "entropy": {"state": "last", **entropy}})
    assert equal_cost.times_as_long(config.entropy, 8) == times
    whole = formulas.decision(config, "entropy", at(8)).total
    assert times <= whole / 8 < 2 * times


def test_what_it_costs_is_what_the_counter_counts() -> None:
    config = tiny.settings({"solver": {"steps": 4, "tolerance": 0.0}, "entropy": {"input_steps": 3}})
    model, told = tiny_model(2).requires_grad_(False).float(), settings(config)
    for state in (2, 4):
        spent = {}
        for defence in ("longer_solve", "entropy"):
            judge = DEQJudge(
                model, build.dynamics(told, defence), defence, build.final_unroll(told), "deq_pgd_at_base"
            ).restricted(at(state))
            before = model.counter.counted
            judge(images(2).float(), torch.tensor([0, 1]))
            spent[defence] = (model.counter.counted - before) * 0.5
            assert spent[defence] == formulas.decision(config, defence, at(state))
    times = equal_cost.times_as_long(config.entropy, 4)
    assert spent["longer_solve"] == Evaluations(4 * times)
    assert times > 1
    assert 4 * times <= spent["entropy"].total < 8 * times


# Who takes notice


def test_the_suite_alone_attacks_it_where_it_is_asked_for() -> None:
    config = tiny.settings({"suite": {"enabled": True, "static": True}})
    without = tiny.settings({"suite": {"enabled": True, "static": False}})
    for model in vocabulary.faces_suite(config):
        asked = vocabulary.suite_decisions(config, model)
        assert (LONGER.name in asked) == vocabulary.MODELS[model].is_deq
        assert tuple(name for name in asked if name != LONGER.name) == vocabulary.suite_decisions(without, model)
    for name in ("clean", "select", "attack_grid", "attack_radius"):
        stage, model = STAGES[name], "deq_pgd_at_base"
        assert LONGER.name not in (*stage.decisions(config, model), *stage.attacked(config, model))
        defence = PLAIN.name if stage.attacked(config, model) else None
        one, other = (specs.build(name, each, model=model, seed=0, defence=defence) for each in (config, without))
        assert one == other
