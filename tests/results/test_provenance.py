import hashlib
import json
from pathlib import Path

import pytest
import torch

import deqpipe
from deqpipe.config import TradesConfig
from deqpipe.counts import Evaluations
from deqpipe.errors import UserError
from deqpipe.machine import device
from deqpipe.results import provenance
from deqpipe.settings import Settings


def test_a_record_names_everything_that_a_result_comes_from(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"content")
    spec = {"stage": "clean", "seed": 7, "config": {}}
    found = provenance.provenance(
        spec, device="a device", inputs={"data": tmp_path / "in"}, seconds=1.23456, evaluations=Evaluations(9, 4, 1)
    )
    assert found["inputs"] == {"data": hashlib.sha256(b"content").hexdigest()}
    assert (found["spec"], found["seed"], found["device"]) == (spec, 7, "a device")
    assert (found["seconds"], found["evaluations"]) == (
        1.235, {"forward": 9, "backward_input": 4, "backward_weights": 1},
    )  # fmt: skip
    assert (
        found["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__ in found["versions"]["torch"]
    )
    assert json.loads(json.dumps(found)) == found


def test_a_record_without_its_evaluations_is_refused() -> None:
    told = provenance.provenance({"stage": "data"}, device="", inputs={}, seconds=0.0, evaluations=Evaluations(3, 2, 1))
    assert provenance.evaluations_of(json.loads(json.dumps(told)), Path("a")) == Evaluations(3, 2, 1)
    for old in ({}, {"f_evaluations": 7}, {"evaluations": 7}):
        with pytest.raises(UserError, match=r"^a does not say how often f was evaluated .*: an older version wrote it"):
            provenance.evaluations_of(old, Path("a"))


def test_a_spec_without_seed_has_none() -> None:
    assert provenance.provenance({"stage": "data"}, device="", inputs={}, seconds=0.0)["seed"] is None


def test_the_code_hash_is_of_the_whole_package() -> None:
    assert Path(deqpipe.__file__).parent == provenance.PACKAGE


def test_the_code_hash_follows_the_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (("a.py", "1"), ("sub/b.py", "2"), ("note.txt", "3")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    hashes = []
    for name, text in (("note.txt", "other"), ("sub/b.py", "2 "), ("sub/c.py", "")):
        hashes.append(provenance.code_hash.__wrapped__())
        (tmp_path / name).write_text(text)
    hashes.append(provenance.code_hash.__wrapped__())
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    assert all(len(text) == 16 for text in hashes)


def test_cuda_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device is cuda, but no CUDA device is available; allowed: auto, cpu"):
        device.choose("cuda")
    assert device.choose("auto") == device.choose("cpu") == torch.device("cpu")


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.choose("auto") == device.choose("cuda") == torch.device("cuda")
    assert device.choose("cpu") == torch.device("cpu")


def test_settings_are_typed_again() -> None:
    settings = Settings({"training.trades": {"inverse_lambda": 6.0, "start_noise": 0.0}, "precision": "fp32"})
    assert settings.section("training.trades", TradesConfig) == TradesConfig(inverse_lambda=6.0, start_noise=0.0)
    assert settings["precision"] == "fp32"
    assert "precision" in settings
    assert "solver" not in settings


def test_settings_that_are_missing_or_wrong_are_named() -> None:
    settings = Settings({"training.trades": {"inverse_lambda": -1.0, "start_noise": 0.0}})
    with pytest.raises(UserError, match="spec lacks the setting precision"):
        settings["precision"]
    with pytest.raises(
        UserError, match=r"spec: training.trades.inverse_lambda is -1.0: input should be greater"
    ) as error:
        settings.section("training.trades", TradesConfig)
    assert "\n" not in str(error.value)
