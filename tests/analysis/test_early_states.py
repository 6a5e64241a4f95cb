"""The states that decide are those of the configuration; everything else is refused in one line."""

import json
from pathlib import Path

import pytest

from deqpipe.analysis.early_states import early_states
from deqpipe.analysis.evaluation import evaluate
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from tests.results.edits import write_json

MODEL = "deq_trades_base"


def tree(results: Path, config: Config) -> Tree:
    return Tree(results, config, 0)


def test_early_states_are_read_for_each_defence(finished: Path, config: Config) -> None:
    chosen = early_states(tree(finished, config), MODEL)
    assert {defence: early.state for defence, early in chosen.items()} == {
        "plain": 4, "entropy": 3, "entropy_zero_steps": 3, "entropy_restart_only": 3, "entropy_one_round": 3,
    }  # fmt: skip
    assert [evaluation.state for evaluation in evaluate(tree(finished, config), MODEL)] == [4, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("{}", "carries no provenance"),
    ],
)
def test_broken_early_states_are_refused(results: Path, config: Config, text: str, message: str) -> None:
    tree(results, config).select(MODEL).write_text(text)
    with pytest.raises(UserError, match=message):
        early_states(tree(results, config), MODEL)


@pytest.mark.parametrize(("state", "message"), [(0, "choose state 0"), (5, "has states 1 to 4"), (None, "lack")])
def test_an_early_state_that_does_not_exist_is_refused(
    results: Path, config: Config, state: int | None, message: str
) -> None:
    path = tree(results, config).select(MODEL)
    raw = json.loads(path.read_text())
    raw["plain"]["state"] = state
    if state is None:
        del raw["plain"]["state"]
    write_json(path, raw)
    with pytest.raises(UserError, match=message):
        early_states(tree(results, config), MODEL)


def test_missing_early_states_are_named(results: Path, config: Config) -> None:
    tree(results, config).select(MODEL).unlink()
    with pytest.raises(UserError, match=r"seed0\.json does not exist"):
        evaluate(tree(results, config), MODEL)
