"""How many operations a GPU computes per second: measured where a file says so, otherwise assumed."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from deqpipe.errors import UserError

Precision: TypeAlias = Literal["fp32", "tf32", "bf16"]
Kind: TypeAlias = Literal["training", "evaluation"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE = Path("docs/gpu-rates.csv")
"""Measured rates of one H100: columns precision, work (training or evaluation), teraflops, source."""
ASSUMED: Mapping[Precision, float] = {"fp32": 22.0, "tf32": 60.0, "bf16": 200.0}
"""Of one H100, in 10^12 operations per second: a modest share of what it could. Small feature maps keep it waiting."""
_COLUMNS = {"precision", "work", "teraflops", "source"}


@dataclass(frozen=True)
class Rate:
    """What a GPU computes.

    Attributes:
        teraflops: 10^12 operations per second.
        source: where that was measured, such as card, torch and date; None: it is assumed.
    """

    teraflops: float
    source: str | None = None


Rates: TypeAlias = Mapping[tuple[Precision, Kind], Rate]


def rates(path: Path = FILE) -> Rates:
    """The rate of each precision and kind of work.

    Raises:
        UserError: the file is there, but holds something else.
    """
    known: dict[tuple[Precision, Kind], Rate] = {
        (precision, kind): Rate(ASSUMED[precision]) for precision in PRECISIONS for kind in KINDS
    }
    return known | _measured(path) if path.is_file() else known


def _measured(path: Path) -> dict[tuple[Precision, Kind], Rate]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return {_key(row): _rate(row) for row in rows}
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} must have columns {', '.join(sorted(_COLUMNS))}: {', '.join(PRECISIONS)}; {' or '.join(KINDS)}; "
            "a positive number; card, torch and date"
        ) from None


def _key(row: Mapping[str, str]) -> tuple[Precision, Kind]:
    allowed: Mapping[tuple[str, str], tuple[Precision, Kind]]
    allowed = {(precision, kind): (precision, kind) for precision in PRECISIONS for kind in KINDS}
    return allowed[row["precision"], row["work"]]


def _rate(row: Mapping[str, str]) -> Rate:
    teraflops = float(row["teraflops"])
    if not 0 < teraflops < float("inf"):
        raise ValueError(teraflops)
    return Rate(teraflops, row["source"])


def words(known: Rates, precisions: Sequence[Precision] = PRECISIONS) -> str:
    """The rates in some precisions, and where each is from."""
    return "; ".join(_words(precision, [known[precision, kind] for kind in KINDS]) for precision in precisions)


def _words(precision: Precision, of_kinds: list[Rate]) -> str:
    if len(set(of_kinds)) == 1:
        return f"{precision} {_one(of_kinds[0])}"
    return f"{precision} " + ", ".join(f"{kind} {_one(rate)}" for kind, rate in zip(KINDS, of_kinds, strict=True))


def _one(rate: Rate) -> str:
    return f"{rate.teraflops:g} TFLOP/s ({'assumed' if rate.source is None else f'measured: {rate.source}'})"
