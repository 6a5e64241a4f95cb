"""Training histories."""

from pathlib import Path

import pytest

from deqpipe.errors import UserError
from deqpipe.results import history
from deqpipe.results.history import Epoch

HEADER = "epoch,clean_accuracy,robust_accuracy,seconds\n"


def read(path: Path) -> tuple[Epoch, ...]:
    return history.read(path, history.digest(path.read_bytes()) if path.exists() else None)


def write(path: Path, *lines: str) -> Path:
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return path


def test_an_epoch_without_attack_has_no_robust_accuracy(tmp_path: Path) -> None:
    epochs = read(write(tmp_path / "history.csv", "1,0.5,,3.5", "2,0.75,0.25,7"))
    assert epochs == (Epoch(1, 0.5, None, 3.5), Epoch(2, 0.75, 0.25, 7.0))


def test_an_epoch_is_found_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "history.csv", "6,0.5,0.0,3.5", "7,0.75,0.25,7")
    told = history.digest(path.read_bytes())
    assert history.at(path, told, 7) == Epoch(7, 0.75, 0.25, 7.0)
    with pytest.raises(UserError, match="has no epoch 1, whose weights were kept"):
        history.at(path, told, 1)


def test_missing_empty_and_foreign_histories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "history.csv")
    with pytest.raises(UserError, match="has no epochs"):
        read(write(tmp_path / "history.csv"))
    (tmp_path / "other.csv").write_text("epoch,seconds\n1,2\n")
    with pytest.raises(UserError, match="has no column 'clean_accuracy'"):
        read(tmp_path / "other.csv")


@pytest.mark.parametrize("row", [b"1,0.5", b"1,half,,3.5", b"one,0.5,,3", b"1,0.5\0,,3", b"\xff,0.5,,3"])
def test_a_table_that_holds_no_numbers_is_refused_in_one_line(tmp_path: Path, row: bytes) -> None:
    path = tmp_path / "history.csv"
    path.write_bytes(HEADER.encode() + row)
    with pytest.raises(UserError, match="is no table of numbers") as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_a_history_of_another_training_or_of_an_older_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "history.csv", "6,0.5,0.0,3.5")
    with pytest.raises(UserError, match="is damaged, or not of the training of the weights beside it; delete it"):
        history.read(path, history.digest(b"another"))
    with pytest.raises(UserError, match="carries no digest, so an older version of deqpipe wrote it"):
        history.read(path, None)
