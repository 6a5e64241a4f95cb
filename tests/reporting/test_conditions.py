"""What makes a run comparable to the paper, and what must be said where it is not."""

from typing import Any

import pytest

from deqpipe.reporting import conditions
from tests.reporting import fabricate

FULL = ("config.yaml",)


def test_the_full_configuration_is_the_papers_experiment() -> None:
    config = fabricate.config(base=FULL)
    assert conditions.differences(config) == ()
    assert conditions.comparable(config)
    assert conditions.architecture(config, "baseline") == "DEQ-Large"
    assert conditions.architecture(config, "ResNet") == "ResNet-18"
    assert "144 attacks" in " ".join(conditions.setup(config, seed=0))


@pytest.mark.parametrize(
    "overlay",
    [
        {"data": {"source": "digits"}},
        {"data": {"source": "folder"}},
        {"evaluation": {"images": 9999}},
        {"training": {"epochs": 209}},
        {"attack": {"pgd": {"steps": 9}}},
        {"attack": {"grid": {"steps": [1, 3, 5]}}},
        {"attack": {"grid": {"damping": [0.5]}}},
        {"model": {"channels": [32, 64, 128, 128]}},
        {"threat_model": {"epsilon_255": 4}},
        {"resnet": {"layers": [1, 1, 1, 1]}},
    ],
)
def test_any_reduction_makes_a_run_not_comparable_and_is_listed(overlay: dict[str, Any]) -> None:
    config = fabricate.config(overlay, base=FULL)
    assert not conditions.comparable(config)
    ((what, here, paper),) = conditions.differences(config)
    assert f"{what} {here} (paper {paper})" in " ".join(conditions.against_paper(config))


def test_what_changes_no_result_leaves_a_run_comparable() -> None:
    overlay = {"seeds": [3, 4], "device": "cpu", "evaluation": {"batch_size": 7}, "attack": {"images_per_job": 500}}
    assert conditions.comparable(fabricate.config(overlay, base=FULL))


def test_the_demo_lists_what_it_reduces() -> None:
    config = fabricate.config()
    listed = {what: (here, paper) for what, here, paper in conditions.differences(config)}
    assert listed["data"] == ("digits", "cifar10")
    assert listed["test images"] == (str(config.evaluation.images), "10,000")
    assert listed["unroll steps K_a"] == ("1, 3, 5, 7, 9", "1 to 9")
    assert conditions.architecture(config, "+ Sec. 3.2") == "small DEQ"
    assert conditions.architecture(config, "ResNet") == "ResNet-10"
    assert "no difference is computed" in conditions.against_paper(config)[1]
