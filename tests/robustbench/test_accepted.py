"""What RobustBench does not take is refused with the reason, and what it takes is described as it wants it."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.robustbench import hand_in
from tests.robustbench.hand_in import NAME
from tests.tiny import Trained

FIELDS = {
    "link": str, "name": str, "authors": str, "additional_data": bool, "number_forward_passes": int, "dataset": str,
    "venue": str, "architecture": str, "eps": str, "footnote": str,
}  # fmt: skip
"""Of RobustBench's model_info, with the types that all its files have."""
DECISIONS: Mapping[str, tuple[dict[str, Any], tuple[object, ...], str]] = {
    "Sec. 3.2": ({}, ("--defence", "entropy"), "optimises the input at test time (Sec. 3.2)"),
    "its control": ({}, ("--defence", "entropy_restart_only"), "is another solve than the plain one"),
    "a longer solve": ({}, ("--defence", "longer_solve"), "is another solve than the plain one"),
    "several networks": ({}, ("--defence", "ensemble"), "the decision of several networks together"),
    "a coupled solve": ({"solver": {"scope": "batch"}}, (), "solver.scope batch couples the images of a batch"),
    "a coupled choice": (
        {"solver": {"returned": "lowest_batch"}}, ("--state", "final"), "solver.returned lowest_batch couples",
    ),
    "rounded": ({"precision": "bf16"}, (), "precision is bf16, but the exported network computes in fp32"),
    "no such state": ({}, ("--state", 9), "state is 9, but must be 1 to 4, or final"),
    "state 0": ({}, ("--state", 0), "'0' is not a positive whole number"),
    "no name": ({}, ("--name", "../evil"), "'../evil' is no name of letters"),
}  # fmt: skip


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    """The one line of a refusal that leaves nothing behind."""
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert tiny.run("export-robustbench", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
    return err


@pytest.mark.parametrize(("changes", "options", "reason"), DECISIONS.values(), ids=DECISIONS)
def test_a_decision_that_it_does_not_take_is_refused_with_the_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: tuple[object, ...],
    reason: str,
) -> None:
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, changes)
    arguments = (source, tmp_path / "out", "--configuration", configuration, "--state", 2, *options)
    assert reason in refusal(capsys, tmp_path, *arguments)


def test_early_states_of_a_coupled_choice_are_taken(tmp_path: Path) -> None:
    """Only z* is chosen by the batch; z^[i] is not."""
    source = hand_in.write_deq(tmp_path)
    configuration = hand_in.configured(tmp_path, {"solver": {"returned": "lowest_batch"}})
    options = ("--configuration", configuration, "--state", 2)
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0


def test_logits_without_gradient_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, configuration = hand_in.write_deq(tmp_path, zero=True), hand_in.configured(tmp_path, {})
    line = refusal(capsys, tmp_path, source, tmp_path / "out", "--configuration", configuration, "--state", 2)
    assert "the logits' gradient to the images is 0" in line


