"""The one reader: the same rows as one loop over all files, and a refusal in one line for everything else."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from deqpipe.analysis import reading
from deqpipe.analysis.attacks import attacks
from deqpipe.analysis.evaluation import evaluate
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Judge, RowQuery, Rows
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.workflow import gridpoints
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.stages import StageName
from tests.analysis import test_race
from tests.reference import reporting as slow
from tests.reporting import fabricate
from tests.results.edits import write_table

MODEL, OTHER = "deq_trades_base", "deq_trades_random_states"
PLAIN: Judge = (MODEL, "plain")
CONTROLS = ("plain", "entropy", "entropy_zero_steps", "entropy_restart_only", "entropy_one_round")
NAMES = ("label", "predicted", "entropy")
Columns = dict[str, np.ndarray]


def one_by_one(path: Path, judge: Judge) -> dict[tuple[GridPoint, int], Mapping[Any, Any]]:
    """The rows of a decision by attack and image, from a folder or a file, by a loop over a data frame."""
    found: dict[tuple[GridPoint, int], Mapping[Any, Any]] = {}
    for row in slow.frame(path).to_dict("records"):
        if (row["model"], row["defence"]) == judge:
            found[GridPoint(round(row["damping"], 5), row["state"], row["steps"]), row["image"]] = row
    return found


def check(rows: Rows, expected: Mapping[tuple[GridPoint, int], Mapping[Any, Any]], states: int | slice) -> None:
    """The table of all attacks that there are rows of is the expected one, number by number."""
    images = 1 + max(image for _, image in expected)
    points = tuple(sorted({point for point, _ in expected}))
    label, predicted, entropy = rows.table(*NAMES, points=points, images=images, where="rows")
    assert label.shape == (len(points), images)
    assert len(expected) == label.size
    for (point, image), row in expected.items():
        place = points.index(point), image
        assert label[place] == row["label"]
        assert np.array_equal(predicted[place], np.asarray(row["predicted"])[states])
        assert np.array_equal(entropy[place], np.asarray(row["entropy"])[states])


@pytest.mark.parametrize("states", [slice(None), slice(-2, None), 0, 2, -1])
@pytest.mark.parametrize("judge", [*((MODEL, defence) for defence in CONTROLS), (OTHER, "plain"), (OTHER, "entropy")])
def test_rows_of_the_grid_are_those_of_a_loop_over_its_files(
    finished: Path, config: Config, judge: Judge, states: int | slice
) -> None:
    """Controls, and images that are transferred to the other model, included."""
    tree = Tree(finished, config, 0)
    files = tree.opened("attack_grid", MODEL, tree.attacked(MODEL))
    rows = tree.rows(files, {judge: RowQuery(states)}, *NAMES)[judge]
    check(rows, one_by_one(finished / f"attacks/grid/{MODEL}/seed0", judge), states)


def test_rows_of_the_sweep_and_of_points_in_the_loop_are_those_of_a_loop(finished: Path, config: Config) -> None:
    tree = Tree(finished, config, 0)
    stages: tuple[tuple[StageName, str, tuple[Path, ...]], ...] = (
        ("attack_sweep", OTHER, tree.sweep(OTHER)), ("attack_in_loop", MODEL, tree.in_loop(MODEL)),
    )  # fmt: skip
    for stage, model, paths in stages:
        files = tree.opened(stage, model, paths)
        defences = reading.defences(files)
        assert set(defences) == set(slow.frame(paths[0].parent)["defence"])
        asked = {(model, defence): RowQuery(1) for defence in defences}
        for judge, rows in tree.rows(files, asked, *NAMES, crafted_on=model).items():
            expected = one_by_one(paths[0].parent, judge)
            assert rows.present == tuple(sorted({point for point, _ in expected}))
            check(rows, expected, 1)


def test_only_the_attacks_that_were_asked_for_are_kept(finished: Path, config: Config) -> None:
    tree, points = Tree(finished, config, 0), gridpoints.grid_points(config)[2:4]
    files = tree.opened("attack_grid", MODEL, tree.attacked(MODEL))
    rows = tree.rows(files, {PLAIN: RowQuery(points=points)}, *NAMES)[PLAIN]
    assert rows.present == points
    assert len(rows["label"]) == 2 * config.evaluation.images
    whole = one_by_one(finished / f"attacks/grid/{MODEL}/seed0", PLAIN)
    check(rows, {place: row for place, row in whole.items() if place[0] in points}, slice(None))


def test_each_seed_has_its_own_answers(tmp_path: Path) -> None:
    config = fabricate.small({"seeds": [0, 1]})
    results = fabricate.tree(tmp_path, config)
    for seed in config.seeds:
        for one in evaluate(Tree(results, config, seed), OTHER):
            clean, attacked = slow.deq(results, OTHER, one.decision.defence, seed=seed)
            assert one.right_when_clean.tolist() == clean
            for point, right in zip(one.points, one.right, strict=True):
                assert right.tolist() == attacked[point.damping, point.state, point.steps]


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A grid after its race."""
    config, root = fabricate.small(test_race.RACING), tmp_path_factory.mktemp("raced")
    test_race.everything(root, config)
    test_race.after_race(root, config, MODEL, "grid")
    return Tree(root, config, 0)


