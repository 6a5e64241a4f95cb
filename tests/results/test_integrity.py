"""No file that has decayed is believed: it is refused in one line, or reads as it was written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe.errors import DamagedFileError, UserError
from deqpipe.results import checkpoint, example, history, integrity, race, records, weights
from tests.results.test_example import EXAMPLE
from tests.results.test_race import ORIGIN, RACE
from tests.results.test_records import PROVENANCE, rows

TENSORS = {"a": torch.arange(6.0).reshape(3, 2), "b.running_mean": torch.ones(2), "n": torch.tensor(3)}
METADATA = {"epoch": 3, "provenance": {"spec": {"stage": "pretrain"}}, "history": "none"}
HISTORY = b"epoch,clean_accuracy,robust_accuracy,seconds\n1,0.5,,3.5\n2,0.75,0.25,7\n"


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        write: a small one.
        read: as something that can be compared.
        step: between two bytes that are changed.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    step: int


def bits(columns: dict[str, np.ndarray]) -> dict[str, object]:
    return {
        name: (array.dtype.str, array.shape, array.tolist() if array.dtype == object else array.tobytes())
        for name, array in columns.items()
    }


def whole_records(path: Path) -> object:
    found = records.read(path)
    return bits(dict(found.columns)), found.provenance


def grouped_records(path: Path) -> object:
    """As tables read them: by the numbers of words."""
    return [
        (
            bits(dict(group.numbers)),
            {name: [words[k] for k in numbers] for name, (words, numbers) in group.words.items()},
        )
        for group in records.groups(path, ("image", "margin", "defence", "attack"))
    ]


def whole_checkpoint(path: Path) -> object:
    found = checkpoint.read(path)
    return bits({name: tensor.numpy() for name, tensor in found.tensors.items()}), found.metadata


def whole_example(path: Path) -> object:
    found, origin = example.read(path)
    return vars(found) | {"clean": found.clean.tobytes(), "attacked": found.attacked.tobytes()}, origin


def write_records(path: Path) -> None:
    records.write(path, rows([0, 1, 2]), provenance=PROVENANCE)


def write_checkpoint(path: Path) -> None:
    checkpoint.write(path, TENSORS, METADATA)


FORMATS = {
    "records": Format(write_records, whole_records, 47),
    "records in groups": Format(write_records, grouped_records, 43),
    "tensors": Format(write_checkpoint, whole_checkpoint, 5),
    "a weights file's header": Format(write_checkpoint, weights.read, 5),
    "JSON": Format(lambda path: race.write(path, RACE, ORIGIN), race.read, 2),
    "npz": Format(lambda path: example.write(path, EXAMPLE, ORIGIN), whole_example, 23),
    "history": Format(lambda path: path.write_bytes(HISTORY), lambda p: history.read(p, history.digest(HISTORY)), 1),
}


def damages(content: bytes, step: int) -> Iterator[bytes]:
    """One bit flipped here and there; a stretch lost, as a sector is; an end cut off."""
    for place in range(0, len(content), step):
        yield content[:place] + bytes([content[place] ^ (1 << (place // step % 8))]) + content[place + 1 :]
    for place in range(0, len(content), max(1, len(content) // 12)):
        yield content[:place] + bytes(len(content[place : place + 64])) + content[place + 64 :]
        yield content[:place]


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_with_a_flipped_bit_is_refused_or_reads_as_it_was_written(tmp_path: Path, name: str) -> None:
    kind, path = FORMATS[name], tmp_path / "file"
    kind.write(path)
    content, before = path.read_bytes(), kind.read(path)
    lines = []
    for damaged in damages(content, kind.step):
        path.write_bytes(damaged)
        try:
            assert kind.read(path) == before
        except UserError as error:
            lines.append(str(error))
    assert all(str(path) in line and "\n" not in line for line in lines)
    assert len(lines) > len(content) // kind.step // 2


def test_what_decayed_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    write_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError) as refused:
        checkpoint.read(path)
    assert str(refused.value) == (
        f"checkpoint {path} is damaged: its content is not what its digest says; delete it, and it is computed again"
    )


def test_a_footer_is_never_parsed_that_is_not_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parser of C++ may do anything with a footer that was made up."""
    path = tmp_path / "a.parquet"
    write_records(path)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", lambda *_, **__: pytest.fail("was opened"))
    with pytest.raises(DamagedFileError, match="is not what its digest says"):
        records.read(path, ())


def test_only_the_pages_of_columns_that_are_asked_for_are_compared(tmp_path: Path) -> None:
    """Tables read few columns of large files."""
    path = tmp_path / "a.parquet"
    write_records(path)
    content, margin = path.read_bytes(), records.read(path)["margin"].tobytes()
    place = content.index(margin[:8]) if margin[:8] in content else None
    assert place is not None, "so few numbers are kept as they are"
    path.write_bytes(content[:place] + b"\0" + content[place + 1 :])
    assert len(records.read(path, ["image", "label"])) == 3
    with pytest.raises(DamagedFileError, match="CRC"):
        records.read(path, ["margin"])


@pytest.mark.parametrize("beside", [None, {"a": [3]}])
def test_a_digest_is_of_all_values_and_of_what_stands_beside_them(beside: Any) -> None:
    content = {"b": [1, 2.5, None], "a": {"2": "x", "10": "y"}}
    sealed = integrity.sealed(content, beside=beside)
    assert list(sealed) == ["b", "a", "digest"]
    assert integrity.unsealed(sealed, "file", beside=beside) == content
    with pytest.raises(DamagedFileError, match=r"^file is damaged"):
        integrity.unsealed(sealed | {"b": [1, 2.5, 0]}, "file", beside=beside)
    with pytest.raises(DamagedFileError, match=r"^file is damaged"):
        integrity.unsealed(sealed, "file", beside={"a": [4]})


def test_numbers_as_keys_have_the_digest_of_the_texts_that_they_become() -> None:
    """JSON knows texts only, and sorts them otherwise."""
    assert (
        integrity.sealed({"a": {2: "x", 10: "y"}})["digest"] == integrity.sealed({"a": {"10": "y", "2": "x"}})["digest"]
    )


def test_a_file_that_is_set_aside_keeps_its_content_and_leaves_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("decayed")
    integrity.set_aside(tmp_path / "state", "state is damaged")
    assert (tmp_path / "state.damaged").read_text() == "decayed"
    assert not (tmp_path / "state").exists()
    assert caplog.messages == ["state is damaged; it is now called state.damaged, and what it held is computed again"]
