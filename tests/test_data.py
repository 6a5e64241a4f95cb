import errno
import os
import pickle
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import CIFAR10, cifar
from torchvision.datasets.utils import calculate_md5

from deqpipe import data
from deqpipe.data import cifar10 as data_cifar10
from deqpipe.data import folder, opening
from deqpipe.data.augment import PADDING
from deqpipe.errors import UserError
from deqpipe.results import checkpoint
from deqpipe.seeding import Stream

ANYWHERE = Path("unused")


def digits() -> data.Dataset:
    return data.prepare("digits", ANYWHERE, validation=100)


# ---------------------------------------------------------------- splits and the digits


def test_digits_are_split_by_index_and_scaled_to_bytes() -> None:
    dataset, raw = digits(), load_digits()
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [1337, 100, 360]
    assert dataset.image_shape == (1, 8, 8)
    assert (dataset.name, dataset.classes) == ("digits", tuple("0123456789"))
    images = torch.cat([dataset.train.images, dataset.validation.images, dataset.test.images])
    labels = torch.cat([dataset.train.labels, dataset.validation.labels, dataset.test.labels])
    assert images.dtype == torch.uint8
    assert np.array_equal(images[:, 0].numpy(), np.rint(raw.images * 255 / 16))
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert np.array_equal(labels.numpy(), raw.target)


def test_digits_that_scikit_learn_keeps_elsewhere_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PathDistribution, "locate_file", lambda self, path: tmp_path / path)
    with pytest.raises(UserError, match=r"digits are not in .*: install the version of requirements\.txt"):
        digits()


def test_classes_of_the_digits_are_about_balanced_in_every_split() -> None:
    dataset = digits()
    assert set(dataset.test.labels.bincount().tolist()) == {33, 35, 36, 37}
    rest = torch.cat([dataset.train.labels, dataset.validation.labels]).bincount()
    assert (int(rest.min()), int(rest.max())) == (141, 146)
    assert dataset.validation.labels.bincount().min() >= 8


def test_sheets_of_the_test_digits_are_not_trained_on() -> None:
    # every sheet begins with 0..9 twice (the one before it, with 0..9 once more)
    targets = load_digits().target
    twice = np.arange(20) % 10
    starts = [k for k in range(len(targets) - 20) if np.array_equal(targets[k : k + 20], twice)]
    first_test = 1797 - 360
    sheet = max(start for start in starts if start <= first_test)
    assert first_test - sheet <= 22 < 100


@pytest.mark.parametrize("validation", [0, -1, 1437, 9999])
def test_validation_split_must_leave_something_to_train_on(validation: int) -> None:
    with pytest.raises(UserError, match=rf"data\.validation is {validation}, but must be 1 to 1436 \(digits has 1437"):
        data.prepare("digits", ANYWHERE, validation=validation)


def test_float_images_are_the_chosen_ones_in_zero_to_one() -> None:
    split = digits().train
    images = split.float_images([3, 0], "cpu")
    assert images.dtype == torch.float32
    assert torch.equal(images, torch.stack([split.images[3], split.images[0]]) / 255)
    assert torch.equal(split.float_images(torch.tensor([3, 0])), images)
    assert torch.equal(split.float_images(slice(2, 5)), split.images[2:5] / 255)
    assert split.float_images(slice(None)).max() == 1


# ---------------------------------------------------------------- the file


def test_saved_dataset_is_loaded_again_exactly(tmp_path: Path) -> None:
    dataset = digits()
    path = tmp_path / "data.safetensors"
    data.save(path, dataset, provenance={"spec": {"stage": "data"}})
    loaded = data.load(path)
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(dataset, name), getattr(loaded, name)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert theirs.images.dtype == torch.uint8
    assert (loaded.classes, loaded.name) == (dataset.classes, dataset.name)
    assert checkpoint.read_metadata(path)["provenance"] == {"spec": {"stage": "data"}}
    assert [file.name for file in tmp_path.iterdir()] == ["data.safetensors"]


