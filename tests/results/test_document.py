"""JSON files of results: their bytes, and a refusal in one line for what is none."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deqpipe.errors import UserError
from deqpipe.results import document, early_states, race, ranking, speeds
from tests.results.edits import without_digest

ORIGIN = {"spec": {"stage": "clean"}, "seed": 0}
READERS: Mapping[str, Callable[[Path], object]] = {
    "race": race.read,
    "ranking": lambda path: ranking.read(path, states=8),
    "early states": lambda path: early_states.read(path, ("plain",)),
    "speeds of trainings": lambda path: speeds.read(path, "methods"),
    "speeds of decisions": lambda path: speeds.read(path, "settings"),
}


def test_keys_are_sorted_on_demand_and_provenance_stands_beside_them(tmp_path: Path) -> None:
    document.write(tmp_path / "sorted.json", {"z": 1, "a": [2]}, ORIGIN)
    assert without_digest(tmp_path / "sorted.json") == (
        '{\n "a": [\n  2\n ],\n "provenance": {\n  "seed": 0,\n  "spec": {\n   "stage": "clean"\n  }\n },\n "z": 1\n}\n'
    )
    document.write(tmp_path / "kept.json", {"z": 1, "a": 2}, ORIGIN, sort_keys=False)
    assert list(json.loads((tmp_path / "kept.json").read_text())) == ["z", "a", "provenance", "digest"]
    assert document.read(tmp_path / "sorted.json") == ({"z": 1, "a": [2]}, ORIGIN)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "file.json does not exist"),
        (b"", "file.json is not JSON: "),
        (b"{\n1", "file.json is not JSON: "),
        (b"\xff", "file.json is not JSON: "),
        (b"[]", "file.json holds a list, but must hold keys and values"),
        (b"{}", "file.json carries no provenance: not written by deqpipe"),
        (b'{"provenance": 3}', "file.json carries no provenance: not written by deqpipe"),
        (b'{"provenance": {"spec": "clean"}}', "file.json carries no provenance: not written by deqpipe"),
        (
            b'{"provenance": {"spec": {}}}',
            "file.json carries no digest, so an older version of deqpipe wrote it; delete",
        ),
        (b'{"provenance": {"spec": {}}, "digest": 3}', "file.json is damaged: its content is not what its digest says"),
        (document.sealed_text({"provenance": {"spec": {}}}).encode(), "file.json lacks '"),
        (b"[" * 100_000, "file.json is not JSON of deqpipe: it is nested too deep"),
        (b"1" * 5001, "file.json is not JSON: Exceeds the limit"),
    ],
)
def test_a_file_that_is_none_of_a_format_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        READERS[name](path)
    assert "\n" not in str(refused.value)


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{tmp_path} cannot be read: Is a directory$"):
        document.read(tmp_path)


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_only_a_whole_number_is_one(value: Any) -> None:
    assert document.whole(1) == 1
    with pytest.raises(TypeError, match="is no whole number"):
        document.whole(value)


@pytest.mark.parametrize("value", [True, "1", None, [1.0]])
def test_only_a_number_is_one(value: Any) -> None:
    assert (document.number(1), document.number(0.5)) == (1.0, 0.5)
    with pytest.raises(TypeError, match="is no number"):
        document.number(value)


def test_our_own_mistakes_are_no_fault_of_the_file(tmp_path: Path) -> None:
    def fail() -> None:
        with document.understood(tmp_path, as_what="race"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