def test_after_a_race_the_attacks_that_are_left_have_the_answers_of_a_loop(raced: Tree) -> None:
    config, tree = raced.config, raced
    ran = attacks(tree, MODEL)
    assert ran.dropped
    for one in evaluate(tree, MODEL):
        expected = one_by_one(raced.root / f"attacks/grid/{MODEL}/seed0", one.decision.judge)
        for point, right in zip(ran.points, one.right, strict=True):
            found = [expected[point, image] for image in range(config.evaluation.images)]
            assert right.tolist() == [row["predicted"][one.state - 1] == row["label"] for row in found]


def test_checks_of_the_attacks_are_to_the_last_digit_those_of_all_rows_at_once(results: Path, config: Config) -> None:
    tree, generator = Tree(results, config, 0), np.random.default_rng(0)
    for path in tree.attacked(MODEL):
        rows = dict(records.read(path).columns)
        rows["lost_gradient"] = generator.random(len(rows["image"]), np.float32)
        rows["perturbation"] = generator.random(len(rows["image"]), np.float32)
        fabricate.write(path, rows, config, "attack_grid", MODEL, 0)
    whole = [records.read(path) for path in tree.attacked(MODEL)]
    for one in evaluate(tree, MODEL):
        parts = [part.where((part["model"] == MODEL) & (part["defence"] == one.decision.defence)) for part in whole]
        lost = np.concatenate([part["lost_gradient"] for part in parts])
        assert one.checks.lost_gradient == float(lost.mean())
        assert one.checks.perturbation == float(max(part["perturbation"].max() for part in parts))


def test_how_rows_are_grouped_in_files_does_not_matter(results: Path, config: Config) -> None:
    """Words have other numbers in every group, as each begins with another word."""
    tree = Tree(results, config, 0)
    before = evaluate(tree, MODEL)
    for path in tree.attacked(MODEL):
        write_table(path, pq.read_table(path), row_group_size=33)
    assert sum(1 for _ in records.groups(tree.attacked(MODEL)[0], ("image",))) > 10
    for one, other in zip(before, evaluate(tree, MODEL), strict=True):
        assert (one.right == other.right).all()
        assert one.checks == other.checks


def rewritten(results: Path, config: Config, change: Callable[[Columns], Columns]) -> Tree:
    """The tree with one shard of the grid changed."""
    tree = Tree(results, config, 0)
    path = tree.attacked(MODEL)[0]
    columns = {name: np.array(column) for name, column in records.read(path).columns.items()}
    fabricate.write(path, change(columns), config, "attack_grid", MODEL, 0)
    return tree


def taking(rows: Any) -> Callable[[Columns], Columns]:
    return lambda columns: {name: column[rows] for name, column in columns.items()}