def test_missing_truncated_and_foreign_datasets_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with pytest.raises(UserError, match=r"dataset .*data does not exist"):
        data.load(path)
    data.save(path, digits(), provenance={})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"dataset .*data is cut short") as error:
        data.load(path)
    assert "\n" not in str(error.value)
    checkpoint.write(path, {"model.a": torch.ones(1)}, {"step": 1})
    with pytest.raises(UserError, match="holds something else"):
        data.load(path)


# ---------------------------------------------------------------- CIFAR-10


def fake_cifar10(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Files in the layout of CIFAR-10, four images each; the pixels and labels of all."""
    batches = root / CIFAR10.base_folder
    batches.mkdir(parents=True)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    labels = random.integers(0, 10, 24)
    for number, (name, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        part = slice(4 * number, 4 * number + 4)
        entry = {"data": pixels[part].reshape(4, -1), "labels": labels[part].tolist()}
        (batches / name).write_bytes(pickle.dumps(entry))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{k}" for k in range(10)]}))
    return pixels, labels


def test_cifar10_is_taken_in_the_order_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    pixels, labels = fake_cifar10(tmp_path)
    dataset = data.prepare("cifar10", tmp_path, validation=5)
    assert np.array_equal(dataset.train.images.numpy(), pixels[:15])
    assert np.array_equal(dataset.validation.images.numpy(), pixels[15:20])
    assert np.array_equal(dataset.test.images.numpy(), pixels[20:])
    assert dataset.validation.labels.tolist() == labels[15:20].tolist()
    assert (dataset.name, dataset.classes[3], dataset.image_shape) == ("CIFAR-10", "class3", (3, 32, 32))
    assert dataset.train.images.is_contiguous()


@pytest.mark.parametrize(
    "failure", [URLError("no route\nto host"), ConnectionResetError(104, "reset"), TimeoutError(110, "timed out")]
)
def test_download_that_fails_is_answered_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(data_cifar10, "download_url", no_network)
    with pytest.raises(UserError, match=r"^CIFAR-10 is not in .* and cannot be downloaded \(.*\); put cifar") as error:
        data.prepare("cifar10", tmp_path, validation=5)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x1f\x8b" + b"half of it", "it has 12 of 170,498,071 bytes, and another checksum"),
        (b"<!DOCTYPE html><title>Log in", "begins with b'<!DOCTYPE html><titl' as no archive does, and another"),
        (b"", "it has 0 of"),
    ],
)
def test_a_damaged_archive_is_named_and_left_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, told: str
) -> None:
    """With a network or without."""
    monkeypatch.setattr(data_cifar10, "download_url", lambda *_: pytest.fail("downloaded"))
    (tmp_path / CIFAR10.filename).write_bytes(content)
    with pytest.raises(UserError, match="delete it, and it is downloaded again") as error:
        data.prepare("cifar10", tmp_path, validation=5)
    assert told in str(error.value)
    assert str(error.value).startswith(f"archive {tmp_path / CIFAR10.filename} is damaged, or is not CIFAR-10's: ")
    assert (tmp_path / CIFAR10.filename).read_bytes() == content


def archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive in the layout of CIFAR-10's that is believed, and can be downloaded."""
    fake_cifar10(folder)
    path = folder / CIFAR10.filename
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / CIFAR10.base_folder, CIFAR10.base_folder)
    names = [name for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]]
    sums = {name: calculate_md5(str(folder / CIFAR10.base_folder / name)) for name in [*names, "batches.meta"]}
    for known in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, known, [[name, sums[name]] for name, _ in getattr(CIFAR10, known)])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", calculate_md5(str(path)))
    return path