def test_folders_files_and_images_that_are_wrong_are_named(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    usual = ("--configuration", configuration, "--state", 2)
    assert "exists: name a new one" in refusal(capsys, tmp_path, source, tmp_path, *usual)
    assert "does not exist" in refusal(capsys, tmp_path, tmp_path / "none", tmp_path / "out", *usual)
    assert "no early state of" in refusal(capsys, tmp_path, source, tmp_path / "out")
    out = tmp_path / "out"
    line = refusal(capsys, tmp_path, source, out, *usual, "--measure", 3, "--data", tmp_path / "no.npz")
    assert "no.npz is missing" in line
    line = refusal(capsys, tmp_path, trained.file("deq_pgd_at_base"), out, "--state", 2)
    assert "was trained with solver name broyden" in line
    assert "name the run's config.yaml with --configuration" in line
    line = refusal(
        capsys, tmp_path, trained.file("resnet18_pgd_at"), out, "--configuration", configuration, "--state", 1
    )
    assert "is a network without states: it has neither --state nor --defence" in line


def test_model_info_has_the_fields_of_robustbench(tmp_path: Path) -> None:
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    options = ("--configuration", configuration, "--state", 3, "--name", NAME)
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0
    (file,) = (tmp_path / "out").glob("model_info/*/*/*.json")
    assert file.relative_to(tmp_path / "out") == Path("model_info/folder_of_images/Linf", f"{NAME}.json")
    info = json.loads(file.read_text())
    assert {key: type(info[key]) for key in FIELDS} == FIELDS
    assert {key: info[key] for key in info.keys() - FIELDS} == {
        "clean_acc": None, "reported": None, "autoattack_acc": None
    }  # fmt: skip
    assert info["eps"] == "20/255"
    assert "Reads state 3 of a Broyden solve of 4 steps: one forward pass evaluates f 3 times" in info["footnote"]
    assert "not measured yet" in (tmp_path / "out" / "new-model.md").read_text()


def test_a_best_known_accuracy_is_there_only_with_a_number(tmp_path: Path) -> None:
    """RobustBench's tables take every `external` for a number."""
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    options = ("--configuration", configuration, "--state", 3, "--external", 41.5, "--reported", 50)
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0
    (file,) = (tmp_path / "out").glob("model_info/*/*/*.json")
    info = json.loads(file.read_text())
    assert (info["external"], info["reported"]) == ("41.50", "50.00")
    assert "unreliable" not in info


LOADED_BY_ROBUSTBENCH = """
    import json, sys
    import pyautoattack, pyautoattack.state
    sys.modules["deqpipe"] = None  # whoever imports it now fails
    sys.modules.setdefault("autoattack", pyautoattack)  # its name in robustbench 1.1.1, which asks for pyautoattack
    sys.modules.setdefault("autoattack.state", pyautoattack.state)
    import torch
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
    from robustbench.utils import clean_accuracy, get_leaderboard_latex, list_available_models, load_model

    sys.path.insert(0, ".")
    module = __import__("NAME")
    models = model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf]
    models["NAME"] = {"model": module.NAME, "gdrive_id": "is there already"}
    network = load_model("NAME", model_dir="models", dataset="cifar10", threat_model="Linf")
    x = torch.load("x.pt")
    torch.save(network(x).detach(), "logits.pt")
    assert clean_accuracy(network, x, network(x).argmax(1)) == 1
    list_available_models()
    print(get_leaderboard_latex("cifar10", "Linf"))
"""


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("robustbench", "timm", "gdown", "pkg_resources")),
    reason="robustbench is not installed (docs/robustbench.md)",
)
def test_robustbench_itself_loads_the_network_and_shows_its_accuracies(tmp_path: Path) -> None:
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    out = tmp_path / "out"
    options = ("--configuration", configuration, "--state", 3, "--name", NAME)
    assert tiny.run("export-robustbench", source, out, *options) == 0
    x = hand_in.pictures(6)
    torch.save(x, out / "x.pt")
    weights = out / "models" / "cifar10" / "Linf" / f"{NAME}.pt"
    weights.parent.mkdir(parents=True)
    (out / f"{NAME}.pt").rename(weights)
    (file,) = out.glob("model_info/*/*/*.json")
    info = json.loads(file.read_text()) | {"dataset": "cifar10", "clean_acc": "81.25", "autoattack_acc": "43.21"}
    leaderboard = out / "model_info" / "cifar10" / "Linf" / f"{NAME}.json"
    leaderboard.parent.mkdir(parents=True)
    leaderboard.write_text(json.dumps(info))
    script = textwrap.dedent(LOADED_BY_ROBUSTBENCH).replace("NAME", NAME)
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    shown = subprocess.run(
        [sys.executable, "-c", script],
        cwd=out,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    ours = hand_in.loaded(source, configuration).logits(x, state=3)
    assert torch.allclose(torch.load(out / "logits.pt"), ours, rtol=1e-6, atol=1e-6)
    assert "<sub>81.25%</sub> | <sub>43.21%</sub>" in shown  # the table of available models
    assert "& 81.25 & 43.21 & N &" in shown  # the leaderboard, which takes AutoAttack's where there is no `external`


def test_the_script_runs_where_deqpipe_is_not_installed(tmp_path: Path) -> None:
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    options = ("--configuration", configuration, "--state", 2, "--name", NAME)
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0
    x = hand_in.pictures(6)
    ours = hand_in.loaded(source, configuration).logits(x, state=2).argmax(1)
    labels = ours.where(torch.arange(6) > 1, (ours + 1) % 5)  # of six images four are right
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=labels.numpy())
    script = "import runpy, sys; sys.modules['deqpipe'] = None; runpy.run_path('reproduce.py', run_name='__main__')"
    command = [sys.executable, "-c", script, "--device", "cpu", "--attacks", "apgd-ce", "--data"]
    runs = [
        subprocess.run([*command, file], cwd=tmp_path / "out", capture_output=True, text=True, timeout=120, check=False)
        for file in (str(tmp_path / "images.npz"), str(tmp_path / "none.npz"))
    ]
    assert runs[0].returncode == 0, runs[0].stderr
    assert "clean: 4 of 6 images right" in runs[0].stdout
    assert re.search(r"apgd-ce: [0-4] left", runs[0].stdout)
    assert "compared with nothing" in runs[0].stdout
    assert (runs[1].returncode, runs[1].stderr) == (2, f"reproduce.py: {tmp_path / 'none.npz'} is missing\n")
