"""The ranking of the grid's points: against a slow version, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from deqpipe.analysis import ranking
from deqpipe.analysis.evaluation import evaluate
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.workflow import defences, gridpoints, specs
from deqpipe.workflow.gridpoints import GridPoint
from tests.reference import reporting as slow
from tests.reporting import fabricate

MODEL = "deq_trades_random_states"


@pytest.mark.parametrize("defence", ["plain", "entropy"])
def test_ranking_equals_a_slow_one(
    tmp_path: Path, finished: Path, config: Config, defence: defences.DefenceName
) -> None:
    ranking.write(Tree(finished, config, 0), MODEL, output=tmp_path / "out" / "ranked.json")
    found = json.loads((tmp_path / "out" / "ranked.json").read_text())
    attacks = slow.deq(finished, MODEL, defence, seed=0)[1]
    expected = sorted((sum(right), point) for point, right in attacks.items())
    assert [
        (entry["correct"], (entry["damping"], entry["state"], entry["steps"])) for entry in found[defence]
    ] == expected
    assert {entry["n"] for entry in found[defence]} == {config.evaluation.images}
    assert found["early"] == {"plain": 4, "entropy": 3}
    assert set(found) == {"early", "plain", "entropy", "provenance", "digest"}


def test_ranking_starts_where_the_evaluation_is_at_its_lowest_and_leaves_no_point_out(
    finished: Path, config: Config
) -> None:
    for evaluation in evaluate(Tree(finished, config, 0), MODEL, clean=False):
        order = ranking.ranked(evaluation)
        assert order[0] == evaluation.strongest
        assert sorted(order) == list(range(len(evaluation.points)))
        assert (np.diff(evaluation.right.sum(axis=1)[list(order)]) >= 0).all()


def test_equal_points_are_ranked_by_damping_state_and_steps(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    for path in tree.attacked(MODEL):
        found = records.read(path)
        columns = {name: found[name] for name in records.COLUMNS}
        columns["predicted"] = np.repeat(columns["label"][:, None], columns["predicted"].shape[1], axis=1)
        fabricate.write(path, columns, config, "attack_grid", MODEL, 0)
    ranking.write(tree, MODEL, output=results / "ranked.json")
    found = json.loads((results / "ranked.json").read_text())["plain"]
    points = [GridPoint(entry["damping"], entry["state"], entry["steps"]) for entry in found]
    assert points == list(gridpoints.grid_points(config))


def test_provenance_says_of_which_spec_and_which_files(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    ranking.write(tree, MODEL, output=tree.strongest(MODEL))
    found = json.loads(tree.strongest(MODEL).read_text())["provenance"]
    assert found["spec"] == specs.build("strongest", config, model=MODEL, seed=0)
    paths = [*tree.attacked(MODEL), tree.select(MODEL)]
    assert set(found["inputs"]) == {str(path.relative_to(results)) for path in paths}


def test_nothing_is_written_where_records_or_the_grid_are_missing(tmp_path: Path, config: Config) -> None:
    tree = Tree(tmp_path / "empty", config, 0)
    with pytest.raises(UserError, match="do not exist"):
        ranking.write(tree, MODEL, output=tmp_path / "ranked.json")
    with pytest.raises(UserError, match="stage strongest needs one of"):
        ranking.write(tree, "resnet18_trades", output=tmp_path / "ranked.json")
    assert not list(tmp_path.iterdir())
