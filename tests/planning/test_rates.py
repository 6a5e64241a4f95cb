"""What an H100 computes per second: measured or assumed."""

from pathlib import Path

import pytest

from deqpipe.errors import UserError
from deqpipe.planning import rates
from deqpipe.planning.rates import Rate


def written(folder: Path, *rows: str) -> Path:
    path = folder / "rates.csv"
    path.write_text("\n".join(("precision,work,teraflops,source", *rows)) + "\n")
    return path


def test_without_a_measurement_rates_are_assumed_and_say_so(tmp_path: Path) -> None:
    found = rates.rates(tmp_path / "nothing.csv")
    assert {rate.teraflops for (precision, _), rate in found.items() if precision == "tf32"} == {60.0}
    assert rates.words(found) == ("fp32 22 TFLOP/s (assumed); tf32 60 TFLOP/s (assumed); bf16 200 TFLOP/s (assumed)")


def test_measured_rates_stand_before_assumed_ones(tmp_path: Path) -> None:
    found = rates.rates(written(tmp_path, "tf32,training,41.5,H100 on 2026-01-02", "tf32,evaluation,50,H100"))
    assert found["tf32", "training"] == Rate(41.5, "H100 on 2026-01-02")
    assert found["bf16", "training"] == Rate(200.0)
    assert "tf32 training 41.5 TFLOP/s (measured: H100 on 2026-01-02), evaluation 50 TFLOP/s (measured: H100)" in (
        rates.words(found)
    )


@pytest.mark.parametrize("row", ["fp64,training,1,x", "tf32,sleeping,1,x", "tf32,training,0,x", "tf32,training,a,x"])
def test_a_file_that_holds_something_else_is_one_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(UserError, match=r"rates\.csv must have columns precision, source, teraflops, work: fp32, tf32"):
        rates.rates(written(tmp_path, row))
