"""A small sample of `make test-faults`, and that it tells what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import __main__ as faults
from tests.faults.cases import Bench, Case, Kind, Verdict, judged, skipped
from tests.tiny import ROOT

SAMPLE = ("kills", "damage", "configurations", "--count", "2", "--of", "pretrain", "dataset", "race", "image")


@pytest.mark.slow
def test_a_sample_of_faults_is_survived(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tests.faults", *SAMPLE, "--scratch", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[2:5:2] for line in done.stdout.splitlines() if "in all" in line] == 3 * [["2", "2"]]
    assert not list(tmp_path.iterdir())


def odd_is_wrong(bench: Bench) -> Case:
    def case(number: int) -> Verdict:
        drawn = bench.draws(number).randrange(1000)
        if number == 4:
            return skipped("even", "no reason")
        row = "odd" if number % 2 else "even"
        return judged(row, f"drew {drawn}" if number % 2 else None, faults=2, seconds=number / 2)

    return case


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(faults.KINDS, "fake", Kind("fake", "fake faults", 5, odd_is_wrong))


@pytest.mark.usefixtures("kind")
def test_what_is_wrong_is_told_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults.main(["fake", "--scratch", str(tmp_path)]) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["odd", "2", "4", "0", "2", "0", "1.50", "s"] in lines
    assert ["even", "3", "4", "2", "0", "1", "1.00", "s"] in lines
    assert ["in", "all", "5", "8", "2", "2", "1", "1.50", "s"] in lines


@pytest.mark.usefixtures("kind")
def test_a_case_that_went_wrong_is_tried_again_by_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults.main(["fake", "--seed", "3", "--scratch", str(tmp_path)])
    told = [line for line in capsys.readouterr().out.splitlines() if "wrong: case 3" in line]
    assert faults.main(["fake", "--seed", "3", "--case", "3", "--scratch", str(tmp_path)]) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if "wrong:" in line] == told
    assert faults.main(["fake", "--seed", "3", "--case", "2", "--scratch", str(tmp_path)]) == 0
