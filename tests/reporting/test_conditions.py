"""What makes a run comparable to the paper, and what must be said where it is not."""

from collections.abc import Sequence
from typing import Any

import pytest

from deqpipe.config import PROTOCOLS, read_yaml
from deqpipe.reporting import conditions
from deqpipe.reporting.paper import experiment
from deqpipe.reporting.paper.settings import SETTINGS
from tests.reporting import fabricate

FULL = ("config.yaml",)
UNLISTED = {
    "pathvars.results", "pathvars.logs", "pathvars.state", "attack.images_per_job", "evaluation.batch_size",
    "statistics.resamples", "autoattack.batch_size", "autoattack.images_per_job", "figures.jacobian",
    "timing.batch_size", "timing.warmup", "timing.repeats",
    "selection.first_epoch",  # the paper's value
    "suite.images", "suite.iterations", "suite.restarts", "suite.targets", "suite.long", "suite.queries",
    "suite.decision_queries", "suite.static", "suite.radii", "suite.radius_images",  # Table 11 says them
}  # fmt: skip


def leaves(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of a config file."""
    found = []
    for key, value in settings.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found


def test_the_full_configuration_is_the_papers_experiment() -> None:
    config = fabricate.config(base=FULL)
    assert conditions.differences(config) == ()
    assert conditions.comparable(config)
    assert conditions.architecture(config, "deq_trades_base") == "DEQ-Large"
    assert conditions.architecture(config, "resnet18_trades") == "ResNet-18"
    assert "144 attacks" in " ".join(conditions.setup(config, seed=0))


@pytest.mark.parametrize(
    "overlay",
    [
        {"data": {"source": "folder"}},
        {"evaluation": {"images": 9999}},
        {"training": {"epochs": 209}},
        {"attack": {"pgd": {"steps": 9}}},
        {"attack": {"grid": {"steps": [1, 3, 5]}}},
        {"attack": {"grid": {"damping": [0.5]}}},
        {"model": {"channels": [32, 64, 128, 128]}},
        {"threat_model": {"epsilon_255": 4}},
        {"resnet": {"layers": [1, 1, 1, 1]}},
        {"resnet": {"training": {"batch_size": 64}}},
        {"resnet": {"training": {"milestones": []}}},
        {"data": {"validation": 100}},
        {"precision": "tf32"},
        {"jacobian": {"frequency": 0.1}},
        {"jacobian": {"stop_epoch": 9}},
        {"selection": {"attack": {"step_size_255": 9.5}}},
        {"selection": {"first_epoch": 20}},
        {"training": {"betas": [0.9, 0.99]}},
        {"training": {"unroll": {"lead_step": True}}},
        {"random_state": {"in_attack": False}},
        {"early_state": {"mode": "last"}},
        {"evaluation": {"final_unroll_steps": 4}},
        {"entropy": {"step": "raw"}},
        {"solver": {"returned": "lowest_sample"}},
        {"solver": {"tolerance": 0.001}},
        {"random_state": {"pick": "prefix_lowest"}},
        {"selection": {"attack_random_state": True}},
        {"selection": {"freeze_fooled": True}},
        {"entropy": {"resolve": "quasi_newton"}},
        {"entropy": {"state": "lowest"}},
        {"autoattack": {"mode": "individual"}},
        {"autoattack": {"attacks": ["apgd_ce", "square"]}},
        {"autoattack": {"square_images": 10}},
        {"entropy_sweep": {"points": 3}},
        {"entropy_sweep": {"input_steps": [1, 5]}},
    ],
)
def test_any_reduction_makes_a_run_not_comparable_and_is_listed(overlay: dict[str, Any]) -> None:
    config = fabricate.config(overlay, base=FULL)
    assert not conditions.comparable(config)
    ((what, here, experiment),) = conditions.differences(config)
    assert f"{what}: {here} ({experiment})" in " ".join(conditions.against_paper(config))


def test_what_changes_no_result_leaves_a_run_comparable() -> None:
    overlay = {
        "seeds": [3, 4], "device": "cpu", "evaluation": {"batch_size": 7},
        "data": {"root": "elsewhere"}, "statistics": {"resamples": 100}, "entropy": {"controls": False},
        "autoattack": {"batch_size": 100, "images_per_job": 200}, "timing": {"batch_size": 8, "repeats": 5},
        "attack": {"images_per_job": 500, "transfer": False, "in_loop_points": 2},
        "figures": {"jacobian": True}, "jacobian": {"other_weight": {"pgd_at": 0.4}},
    }  # fmt: skip
    assert conditions.comparable(fabricate.config(overlay, base=FULL))


@pytest.mark.parametrize(
    ("overlay", "names"),
    [
        ({"solver": {"name": "anderson", "memory": 2}}, ["solver", "memory of Anderson mixing"]),
        (
            {"training": {"gradient": {"name": "exact", "steps": 1}}},
            ["training gradient", "solver steps of the exact training gradient"],
        ),
        ({"early_state": {"mode": "fixed", "index": 3}}, ["choice of the early state", "early state"]),
        (
            {"figures": {"jacobian": True}, "jacobian": {"other_weight": {"trades": 1.0}}},
            ["other Jacobian weight with TRADES"],
        ),
        (
            {"solver": {"returned": "lowest_batch"}, "evaluation": {"batch_size": 96}},
            ["solver.returned", "images that are evaluated together"],
        ),
        (
            {"solver": {"scope": "batch"}, "evaluation": {"batch_size": 96}},
            ["solver.scope", "images that are evaluated together"],
        ),
    ],
)
def test_a_key_counts_where_another_one_puts_it_to_use(overlay: dict[str, Any], names: list[str]) -> None:
    assert [what for what, _, _ in conditions.differences(fabricate.config(overlay, base=FULL))] == names


def test_the_papers_settings_are_those_of_the_full_configuration() -> None:
    assert dict(conditions.settings(fabricate.config(base=FULL))) == dict(SETTINGS)
    of_other_variants = {"solver.memory", "training.gradient.steps", "early_state.index"}
    assert set(experiment.NAMES) - set(SETTINGS) == of_other_variants
    assert len(set(experiment.NAMES.values())) == len(experiment.NAMES)


def test_the_demo_lists_what_it_reduces() -> None:
    config = fabricate.config()
    listed = {what: (here, experiment) for what, here, experiment in conditions.differences(config)}
    assert listed["data"] == ("digits", "cifar10")
    assert listed["test images"] == (str(config.evaluation.images), "10,000")
    assert listed["unroll steps K_a"] == ("1, 5, 9", "1 to 9")
    overlay = read_yaml(fabricate.ROOT / "config" / "demo.yaml")
    assert len(listed) == len([key for key in leaves(overlay) if key not in UNLISTED])
    assert conditions.architecture(config, "deq_trades_base") == "small DEQ"
    assert conditions.architecture(config, "resnet18_trades") == "ResNet-10"
    assert "no difference is computed" in conditions.against_paper(config)[1]


def said_of_the_protocol(overlay: dict[str, Any], *, base: Sequence[str] = FULL) -> tuple[str, ...]:
    """What stands between the data and the threat model."""
    data, *said, threat, _, _ = conditions.setup(fabricate.config(overlay, base=base), seed=0)
    assert data.startswith("Data:")
    assert threat.startswith("Threat model:")
    return tuple(said)


PAPER = "Protocol paper: where the paper and its authors' code differ, the paper's text holds"
RELEASE = "Protocol release: where the paper and its authors' code differ, the code holds"
MEET = "The solver looks at whole batches: the images of a batch influence each other's results."
LEAK = "Models were selected on the test images (selection.split: test): their accuracies are biased upwards."


@pytest.mark.parametrize(
    ("overlay", "sentences"),
    [
        ({}, [f"{PAPER}."]),
        ({"protocol": "release"}, [f"{RELEASE}.", MEET, LEAK]),
        ({"training": {"unroll": {"lead_step": True}}}, [f"{PAPER}, but for training.unroll.lead_step yes."]),
        ({"solver": {"tolerance": 0.001}}, [f"{PAPER}, but for solver.tolerance 0.001."]),
        ({"selection": {"split": "test"}}, [f"{PAPER}, but for selection.split test.", LEAK]),
        ({"solver": {"scope": "batch"}}, [f"{PAPER}, but for solver.scope batch.", MEET]),
        (
            {"solver": {"returned": "lowest_batch"}, "evaluation": {"batch_size": 96}},
            [f"{PAPER}, but for solver.returned lowest_batch, evaluation.batch_size 96.", MEET],
        ),
        ({"evaluation": {"batch_size": 96}}, [f"{PAPER}."]),
        ({"autoattack": {"mode": "individual"}}, [f"{PAPER}, but for autoattack.mode individual."]),
        ({"training": {"epochs": 3000}}, [f"{PAPER}, but for training.epochs 3,000."]),
        (
            {"protocol": "release", "selection": {"split": "validation"}},
            [f"{RELEASE}, but for selection.split validation.", MEET],
        ),
        (
            {"protocol": "release", "attack": {"images_per_job": 20}, "evaluation": {"batch_size": 10}},
            [f"{RELEASE}, but for evaluation.batch_size 10.", MEET, LEAK],
        ),
        (
            {"protocol": "release", "solver": {"returned": "last", "scope": "sample"}},
            [f"{RELEASE}, but for solver.returned last, solver.scope sample.", LEAK],
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_whose_word_holds_is_said_with_every_exception(overlay: dict[str, Any], sentences: list[str]) -> None:
    assert said_of_the_protocol(overlay) == tuple(sentences)


def test_racing_is_said_and_leaves_a_run_comparable() -> None:
    assert "Racing" not in " ".join(conditions.setup(fabricate.config(base=FULL), seed=0))
    raced = fabricate.config({"racing": {"enabled": True, "images": 1000, "confidence": 0.99}}, base=FULL)
    said = " ".join(conditions.setup(raced, seed=0))
    assert "all attacks face the first 1,000 images" in said
    assert conditions.comparable(raced)


def test_a_setting_that_the_papers_variant_does_not_have_is_listed_as_such() -> None:
    config = fabricate.config({"solver": {"name": "anderson", "memory": 2}}, base=FULL)
    assert conditions.differences(config)[1] == ("memory of Anderson mixing", "2", "no such setting")


def test_the_demo_says_what_it_sets_of_the_protocol() -> None:
    both = ("config.yaml", "config/demo.yaml")
    assert said_of_the_protocol({}, base=both) == (f"{PAPER}, but for training.epochs 11.",)
    (text, *others) = said_of_the_protocol({"protocol": "release"}, base=both)
    size = read_yaml(fabricate.ROOT / "config" / "demo.yaml")["evaluation"]["batch_size"]
    assert text == f"{RELEASE}, but for evaluation.batch_size {size}, training.epochs 11, selection.first_epoch 1."
    assert others == [MEET, LEAK]


def test_release_is_not_comparable_and_lists_every_key_of_the_protocol() -> None:
    config = fabricate.config({"protocol": "release"}, base=FULL)
    names = {experiment.NAMES.get(key, key) for key in PROTOCOLS["release"]}
    assert {what for what, _, _ in conditions.differences(config)} == names
    assert not conditions.comparable(config)
