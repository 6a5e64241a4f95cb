"""Accuracies of a hand-in: by `--measure`, and by its script where deqpipe is not installed."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deqpipe.api import Model
from deqpipe.attack.autoattack import Flags, LibraryAttacks
from deqpipe.config import AttackName
from deqpipe.robustbench.standalone import reproduce
from deqpipe.shapes import Images, Labels
from tests import tiny
from tests.robustbench import environments, hand_in
from tests.robustbench.hand_in import NAME
from tests.tiny import Trained

FILES = {
    f"{NAME}.py", f"{NAME}.pt", "reproduce.py", "new-model.md", "measurement.json",
    "model_info", "model_info/folder_of_images", "model_info/folder_of_images/Linf",
    f"model_info/folder_of_images/Linf/{NAME}.json",
}  # fmt: skip


def measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `--measure` prints of a network whose head reads z^[1] of one scale, on five of six images."""
    source, configuration = hand_in.write_deq(folder, scales=1), hand_in.configured(folder, {})
    x = hand_in.pictures(6)
    labels = hand_in.loaded(source, configuration).logits(x, state=1).argmax(1)
    labels[3] = (labels[3] + 1) % 5
    np.savez(folder / "images.npz", x=x.numpy(), y=labels.numpy())
    options = ("--configuration", configuration, "--state", 1, "--name", NAME, "--data", folder / "images.npz")
    capsys.readouterr()
    assert tiny.run("export-robustbench", source, folder / "out", *options, "--measure", 5, "--device", "cpu") == 0
    return capsys.readouterr().out.splitlines()


def assert_written(folder: Path, printed: Sequence[str], attacks: Sequence[str]) -> None:
    """Model_info, the counts and the issue say what is printed."""
    left = {name: int(re.findall(rf"^{name}: (\d) left$", "\n".join(printed), re.MULTILINE)[0]) for name in attacks}
    robust = f"{20 * min(left.values()):.2f}"
    info = json.loads((folder / "model_info" / "folder_of_images" / "Linf" / f"{NAME}.json").read_text())
    assert (info["clean_acc"], info["autoattack_acc"]) == ("80.00", robust)
    assert info["footnote"].endswith("Accuracies are of the first 5 test images.")
    counts = json.loads((folder / "measurement.json").read_text())
    assert counts["robust"] == left
    assert {key: counts[key] for key in ("images", "clean", "eps", "seed", "device")} == {
        "images": 5, "clean": 4, "eps": "20/255", "seed": 0, "device": "cpu"
    }  # fmt: skip
    assert info["unreliable"] is bool(counts["warnings"])
    assert "clean: 4 of 5 images right" in printed
    assert printed[-2] == f"clean_acc 80.00, autoattack_acc {robust}"
    issue = (folder / "new-model.md").read_text()
    assert "**Clean accuracy**: 80.00" in issue
    assert f"**Robust accuracy**: {robust}" in issue


def test_measured_accuracies_are_in_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "STANDARD", ("apgd-ce",))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # so that the module's would lie in the folder
    printed = measured(tmp_path, capsys)
    assert_written(tmp_path / "out", printed, ["apgd-ce"])
    assert not any(".tmp" in line for line in printed)
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")} == FILES


@pytest.mark.slow
def test_all_of_autoattack_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_written(tmp_path / "out", measured(tmp_path, capsys), reproduce.STANDARD)


@pytest.mark.slow
def test_the_script_counts_what_we_count_where_deqpipe_is_not_installed(tmp_path: Path, trained: Trained) -> None:
    source, configuration = trained.file("deq_pgd_at_base"), hand_in.configured(tmp_path, {})
    usual = ("--configuration", configuration, "--state", 3, "--name", NAME)
    assert tiny.run("export-robustbench", source, tmp_path / "out", *usual) == 0
    test = tiny.dataset().test
    np.savez(tmp_path / "images.npz", x=test.images.numpy(), y=test.labels.numpy())
    python, attacks = environments.without_deqpipe(tmp_path / "environment"), "apgd-ce,fab-t"  # Square asks 5,000 times
    options = (
        "--device",
        "cpu",
        "--data",
        tmp_path / "images.npz",
        "--attacks",
        attacks,
        "--images",
        8,
        "--batch-size",
        5,
    )
    command = [str(part) for part in (python, "-I", "reproduce.py", *options)]
    script = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, timeout=500, check=False)
    assert script.returncode == 0, script.stderr
    counts = [int(count) for count in re.findall(r"^\S+: (\d+) (?:of|left)", script.stdout, re.MULTILINE)]
    model, x = hand_in.loaded(source, configuration), test.float_images(slice(8))
    assert counts == our_counts(model, x, test.labels[:8], ["apgd_ce", "fab_t"], state=3, batch_size=5)
    assert counts[0] > counts[-1] > 0


def our_counts(
    model: Model, x: Images, y: Labels, attacks: Sequence[AttackName], *, state: int, batch_size: int
) -> list[int]:
    """Images that our model classifies right: clean, and still after each of the workflow's attacks on its decision."""
    craft = LibraryAttacks(model.ball, iterations=100, misclassified=False)
    right = model.logits(x, state=state).argmax(1) == y
    counts = [int(right.sum())]
    for name in attacks:
        for left in right.nonzero().flatten().split(batch_size):
            crafted = craft(
                name, lambda x: hand_in.logits_with_gradient(model, x, state), x[left], y[left], seed=0, flags=Flags()
            )
            right[left] = model.logits(crafted.fooled, state=state).argmax(1) == y[left]
        counts.append(int(right.sum()))
    return counts


def test_attacks_that_cannot_be_run_are_refused_before_the_first_one(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three classes are too few for APGD-T."""
    test = tiny.dataset().test
    np.savez(tmp_path / "images.npz", x=test.images.numpy(), y=test.labels.numpy())
    options = ("--configuration", hand_in.configured(tmp_path, {}), "--state", 3, "--data", tmp_path / "images.npz")
    source, target = trained.file("deq_pgd_at_base"), tmp_path / "not there yet" / "out"

    def refusal() -> str:
        capsys.readouterr()
        assert tiny.run("export-robustbench", source, target, *options, "--measure", 3) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert not target.parent.exists()
        return err

    line = "deqpipe: attack apgd-t needs 4 classes, but there are 3: reproduce.py --attacks takes others\n"
    assert refusal() == line
    np.savez(tmp_path / "images.npz", x=test.images.numpy(), y=test.labels.numpy() + 9)
    assert "is in y, but the network has classes 0 to 2\n" in refusal()
    (tmp_path / "images.npz").write_bytes(b"PK")
    assert f"{tmp_path / 'images.npz'} cannot be read: " in refusal()
