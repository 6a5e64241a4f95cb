"""Every number of the paper's Tables 1 to 10, as printed.

Rows are named as in our own tables (`TRADES + Sec. 3.2`); "baseline" is adversarial training as in Yang et al. (2022),
in the authors' own run (marked with a double dagger in Table 1). Accuracies are in percent, entropy differences in
nats, speeds in images per second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

METHODS = ("baseline", "+ Sec. 3.2", "+ Sec. 3.3", "+ Secs. 3.2 & 3.3")
AS_PUBLISHED = "PGD-AT Yang et al. (2022), as published"

_FOUR = ("PGD-AT baseline", "PGD-AT + Sec. 3.3", "TRADES baseline", "TRADES + Sec. 3.3")
_INPUT_STEPS = ("R = 1", "R = 5", "R = 10", "R = 20")


@dataclass(frozen=True)
class Published:
    """One number of the paper."""

    table: int
    row: str
    column: str
    value: float


_Rows = Mapping[str, Sequence[float | None]]


def table8_rows(damping: float) -> tuple[str, str]:
    """Names of the two rows of a damping in Table 8: K_a, and accuracy."""
    return f"lambda = {damping:g} K_a", f"lambda = {damping:g} PGD"


def table8_column(state: int) -> str:
    """Name of the column of an attacked state in Table 8."""
    return f"i = {state}"


def _grid(table: int, columns: Sequence[str], rows: _Rows) -> tuple[Published, ...]:
    return tuple(
        Published(table, row, column, value)
        for row, values in rows.items()
        for column, value in zip(columns, values, strict=True)
        if value is not None
    )


_TABLE_1 = _grid(1, ("Clean", "PGD", "AA", "ALL"), {
    "PGD-AT ResNet":            (82.52, 53.58, 48.51, 48.51),
    AS_PUBLISHED:               (79.67, 47.12, 48.37, 47.12),
    "PGD-AT baseline":          (77.89, 49.45, 47.58, 47.58),
    "PGD-AT + Sec. 3.2":        (77.51, 51.62, 49.31, 49.31),
    "PGD-AT + Sec. 3.3":        (78.93, 48.18, 48.09, 48.09),
    "PGD-AT + Secs. 3.2 & 3.3": (80.63, 49.22, 43.79, 43.79),
    "TRADES ResNet":            (81.47, None, 49.14, 49.14),
    "TRADES baseline":          (74.92, 50.46, 50.33, 50.33),
    "TRADES + Sec. 3.2":        (73.80, 51.41, 50.52, 50.52),
    "TRADES + Sec. 3.3":        (77.64, 51.10, 49.64, 49.64),
    "TRADES + Secs. 3.2 & 3.3": (78.89, 55.18, 51.50, 51.50),
})  # fmt: skip

_TABLE_2 = _grid(2, ("FINAL", "INTER", "DIFF"), {
    "PGD-AT baseline":          (50.55, 49.45, 1.10),
    "PGD-AT + Sec. 3.2":        (53.01, 51.62, 1.39),
    "PGD-AT + Sec. 3.3":        (51.05, 48.18, 2.87),
    "PGD-AT + Secs. 3.2 & 3.3": (54.91, 49.22, 5.69),
    "TRADES baseline":          (51.92, 50.46, 1.46),
    "TRADES + Sec. 3.2":        (53.74, 51.41, 2.33),
    "TRADES + Sec. 3.3":        (52.67, 51.10, 1.57),
    "TRADES + Secs. 3.2 & 3.3": (56.09, 55.18, 0.91),
})  # fmt: skip

_TABLE_3 = _grid(3, tuple(f"from TRADES {method}" for method in METHODS), {
    "TRADES baseline":          (50.46, 50.73, 56.66, 57.37),
    "TRADES + Sec. 3.2":        (51.58, 51.41, 55.60, 56.09),
    "TRADES + Sec. 3.3":        (60.00, 60.24, 51.10, 52.89),
    "TRADES + Secs. 3.2 & 3.3": (59.87, 60.06, 55.19, 55.18),
})  # fmt: skip

_TABLE_4 = _grid(4, ("(3,5)", "(3,4)", "(3,6)", "(3,7)", "(4,5)", "(5,5)", "(6,5)"), {
    "PGD":    (55.18, 55.36, 55.24, 55.35, 55.24, 55.53, 55.59),
    "APGD":   (53.29, 56.75, 56.95, 57.07, 53.38, 53.92, 53.91),
    "SQUARE": (67.00, 67.23, 67.28, 67.13, 66.65, 67.00, 66.75),
})  # fmt: skip

_TABLE_5 = _grid(5, _INPUT_STEPS, {
    "T_f = 1": (54.67, 54.96, 55.07, 55.03),
    "T_f = 2": (54.15, 55.05, 55.18, 55.23),
    "T_f = 4": (53.39, 54.80, 54.85, 54.85),
    "T_f = 8": (52.85, 52.80, 52.83, 52.81),
})  # fmt: skip

_TABLE_6 = _grid(6, ("AVG", "MIN", "MAX"), dict(zip(_FOUR, (
    (78.26, 72.98, 85.53),
    (78.39, 68.79, 83.77),
    (81.46, 75.88, 87.99),
    (82.34, 76.63, 88.58),
), strict=True)))  # fmt: skip

_TABLE_7 = _grid(7, ("AVG", "MIN", "MAX"), dict(zip(_FOUR, (
    (-0.1948, -0.2133, -0.1156),
    (-0.1027, -0.1337, -0.0612),
    (-0.1174, -0.1368, -0.0769),
    (-0.1179, -0.1445, -0.0836),
), strict=True)))  # fmt: skip

_TABLE_8 = _grid(8, tuple(f"i = {state}" for state in range(1, 9)), {
    "lambda = 1 K_a":   (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "lambda = 1 PGD":   (64.05, 63.32, 61.53, 60.84, 59.77, 60.00, 59.14, 59.20),
    "lambda = 0.5 K_a": (8.0, 7.0, 5.0, 5.0, 5.0, 5.0, 4.0, 5.0),
    "lambda = 0.5 PGD": (55.65, 55.54, 55.18, 55.24, 55.53, 55.59, 55.54, 55.68),
})  # fmt: skip

_TABLE_9 = _grid(9, ("images/s",), dict(zip(_FOUR, ((30.2,), (39.9,), (24.0,), (30.6,)), strict=True)))

# The cell R = 0 spans all four rows: without updates there is no T_f.
_TABLE_10 = (Published(10, "any T_f", "R = 0", 94.9), *_grid(10, _INPUT_STEPS, {
    "T_f = 1": (32.1, 11.8, 8.6, 6.5),
    "T_f = 2": (42.6, 20.5, 11.7, 7.5),
    "T_f = 4": (48.6, 29.9, 18.6, 12.8),
    "T_f = 8": (49.6, 33.1, 26.6, 17.6),
}))  # fmt: skip

NUMBERS = (
    *_TABLE_1, *_TABLE_2, *_TABLE_3, *_TABLE_4, *_TABLE_5, *_TABLE_6, *_TABLE_7, *_TABLE_8, *_TABLE_9, *_TABLE_10,
)  # fmt: skip
_BY_CELL = {(number.table, number.row, number.column): number.value for number in NUMBERS}


def value(table: int, row: str, column: str) -> float | None:
    """The paper's number for a cell of our table; None where the paper has none."""
    return _BY_CELL.get((table, row, column))
