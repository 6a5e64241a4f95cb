"""Two results folders are compared number by number."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import same_results
from deqpipe.config import Config
from deqpipe.results import records
from tests.reporting.conftest import config, finished

__all__ = ["config", "finished"]


@pytest.mark.slow
def test_a_copy_holds_the_same_numbers(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert same_results.main([str(finished), str(finished)]) == 0
    assert "0 different" in capsys.readouterr().out


def test_what_differs_is_named_and_provenance_does_not_count(
    finished: Path, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    clean = other / "attacks" / "clean" / "deq_trades_base" / "seed0.parquet"
    found = records.read(clean)
    margin = found["margin"].copy()
    margin[0, 0] += 1
    records.write(clean, {**found.columns, "margin": margin}, provenance={**found.provenance[0], "seconds": 9.0})
    select = other / "select" / "deq_trades_base" / "seed0.json"
    told = json.loads(select.read_text())
    select.write_text(json.dumps({**told, "provenance": {}}))
    (other / "strongest" / "deq_trades_base" / "seed0.json").unlink()
    assert same_results.main([str(finished), str(other)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("2 different")
    assert said[1] == "attacks/clean/deq_trades_base/seed0.parquet: margin"
    assert said[2].startswith("strongest/deq_trades_base/seed0.json: in ")
