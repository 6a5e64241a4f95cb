"""Every key that the protocols set changes what is computed; tests/training/test_protocols has those of training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.config import PROTOCOLS
from tests.evaluation.test_predict import Arrays, model_file, overlay, predict
from tests.sampling import one_in

__all__ = ["model_file", "predict"]  # fixtures
Predict = Callable[..., Arrays]

# The key, what has to hold for it to matter on this model, the defence, and an array that it changes.
JUDGED: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "solver.returned": ({}, "none", "final_logits"),
    "solver.tolerance": ({"tolerance": 0.5}, "none", "state_logits"),  # 1e-3 is not reached on random weights
    "solver.scope": ({"tolerance": 0.5}, "none", "state_logits"),
    "attack.unroll.lead_step": ({}, "none", "gradient_2_3_0.5"),
    "evaluation.final_unroll_steps": ({}, "none", "final_logits"),
    "entropy.resolve": ({}, "entropy", "state_logits"),
    "entropy.last_update": ({}, "entropy", "state_logits"),
    "entropy.state": ({}, "entropy", "state_logits"),
    "entropy.final_input": ({}, "entropy", "final_logits"),
}
ELSEWHERE: Mapping[str, str] = {
    "evaluation.batch_size": "changes results where images are coupled: test_predict, test_jobs",
    "early_state.mode": "test_jobs: the early state under release is the last one",
    "attack.pgd.clamp_start": "tests/attack/test_pgd and test_jobs: the attack under release, written out",
    "autoattack.mode": "test_library: which images go on",
    "autoattack.keep": "tests/attack/test_autoattack and test_library",
    "autoattack.restarts": "tests/attack/test_autoattack: as often as the library",
}
TRAINING = ("training.", "random_state.", "selection.")


def test_every_key_of_the_protocols_has_its_test() -> None:
    rest = {key for key in PROTOCOLS["paper"] if not key.startswith(TRAINING)}
    assert rest == {*JUDGED, *ELSEWHERE}


@pytest.mark.parametrize("key", one_in(3, JUDGED))
def test_the_two_values_of_a_key_give_different_results(predict: Predict, tmp_path: Path, key: str) -> None:
    solver, defence, array = JUDGED[key]
    name = key.rsplit(".", 1)[-1]

    def run(protocol: str) -> np.ndarray:
        value = solver[name] if name in solver and protocol == "release" else PROTOCOLS[protocol][key]
        values: dict[str, Any] = {
            "solver": {**solver, "scope": "sample"},
            "attack": {},
            "evaluation": {},
            "entropy": {},
        }
        node = values
        for section in key.split(".")[:-1]:
            node = node.setdefault(section, {})
        node[name] = value
        config = overlay(tmp_path, values)
        return predict(*config, "--defence", defence, "--surrogate", "2,3,0.5")[array]

    paper, release = run("paper"), run("release")
    assert paper.shape != release.shape or not np.allclose(paper, release, rtol=1e-6)
