"""Which attacks go on, and what tables make of records in which not every attack ran on every image."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from deqpipe.analysis import race
from deqpipe.analysis.attacks import attacks
from deqpipe.analysis.evaluation import evaluate
from deqpipe.analysis.layout import AttacksOf, Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import absent
from deqpipe.reporting.tables import tables
from deqpipe.results import records
from deqpipe.statistics import racing
from deqpipe.workflow import gridpoints, shards, specs, stages, vocabulary
from deqpipe.workflow.products import Need
from tests.reporting import fabricate
from tests.results.edits import edit

OWN, OTHER = "deq_trades_base", "deq_trades_random_states"
CUT, IMAGES = 120, 160
RACING = {"racing": {"enabled": True, "images": CUT, "confidence": 0.8}, "evaluation": {"images": IMAGES},
          "attack": {"images_per_job": 80}, "entropy_sweep": {"points": "all"}}  # fmt: skip


@pytest.fixture(scope="session")
def config() -> Config:
    return fabricate.small(RACING)


@pytest.fixture(scope="session")
def raced(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """The grid of both TRADES DEQs and Table 5's attacks, each after its race."""
    root = tmp_path_factory.mktemp("raced")
    everything(root, config)
    for model, of in ((OWN, "grid"), (OTHER, "grid"), (OTHER, "sweep")):
        after_race(root, config, model, "grid" if of == "grid" else "sweep")
    return root


