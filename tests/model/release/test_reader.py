"""Files of torch.save: what is read of them, and that nothing in them is run."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deqpipe.errors import UserError
from deqpipe.model.release import reader
from deqpipe.model.release.reader import Contents
from deqpipe.results import checkpoint

SCALAR: Any = np.float64(1).__reduce__()[0]  # what numpy pickles its numbers with
RECONSTRUCT: Any = np.ones(1).__reduce__()[0]  # and its arrays
STATE = {"a.weight": torch.arange(6, dtype=torch.float64).view(2, 3), "a.count": torch.tensor(3)}


def saved(folder: Path, content: object, **options: Any) -> Path:
    torch.save(content, folder / "file.pth.tar", **options)
    return folder / "file.pth.tar"


def with_perf(folder: Path, perf: object, **options: Any) -> Contents:
    return reader.read(saved(folder, {"state_dict": STATE, "perf": perf}, **options))


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        reader.read(path)
    text = str(refused.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text.removeprefix(str(path)).removeprefix(":").strip()


class Calls:
    """Is pickled as a call of a function, which is made when the file is read by somebody careless."""

    def __init__(self, function: Callable[..., Any], *arguments: object, state: object = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def number_type(order: object) -> Calls:
    """A numpy type of 8-byte floats with this byte order, as numpy pickles it."""
    return Calls(np.dtype, "f8", False, True, state=(3, order, None, None, None, -1, -1, 0))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_training_checkpoint_is_read_with_what_stands_around_it(tmp_path: Path, zipped: bool) -> None:
    around = {"epoch": 7, "model": "mdeq", "perf": 0.5, "optimizer": {"state": {}}, "lr_scheduler": {"last_epoch": 3}}
    found = reader.read(saved(tmp_path, {"state_dict": STATE} | around, _use_new_zipfile_serialization=zipped))
    assert (found.form, found.epoch, found.perf) == ("checkpoint", 7, 0.5)
    assert found.others == ("optimizer", "lr_scheduler")
    assert list(found.state) == list(STATE)
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in found.state.items())
    assert all(tensor.dtype == STATE[name].dtype for name, tensor in found.state.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_bare_state_dict_is_read(tmp_path: Path, zipped: bool) -> None:
    module = nn.BatchNorm1d(3)
    found = reader.read(saved(tmp_path, module.state_dict(), _use_new_zipfile_serialization=zipped))
    assert (found.form, found.epoch, found.perf, found.others) == ("state_dict", None, None, ())
    assert list(found.state) == list(module.state_dict())


def test_other_parts_are_named_if_they_have_a_name(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "notes": [1], "a\nb": 1, 3: 4, ("a",): 5}
    assert reader.read(saved(tmp_path, content)).others == ("notes",)


def test_parameters_are_tensors_too(tmp_path: Path) -> None:
    found = reader.read(saved(tmp_path, dict(nn.Linear(2, 2).named_parameters())))
    assert list(found.state) == ["weight", "bias"]


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i2", "u1", "b1"])
def test_accuracy_may_be_a_number_of_numpy(tmp_path: Path, dtype: str) -> None:
    found = with_perf(tmp_path, np.array([2.5]).astype(dtype)[0])
    assert found.perf == {"f": 2.5, "i": 2, "u": 2, "b": None}[np.dtype(dtype).kind]


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_of_numpy_are_read_in_the_order_of_their_bytes(tmp_path: Path, order: str) -> None:
    content = np.array(2.5, dtype=f"{order}f8").tobytes()
    assert with_perf(tmp_path, Calls(SCALAR, number_type(order), content)).perf == 2.5


def test_numbers_of_numpy_before_2_are_read(tmp_path: Path) -> None:
    content = saved(tmp_path, {"state_dict": STATE, "perf": np.float64(0.25)}).read_bytes()
    (tmp_path / "old").mkdir()
    with zipfile.ZipFile(io.BytesIO(content)) as new, zipfile.ZipFile(tmp_path / "old" / "file", "w") as old:
        for name in new.namelist():
            part = new.read(name)
            assert name != "file/data.pkl" or b"numpy._core.multiarray" in part
            old.writestr(name, part.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert reader.read(tmp_path / "old" / "file").perf == 0.25


@pytest.mark.parametrize(
    ("perf", "expected"),
    [
        (torch.tensor(0.5), 0.5),
        (torch.tensor([3]), 3),
        (1, 1),
        (float("nan"), None),
        (torch.tensor(float("inf")), None),
        (torch.ones(2), None),
        ("good", None),
        (None, None),
        (True, None),
        (torch.tensor(1j), None),
    ],
)
def test_accuracy_that_is_no_number_is_unknown(tmp_path: Path, perf: object, expected: float | None) -> None:
    assert with_perf(tmp_path, perf).perf == expected


@pytest.mark.parametrize(("epoch", "expected"), [(3, 3), (torch.tensor(3), 3), (3.5, None), ("3", None), (True, None)])
def test_epoch_is_a_whole_number_or_unknown(tmp_path: Path, epoch: object, expected: int | None) -> None:
    assert reader.read(saved(tmp_path, {"state_dict": STATE, "epoch": epoch})).epoch == expected


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_of_a_gpu_are_read_without_one(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path = saved(tmp_path, {"state_dict": STATE, "perf": torch.tensor(0.5)}, _use_new_zipfile_serialization=zipped)
    assert b"cuda:0" in path.read_bytes()
    found = reader.read(path)
    assert found.perf == 0.5
    assert all(tensor.device.type == "cpu" for tensor in found.state.values())


MISDEEDS: list[Callable[[Path], Calls]] = [
    lambda mark: Calls(__import__("os").system, f"touch {mark}"),
    lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
    lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"),
    lambda mark: Calls(open, str(mark), "w"),
    lambda mark: Calls(__import__("subprocess").run, ["touch", str(mark)]),
    lambda mark: Calls(Path.touch, mark),
    lambda mark: Calls(np.save, str(mark), 1),
    lambda mark: Calls(torch.save, 1, str(mark)),
    lambda mark: Calls(torch.load, str(mark)),
]


@pytest.mark.parametrize("number", range(len(MISDEEDS)))
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, kind: str, number: int) -> None:
    mark = tmp_path / "mark.npy"
    content = {"state_dict": STATE, "perf": MISDEEDS[number](mark)}
    if kind == "pickle":
        path = tmp_path / "file.pth.tar"
        path.write_bytes(pickle.dumps({"state_dict": {}, "perf": content["perf"]}, protocol=2))
    else:
        path = saved(tmp_path, content, _use_new_zipfile_serialization=kind == "zip")
    text = refusal(path)
    assert not mark.exists()
    if number < 5 or kind == "zip":
        assert "but only tensors, numbers and text are read: anything else could run code" in text


def test_name_that_would_colour_the_terminal_is_printed_plainly(tmp_path: Path) -> None:
    content = saved(tmp_path, {"perf": Calls(eval, "1")}, _use_new_zipfile_serialization=False).read_bytes()
    name = b"__builtin__\neval\n"
    assert name in content
    (tmp_path / "file").write_bytes(content.replace(name, b"\x1b[31m_built\neval\n"))
    text = refusal(tmp_path / "file")
    assert text.isprintable()
    assert "but only tensors, numbers and text are read" in text


def test_a_careless_reader_would_have_run_the_code(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = saved(tmp_path, {"state_dict": STATE, "perf": MISDEEDS[0](mark)})
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.ones(2),
        np.str_("text"),
        np.bytes_(b"text"),
        np.datetime64("2020-01-01"),
        np.array([(1.0, 2)], dtype=[("a", "f8"), ("b", "i8")])[0],
        np.longdouble(1),
        np.dtype(object),
        Calls(SCALAR, np.dtype(object), Calls(eval, "1")),
        Calls(SCALAR, np.dtype(object), "text"),
        Calls(SCALAR, np.dtype("f8"), b"short"),
        Calls(SCALAR, np.dtype("f8"), bytes(16)),
        Calls(SCALAR, "f8", bytes(8)),
        Calls(SCALAR, np.dtype("f8"), [1]),
        Calls(SCALAR, number_type("f4,"), bytes(12)),
        Calls(SCALAR, number_type("?"), bytes(9)),
        Calls(SCALAR, number_type(3), bytes(8)),
        Calls(np.dtype, "O"),
        Calls(np.dtype, [("a", "O")]),
        Calls(np.dtype, {"names": ["a"], "formats": ["O"]}),
        Calls(np.load, "anything"),
        Calls(RECONSTRUCT, np.ndarray, (0,), b"O"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_of_numpy_nothing_but_plain_numbers_is_read(tmp_path: Path, value: object, zipped: bool) -> None:
    content = {"state_dict": STATE, "perf": value}
    refusal(saved(tmp_path, content, _use_new_zipfile_serialization=zipped))


def test_what_torch_reads_elsewhere_is_not_widened(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    path = saved(tmp_path, {"state_dict": STATE, "perf": np.float64(0.5)})
    reader.read(path)
    refusal(saved(tmp_path, {"perf": Calls(eval, "1")}))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(saved(tmp_path, np.float64(0.5)), weights_only=True)


def as_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes/a.txt", "hello")


def as_tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("storages"))


def as_torchscript(path: Path) -> None:
    """A program: torch.load would otherwise hand it on to a reader of programs."""
    with zipfile.ZipFile(path, "w") as file:
        for name in ("constants.pkl", "data.pkl", "version", "code/__torch__.py"):
            file.writestr(f"file/{name}", pickle.dumps({}, protocol=2))


DAMAGED: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello\n"),
    "yaml": lambda path: path.write_text("a: 1\n"),
    "json": lambda path: path.write_text(json.dumps({"state_dict": {}})),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "old pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=2)),
    "zip": as_zip,
    "tar": as_tar,
    "torchscript": as_torchscript,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_file_of_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    DAMAGED[kind](tmp_path / "file")
    text = refusal(tmp_path / "file")
    assert text.startswith("is cut short, damaged or no file of torch.save")
    assert "weights_only` set to" not in text  # torch's advice to run the file's code


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_file_that_is_cut_short_anywhere_is_refused(tmp_path: Path, zipped: bool) -> None:
    whole = saved(tmp_path, {"state_dict": STATE, "epoch": 1}, _use_new_zipfile_serialization=zipped).read_bytes()
    for length in range(0, len(whole) - 1, 7):
        (tmp_path / "cut").write_bytes(whole[:length])
        refusal(tmp_path / "cut")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_file_with_wrong_bytes_is_read_or_refused_in_one_line(tmp_path: Path, zipped: bool) -> None:
    whole = saved(tmp_path, {"state_dict": STATE, "perf": np.float64(1)}, _use_new_zipfile_serialization=zipped)
    content, generator = whole.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(content)
        for place in generator.integers(0, len(changed), 3):
            changed[place] = generator.integers(0, 256)
        (tmp_path / "changed").write_bytes(changed)
        try:
            found: Contents | str = reader.read(tmp_path / "changed")
        except UserError as error:
            found = str(error)
        assert isinstance(found, Contents) or "\n" not in found


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pth.tar") == "does not exist"
    assert refusal(tmp_path).startswith("cannot be read: ")
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "cannot be read: it is a named pipe, but must be a file"
    assert refusal(saved(tmp_path, STATE) / "deeper").startswith("cannot be read: ")


def test_our_own_file_needs_no_import(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "ours.safetensors", STATE, {"kind": "model"})
    assert refusal(tmp_path / "ours.safetensors") == "is a file of deqpipe already: it needs no import"


def test_safetensors_of_others_are_refused(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "theirs.safetensors")
    assert refusal(tmp_path / "theirs.safetensors").startswith("is a safetensors file, but the release writes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list, but must hold tensors by name"),
        (torch.zeros(1), "holds a Tensor, but must hold tensors by name"),
        ({}, "holds no tensors by name: its state_dict is empty"),
        ({"state_dict": {}}, "holds no tensors by name: its state_dict is empty"),
        ({"state_dict": [1]}, "holds no tensors by name: its state_dict is a list"),
        ({"state_dict": None}, "holds no tensors by name: its state_dict is a NoneType"),
        ({"net": {"a": torch.zeros(1)}}, "'net' is a dict, but must be a tensor"),
        ({"a": 1.0}, "'a' is a float, but must be a tensor"),
        ({1: torch.zeros(1)}, "1 is no name"),
        ({torch.zeros(2, 2): torch.zeros(1)}, "tensor([[0., 0.], [0., 0.]]) is no name"),
        ({"a\nb": torch.zeros(1)}, r"'a\nb' is no name"),
        ({"a": torch.zeros(2).to_sparse()}, "'a' is no plain dense tensor"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is no plain dense tensor"),
        ({"a": torch.ones(2, dtype=torch.complex64).conj().imag}, "'a' is no plain dense tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "'a' is torch.complex64, but must be torch.int64 or one of"),
        ({"a": torch.zeros(2, dtype=torch.bool)}, "'a' is torch.bool, but must be"),
        ({"a": torch.zeros(2, dtype=torch.int32)}, "'a' is torch.int32, but must be"),
        ({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, "'a' is torch.float8_e4m3fn, but must be"),
        ({"a": torch.zeros(1).expand(10**12)}, "'a' is [1000000000000], but the file holds fewer numbers"),
        ({"a": torch.tensor([1.0, float("nan")])}, "'a' holds values that are not finite"),
        ({"a": torch.tensor(float("-inf"), dtype=torch.float16)}, "'a' holds values that are not finite"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object, message: str) -> None:
    assert refusal(saved(tmp_path, content)).startswith(message)


def test_whole_model_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    assert refusal(saved(tmp_path, nn.Linear(2, 2))).startswith("holds torch.nn.modules.linear.Linear, but only")


def test_tensors_that_share_memory_are_read(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    found = reader.read(saved(tmp_path, {"a": whole[:3], "b": whole[2:], "c": whole.view(2, 3).T}))
    assert found.state["c"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_tensor_whose_bytes_changed_in_the_file_is_refused(tmp_path: Path) -> None:
    """The value is still a number: the archive's checksum alone tells."""
    path = saved(tmp_path, {"state_dict": {"a.weight": torch.full((1000,), 0.5, dtype=torch.float64)}})
    data = bytearray(path.read_bytes())
    where = data.index(torch.tensor(0.5, dtype=torch.float64).numpy().tobytes() * 10)
    data[where] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["state_dict"]["a.weight"][0] != 0.5
    assert "is damaged: the checksum of its member" in refusal(path)


def test_accuracy_and_epoch_beyond_all_numbers_are_unknown(tmp_path: Path) -> None:
    found = reader.read(saved(tmp_path, {"state_dict": STATE, "perf": 10**400, "epoch": -3}))
    assert (found.perf, found.epoch) == (None, None)
