"""Tables 1, 2, 4 and 8 from records: against a slow version, in every format, and what they refuse."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deqpipe.analysis.decision import Decision
from deqpipe.analysis.evaluation import AttackChecks, Evaluation
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.lazy import named
from deqpipe.reporting import conditions, phrases, quantities
from deqpipe.reporting.cells import Cell
from deqpipe.reporting.paper import published
from deqpipe.reporting.tables import formats, table1, tables
from deqpipe.reporting.tables.screen import Screen
from deqpipe.workflow import gridpoints, products, specs
from deqpipe.workflow.products import TABLES
from tests.reference import reporting as slow
from tests.reporting import fabricate
from tests.sampling import one_in

FORMATS = (".csv", ".md", ".tex", ".html", ".json")
MINE = (1, 2, 4, 8)  # the others have files of tests of their own


def cells(number: int, config: Config, results: Path) -> dict[tuple[str, str], Cell]:
    return {(cell.row, cell.column): cell for cell in tables.build(number, config, results).table.cells}


def slow_values(number: int, config: Config, results: Path) -> dict[tuple[str, str], float]:
    ready = gridpoints.ready_made(config)
    point = (ready.damping, ready.state, ready.steps)
    return {
        1: lambda: slow.table1(results, seed=0, pgd_steps=config.attack.pgd.steps),
        2: lambda: slow.table2(results, seed=0, ready_made=point),
        4: lambda: slow.table4(results, seed=0, count=config.autoattack.top_points),
        8: lambda: slow.table8(results, seed=0),
    }[number]()


def test_a_row_that_is_zero_because_logits_are_not_finite_says_so() -> None:
    def evaluation(model: str, undecided: int) -> Evaluation:
        checks = AttackChecks(0.1, 0.0, nonfinite=0, undecided=undecided, judged=1_440)
        return Evaluation(Decision(model, "plain"), 1, (), None, np.zeros((1, 4), dtype=bool), checks, ())

    told = phrases.attack_checks([evaluation("resnet18_trades", 1_440), evaluation("deq_trades_base", 0)])
    row = Decision("resnet18_trades", "plain").row
    assert told.endswith(
        "0 judged images ended in a state that is not finite. Counted as wrong for want of a class, as their logits "
        f"are not finite: {row} 1,440 of 1,440 judged images."
    )
    assert phrases.attack_checks([evaluation("deq_trades_base", 0)]).endswith("ended in a state that is not finite.")


@pytest.mark.parametrize("number", MINE)
def test_values_equal_a_slow_version(finished: Path, config: Config, number: int) -> None:
    here = {name: cell.here for name, cell in cells(number, config, finished).items() if cell.here is not None}
    expected = slow_values(number, config, finished)
    assert here.keys() == expected.keys()
    assert here == pytest.approx(expected)


@pytest.mark.parametrize("number", MINE)
def test_every_value_lies_in_its_interval_and_names_its_images(finished: Path, config: Config, number: int) -> None:
    for (row, column), cell in cells(number, config, finished).items():
        if cell.here is None or cell.low is None or cell.high is None:
            continue
        assert cell.low <= cell.here <= cell.high
        few = "Square" in row or row == "SQUARE"
        assert cell.n == (config.autoattack.square_images if few else config.evaluation.images)
        assert cell.high <= 100
        assert cell.low >= (-100 if cell.quantity == quantities.GAIN or "gain" in column else 0)


@pytest.mark.parametrize("number", MINE)
def test_the_papers_number_stands_beside_and_no_difference_is_taken_from_a_reduced_run(
    finished: Path, config: Config, number: int
) -> None:
    for (row, column), cell in cells(number, config, finished).items():
        assert cell.paper == published.value(number, row, column)
        assert cell.difference is None


@pytest.mark.parametrize("number", MINE)
def test_a_comparable_run_has_differences_of_accuracies(
    finished: Path, config: Config, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "comparable", lambda _: True)
    compared = 0
    for (row, _), cell in cells(number, config, finished).items():
        if cell.here is None or cell.paper is None or row.endswith("K_a"):
            assert cell.difference is None
        else:
            assert cell.difference == pytest.approx(cell.here - cell.paper)
            compared += 1
    assert compared == {1: 39, 2: 24, 4: 0, 8: 8}[number]


def test_table_1_has_the_papers_eleven_rows_in_order_and_controls_and_trunk_apart(
    finished: Path, config: Config
) -> None:
    main, defences, trainings, controls, trunk = tables.build(1, config, finished).table.blocks
    assert {line.labels[-1] for line in defences.lines} == {"+ Sec. 3.2", "+ Secs. 3.2 & 3.3"}
    assert {line.labels[-1] for line in trainings.lines} == {"+ Sec. 3.3", "+ Secs. 3.2 & 3.3"}
    methods = ["baseline", "+ Sec. 3.2", "+ Sec. 3.3", "+ Secs. 3.2 & 3.3"]
    expected = ["Pang et al. (2021)", "Yang et al. (2022)", *methods, "Pang et al. (2021)", *methods]
    assert [line.labels[-1] for line in main.lines] == expected
    kinds = ("control: R = 0", "control: restart only", "control: T_f = N")
    assert [(line.labels[0], line.labels[-1]) for line in controls.lines] == [
        (framework, f"{method}, {kind}")
        for framework in ("PGD-AT", "TRADES")
        for method in ("+ Sec. 3.2", "+ Secs. 3.2 & 3.3")
        for kind in kinds
    ]
    assert controls.columns == ("Clean", "PGD", "PGD per image", "method's gain")
    assert [line.labels[-1] for line in trunk.lines] == ["pretrained trunk"]
    assert trunk.columns == ("Clean", f"PGD-{config.attack.pgd.steps}, final state")


def test_a_control_is_never_the_most_robust(finished: Path, config: Config) -> None:
    """Even where its number is the highest."""
    found = cells(1, config, finished)
    best = max((row for row, column in found if column == "PGD"), key=lambda row: found[row, "PGD"].here or 0)
    assert "control" in best
    main, _, _, controls, _ = tables.build(1, config, finished).table.blocks
    assert sum(shown.strong for line in main.lines for shown in line.shown) == 1
    assert not any(shown.strong for line in controls.lines for shown in line.shown)
    assert "control" not in table1.most_robust(found).row


def test_controls_have_the_gain_of_their_own_method_and_no_number_of_the_paper(finished: Path, config: Config) -> None:
    found = {name: cell for name, cell in cells(1, config, finished).items() if "control" in name[0]}
    assert len(found) == 48
    assert {column for _, column in found} == {"Clean", "PGD", "PGD per image", "method's gain"}
    name = "TRADES + Secs. 3.2 & 3.3, control: R = 0", "method's gain"
    assert found[name].note == "TRADES + Secs. 3.2 & 3.3 over it"
    assert {cell.paper for cell in found.values()} == {None}
    assert all(cell.note.startswith("strongest at") for (_, column), cell in found.items() if column == "PGD")


@pytest.fixture(scope="module")
def uncontrolled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A tree without control rows."""
    config = fabricate.small({"entropy": {"controls": False}})
    return config, fabricate.tree(tmp_path_factory.mktemp("uncontrolled"), config)


