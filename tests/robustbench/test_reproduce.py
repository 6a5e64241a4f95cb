"""The script of a hand-in: the images, AutoAttack's accuracy, and the comparison with model_info."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyautoattack import AutoAttack
from torch import Tensor, nn

from deqpipe import data
from deqpipe.data.folder import read_folder
from deqpipe.robustbench.standalone import reproduce
from deqpipe.robustbench.standalone.reproduce import STANDARD, Measured
from tests import tiny
from tests.limits import limited
from tests.robustbench import hand_in
from tests.robustbench.hand_in import NAME

CLASSES = 5


def linear(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that AutoAttack is done with in a moment, images, and labels that it mostly gives."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.rand(count, 1, 4, 4, generator=generator)
    labels = network(x).argmax(1)
    labels[0] = (labels[0] + 1) % CLASSES
    return network.eval().requires_grad_(False), x, labels


@pytest.mark.parametrize("attacks", [("apgd-ce", "fab-t"), pytest.param(STANDARD, marks=pytest.mark.slow)], ids=len)
def test_accuracy_is_that_of_the_library(attacks: tuple[str, ...]) -> None:
    network, x, y = linear(8)
    epsilon = 0.06
    measured = reproduce.measure(network, x, y, epsilon=epsilon, attacks=attacks, batch_size=5)
    whole = AutoAttack(network, norm="Linf", eps=epsilon, seed=reproduce.SEED, version="standard")
    whole.attacks_to_run = list(attacks)
    whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = CLASSES - 1
    attacked, _ = whole.run_standard_evaluation(x, y, batch_size=5)
    right = int((network(attacked).argmax(1) == y).sum())
    assert (measured.images, measured.clean) == (8, 7)
    assert 0 < right < 7
    assert list(measured.robust) == list(attacks)
    assert measured.autoattack_acc == pytest.approx(100 * right / 8)


def test_logits_that_are_no_numbers_are_wrong() -> None:
    network, x, y = linear(4)
    x[2] = torch.nan
    y[2] = network(x)[2].argmax()  # whatever the largest of them is
    assert reproduce.measure(network, x, y, epsilon=0.1, attacks=()).clean == 2


@pytest.mark.parametrize(("classes", "targets"), [(3, 2), (4, 3), (10, 9), (100, 9)])
def test_targets_are_all_other_classes_up_to_nine(classes: int, targets: int) -> None:
    adversary = reproduce._adversary(nn.Identity(), "fab-t", 0.1, classes=classes, device="cpu")
    assert adversary.attacks_to_run == ["fab-t"]
    assert (adversary.apgd_targeted.n_target_classes, adversary.fab.n_target_classes) == (targets, targets)


def test_what_autoattack_warns_of_is_kept_once() -> None:
    class Probabilities(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x.flatten(1)[:, :CLASSES], 1)

    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = x.flatten(1)[:, :CLASSES].argmax(1)
    measured = reproduce.measure(Probabilities(), x, y, epsilon=1e-4, attacks=("apgd-ce", "apgd-ce"))
    assert len(measured.warnings) == 1
    assert "probability distribution" in measured.warnings[0]


class Brightness(nn.Module):
    """Two classes, dark and bright images; the border is at 0.7."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3)) - 0.7
        return torch.stack([-bright, bright], 1)


