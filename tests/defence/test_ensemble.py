"""Networks that decide together: what they say, its gradient, what attacks on it cost, and who takes notice of it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from deqpipe.attack.suite import Batch, Victim, run
from deqpipe.config import AttackSuiteConfig
from deqpipe.counts import NO_EVALUATIONS, Evaluations, sum_of
from deqpipe.defence.ensemble import Ensemble, Member, counters
from deqpipe.dynamics import PlainDynamics
from deqpipe.planning import suite_formulas
from deqpipe.seeding import Stream
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import layout, products, specs, vocabulary
from deqpipe.workflow.defences import ENSEMBLE
from deqpipe.workflow.stages import STAGES
from deqpipe.workflow.suite_attacks import against
from tests import tiny
from tests.reference.tiny import CLASSES, images, tiny_model

STATES = (2, 3)
PLAIN = PlainDynamics(Broyden(), Termination(4))
MODELS = [tiny_model(2, seed=seed).requires_grad_(False) for seed in (0, 1)]
TOGETHER = Ensemble([Member(model, PLAIN.up_to(n)) for model, n in zip(MODELS, STATES, strict=True)])
MODEL = "deq_trades_base"


def slowly(x: Tensor, states: tuple[int, ...] = STATES) -> Tensor:
    """Image by image, class by class."""
    found = torch.zeros(len(x), CLASSES, dtype=x.dtype)
    for number in range(len(x)):
        for model, n in zip(MODELS, states, strict=True):
            logits = model.logits(PLAIN(model, x[number : number + 1]).state(n))[0]
            for one in range(CLASSES):
                found[number, one] += logits[one].exp() / logits.exp().sum() / len(MODELS)
    return found.log()


def test_it_says_the_logarithm_of_the_mean_of_its_members_softmax_each_at_its_own_state() -> None:
    x = images(3)
    with torch.no_grad():
        found = TOGETHER(x)
    torch.testing.assert_close(found, slowly(x))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3, dtype=x.dtype))
    assert torch.equal(TOGETHER(x.requires_grad_()), found), "with gradient it says the same, bit for bit"


def test_along_the_way_members_that_have_decided_stay_and_the_decision_is_last() -> None:
    x = images(2)
    along = TOGETHER.along(x)
    for found, states in zip(along, ((1, 1), (2, 2), (2, 3)), strict=True):
        torch.testing.assert_close(found, slowly(x, states))
    assert torch.equal(along[-1], TOGETHER(x))


def test_its_gradient_is_that_of_finite_differences() -> None:
    x, step = images(2).clamp(0.1, 0.9), 1e-6
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    (gradient,) = torch.autograd.grad(TOGETHER(x.requires_grad_())[:, 1].sum(), x)
    with torch.no_grad():
        ahead, behind = (TOGETHER(x + sign * step * direction)[:, 1].sum() for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-5)


def test_an_image_does_not_depend_on_its_batch_mates() -> None:
    x = images(3)
    with torch.no_grad():
        torch.testing.assert_close(TOGETHER(x)[:1], TOGETHER(x[:1]))


def test_one_network_or_networks_of_other_images_or_classes_are_no_ensemble() -> None:
    first = Member(MODELS[0], PLAIN)
    with pytest.raises(ValueError, match="an ensemble has 1 members, but must have at least 2"):
        Ensemble([first])
    with pytest.raises(ValueError, match=r"member 2 of an ensemble has images of shape \(3, 16, 16\) and 5 classes"):
        Ensemble([first, Member(tiny_model(2, size=16), PLAIN)])


def test_every_attack_on_it_takes_what_its_members_would_take_one_by_one() -> None:
    """Within a ball of one point no image falls that is right when clean."""
    suite = AttackSuiteConfig(
        enabled=True, mode="standard", images=2, images_per_job=2, controls=True, static=True, iterations=1,
        restarts=1, targets=1, long=(2,), queries=2, decision_queries=2, radii=(0.0, 1.0), radius_images=2,
    )  # fmt: skip
    config = tiny.settings({"solver": {"tolerance": 0.0}})
    members = [suite_formulas.decided(config, "plain", state) for state in STATES]
    victim = Victim(TOGETHER, LinfBall(0.0), undefended=PLAIN)
    assert victim.kind == "ensemble"
    x = images(2)
    y = victim.logits(x).argmax(1)
    faced = [attack for attack in against(suite, victim.kind) if attack.search != "rays"]
    assert {attack.gradient for attack in faced} == {"decision", "average"}
    for attack in faced:
        before = spent()
        batch = Batch(x, y, range(2), x if attack.warm else None)
        run(attack, victim, batch, stream=Stream(0, "x"), suite=suite)
        each = sum_of(suite_formulas.spent(attack, suite, one, others=CLASSES - 1) for one in members)
        assert spent() - before == each * 2, attack.name


def spent() -> Evaluations:
    assert len(counters(TOGETHER)) == 2
    return sum((counter.counted for counter in counters(TOGETHER)), start=NO_EVALUATIONS)


# Who takes notice

SEVERAL = tiny.settings({"seeds": [0, 2], "suite": {"enabled": True, "static": True}})


def test_it_is_there_for_every_deq_with_several_seeds_and_never_a_decision_of_one() -> None:
    for model in vocabulary.faces_suite(SEVERAL):
        assert vocabulary.ensembles(SEVERAL, model) == ((ENSEMBLE.name,) if model in vocabulary.DEQS else ())
        assert ENSEMBLE.name not in vocabulary.suite_decisions(SEVERAL, model)
    for changes in ({"seeds": [2]}, {"suite": {"static": False}}, {"suite": {"enabled": False}}):
        config = tiny.settings({"seeds": [0, 2], **changes})
        assert not any(layout.files("attack_ensemble", config, model, 0) for model in vocabulary.DEQS)
        assert not any("ensemble" in path for path in layout.asked_for(config))


def test_its_job_belongs_to_no_seed_and_runs_once() -> None:
    spec = specs.build("attack_ensemble", SEVERAL, model=MODEL)
    assert "seed" not in spec
    assert (spec["decisions"], spec["config"]["seeds"]) == (["ensemble"], [0, 2])
    asked = [path for path in layout.asked_for(SEVERAL) if path.startswith("attacks/ensemble/")]
    assert len(asked) == len(vocabulary.DEQS) * len(layout.files("attack_ensemble", SEVERAL, MODEL, 0))
    needed = layout.all_needed(products.TABLES[11].needs(SEVERAL), SEVERAL)
    assert set(asked) <= set(needed)
    assert len(needed) == len(set(needed))
    (path, *_) = asked
    assert layout.job_of(path, SEVERAL) == layout.Job("attack_ensemble", path.split("/")[2])


def test_weights_and_early_states_of_every_seed_and_all_saved_images_cause_it() -> None:
    spec = specs.build("attack_ensemble", SEVERAL, model=MODEL)
    for seed in SEVERAL.seeds:
        for role, made in (
            ("model", specs.build("train_deq", SEVERAL, model=MODEL, seed=seed)),
            ("select", specs.build("select", SEVERAL, model=MODEL, seed=seed)),
        ):
            assert spec["upstream"][f"{role}/seed{seed}"] == specs.fingerprint(made)
    images_of = {role for role in spec["upstream"] if role.count("/") == 2}
    others = specs.build("attack_transferred", SEVERAL, model=MODEL, seed=0)["upstream"]
    assert images_of == {role for role in others if role.count("/") == 2}
    assert len(spec["upstream"]) == 2 * len(SEVERAL.seeds) + len(images_of)


def test_whatever_makes_its_members_again_makes_it_again_and_it_changes_no_other_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = specs.build("attack_ensemble", SEVERAL, model=MODEL)
    without = tiny.settings({"seeds": [0, 2], "suite": {"static": False}})
    for stage in ("attack_suite", "attack_radius"):
        one, other = (specs.build(stage, each, model=MODEL, seed=0, defence="plain") for each in (SEVERAL, without))
        assert one == other
    for stage in ("train_deq", "select", "attack_suite"):
        with monkeypatch.context() as patched:
            patched.setitem(STAGES, stage, replace(STAGES[stage], revision=99))
            assert specs.build("attack_ensemble", SEVERAL.model_copy(), model=MODEL) != before


def test_it_faces_what_an_undefended_decision_faces_but_for_surrogates_of_one_network() -> None:
    suite = SEVERAL.suite
    assert isinstance(suite, AttackSuiteConfig)
    plain, together = ([attack.name for attack in against(suite, kind)] for kind in ("plain", "ensemble"))
    missing = ["unrolled_margin", "unrolled_cross_entropy", "adjoint_margin", "features"]
    assert together == [name for name in plain if name not in missing]
    assert set(missing) < set(plain)