@pytest.mark.parametrize("number", MINE)
def test_without_controls_the_tables_are_the_same_but_for_the_control_rows(
    finished: Path, config: Config, uncontrolled: tuple[Config, Path], number: int
) -> None:
    with_them, without = tables.build(number, config, finished).table, tables.build(number, *uncontrolled).table
    assert without.cells == tuple(cell for cell in with_them.cells if "control" not in cell.row)
    apart = 1 if number == 1 else 0
    assert len(without.blocks) == len(with_them.blocks) - apart
    assert (without.blocks[0], without.blocks[-1]) == (with_them.blocks[0], with_them.blocks[-1])
    assert (without.caption, without.conditions) == (with_them.caption, with_them.conditions)
    notes = [note for note in with_them.notes if not note.startswith(("Control rows", "Attack checks", "Dashes"))]
    assert [note for note in without.notes if not note.startswith(("Attack checks", "Dashes"))] == notes


def test_table_1_says_what_the_controls_are(finished: Path, config: Config) -> None:
    (note,) = [note for note in tables.build(1, config, finished).table.notes if note.startswith("Control rows")]
    assert "they decide at its early state" in note
    assert "without descent steps, which is the undefended solve." in note
    assert "The other two have the entropy keys of the authors' code, whatever runs here." in note
    released = phrases.controls(fabricate.config({"protocol": "release"}))
    assert "without descent steps, so its restarts alone. The other two" in released
    assert "undefended solve" not in released