def test_a_download_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = archive(tmp_path / "there", monkeypatch), tmp_path / "here"
    sent = [source.read_bytes()[:100], source.read_bytes()]

    def download(url: str, folder: str, name: str, md5: str) -> None:
        Path(folder, name).write_bytes(sent.pop(0))
        if calculate_md5(str(Path(folder, name))) != md5:
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(data_cifar10, "download_url", download)
    with pytest.raises(UserError, match="is not the archive: 100 of 170,498,071 bytes"):
        data.prepare("cifar10", root, validation=5)
    assert [path.name for path in root.iterdir()] == ["lock"]
    assert len(data.prepare("cifar10", root, validation=5).test) == 4
    assert sorted(path.name for path in root.iterdir()) == [CIFAR10.base_folder, CIFAR10.filename, "lock"]


def test_a_batch_that_is_not_the_known_one_is_unpacked_again_and_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path, monkeypatch)
    whole = data.prepare("cifar10", tmp_path, validation=5)
    mark = tmp_path / "code ran"
    (tmp_path / CIFAR10.base_folder / "data_batch_2").write_bytes(pickle.dumps(Runs(f"touch '{mark}'")))
    (tmp_path / CIFAR10.base_folder / "test_batch").unlink()
    again = data.prepare("cifar10", tmp_path, validation=5)
    assert torch.equal(again.train.images, whole.train.images)
    (tmp_path / CIFAR10.base_folder / "batches.meta").write_bytes(pickle.dumps(Runs(f"touch '{mark}'")))
    assert data.prepare("cifar10", tmp_path, validation=5).classes == whole.classes
    (tmp_path / CIFAR10.base_folder / "batches.meta").write_bytes(pickle.dumps(Runs(f"touch '{mark}'")))
    path.unlink()
    monkeypatch.setattr(data_cifar10, "download_url", lambda *_: fail(URLError("offline")))
    with pytest.raises(UserError, match="cannot be downloaded"):
        data.prepare("cifar10", tmp_path, validation=5)
    assert not mark.exists()


class Runs:
    """Unpickled, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def fail(error: Exception) -> None:
    raise error


def test_an_archive_that_has_no_room_to_be_unpacked_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / CIFAR10.base_folder)
    monkeypatch.setattr(
        data_cifar10, "extract_archive", lambda *_: fail(OSError(errno.ENOSPC, "No space left on device"))
    )
    with pytest.raises(UserError, match=rf"^{tmp_path / CIFAR10.base_folder} cannot be written: No space left"):
        data.prepare("cifar10", tmp_path, validation=5)


def test_a_dataset_file_that_lacks_a_part_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    data.save(path, digits(), provenance={})
    whole = checkpoint.read(path)
    tensors = {name: tensor for name, tensor in whole.tensors.items() if name != "test.labels"}
    for parts, metadata in ((tensors, whole.metadata), (whole.tensors, {"kind": "dataset", "name": "digits"})):
        checkpoint.write(path, parts, metadata)
        with pytest.raises(UserError, match=r"^dataset .*data\.safetensors lacks a part: ") as error:
            data.load(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 9, 10], "has label 10 among its test images, but its 10 classes have labels 0 to 9"),
        ([0, -1, 2], "has label -1 among its test images"),
    ],
)
def test_labels_that_no_class_has_are_refused(tmp_path: Path, labels: list[int], message: str) -> None:
    path, whole = tmp_path / "data.safetensors", digits()
    test = data.Split(whole.test.images[:3], torch.tensor(labels))
    data.save(path, replace(whole, test=test), provenance={})
    with pytest.raises(UserError, match=message):
        data.load(path)


# ---------------------------------------------------------------- image folder


def write_image(path: Path, value: int, *, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255 - value)).convert(mode).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three training images of ant, two of bee, one of cat; the red value numbers them."""
    root = tmp_path / "pictures"
    for value, name in enumerate(["bee/1.png", "ant/b.png", "ant/a.png", "cat/z.bmp", "ant/c.png", "bee/0.png"]):
        write_image(root / "train" / name, value)
    for value, name in enumerate(["cat/0.png", "ant/0.png", "ant/1.png"], 100):
        write_image(root / "test" / name, value)
    (root / "train" / "readme.txt").write_text("not a class")
    (root / "train" / "ant" / ".hidden").write_text("not an image")
    return root


