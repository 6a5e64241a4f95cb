"""results.json: every number of the tables, as its schema says, the same bytes every time."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import numbers as made
from deqpipe.reporting.tables import tables
from deqpipe.results import numbers
from deqpipe.workflow import products
from tests.results.edits import write_json

FEW = {number: products.TABLES[number] for number in (1, 2, 9)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, finished: Path, config: Config) -> Path:
    """The folder of a results.json of three tables."""
    folder = tmp_path_factory.mktemp("numbers")
    for number, table in FEW.items():
        tables.write(number, config, finished, output_stem=folder / "tables" / table.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "tables", lambda config: FEW)
        made.write(config, folder, folder / "results.json")
        before = (folder / "results.json").read_bytes()
        made.write(config, folder, folder / "results.json")
        assert (folder / "results.json").read_bytes() == before
    return folder


@pytest.fixture
def content(written: Path) -> dict[str, Any]:
    return json.loads((written / "results.json").read_text(encoding="utf-8"))


def test_the_file_is_as_the_schema_of_the_repository_says(content: dict[str, Any]) -> None:
    schema = json.loads(Path("schemas/results.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, schema)
    lacking = {name: value for name, value in content["cells"][0].items() if name != "value"}
    with pytest.raises(jsonschema.ValidationError, match="'value' is a required property"):
        jsonschema.validate({**content, "cells": [lacking]}, schema)


def test_every_cell_of_every_table_is_there_with_interval_unit_and_direction(
    content: dict[str, Any], written: Path
) -> None:
    cells = {(cell["table"], cell["row"], cell["column"]): cell for cell in content["cells"]}
    for number in FEW:
        for cell in tables.read(written / "tables" / f"table{number}.json").table.cells:
            told = cells.pop((number, cell.row, cell.column))
            assert told["value"] == cell.here
            assert (told["paper"], told["n"], told["note"]) == (cell.paper, cell.n, cell.note)
            assert (told["interval"] or {}).get("low") == cell.low
    assert not cells
    by_name = {(cell["table"], cell["row"], cell["column"]): cell for cell in content["cells"]}
    clean, gain = by_name[1, "TRADES + Sec. 3.2", "Clean"], by_name[1, "TRADES + Sec. 3.2", "PGD gain"]
    assert (clean["unit"], clean["higher_is_better"], clean["interval"]["level"]) == ("%", True, 0.95)
    assert (clean["model"], clean["defence"]) == ("deq_trades_base", "entropy")
    assert (gain["unit"], gain["higher_is_better"]) == ("points", True)
    assert by_name[2, "TRADES + Sec. 3.2", "DIFF"]["higher_is_better"] is None
    speed = by_name[9, "TRADES baseline", "images/s"]
    assert (speed["unit"], speed["interval"]["level"]) == ("images/s", None)  # repeats are no interval


def test_it_says_what_made_it(content: dict[str, Any], config: Config) -> None:
    assert content["config"] == config.model_dump(mode="json")
    assert re.fullmatch("[0-9a-f]{16}", content["origin"]["config"])
    assert content["made"]["devices"] == ["cpu"]
    assert content["made"]["versions"]["torch"] == ["2.15.0"]
    assert 1 <= len(content["summary"]) <= 5
    assert [table["table"] for table in content["tables"]] == [1, 2, 9]
    assert all(table["conditions"] for table in content["tables"])


def test_a_file_of_another_version_or_of_somebody_else_is_refused(written: Path, tmp_path: Path) -> None:
    other, path = json.loads((written / "results.json").read_text(encoding="utf-8")), tmp_path / "results.json"
    path.write_text(json.dumps(other | {"schema_version": "2.0"}))
    with pytest.raises(UserError, match=r"has schema_version '2.0', but this deqpipe reads 1.1"):
        numbers.read(path)
    path.write_text(json.dumps({"results": {}}))
    with pytest.raises(UserError, match="says no schema_version, so it is no results file"):
        numbers.read(path)
    path.write_text(json.dumps(other | {"seeds": [7]}))
    with pytest.raises(UserError, match="damaged"):
        numbers.read(path)
    write_json(path, {**{key: value for key, value in other.items() if key != "digest"}, "cells": [{}]})
    with pytest.raises(UserError, match=r"is no results file of deqpipe: cells.0.table: Field required"):
        numbers.read(path)


def test_what_is_no_number_is_null(config: Config) -> None:
    assert numbers.finite(float("nan")) is None
    assert numbers.finite(float("inf")) is None
    assert numbers.finite(0.0) == 0.0