def test_worst_cases_and_minima_are_ordered(finished: Path, config: Config) -> None:
    found = cells(1, config, finished)
    for row in {row for row, column in found if column == "ALL per image"}:
        here = {column: found[row, column].here or 0.0 for r, column in found if r == row}
        assert here["ALL"] == min(here["PGD"], here["AA"])
        assert here["ALL per image"] <= min(here["ALL"], here.get("PGD per image", 100))


def test_worst_case_per_image_is_at_most_the_minimum_of_means(finished: Path, config: Config) -> None:
    found = cells(1, config, finished)
    for (row, column), cell in found.items():
        if column == "PGD per image":
            assert cell.here is not None
            assert cell.here <= (found[row, "PGD"].here or 0)


def test_table_8_marks_the_strongest_attack_of_all(finished: Path, config: Config) -> None:
    table = tables.build(8, config, finished).table
    lowest = min(cell.here for cell in table.cells if cell.row.endswith("PGD") and cell.here is not None)
    marked = {shown.value for line in table.blocks[0].lines for shown in line.shown if shown.strong}
    assert marked == {f"{lowest:.1f}"}


def test_table_8_works_where_the_ready_made_attack_is_alone_at_its_damping(tmp_path: Path) -> None:
    config = fabricate.small({"attack": {"grid": {"states": [1, 2], "damping": [1.0]}, "states_per_job": 1}})
    found = cells(8, config, fabricate.tree(tmp_path, config))
    assert {column for row, column in found if row == "lambda = 0.5 PGD"} == {"i = 4"}
    assert {column for row, column in found if row == "lambda = 1 PGD"} == {"i = 1", "i = 2"}


@pytest.mark.parametrize("number", products.TABLES)
def test_every_format_is_written_and_the_same_twice(
    tmp_path: Path, finished: Path, config: Config, number: int
) -> None:
    stems = [tmp_path / name / f"table{number}" for name in ("one", "two")]
    for stem in stems:
        tables.write(number, config, finished, output_stem=stem)
    assert sorted(path.suffix for path in stems[0].parent.iterdir()) == sorted(FORMATS)
    for ending in FORMATS:
        assert stems[0].with_suffix(ending).read_bytes() == stems[1].with_suffix(ending).read_bytes()


def test_sidecar_names_config_inputs_and_their_specs(tmp_path: Path, finished: Path, config: Config) -> None:
    tables.write(2, config, finished, output_stem=tmp_path / "table2")
    written = tables.read(tmp_path / "table2.json")
    assert written == tables.build(2, config, finished)
    paths = {one.path for one in written.origin.inputs}
    assert "select/deq_trades_base/seed0.json" in paths
    assert not any(path.startswith("attacks/clean") for path in paths)
    shards = [str(path.relative_to(finished)) for path in Tree(finished, config, 0).attacked("deq_trades_base")]
    assert set(shards) <= paths
    expected = specs.fingerprint(specs.build("attack_grid", config, model="deq_trades_base", seed=0))
    assert {one.spec for one in written.origin.inputs if one.path in shards} == {expected}
    assert written.origin.inputs[0].versions["torch"] == "2.15.0"


def test_conditions_stand_under_every_format(tmp_path: Path, finished: Path, config: Config) -> None:
    tables.write(1, config, finished, output_stem=tmp_path / "table1")
    for ending in (".md", ".tex", ".json"):
        text = (tmp_path / f"table1{ending}").read_text()
        for phrase in ("first 20 test images", "seed 0", "38/255", "17 attacks", "Reduced or", "PGD steps: 7 (10)"):
            assert phrase in text


def test_a_written_table_fits_the_terminal(tmp_path: Path, finished: Path, config: Config) -> None:
    tables.write(1, config, finished, output_stem=tmp_path / "tables" / "table1")
    lines = tables.text(1, tmp_path, Screen(80, 24)).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "PGD gain" in "".join(lines)  # of the columns that matter most


def test_every_foremost_column_is_one_of_its_table() -> None:
    for definition in TABLES.values():
        if definition.foremost:
            assert set(definition.foremost) <= set(named(definition.module).COLUMNS)