def with_first(**values: object) -> Callable[[Columns], Columns]:
    def change(columns: Columns) -> Columns:
        for name, value in values.items():
            columns[name][0] = value
        return columns

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda columns: taking(np.r_[0:3, 0 : len(columns["image"])])(columns),
            "3 images stand twice in records that should be put together",
        ),
        (taking(slice(1, None)), "TRADES baseline lack 1 of 340 rows, the first of them attack state1_.*, image 0"),
        (taking(slice(0, 0)), r"TRADES baseline lack \d+ of 340 rows"),
        (with_first(state=-1), "hold the attack state-1_steps1_damping0.5, which the configuration does not ask for"),
        (with_first(steps=-3), "hold the attack state1_steps-3_damping0.5, which"),
        (with_first(state=30_000), "hold the attack state30000_steps1_damping0.5, which"),
        (with_first(damping=0.75), "hold the attack state1_steps1_damping0.75, which"),
        (with_first(image=2**31 - 1), "hold image 2147483647, but images 0 to 19 are evaluated"),
        (with_first(image=-1), "hold image -1, but images 0 to 19 are evaluated"),
        (with_first(defence="something"), "TRADES baseline lack 1 of 340 rows"),
        (with_first(label=9_999), "attack records of TRADES baseline give one image different labels"),
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(
    results: Path, config: Config, change: Callable[[Columns], Columns], message: str
) -> None:
    tree = rewritten(results, config, change)
    with pytest.raises(UserError, match=message) as told:
        evaluate(tree, MODEL)
    assert "\n" not in str(told.value)


def test_an_image_in_two_files_stands_twice(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    first, second, *_ = tree.attacked(MODEL)
    second.write_bytes(first.read_bytes())
    count = sum(records.read(first)["model"] == MODEL)
    with pytest.raises(UserError, match=f"^{count} images stand twice") as told:
        evaluate(tree, MODEL)
    assert str(told.value).endswith(f"image 0 of {MODEL}, plain, in {first} and {second}")


def test_an_image_twice_in_one_file_is_told_with_that_file_alone(results: Path, config: Config) -> None:
    tree = rewritten(results, config, lambda columns: taking(np.r_[5, 0 : len(columns["image"])])(columns))
    path = tree.attacked(MODEL)[0]
    rows = records.read(path)
    with pytest.raises(UserError) as told:
        evaluate(tree, MODEL)
    image, defence = rows["image"][0], rows["defence"][0]
    assert str(told.value).endswith(f"the first of them image {image} of {MODEL}, {defence}, in {path}")


def test_files_are_of_one_spec_and_one_model(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    path = tree.attacked(MODEL)[1]
    rows = records.read(path)
    records.write(path, rows.columns, provenance={**rows.provenance[0], "weights": "other"})
    with pytest.raises(UserError, match="records of 2 differently trained models of one spec cannot be put together"):
        evaluate(tree, MODEL)
    fabricate.write(path, rows.columns, fabricate.small({"solver": {"tolerance": 0.1}}), "attack_grid", MODEL, 0)
    with pytest.raises(UserError, match=rf"{path.name} was made by spec \w{{16}}, but the configuration asks for"):
        evaluate(tree, MODEL)


def test_a_column_that_an_older_revision_did_not_write_is_named(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    path = tree.attacked(MODEL)[0]
    write_table(path, pq.read_table(path).drop_columns(["status"]))
    with pytest.raises(UserError, match=f"{path.name} lack status: an older revision wrote them; delete the file"):
        evaluate(tree, MODEL)


def test_a_damaged_file_is_named(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    path = tree.attacked(MODEL)[0]
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)  # the footer, which is looked at first, stays whole
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name} cannot be read"):
        evaluate(tree, MODEL)


def test_rows_are_found_by_words_that_other_groups_have_and_by_words_that_none_has(tmp_path: Path) -> None:
    columns = fabricate.clean(fabricate.small(), MODEL, 0)
    records.write(tmp_path / "rows", columns, provenance={"spec": {}})
    (group,) = records.groups(tmp_path / "rows", ("image", "model", "defence"))
    assert len(group) == len(columns["image"])
    expected = np.flatnonzero(columns["defence"] == "entropy")
    assert group.where(model=MODEL, defence="entropy").tolist() == expected.tolist()
    assert not len(group.where(model="nobody", defence="entropy"))
    assert group.occurring("defence") == tuple(dict.fromkeys(columns["defence"]))
