"""Records: whole files, read back as they were written, put together only where that makes sense."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deqpipe.errors import UserError
from deqpipe.results import checkpoint, records
from tests.limits import limited
from tests.results.edits import write_table

PROVENANCE = {"spec": {"stage": "clean", "revision": 1}, "seconds": 1.5}


def rows(images: list[int], *, states: int = 3, steps: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of a records file with made-up values."""
    random, count = np.random.default_rng(seed), len(images)
    columns: dict[str, np.ndarray] = {
        "image": np.array(images, np.int32),
        "label": random.integers(0, 10, count, dtype=np.int16),
        "model": np.full(count, "deq_trades_base", object),
        "defence": np.full(count, "plain", object),
        "attack": np.full(count, "pgd", object),
        "crafted_on": np.full(count, "deq_trades_base", object),
        "state": np.full(count, 2, np.int16),
        "steps": np.full(count, steps, np.int16),
        "damping": np.full(count, 0.5, np.float32),
        "perturbation": random.random(count, dtype=np.float32),
        "lost_gradient": np.zeros(count, np.float32),
        "status": np.full(count, 2, np.int8),
        "predicted": random.integers(0, 10, (count, states), dtype=np.int16),
    }
    for name in ("margin", "entropy", "residual", "deviation"):
        columns[name] = random.random((count, states), dtype=np.float32)
    return columns


def told(action: Callable[[], object]) -> str:
    """The one line of a refusal."""
    with pytest.raises(UserError) as refusal:
        action()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(count=st.integers(0, 20), states=st.integers(1, 9), seed=st.integers(0, 99))
def test_what_was_written_is_read(tmp_path: Path, count: int, states: int, seed: int) -> None:
    columns = rows(list(range(count)), states=states, seed=seed)
    columns["deviation"][...] = np.nan
    records.write(tmp_path / "a.parquet", columns, provenance=PROVENANCE)
    read = records.read(tmp_path / "a.parquet")
    assert len(read) == count
    assert read.provenance == (PROVENANCE,)
    for name in records.COLUMNS:
        np.testing.assert_array_equal(read[name], columns[name])


def test_single_columns_can_be_read(tmp_path: Path) -> None:
    records.write(tmp_path / "a.parquet", rows([4, 5]), provenance=PROVENANCE)
    read = records.read(tmp_path / "a.parquet", ["image", "margin"])
    assert set(read.columns) == {"image", "margin"}


def test_rows_are_chosen_in_all_columns(tmp_path: Path) -> None:
    records.write(tmp_path / "a.parquet", rows([4, 5, 6]), provenance=PROVENANCE)
    read = records.read(tmp_path / "a.parquet")
    chosen = read.where(read["image"] != 5)
    assert chosen["image"].tolist() == [4, 6]
    np.testing.assert_array_equal(chosen["margin"], read["margin"][[0, 2]])


def test_a_file_that_is_missing_foreign_or_cut_short_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert f"records {path} do not exist" in told(lambda: records.read(path))
    records.write(path, rows([1, 2, 3]), provenance=PROVENANCE)
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert f"records {path} cannot be read" in told(lambda: records.read(path))
    pq.write_table(pa.table({"image": [1]}), path)
    assert "no provenance" in told(lambda: records.read(path, ["image"]))


def test_columns_that_an_older_revision_did_not_write_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    records.write(path, rows([1, 2]), provenance=PROVENANCE)
    write_table(path, pq.read_table(path).drop_columns(["status", "margin"]))
    message = told(lambda: records.read(path))
    assert message == f"records {path} lack status, margin: an older revision wrote them; delete the file"
    assert len(records.read(path, ["image"])) == 2


def test_shards_of_one_spec_are_put_together(tmp_path: Path) -> None:
    for name, images in (("a", [0, 1]), ("b", [2, 3])):
        records.write(tmp_path / name, rows(images), provenance=PROVENANCE)
    merged = records.merge([records.read(tmp_path / name) for name in "ab"])
    assert merged["image"].tolist() == [0, 1, 2, 3]
    assert merged["margin"].shape == (4, 3)
    assert len(merged.provenance) == 2


