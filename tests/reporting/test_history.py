"""Training histories."""

from pathlib import Path

import pytest

from deqpipe.errors import UserError
from deqpipe.reporting import history
from deqpipe.reporting.history import Epoch

HEADER = "epoch,clean_accuracy,robust_accuracy,seconds\n"


def write(path: Path, *lines: str) -> Path:
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return path


def test_an_epoch_without_attack_has_no_robust_accuracy(tmp_path: Path) -> None:
    epochs = history.read(write(tmp_path / "history.csv", "1,0.5,,3.5", "2,0.75,0.25,7"))
    assert epochs == (Epoch(1, 0.5, None, 3.5), Epoch(2, 0.75, 0.25, 7.0))


def test_the_first_of_the_most_robust_epochs_is_the_chosen_one() -> None:
    robust = (None, 0.2, 0.5, 0.4, 0.5)
    epochs = [Epoch(number, 0.9, accuracy, 1.0) for number, accuracy in enumerate(robust, start=1)]
    assert history.chosen(epochs, "deq_trades_base").epoch == 3


def test_the_last_epoch_is_chosen_for_the_trunk_and_where_none_was_attacked() -> None:
    attacked = [Epoch(1, 0.9, 0.5, 1.0), Epoch(2, 0.9, 0.4, 1.0)]
    assert history.chosen(attacked, "deq_pretrain").epoch == 2
    assert history.chosen([Epoch(1, 0.9, None, 1.0), Epoch(2, 0.9, None, 1.0)], "deq_trades_base").epoch == 2


def test_accuracy_zero_is_not_the_same_as_no_attack() -> None:
    epochs = [Epoch(1, 0.9, 0.0, 1.0), Epoch(2, 0.9, None, 1.0)]
    assert history.chosen(epochs, "deq_trades_base").epoch == 1


def test_missing_empty_and_foreign_histories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        history.read(tmp_path / "history.csv")
    with pytest.raises(UserError, match="has no epochs"):
        history.read(write(tmp_path / "history.csv"))
    (tmp_path / "other.csv").write_text("epoch,seconds\n1,2\n")
    with pytest.raises(UserError, match="has no column 'clean_accuracy'"):
        history.read(tmp_path / "other.csv")
