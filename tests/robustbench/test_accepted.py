"""What RobustBench does not take is refused with the reason, and what it takes is described as it wants it."""

import json
import re
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deqpipe.errors import UserError
from deqpipe.results import early_states
from deqpipe.results.early_states import EarlyState
from deqpipe.robustbench import contents
from deqpipe.robustbench.decision import refuse_without_gradient
from tests import tiny
from tests.limits import limited
from tests.robustbench import environments, hand_in
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
    issue = (tmp_path / "out" / "new-model.md").read_text()
    assert issue.startswith(f"[New Model] {NAME}\n")
    assert issue.count("not measured yet") == 2
    for field in ("name", "link", "authors", "architecture", "eps", "footnote"):
        assert info[field] in issue
    assert "**Additional data**: false" in issue
    assert f": {NAME}.pt (to be uploaded), {NAME}.py, reproduce.py" in issue
    assert "$" not in issue


def test_what_a_person_says_is_in_the_issue_as_it_is() -> None:
    said = dict.fromkeys(("name", "link", "authors", "architecture", "eps", "footnote"), "$model costs $5")
    text = contents.issue(said | {"clean_acc": "80.00", "autoattack_acc": "40.00", "additional_data": True}, "a")
    assert text.count("$model costs $5") == len(said)
    assert "**Clean accuracy**: 80.00" in text


def test_a_best_known_accuracy_is_there_only_with_a_number(tmp_path: Path) -> None:
    """RobustBench's tables take every `external` for a number."""
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    options = ("--configuration", configuration, "--state", 3, "--external", 41.5, "--reported", 50)
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0
    (file,) = (tmp_path / "out").glob("model_info/*/*/*.json")
    info = json.loads(file.read_text())
    assert (info["external"], info["reported"]) == ("41.50", "50.00")
    assert "unreliable" not in info


def test_what_only_the_sender_knows_is_in_model_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converted = {"import": {"form": "checkpoint"}}
    source = hand_in.write_deq(tmp_path, dataset="CIFAR-10", provenance=converted)
    options = ("--state", 1, "--additional-data", "--footnote", "Left 41.50 % by Someone's attack.")
    capsys.readouterr()
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0
    assert "rehearsal" not in capsys.readouterr().out
    (file,) = (tmp_path / "out").glob("model_info/*/*/*.json")
    info = json.loads(file.read_text())
    assert file.relative_to(tmp_path / "out") == Path("model_info/cifar10/Linf/Yang2023Improving.json")
    assert (info["dataset"], info["eps"], info["additional_data"]) == ("cifar10", "8/255", True)
    assert "Converted from a checkpoint of the authors' code." in info["footnote"]
    assert info["footnote"].endswith(" Left 41.50 % by Someone's attack.")


def test_a_lowest_residual_costs_an_evaluation_more(tmp_path: Path) -> None:
    source = hand_in.write_deq(tmp_path)
    for returned, evaluations in (("last", 6), ("lowest_sample", 7)):  # 4 steps and 2 of the unroll
        configuration = hand_in.configured(tmp_path, {"solver": {"returned": returned}})
        options = ("--configuration", configuration, "--state", "final")
        assert tiny.run("export-robustbench", source, tmp_path / returned, *options) == 0
        (file,) = (tmp_path / returned).glob("model_info/*/*/*.json")
        words = f"the final state of a Broyden solve of 4 steps: one forward pass evaluates f {evaluations} times"
        assert words in json.loads(file.read_text())["footnote"]