def test_results_of_different_specs_are_never_mixed(tmp_path: Path) -> None:
    records.write(tmp_path / "a", rows([0, 1]), provenance=PROVENANCE)
    records.write(tmp_path / "b", rows([2, 3]), provenance={"spec": {"stage": "clean", "revision": 2}})
    parts = [records.read(tmp_path / name) for name in "ab"]
    assert "2 different specs" in told(lambda: records.merge(parts))


def test_other_conditions_do_not_keep_shards_of_one_spec_apart(tmp_path: Path) -> None:
    records.write(tmp_path / "a", rows([0, 1]), provenance={**PROVENANCE, "device": "cpu"})
    records.write(tmp_path / "b", rows([2, 3]), provenance={**PROVENANCE, "device": "cuda"})
    assert len(records.merge([records.read(tmp_path / name) for name in "ab"])) == 4


def test_an_image_counts_once_per_attack(tmp_path: Path) -> None:
    records.write(tmp_path / "a", rows([0, 1, 2]), provenance=PROVENANCE)
    records.write(tmp_path / "b", rows([2, 3]), provenance=PROVENANCE)
    records.write(tmp_path / "c", rows([2, 3], steps=5), provenance=PROVENANCE)
    first, second, third = (records.read(tmp_path / name) for name in "abc")
    assert "1 images stand twice" in told(lambda: records.merge([first, second]))
    assert len(records.merge([first, third])) == 5


def test_an_output_under_its_final_name_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.txt"
    records.write_text(path, "old")

    def fail_half_way() -> None:
        with records.atomic(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_an_output_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "folder", "it is a folder, but must be a file"),
        (tmp_path / "file" / "a.txt", "File exists"),
        (tmp_path / "file" / "below" / "a.txt", "Not a directory"),
        (Path("/proc/a.txt"), "/proc"),
    ):
        message = told(lambda path=path: records.write_text(path, "text"))  # type: ignore[misc]
        assert message.startswith(f"{path} cannot be written: ")
        assert reason in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: records.write_text(path, "a" * 5_000),
    "records": lambda path: records.write(path, rows(list(range(2_000))), provenance=PROVENANCE),
    "checkpoint": lambda path: checkpoint.write(path, {"a": torch.rand(5_000)}, {}),
}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("size", [0, 1, 4_000])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_does_not_take_a_file_leaves_the_older_one_and_nothing_else(
    tmp_path: Path, writer: str, size: int, older: bool
) -> None:
    path = tmp_path / "a"
    if older:
        path.write_text("older")
    with limited(size):
        message = told(lambda: WRITERS[writer](path))
    assert message == (
        f"{path} cannot be written: File too large: files may not grow as large here; raise the limit (ulimit -f), "
        "then start the same command again"
    )
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == ([("a", "older")] if older else [])
    WRITERS[writer](path)
    assert path.stat().st_size > 4_000


def test_mistakes_in_what_makes_a_content_are_no_matter_of_the_disk(tmp_path: Path) -> None:
    def misspelled() -> None:
        with records.atomic(tmp_path / "a"):
            (tmp_path / "no such file").read_text()

    with pytest.raises(FileNotFoundError):
        misspelled()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_removed_while_a_file_is_made_is_told(tmp_path: Path) -> None:
    def removed() -> None:
        with records.atomic(tmp_path / "folder" / "a") as temporary:
            shutil.rmtree(tmp_path / "folder")
            temporary.write_text("text")

    assert told(removed) == f"{tmp_path}/folder/a cannot be written: No such file or directory"