def test_a_table_elsewhere_is_pointed_to(tmp_path: Path, finished: Path, config: Config) -> None:
    tables.write(1, config, finished, output_stem=tmp_path / "demo" / "tables" / "table1")
    with pytest.raises(UserError, match=f"does not exist; there is one with --results {tmp_path / 'demo'}$"):
        tables.text(1, tmp_path, Screen(80))
    assert tables.csv_text(1, tmp_path / "demo") == (tmp_path / "demo" / "tables" / "table1.csv").read_text()


def test_spread_over_seeds_stands_beside_the_first_seed(tmp_path: Path) -> None:
    config = fabricate.small({"seeds": [0, 1, 2]})
    results = fabricate.tree(tmp_path, config, seeds=[0, 1])
    found = tables.build(2, config, results)
    first = slow.table2(results, seed=0, ready_made=(0.5, 4, 5))
    second = slow.table2(results, seed=1, ready_made=(0.5, 4, 5))
    for cell in found.table.cells:
        name = (cell.row, cell.column)
        assert cell.here == pytest.approx(first[name])
        assert cell.spread == pytest.approx((min(first[name], second[name]), max(first[name], second[name])))
    assert all(re.fullmatch(r"\(\d, \d, [\d.]+\)", line.shown[-1].value) for line in found.table.blocks[0].lines)
    (line,) = [row for row in csv.DictReader(formats.to_csv(found.table).splitlines())
               if (row["row"], row["column"]) == ("TRADES baseline", "DIFF")]  # fmt: skip
    (cell,) = [cell for cell in found.table.cells if (cell.row, cell.column) == ("TRADES baseline", "DIFF")]
    assert cell.spread is not None
    values = [first["TRADES baseline", "DIFF"], second["TRADES baseline", "DIFF"]]
    assert [float(line[name]) for name in ("seed_0", "seed_1")] == pytest.approx(values, rel=1e-5)
    assert float(line["seeds_mean"]) == pytest.approx(np.mean(values), rel=1e-5)
    assert float(line["seeds_deviation"]) == pytest.approx(np.std(values, ddof=1), rel=1e-5)
    assert [line["seeds_lowest"], line["seeds_highest"]] == [f"{end:.6g}" for end in cell.spread]
    assert found.table.conditions[-2].endswith("lowest and highest value over seeds 0, 1.")
    assert found.table.conditions[-1] == "Seeds without complete records: 2."
    assert {path.split("/")[-1] for path in (one.path for one in found.origin.inputs)} >= {"seed0.json", "seed1.json"}


def test_a_seed_without_its_early_states_is_no_complete_one(tmp_path: Path) -> None:
    config = fabricate.small({"seeds": [0, 1]})
    results = fabricate.tree(tmp_path, config)
    Tree(results, config, 1).select("deq_trades_base").unlink()
    found = tables.build(2, config, results).table
    assert all(cell.spread is None for cell in found.cells)
    assert found.conditions[-1] == "Seeds without complete records: 1."
    assert not any("braces" in sentence for sentence in found.conditions)


def test_csv_carries_the_strongest_attack_as_a_note(tmp_path: Path, finished: Path, config: Config) -> None:
    tables.write(1, config, finished, output_stem=tmp_path / "table1")
    with (tmp_path / "table1.csv").open(newline="") as file:
        notes = {(row["row"], row["column"]): row["note"] for row in csv.DictReader(file)}
    attacks = slow.deq(finished, "deq_trades_base", "plain", seed=0)[1]
    damping, state, steps = min(sorted(attacks), key=lambda point: sum(attacks[point]))
    assert notes["TRADES baseline", "PGD"] == f"strongest at ({state}, {steps}, {damping:g})"


def test_unknown_missing_and_foreign_tables_are_refused(tmp_path: Path, finished: Path, config: Config) -> None:
    with pytest.raises(UserError, match="table is 12, but must be one of 1, 2, "):
        tables.write(12, config, finished, output_stem=tmp_path / "table12")
    with pytest.raises(UserError, match=r"table1\.json does not exist"):
        tables.text(1, tmp_path, Screen(80))
    with pytest.raises(UserError, match="does not exist"):
        tables.read(tmp_path / "table1.json")
    (tmp_path / "table1.json").write_text(json.dumps({"table": 1}))
    with pytest.raises(UserError, match="is no sidecar"):
        tables.read(tmp_path / "table1.json")