@pytest.fixture(scope="session")
def unraced(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The same without a race."""
    root, off = tmp_path_factory.mktemp("unraced"), fabricate.small(RACING, {"racing": {"enabled": False}})
    everything(root, off)
    return Tree(root, off, 0)


@pytest.fixture
def results(tmp_path: Path, raced: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(raced, tmp_path / "results"))


def everything(root: Path, config: Config) -> None:
    """Every attack on every image."""
    for model in (OWN, OTHER):
        fabricate.select(root, config, model, 0)
        clean = fabricate.clean(config, model, 0)
        fabricate.write(root / f"attacks/clean/{model}/seed0.parquet", clean, config, "clean", model, 0)
        for name, rows in fabricate.grid_shards(config, model, 0).items():
            path = root / f"attacks/grid/{model}/seed0/{name}.parquet"
            fabricate.write(path, rows, config, "attack_grid", model, 0)
    fabricate.sweep(root, config, 0)


def after_race(root: Path, config: Config, model: str, of: AttacksOf) -> None:
    """Race, and take the rows away that the later jobs do not compute then."""
    tree = Tree(root, config, 0)
    race.write(tree, model, of=of, output=tree.race(of, model))
    left = json.loads(tree.race(of, model).read_text())["points"]
    paths = tree.sweep(model) if of == "sweep" else tree.attacked(model)
    stage: stages.StageName = "attack_sweep" if of == "sweep" else "attack_grid"
    for path in paths:
        keep(path, config, (stage, model), lambda rows: late(rows, left))


def point_name(rows: records.Records, row: int) -> str:
    damping, state, steps = (rows[name][row] for name in ("damping", "state", "steps"))
    return gridpoints.GridPoint(float(damping), int(state), int(steps)).name


def late(rows: records.Records, left: list[str]) -> np.ndarray:
    """The rows that a race leaves."""
    points = np.stack([rows[name].astype(float) for name in ("damping", "state", "steps")], axis=1)
    _, first, back = np.unique(points, axis=0, return_index=True, return_inverse=True)
    stays = np.array([point_name(rows, int(row)) in left for row in first])[back]
    mask: np.ndarray = (rows["image"] < CUT) | stays
    return mask


def keep(path: Path, config: Config, of: tuple[stages.StageName, str], mask: object) -> None:
    """Write a shard again with some of its rows."""
    found = records.read(path)
    assert callable(mask)
    kept = found.where(mask(found))
    fabricate.write(path, kept.columns, config, of[0], of[1], 0)


def slow_left(root: Path, config: Config, model: str) -> set[str]:
    """What stays, read file by file: every decision that the grid is scored on, one after the other."""
    scored = [(model, defence) for defence in fabricate.decisions(config, model)]
    other = vocabulary.transfers_to(config, model)
    scored += [] if other is None else [(other, "plain"), (other, "entropy")]
    race = shards.race(config)
    assert race is not None
    stay = {gridpoints.ready_made(config).name}
    for judge, defence in scored:
        early = json.loads((root / f"select/{judge}/seed0.json").read_text())
        state = early["plain" if defence == "plain" else "entropy"]["state"]
        answers: dict[str, dict[int, bool]] = {}
        for path in sorted((root / f"attacks/grid/{model}/seed0").glob("*.parquet")):
            found = records.read(path)
            for row in np.flatnonzero((found["model"] == judge) & (found["defence"] == defence)):
                image, right = int(found["image"][row]), found["predicted"][row][state - 1] == found["label"][row]
                if image < CUT:
                    answers.setdefault(point_name(found, int(row)), {})[image] = bool(right)
        names = sorted(answers)
        table = np.array([[answers[name][image] for image in range(CUT)] for name in names])
        mask = racing.survivors(table, confidence=race.confidence)
        stay |= {name for name, goes_on in zip(names, mask, strict=True) if goes_on}
    return stay


@pytest.mark.parametrize("model", [OWN, OTHER])
def test_an_attack_goes_on_if_it_could_be_the_strongest_of_any_decision(
    raced: Path, config: Config, model: str
) -> None:
    written = json.loads(Tree(raced, config, 0).race("grid", model).read_text())
    assert set(written["points"]) == slow_left(raced, config, model)
    assert (written["of"], written["images"], written["confidence"]) == (17, CUT, 0.8)
    assert 1 < len(written["points"]) < 17
    assert written["provenance"]["spec"] == specs.build("race", config, model=model, seed=0)


def test_the_ready_made_attack_always_goes_on(raced: Path, config: Config) -> None:
    tree = Tree(raced, config, 0)
    for of, model in (("grid", OWN), ("grid", OTHER), ("sweep", OTHER)):
        path = tree.race("grid" if of == "grid" else "sweep", model)
        assert gridpoints.ready_made(config).name in json.loads(path.read_text())["points"]


def test_without_transfer_the_other_model_keeps_no_attack_in_the_race(tmp_path: Path) -> None:
    alone = fabricate.small(RACING, {"attack": {"transfer": False}})
    everything(tmp_path, alone)
    (tmp_path / f"select/{OTHER}/seed0.json").unlink()
    race.write(Tree(tmp_path, alone, 0), OWN, of="grid", output=tmp_path / "race.json")
    assert set(json.loads((tmp_path / "race.json").read_text())["points"]) == slow_left(tmp_path, alone, OWN)


def test_a_race_needs_no_later_image(results: Path, config: Config, tmp_path: Path) -> None:
    tree = Tree(results, config, 0)
    for path in set(tree.attacked(OWN)) - set(tree.attacked(OWN, below=CUT)):
        path.unlink()
    race.write(tree, OWN, of="grid", output=tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == tree.race("grid", OWN).read_bytes()


def test_the_sweep_races_on_every_setting(raced: Path, config: Config) -> None:
    tree = Tree(raced, config, 0)
    files = tree.opened("attack_sweep", OTHER, tree.sweep(OTHER, below=CUT))
    states = {(OTHER, setting.defence): 3 for setting in gridpoints.entropy_settings(config)}
    answers = race.answers(tree, files, states)
    stay = np.any([racing.survivors(right, confidence=0.8) for right in answers.values()], axis=0)
    points = [point.name for point, goes_on in zip(gridpoints.grid_points(config), stay, strict=True) if goes_on]
    written = json.loads(tree.race("sweep", OTHER).read_text())
    assert set(written["points"]) == {*points, gridpoints.ready_made(config).name}
    assert written["provenance"]["spec"] == specs.build("race_sweep", config, model=OTHER, seed=0)


def test_evaluations_after_a_race_are_those_of_its_points(raced: Path, config: Config, unraced: Tree) -> None:
    whole = Tree(raced, config, 0)
    left = json.loads(whole.race("grid", OWN).read_text())["points"]
    for one, all_of_them in zip(evaluate(whole, OWN), evaluate(unraced, OWN), strict=True):
        kept = [index for index, point in enumerate(all_of_them.points) if point.name in left]
        assert [point.name for point in one.points] == left
        assert one.dropped == 17 - len(left)
        assert (one.right == all_of_them.right[kept]).all()
        assert all_of_them.dropped == 0
        assert one.right_when_clean.tolist() == all_of_them.right_when_clean.tolist()
        assert "race/grid/deq_trades_base/seed0.json" in {source.path for source in one.sources}


def test_the_minimum_is_that_of_all_attacks_here(raced: Path, config: Config, unraced: Tree) -> None:
    for one, whole in zip(evaluate(Tree(raced, config, 0), OWN), evaluate(unraced, OWN), strict=True):
        assert one.right.sum(1).min() == whole.right.sum(1).min()


def test_a_race_over_all_images_is_none(unraced: Tree, tmp_path: Path) -> None:
    tree = Tree(unraced.root, fabricate.small(RACING, {"racing": {"images": IMAGES}}), 0)
    assert [one.dropped for one in evaluate(tree, OWN)] == [0] * 5  # no spec depends on such a race
    said = r"racing.images is 160: all 160 test images face every attack, and nothing races"
    with pytest.raises(UserError, match=said):
        race.write(tree, OWN, of="grid", output=tmp_path / "race.json")
    assert not (tmp_path / "race.json").exists()


def test_few_points_of_the_sweep_do_not_race(raced: Path, tmp_path: Path) -> None:
    few = fabricate.small(RACING, {"entropy_sweep": {"points": 2}})
    with pytest.raises(UserError, match=r"entropy_sweep.points is 2, but must be all"):
        race.write(Tree(raced, few, 0), OTHER, of="sweep", output=tmp_path / "race.json")
    assert attacks(Tree(raced, few, 0), OTHER, "sweep").dropped == ()


def test_nothing_races_where_racing_is_off(raced: Path, tmp_path: Path) -> None:
    off = fabricate.small(RACING, {"racing": {"enabled": False}})
    with pytest.raises(UserError, match=r"racing.enabled is false: all 160 test images"):
        race.write(Tree(raced, off, 0), OWN, of="grid", output=tmp_path / "race.json")


def test_a_missing_result_of_the_race_is_named(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    tree.race("grid", OWN).unlink()
    with pytest.raises(UserError, match=r"race/grid/deq_trades_base/seed0.json does not exist"):
        evaluate(tree, OWN)
    assert not tree.complete([Need("race", (OWN,))])


def test_a_race_of_another_configuration_is_refused(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    shutil.copy(tree.race("grid", OTHER), tree.race("grid", OWN))
    with pytest.raises(UserError, match="was made by spec"):
        evaluate(tree, OWN)


@pytest.mark.parametrize(
    ("points", "said"), [([], "names nothing"), (["state9_steps1_damping0.5"], "names state9_steps1_damping0.5")]
)
def test_a_race_of_other_points_is_refused(results: Path, config: Config, points: list[str], said: str) -> None:
    tree = Tree(results, config, 0)
    change_points(tree, points)
    with pytest.raises(UserError, match=f"{said}, but must name points of the grid"):
        evaluate(tree, OWN)


def change_points(tree: Tree, points: list[str]) -> None:
    path = tree.race("grid", OWN)
    edit(path, lambda told: told.update(points=points))


def test_points_must_be_complete_on_all_images_if_and_only_if_the_race_left_them(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    left = json.loads(tree.race("grid", OWN).read_text())["points"]
    lost = next(point.name for point in gridpoints.grid_points(config) if point.name not in left)
    change_points(tree, [*left, lost])
    with pytest.raises(
        UserError, match=rf"TRADES baseline lack 40 of \d+ rows, the first of them attack {lost}, image 120"
    ):
        evaluate(tree, OWN)
    change_points(tree, left[:-1])
    with pytest.raises(UserError, match=r"of attacks that lost the race hold image 1\d\d, but images 0 to 119"):
        evaluate(tree, OWN)


def test_an_attack_that_lost_must_be_complete_on_the_images_that_it_ran_on(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    left = json.loads(tree.race("grid", OWN).read_text())["points"]
    lost = next(point for point in gridpoints.grid_points(config) if point.name not in left)

    def without(rows: records.Records) -> np.ndarray:
        same = (rows["state"] == lost.state) & (rows["steps"] == lost.steps) & (rows["damping"] == lost.damping)
        mask: np.ndarray = ~(same & (rows["image"] == 3))
        return mask

    for path in tree.attacked(OWN, below=CUT):
        keep(path, config, ("attack_grid", OWN), without)
    with pytest.raises(
        UserError, match=rf"lost the race lack 1 of \d+ rows, the first of them attack {lost.name}, image 3"
    ):
        evaluate(tree, OWN)
    with pytest.raises(UserError, match=rf"lack 1 of 2040 rows, the first of them attack {lost.name}, image 3"):
        race.write(tree, OWN, of="grid", output=results / "race.json")


def test_a_table_of_every_attack_is_written_with_the_reason_alone(raced: Path, config: Config, tmp_path: Path) -> None:
    tables.write(8, config, raced, output_stem=tmp_path / "table8")
    why = absent.reason(config)
    assert why is not None
    assert "all 160 test images, and with racing only the first 120 face every attack" in why
    with (tmp_path / "table8.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["note"] == why
    assert row["here"] == ""
    for ending in ("md", "tex"):
        assert "only the first 120 face every attack" in (tmp_path / f"table8.{ending}").read_text(encoding="utf-8")
    assert tables.read(tmp_path / "table8.json").table.caption == why


def test_nothing_is_absent_where_all_images_face_every_attack(unraced: Tree, config: Config) -> None:
    over_all = fabricate.small(RACING, {"racing": {"images": IMAGES}})
    assert absent.reason(unraced.config) is absent.reason(over_all) is None
    assert absent.raced(evaluate(unraced, OWN), unraced.config) == ()


def test_notes_say_how_many_attacks_ran_on_all_images(raced: Path, config: Config) -> None:
    found = evaluate(Tree(raced, config, 0), OWN)
    (note,) = absent.raced(found, config)
    assert f"deq_trades_base {len(found[0].points)} of 17 attacks" in note
    assert "every attack ran on the first 120 test images" in note
    assert "at least 80 %" in note