def brightened(monkeypatch: pytest.MonkeyPatch, **by: tuple[int, float]) -> None:
    """Attacks that make the first so many images brighter by so much."""

    def run(attack: str, warnings: object, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
        count, change = by[attack.replace("-", "_")]
        return torch.cat([x[:count] + change, x[count:]])

    monkeypatch.setattr(reproduce, "_adversary", lambda network, attack, epsilon, **more: attack)
    monkeypatch.setattr(reproduce, "_run", run)


@pytest.mark.parametrize(("epsilon", "robust"), [(0.1, 4), (0.3, 1)])
def test_images_are_judged_within_the_ball(monkeypatch: pytest.MonkeyPatch, epsilon: float, robust: int) -> None:
    brightened(monkeypatch, apgd_ce=(3, 2.0))
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    assert reproduce.measure(Brightness(), x, y, epsilon=epsilon, attacks=["apgd-ce"]).robust == {"apgd-ce": robust}


@pytest.mark.parametrize(("fooled", "warned"), [(2, False), (3, True)])
def test_what_square_alone_fools_is_warned_of(monkeypatch: pytest.MonkeyPatch, fooled: int, warned: bool) -> None:
    """From 0.2 % of the images on; images that others fool as well do not count."""
    brightened(monkeypatch, apgd_ce=(100, 0.3), square=(fooled, 0.3))
    x, y = torch.full((1000, 1, 1, 1), 0.5), torch.zeros(1000, dtype=torch.int64)
    measured = reproduce.measure(Brightness(), x, y, epsilon=0.3, attacks=["apgd-ce", "square"], batch_size=1000)
    assert measured.robust == {"apgd-ce": 900, "square": 900 - fooled}
    assert any("Square" in message for message in measured.warnings) is warned


def test_the_original_package_is_asked_in_its_words() -> None:
    """Its attacks give images alone, and it takes the size of a batch by another name."""

    class Original:
        __module__ = "autoattack.autoattack"
        apgd = apgd_targeted = SimpleNamespace()

        def run_standard_evaluation(self, x: Tensor, y: Tensor, *, bs: int) -> Tensor:
            return x + bs

    x = torch.zeros(2, 1, 1, 1)
    assert torch.equal(reproduce._run(Original(), reproduce.Warnings(), x, x, 3), x + 3)


@pytest.mark.parametrize("eps", [("8/255", 8 / 255), ("0.031", 0.031), ("9.5/255", 9.5 / 255)])
def test_radius_is_read_as_model_info_spells_it(eps: tuple[str, float]) -> None:
    assert reproduce.radius(eps[0]) == pytest.approx(eps[1])


def test_digits_are_our_test_split() -> None:
    x, y = reproduce.images_of("digits", Path("anywhere"), ())
    ours = data.prepare("digits", None, validation=30).test
    assert torch.equal(x, ours.float_images(slice(None)))
    assert torch.equal(y, ours.labels)


def test_images_of_a_folder_come_in_our_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, counts in (("train", {"a": 1, "b": 1}), ("test", {"a": 3, "b": 1})):
        for name, count in counts.items():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    _, ours, classes = read_folder(tmp_path)
    x, y = reproduce.images_of("folder_of_images", tmp_path, classes)
    assert torch.equal(x, ours.float_images(slice(None)))
    assert torch.equal(y, ours.labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hand-in, not measured."""
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    options = ("--configuration", configuration, "--state", 2, "--name", NAME)
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0
    return tmp_path / "out"


def counted(clean: int, robust: int, *, images: int = 1000, warnings: tuple[str, ...] = ()) -> Measured:
    return Measured(images, clean, {"apgd-ce": robust + 5, "square": robust}, list(warnings))


def test_measured_accuracies_are_compared_with_a_tolerance(folder: Path) -> None:
    assert reproduce.differences(folder, counted(800, 400), tolerance=0.5) is None
    reproduce.write(folder, counted(800, 400), device="cpu")
    info = json.loads(reproduce.model_info_of(folder).read_text())
    assert (info["clean_acc"], info["autoattack_acc"], info["unreliable"]) == ("80.00", "40.00", False)
    assert info["footnote"].endswith("Accuracies are of the first 1000 test images.")
    assert reproduce.differences(folder, counted(805, 396), tolerance=0.5) == []
    (line,) = reproduce.differences(folder, counted(800, 394), tolerance=0.5) or []
    assert line.startswith("autoattack_acc is 39.40, but model_info has 40.00")
    assert reproduce.differences(folder, counted(79, 40, images=100), tolerance=0.5) is None


def test_numbers_are_written_anew_and_warnings_make_them_unreliable(folder: Path) -> None:
    reproduce.write(folder, counted(800, 400), device="cpu")
    reproduce.write(folder, counted(80, 40, images=100, warnings=("zero gradient",)), device="cpu")
    info = json.loads(reproduce.model_info_of(folder).read_text())
    assert info["unreliable"] is True
    assert info["footnote"].count("Accuracies are of the first") == 1
    counts = json.loads((folder / reproduce.MEASUREMENT).read_text())
    assert (counts["images"], counts["robust"]["square"], counts["warnings"]) == (100, 40, ["zero gradient"])


def test_one_image_is_always_allowed(folder: Path) -> None:
    reproduce.write(folder, counted(80, 40, images=100), device="cpu")
    assert reproduce.differences(folder, counted(79, 41, images=100), tolerance=0.5) == []
    assert len(reproduce.differences(folder, counted(78, 42, images=100), tolerance=0.5) or []) == 2


@pytest.mark.parametrize("size", [0, 600])
def test_a_full_disk_leaves_the_older_accuracies(folder: Path, size: int) -> None:
    """Of the larger size one file fits, the other does not."""
    reproduce.write(folder, counted(800, 400), device="cpu")
    file = reproduce.model_info_of(folder)
    older = {path: path.read_text() for path in (file, folder / reproduce.MEASUREMENT)}
    with limited(size), pytest.raises(reproduce.Missing, match="cannot be written: File too large"):
        reproduce.write(folder, counted(700, 300), device="cpu")
    assert {path: path.read_text() for path in older} == older
    assert not list(folder.rglob("*.tmp"))


def asked(folder: Path, *options: str) -> int:
    """The script's exit status; the images are its folder's."""
    return reproduce.run(folder, reproduce.parsed(["--data", str(folder / "images.npz"), "--device", "cpu", *options]))


def test_some_attacks_alone_are_written_nowhere(folder: Path) -> None:
    np.savez(folder / "images.npz", x=hand_in.pictures(3).numpy(), y=np.zeros(3, dtype=np.int64))
    before = reproduce.model_info_of(folder).read_text()
    assert asked(folder, "--attacks", "apgd-ce", "--write") == 0
    assert reproduce.model_info_of(folder).read_text() == before
    assert not (folder / reproduce.MEASUREMENT).exists()


def test_what_is_missing_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "__file__", str(folder / "reproduce.py"))
    capsys.readouterr()
    assert reproduce.main(["--data", str(folder / "none.npz"), "--device", "cpu"]) == 2
    assert capsys.readouterr() == ("", f"reproduce.py: {folder / 'none.npz'} is missing\n")


def test_images_that_are_none_are_refused(folder: Path) -> None:
    x, y = hand_in.pictures(3).numpy(), np.zeros(3, dtype=np.int64)
    wrong: dict[str, dict[str, Any]] = {
        r"must be in \[0, 1\]": {"x": 255 * x, "y": y},
        "holds no x": {"x": x},
        "the network takes": {"x": x[:, :1], "y": y},
        r"y has shape \(2,\) for 3 images": {"x": x, "y": y[:2]},
        r"y has shape \(3, 1\) for 3 images": {"x": x, "y": y[:, None]},
        r"y has shape \(0,\) for 0 images": {"x": x[:0], "y": y[:0]},
        "x is float32 and y float64": {"x": x, "y": y + 0.5},
        "x is <U1 and y int64": {"x": np.array(["a"] * 3), "y": y},
        "class 9 is in y, but the network has classes 0 to 4": {"x": x, "y": y + 9},
        "class -1 is in y": {"x": x, "y": y - 1},
        "cannot be read: ValueError": {"x": np.array([None] * 3), "y": y},
    }
    for reason, arrays in wrong.items():
        np.savez(folder / "images.npz", **arrays)
        with pytest.raises(reproduce.Missing, match=reason):
            asked(folder)
    np.savez(folder / "images.npz", x=x, y=y)
    with pytest.raises(reproduce.Missing, match="7 images were asked for, but there are 1 to 3"):
        asked(folder, "--images", "7")
    with pytest.raises(reproduce.Missing, match="attack 'pgd' is none of apgd-ce, apgd-t"):
        asked(folder, "--attacks", "apgd-ce,pgd")


def test_files_that_are_damaged_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "__file__", str(folder / "reproduce.py"))
    images = folder / "images.npz"
    np.savez(images, x=hand_in.pictures(3).numpy(), y=np.zeros(3, dtype=np.int64))
    capsys.readouterr()
    for file in (images, reproduce.model_info_of(folder), folder / f"{NAME}.pt"):
        whole = file.read_bytes()
        for left in (0, 100, -60):
            file.write_bytes(whole[:left])
            assert reproduce.main(["--data", str(images), "--device", "cpu"]) == 2
            line = capsys.readouterr().err
            assert line.startswith(f"reproduce.py: {file} cannot be read: ")
            assert line.count("\n") == 1
        file.write_bytes(whole)


def test_an_image_of_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "test" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "test" / "a" / "0.png")
    Image.new("RGB", (4, 5)).save(tmp_path / "test" / "a" / "1.png")
    with pytest.raises(reproduce.Missing, match=r"1\.png and .*0\.png have 5x4 and 4x4 pixels"):
        reproduce.images_of("folder_of_images", tmp_path, ("a",))
    (tmp_path / "test" / "a" / "1.png").write_bytes(b"none")
    with pytest.raises(reproduce.Missing, match=r"1\.png cannot be read: UnidentifiedImageError"):
        reproduce.images_of("folder_of_images", tmp_path, ("a",))


def test_a_run_measures_writes_and_then_finds_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "STANDARD", ("apgd-ce",))  # all four take a minute
    x = hand_in.pictures(6)
    np.savez(folder / "images.npz", x=x.numpy(), y=np.zeros(6, dtype=np.int64))

    def run(*, images: int | None, write: bool) -> int:
        options = argparse.Namespace(
            images=images, data=folder / "images.npz", device="cpu", batch_size=4, attacks="apgd-ce", tolerance=0.5,
            write=write,
        )  # fmt: skip
        return reproduce.run(folder, options)

    assert run(images=5, write=True) == 0
    capsys.readouterr()
    assert run(images=None, write=False) == 0
    assert "of 5 images\n" in capsys.readouterr().out
    file = reproduce.model_info_of(folder)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"clean_acc": "99.00"}))
    assert run(images=None, write=False) == 1
    assert "but model_info has 99.00" in capsys.readouterr().out