def test_the_state_is_the_one_that_was_chosen_for_the_undefended_decision(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    file = results / "models" / "deq_pgd_at_base" / "seed0" / "best.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(trained.file("deq_pgd_at_base").read_bytes())
    hand_in.configured(results, {})
    chosen = {"plain": EarlyState(3, (0.1,) * 4, 0.1, 9), "entropy": EarlyState(1, (0.1,) * 4, 0.1, 9)}
    early_states.write(results / "select" / "deq_pgd_at_base" / "seed0.json", chosen, tiny.chosen_on(file))
    capsys.readouterr()
    assert tiny.run("export-robustbench", file, tmp_path / "out") == 0
    assert "decides at state 3 of a Broyden solve of 4 steps" in capsys.readouterr().out


def test_settings_that_nobody_chose_must_be_those_of_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {"spec": {"config": {"threat_model": {"epsilon_255": 20.0}}}}
    line = refusal(capsys, tmp_path, hand_in.write_deq(tmp_path, provenance=trained), tmp_path / "out", "--state", 1)
    assert "was trained with threat_model epsilon_255 20.0, but would be exported with epsilon_255 8" in line


@pytest.mark.parametrize("slope", [0.0, torch.inf, torch.nan])
def test_a_gradient_that_is_no_use_is_refused(slope: float) -> None:
    class Network(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([slope * x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1) * (slope != 0)

    with pytest.raises(UserError, match="gradient to the images is"):
        refuse_without_gradient(Network(), (3, 4, 4))


@pytest.mark.parametrize("size", [0, 1_000, 40_000])
def test_a_disk_that_does_not_take_the_files_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    """Of the larger sizes the module fits, and the weights do not."""
    source, configuration = hand_in.write_deq(tmp_path, scales=4), hand_in.configured(tmp_path, {})
    arguments = (source, tmp_path / "new" / "out", "--configuration", configuration, "--state", 2)
    with limited(size):
        line = refusal(capsys, tmp_path, *arguments)
    assert f"{tmp_path}/new/out cannot be written: File too large: " in line


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    options = ("--configuration", configuration, "--state", 2)
    assert "/proc/out cannot be written: " in refusal(capsys, tmp_path, source, Path("/proc/out"), *options)
    beneath = source / "out"
    assert f"{beneath} cannot be written: " in refusal(capsys, tmp_path, source, beneath, *options)


LOADED_BY_ROBUSTBENCH = """
    import json, sys
    from importlib.util import find_spec
    import pyautoattack, pyautoattack.state
    assert find_spec("deqpipe") is None
    if find_spec("autoattack") is None:  # which robustbench 1.1.1 imports, but it asks for pyautoattack
        sys.modules["autoattack"], sys.modules["autoattack.state"] = pyautoattack, pyautoattack.state
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


@pytest.fixture(scope="module")
def robustbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with robustbench."""
    python = environments.with_robustbench(tmp_path_factory.mktemp("robustbench"))
    return pytest.skip(python) if isinstance(python, str) else python


@pytest.mark.slow
def test_robustbench_itself_loads_the_network_and_shows_its_accuracies(tmp_path: Path, robustbench: Path) -> None:
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
    shown = run([robustbench, "-I", "-W", "ignore", "-c", script], out)
    assert shown.returncode == 0, shown.stderr
    ours = hand_in.loaded(source, configuration).logits(x, state=3)
    assert torch.allclose(torch.load(out / "logits.pt"), ours, rtol=1e-6, atol=1e-6)
    assert "<sub>81.25%</sub> | <sub>43.21%</sub>" in shown.stdout  # the table of available models
    assert "& 81.25 & 43.21 & N &" in shown.stdout  # the leaderboard, which takes AutoAttack's without an `external`


def run(command: Sequence[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder."""
    line = [str(part) for part in command]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=500, check=False)


def test_the_script_runs_where_deqpipe_is_not_installed(tmp_path: Path) -> None:
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    options = ("--configuration", configuration, "--state", 2, "--name", NAME)
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0
    x = hand_in.pictures(6)
    ours = hand_in.loaded(source, configuration).logits(x, state=2).argmax(1)
    labels = ours.where(torch.arange(6) > 1, (ours + 1) % 5)  # of six images four are right
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=labels.numpy())
    python = environments.without_deqpipe(tmp_path / "environment")
    command = (python, "-I", "reproduce.py", "--device", "cpu", "--attacks", "apgd-ce", "--data")
    measured = run([*command, tmp_path / "images.npz"], tmp_path / "out")
    assert measured.returncode == 0, measured.stderr
    assert "clean: 4 of 6 images right" in measured.stdout
    assert re.search(r"apgd-ce: [0-4] left", measured.stdout)
    assert "compared with nothing" in measured.stdout