def reds(split: data.Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


def test_images_of_a_folder_go_round_the_classes_by_file_name(images: Path) -> None:
    dataset = data.prepare("folder", images, validation=2)
    assert dataset.classes == ("ant", "bee", "cat")
    assert dataset.name == "folder pictures"
    assert dataset.image_shape == (3, 5, 6)
    assert reds(dataset.train) + reds(dataset.validation) == [2, 5, 3, 1, 0, 4]
    assert dataset.train.labels.tolist() + dataset.validation.labels.tolist() == [0, 1, 2, 0, 1, 0]
    assert (reds(dataset.test), dataset.test.labels.tolist()) == ([101, 100, 102], [0, 2, 0])
    assert dataset.train.images[0, :, 0, 0].tolist() == [2, 0, 253]


def test_pixels_of_a_folder_are_those_that_pillow_reads(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 7, 9, 3), dtype=np.uint8)
    for number, picture in enumerate(noise):
        for split in ("train", "test"):
            path = tmp_path / split / str(number % 2) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    dataset = data.prepare("folder", tmp_path, validation=1)
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1).numpy(), noise)


def test_reading_in_several_chunks_gives_the_same_images(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_CHUNK", 2)
    dataset = data.prepare("folder", images, validation=1)
    assert reds(dataset.train) + reds(dataset.validation) == [2, 5, 3, 1, 0, 4]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_images_of_eight_bits_or_fewer_become_rgb(images: Path, mode: str) -> None:
    write_image(images / "train" / "ant" / "a.png", 200, mode=mode)
    assert data.prepare("folder", images, validation=2).image_shape == (3, 5, 6)


@pytest.mark.parametrize("gone", ["train", "train/ant", "train/ant/a.png", "test/cat", "test"])
def test_images_that_vanish_while_they_are_listed_are_told_in_one_line(
    images: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """After the classes were listed; an image after it was listed itself."""
    interleaved, pixels = folder._interleaved, folder._pixels
    taken_before = "_pixels" if gone.endswith(".png") else "_interleaved"

    def take_away(*arguments: Any, **named: Any) -> Any:
        path = images / gone
        if path.exists():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        return (pixels if taken_before == "_pixels" else interleaved)(*arguments, **named)

    monkeypatch.setattr(folder, taken_before, take_away)
    with pytest.raises(
        UserError, match=rf"^image.* {images / gone}\S* (cannot be read: No such|does not exist)"
    ) as error:
        data.prepare("folder", images, validation=1)
    assert "\n" not in str(error.value)


def remove(path: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / path)


def empty(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).mkdir()


def text(path: str, content: str) -> Callable[[Path], object]:
    return lambda root: (root / path).write_text(content)


def deep(root: Path) -> None:
    Image.fromarray(np.full((5, 6), 40_000, dtype=np.uint16)).save(root / "train" / "ant" / "deep.png")


def truncated(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    path = root / "train" / "bee" / "cut.png"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:60])


def other_size_in_test(root: Path) -> None:
    for path in root.glob("test/*/*"):
        write_image(path, 0, size=(12, 10))


def pipe(root: Path) -> None:
    os.mkfifo(root / "train" / "bee" / "pipe.png")


def listening(root: Path) -> None:
    here = os.open(root / "train" / "bee", os.O_RDONLY)  # names of sockets are short, those of test folders are not
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/socket.png")
    os.close(here)


def device(root: Path) -> None:
    (root / "train" / "bee" / "device.png").symlink_to("/dev/zero")


def loop(root: Path) -> None:
    (root / "train" / "bee" / "loop.png").symlink_to("loop.png")


def wide(root: Path) -> None:
    Image.new("1", (12_000, 12)).save(root / "train" / "ant" / "a.png")


def long_file(root: Path) -> None:
    with (root / "train" / "ant" / "a.png").open("r+b") as file:
        file.truncate(2**26 + 1)


def many_classes(root: Path) -> None:
    for number in range(4):
        (root / "train" / f"more{number}").mkdir()


def one_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "bee")
    shutil.rmtree(root / "train" / "cat")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("."), r"image folder .*pictures does not exist: it must hold train/<class>/\*"),
        (remove("test"), r"image folder .*pictures has no folder test: it must hold"),
        (empty("train/dog"), r"image folder .*train/dog is empty: a class must have at least one image"),
        (empty("train/ant/more"), r"image .*train/ant/more cannot be read"),
        (empty("test/dog"), r"image folder .*test has a class 'dog'; train/ has ant, bee, cat"),
        (text("train/ant/list.csv", "a,b"), r"image .*list\.csv cannot be read"),
        (lambda root: write_image(root / "test/ant/x.png", 0, size=(6, 6)), r"x\.png is 6x6 pixels, but .* is 6x5"),
        (lambda root: write_image(root / "train/bee/x.png", 0, size=(7, 5)), r"x\.png is 7x5 pixels, but .* is 6x5"),
        (other_size_in_test, r"test/ant/0\.png is 12x10 pixels, but .*train/ant/a\.png is 6x5"),
        (deep, r"image .*deep\.png has more than 8 bits a channel \(Pillow's mode I;16\): save it with 8"),
        (truncated, r"image .*cut\.png cannot be read"),
        (pipe, r"image .*pipe\.png cannot be read: it is a named pipe, but must be a file"),
        (listening, r"image .*socket\.png cannot be read: it is a socket, but must be a file"),
        (device, r"image .*device\.png cannot be read: it is a device, but must be a file"),
        (loop, r"image .*loop\.png cannot be read: .*symbolic links"),
        (wide, r"image .*ant/a\.png is 12000x12 pixels, but may be at most 2048x2048"),
        (long_file, r"image .*ant/a\.png has 67,108,865 bytes, but may have at most 67,108,864"),
        (many_classes, r"image folder .*train has 7 classes, but may have 5"),
        (one_class, r"image folder .*train has one class \(ant\), but must have at least two"),
    ],
)
def test_unusable_folder_is_answered_in_one_line(
    images: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object], message: str
) -> None:
    monkeypatch.setattr(folder, "_MOST_CLASSES", 5)
    spoil(images)
    with pytest.raises(UserError, match=message) as error:
        data.prepare("folder", images, validation=2)
    assert "\n" not in str(error.value)


POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["a.png", "a.eps"])
def test_postscript_is_refused_and_no_program_started(images: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was looked for")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(shutil, "which", started)
    (images / "train" / "ant" / name).write_text(POSTSCRIPT)
    with pytest.raises(UserError, match=r"ant/a\.(png|eps) cannot be read: it is none of BMP, GIF, JPEG, PNG"):
        data.prepare("folder", images, validation=2)


@pytest.mark.parametrize("ending", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_every_format_that_is_named_is_read(images: Path, ending: str) -> None:
    write_image(images / "train" / "ant" / f"d.{ending}", 9)
    assert data.prepare("folder", images, validation=2).train.images.shape[1:] == (3, 5, 6)


def test_the_largest_images_allowed_are_read(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LARGEST_SIDE", 6)
    assert data.prepare("folder", images, validation=2).image_shape == (3, 5, 6)


def test_an_image_of_another_size_is_not_decoded(images: Path) -> None:
    path = images / "train" / "bee" / "x.png"
    write_image(path, 0, size=(40, 40))
    path.write_bytes(path.read_bytes()[:60])  # its header is whole, its pixels are not
    with pytest.raises(UserError, match=r"x\.png is 40x40 pixels, but .* is 6x5"):
        data.prepare("folder", images, validation=2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_told_in_one_line(images: Path) -> None:
    (images / "train" / "bee").chmod(0)
    try:
        with pytest.raises(UserError, match=r"image folder .*bee cannot be read: Permission denied"):
            data.prepare("folder", images, validation=2)
    finally:
        (images / "train" / "bee").chmod(0o755)


def test_folder_must_have_more_training_images_than_are_held_out(images: Path) -> None:
    with pytest.raises(UserError, match=r"data\.validation is 6, but must be 1 to 5 \(folder pictures has 6"):
        data.prepare("folder", images, validation=6)


# ---------------------------------------------------------------- augmentation


def slow_crop_flip(images: Tensor, top: list[int], left: list[int], flipped: list[bool]) -> Tensor:
    """Image by image and pixel by pixel."""
    out = torch.zeros_like(images)
    count, _, height, width = images.shape
    for k in range(count):
        for row in range(height):
            for column in range(width):
                source_row = row + top[k] - PADDING
                source_column = (width - 1 - column if flipped[k] else column) + left[k] - PADDING
                if 0 <= source_row < height and 0 <= source_column < width:
                    out[k, :, row, column] = images[k, :, source_row, source_column]
    return out


@pytest.mark.parametrize("shape", [(40, 3, 5, 7), (12, 1, 8, 8), (1, 2, 3, 3)])
def test_crop_and_flip_equal_the_slow_version(shape: tuple[int, int, int, int]) -> None:
    images = torch.randint(1, 256, shape, dtype=torch.uint8)
    draw = torch.Generator().manual_seed(5)
    top, left = (torch.randint(9, (shape[0], 1), generator=draw).flatten().tolist() for _ in range(2))
    flipped = torch.randint(2, (shape[0], 1), generator=draw).bool().flatten().tolist()
    expected = slow_crop_flip(images, top, left, flipped)
    assert torch.equal(data.crop_flip(images, torch.Generator().manual_seed(5)), expected)
    floats = data.crop_flip(data.to_float(images), torch.Generator().manual_seed(5))
    assert torch.equal(floats, data.to_float(expected))


def test_every_offset_and_both_directions_occur_about_equally_often() -> None:
    n = 8100
    images = torch.zeros(n, 1, 9, 9)
    images[:, :, 4, 3:6] = torch.tensor([1.0, 2.0, 3.0])  # centre 2, direction by its neighbours
    out = data.crop_flip(images, torch.Generator().manual_seed(0))[:, 0]
    places = (out == 2).nonzero()
    assert len(places) == n
    counts = torch.bincount(9 * places[:, 1] + places[:, 2], minlength=81)
    assert counts.min() > 60 < counts.max() < 140  # 100 expected, 10 the standard deviation
    whole = (out == 1).flatten(1).any(1) & (out == 3).flatten(1).any(1)
    ascending = (out == 1).flatten(1).float().argmax(1) < (out == 3).flatten(1).float().argmax(1)
    assert ascending[whole].float().mean() == pytest.approx(0.5, abs=0.03)


def test_augmentation_is_chosen_by_name_and_none_does_and_draws_nothing() -> None:
    images = torch.rand(2, 3, 4, 4)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert data.augmentation("none")(images, generator) is images
    assert torch.equal(generator.get_state(), state)
    assert data.augmentation("crop_flip") is data.crop_flip


# ---------------------------------------------------------------- order


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 5))
def test_epoch_has_every_image_once_in_full_batches_but_the_last(n: int, batch_size: int, epoch: int) -> None:
    parts = data.batches(n, batch_size, epoch=epoch, stream=Stream(0, "order"))
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert [len(part) for part in parts[:-1]] == [batch_size] * (len(parts) - 1)
    assert 1 <= len(parts[-1]) <= batch_size
    assert len(parts) == data.steps_per_epoch(n, batch_size)


def test_order_depends_on_seed_and_epoch_and_not_on_the_batch_size() -> None:
    def order(seed: int, epoch: int, batch_size: int) -> list[int]:
        return torch.cat(data.batches(50, batch_size, epoch=epoch, stream=Stream(seed, "order"))).tolist()

    assert order(0, 1, 8) == order(0, 1, 50)
    assert order(0, 1, 8) != order(0, 2, 8)
    assert order(0, 1, 8) != order(1, 1, 8)
