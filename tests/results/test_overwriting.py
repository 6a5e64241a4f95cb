"""Results of another configuration where a run would write."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from deqpipe import config
from deqpipe.errors import UserError
from deqpipe.results import overwriting

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config.yaml", ROOT / "config" / "demo.yaml"]


def demo(results: Path, over: Mapping[str, object] | None = None) -> config.Config:
    """The demo with its results elsewhere, and something changed."""
    settings = config.merge({"pathvars": {"results": str(results)}}, over or {})
    return config.parse(config.read(FILES, over=settings))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of the demo's configuration, with one model."""
    (tmp_path / "config.yaml").write_text(json.dumps(demo(tmp_path).model_dump(mode="json")))
    (tmp_path / "models/deq_pretrain/seed0").mkdir(parents=True)
    (tmp_path / "models/deq_pretrain/seed0/best.safetensors").touch()
    return tmp_path


def test_the_same_configuration_and_other_ways_to_compute_it_replace_nothing(results: Path) -> None:
    assert overwriting.check(demo(results)) is None
    assert overwriting.check(demo(results, {"device": "cpu", "evaluation": {"batch_size": 7}})) is None


def test_a_new_folder_has_nothing_to_replace(tmp_path: Path) -> None:
    assert overwriting.check(demo(tmp_path / "new")) is None


def test_changed_keys_are_named_with_both_values(results: Path) -> None:
    told = overwriting.check(demo(results, {"threat_model": {"epsilon_255": 30}, "seeds": [1]}))
    assert told is not None
    assert "holds results of another configuration: seeds [0] there, [1] now, threat_model.epsilon_255 38" in told
    assert "set pathvars.results to another folder" in told


def test_of_many_changed_keys_some_are_named(results: Path) -> None:
    told = overwriting.check(demo(results, {"protocol": "release"}))
    assert told is not None
    assert told.count(" now") == 6
    assert " more. What depends on that" in told


OTHERS = [
    {"data": {"source": "cifar10", "root": "data", "validation": 100, "augment": "none"}},
    {"model": {"channels": [8, 24]}},
    {"model": {"expansion": 3}},
]


@pytest.mark.parametrize("other", OTHERS, ids=["images", "scales", "expansion"])
def test_another_experiment_is_refused_where_models_would_be_lost(results: Path, other: Mapping[str, object]) -> None:
    with pytest.raises(UserError, match=r"holds models of another experiment .*: give this one a folder of its own"):
        overwriting.check(demo(results, other))
    (results / "models/deq_pretrain/seed0/best.safetensors").unlink()
    assert overwriting.check(demo(results, other)) is not None
    (results / "config.yaml").unlink()
    assert overwriting.check(demo(results, other)) is None


def test_keys_that_an_older_version_did_not_have_are_no_difference(results: Path) -> None:
    settings = json.loads((results / "config.yaml").read_text())
    del settings["precision"]
    (results / "config.yaml").write_text(json.dumps(settings | {"former": 1}))
    assert overwriting.check(demo(results)) is None