def test_nothing_is_written_when_records_are_missing(tmp_path: Path, config: Config) -> None:
    with pytest.raises(UserError, match="do not exist"):
        tables.write(2, config, tmp_path / "empty", output_stem=tmp_path / "out" / "table2")
    assert not (tmp_path / "out").exists()


def test_reporting_does_not_import_torch() -> None:
    code = "import sys; from deqpipe.reporting import report, tables, figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=fabricate.ROOT).returncode == 0


def test_nothing_promises_that_stronger_attacks_only_lower_a_defence(finished: Path, config: Config) -> None:
    """Only the minimum over both cannot rise: a new attack alone may be weaker than the blind ones."""
    for number in (1, 2):
        notes = " ".join(tables.build(number, config, finished).table.notes)
        assert "can only lower" not in notes
        assert "any finite set of attacks bounds robustness from above" in notes


# Weight perturbation

PERTURBED = {
    "weight_perturbation": {"enabled": True, "size": {"pgd_at": 0.01, "trades": 0.005}, "warmup_epochs": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A tree with the models of weight perturbation, of few attacks."""
    config = fabricate.small(PERTURBED, {"attack": {"grid": {"states": [2, 4], "steps": [1], "damping": [0.5]}}})
    return fabricate.tree(tmp_path_factory.mktemp("perturbed"), config), config


def test_weight_perturbation_has_rows_below_each_framework_and_gains_over_its_own_baseline(
    perturbed: tuple[Path, Config],
) -> None:
    results, config = perturbed
    built = tables.build(1, config, results).table
    methods = ["baseline", "+ Sec. 3.2", "+ Sec. 3.3", "+ Secs. 3.2 & 3.3"]
    moved = ["+ AWP", "+ AWP + Sec. 3.2", "+ AWP + Sec. 3.3", "+ AWP + Secs. 3.2 & 3.3"]
    resnet = "Pang et al. (2021)"
    assert [line.labels[-1] for line in built.blocks[0].lines] == [
        resnet, "Yang et al. (2022)", *methods, f"{resnet} + AWP", *moved, resnet, *methods, f"{resnet} + AWP", *moved,
    ]  # fmt: skip
    found = {(cell.row, cell.column): cell for cell in built.cells}
    for framework in ("PGD-AT", "TRADES"):
        over = {method: found[f"{framework} {method}", "PGD gain"].note for method in moved}
        own = f"over {framework} + AWP"
        assert list(over.values()) == [f"over {framework} baseline", own, own, own]
        for method, base in zip(moved, ("baseline", *[moved[0]] * 3), strict=True):
            mine, its = (found[f"{framework} {name}", "PGD"].here for name in (method, base))
            assert mine is not None
            assert its is not None
            assert found[f"{framework} {method}", "PGD gain"].here == pytest.approx(mine - its)
    assert {cell.paper for (row, _), cell in found.items() if "AWP" in row} == {None}
    assert any(
        "gamma 0.01 with PGD-AT, 0.005 with TRADES, from epoch 3 of adversarial training on" in note
        for note in built.notes
    )


@pytest.mark.slow
def test_the_highest_number_is_marked_with_weight_perturbation_as_without(perturbed: tuple[Path, Config]) -> None:
    results, config = perturbed
    table = tables.build(1, config, results).table
    (strong,) = [line.labels[-1] for line in table.blocks[0].lines if any(shown.strong for shown in line.shown)]
    pgd = {cell.row: cell.here or 0 for cell in table.cells if cell.column == "PGD" and "control" not in cell.row}
    assert max((row for row in pgd if "ResNet" not in row), key=lambda row: pgd[row]).endswith(strong)
    assert "AWP" in strong
    assert "AWP" not in table1.most_robust({(cell.row, cell.column): cell for cell in table.cells}).row


@pytest.mark.parametrize("number", one_in(3, [2, 3, 6]))
def test_other_tables_have_no_row_of_weight_perturbation(perturbed: tuple[Path, Config], number: int) -> None:
    results, config = perturbed
    assert not any("AWP" in cell.row for cell in tables.build(number, config, results).table.cells)