def written_folder(path: Path) -> None:
    with records.atomic_folder(path) as folder:
        (folder / "below").mkdir()
        (folder / "below" / "a.txt").write_text("a" * 5_000)
        (folder / "b.txt").write_text("b")


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / ".out.killed.tmp").mkdir()
    (tmp_path / ".out.killed.tmp" / ".lock").touch()
    with limited(4_000):
        message = told(lambda: written_folder(tmp_path / "out"))
    assert message.startswith(f"{tmp_path}/out cannot be written: File too large")
    assert list(tmp_path.iterdir()) == []
    written_folder(tmp_path / "out")
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert names == ["out", "out/b.txt", "out/below", "out/below/a.txt"]
    assert "it is a folder" in told(lambda: written_folder(tmp_path / "out"))


def test_all_files_of_a_folder_are_put_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(f"/proc/self/fd/{handle}").resolve()))
    written_folder(tmp_path / "out")
    assert flushed[-1] == tmp_path
    assert sorted(path.name for path in flushed[:-1]) == ["a.txt", "b.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0o027, 0o640)])
def test_the_umask_says_who_may_read_and_write_an_output(tmp_path: Path, umask: int, mode: int) -> None:
    """Whatever a library thinks of it: safetensors' files are private."""
    before = os.umask(umask)
    try:
        records.write_text(tmp_path / "a.txt", "text")
        checkpoint.write(tmp_path / "a.safetensors", {"a": torch.ones(1)}, {})
        records.write(tmp_path / "a.parquet", rows([1]), provenance=PROVENANCE)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [mode] * 3


def test_rows_of_many_row_groups_and_words_that_change_between_them_are_read(tmp_path: Path) -> None:
    """As Parquet keeps more than a million rows."""
    columns = rows(list(range(10)))
    columns["attack"] = np.array(["pgd"] * 4 + ["clean", "pgd"] * 3, object)
    records.write(tmp_path / "a.parquet", columns, provenance=PROVENANCE)
    write_table(tmp_path / "b.parquet", pq.read_table(tmp_path / "a.parquet"), row_group_size=3)
    read = records.read(tmp_path / "b.parquet")
    for name in records.COLUMNS:
        np.testing.assert_array_equal(read[name], columns[name])


def test_files_of_an_older_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    records.write(path, rows([1]), provenance=PROVENANCE)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"deqpipe": table.schema.metadata[b"deqpipe"]}), path)
    message = told(lambda: records.read(path))
    assert message.startswith(f"records {path} carries no digest, so an older version of deqpipe wrote it; delete it")


def test_records_without_a_spec_are_refused(tmp_path: Path) -> None:
    records.write(tmp_path / "a.parquet", rows([1]), provenance={"seconds": 1})
    assert "carries no provenance" in told(lambda: records.read(tmp_path / "a.parquet"))


def test_what_killed_writers_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """What others are writing, or is of other files, stays."""
    for name in (".a.txt.killed.tmp", ".b.txt.killed.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".lock").touch()
        (tmp_path / name / "what a library left").write_text("half")
    (tmp_path / ".a.txt.killedearlier.tmp").mkdir()
    with records.atomic(tmp_path / "a.txt") as living:
        records.write_text(tmp_path / "a.txt", "whole")
        assert {path.name for path in tmp_path.iterdir()} == {"a.txt", living.parent.name, ".b.txt.killed.tmp"}
        living.write_text("later")
    assert (tmp_path / "a.txt").read_text() == "later"
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", ".b.txt.killed.tmp"}


def test_a_new_name_is_put_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(f"/proc/self/fd/{handle}").resolve()))
    records.write_text(tmp_path / "a.txt", "text")
    assert flushed[-1] == tmp_path
    assert flushed[0].name == "a.txt"


@pytest.mark.parametrize(("name", "value"), [("state", 2**15), ("label", 0.5), ("status", -129)])
def test_a_whole_number_that_does_not_fit_its_column_is_refused(tmp_path: Path, name: str, value: float) -> None:
    columns = rows([0, 1])
    columns[name] = np.array([0, value])
    with pytest.raises(ValueError, match="do not fit int"):
        records.write(tmp_path / "a.parquet", columns, provenance=PROVENANCE)
    assert not (tmp_path / "a.parquet").exists()
