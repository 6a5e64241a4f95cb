"""What the paper claims at each table and figure, and whether the numbers of this run show it.

A claim is taken apart into comparisons. One of them shows it if its interval excludes the opposite: that of a paired
difference where a table has one, otherwise two intervals that do not overlap, which asks for more. Intervals are of the
first seed: where there are several seeds, the values of all must lie on the same side. A claim is shown if every
comparison shows it, contradicted if any shows the opposite, and otherwise open.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from deqpipe.analysis.decision import Decision, paper_decisions
from deqpipe.config import Config
from deqpipe.reporting.cells import Cell, Cells, by_name
from deqpipe.reporting.paper import published
from deqpipe.reporting.report.survival import Fate, Sign, Survival, beyond, survivals
from deqpipe.reporting.tables import table1
from deqpipe.reporting.tables.table11 import OVER_BASELINE, OVER_CONTROL, GainColumns
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import ENTROPY

Verdict: TypeAlias = Literal["shown", "contradicted", "open", "not comparable"]
Rows: TypeAlias = Sequence[Mapping[str, str]]
"""Of one figure's csv."""

_PAIRS = (
    ("deq_pgd_at_base", "deq_pgd_at_random_states"),
    ("deq_trades_base", "deq_trades_random_states"),
)


_SAID: Mapping[Sign, str] = {1: "show it", -1: "show the opposite", 0: "leave it open"}
_FEW = 3
"""So many comparisons are named in a line of the overview."""


@dataclass(frozen=True)
class Evidence:
    """What numbers say of a claim.

    Attributes:
        paper: the claim, in short.
        signs: of its comparisons, by what they are called; None where a number or its interval is absent.
        compared: what the comparisons are.
        aside: what else must be known.
        one_sided: the opposite cannot come out, so that intervals show the claim too easily: it stays open.
        first: what must be known before all else.
    """

    paper: str
    signs: Mapping[str, Sign | None]
    compared: str
    aside: str = ""
    one_sided: bool = False
    first: str = ""


@dataclass(frozen=True)
class Claim:
    """One line of the overview: a table or figure, the paper's claim there, and what becomes of it.

    Attributes:
        name: of the table or figure.
        paper: the claim.
        verdict: on it.
        here: how many comparisons show it, by name where they are few.
        compared: what the comparisons are, all by name, and what else must be known.
    """

    name: str
    paper: str
    verdict: Verdict
    here: str
    compared: str = ""

    @property
    def anchor(self) -> str:
        """Where the table or figure stands in the report."""
        return "".join(self.name.lower().split()[:2])


def judge(name: str, evidence: Evidence) -> Claim:
    """The verdict on a claim, with the count of comparisons behind it."""
    known = {what: sign for what, sign in evidence.signs.items() if sign is not None}
    counted = _counted(known, absent=len(evidence.signs) - len(known))
    here = " ".join(filter(None, (evidence.first, counted)))
    compared = " ".join(filter(None, (f"Compared: {evidence.compared}.", _named(known), evidence.aside)))
    verdict = _verdict(list(known.values()))
    if evidence.one_sided and verdict == "shown":
        return Claim(name, evidence.paper, "open", f"{here} The opposite cannot come out.", compared)
    return Claim(name, evidence.paper, verdict, here, compared)


def _verdict(signs: Sequence[Sign]) -> Verdict:
    if not signs:
        return "not comparable"
    if any(sign < 0 for sign in signs):
        return "contradicted"
    return "shown" if all(sign > 0 for sign in signs) else "open"


def _counted(signs: Mapping[str, Sign], *, absent: int) -> str:
    """How many of the comparisons show what, by name where they are few; the others are open."""
    if not signs:
        return "Numbers or their intervals are absent."
    shown, opposite = ([what for what, one in signs.items() if one == sign] for sign in (1, -1))
    said = [f"{len(shown)} of {len(signs)} show it{_by_name(shown, signs)}"]
    said += [f"{len(opposite)} the opposite{_by_name(opposite, signs)}"] if opposite else []
    said += [f"{absent} absent"] if absent else []
    return f"{', '.join(said)}."


def _by_name(names: Sequence[str], every: Mapping[str, Sign]) -> str:
    """Those that are meant, or those that are not, whichever can be read in passing."""
    others = [name for name in every if name not in names]
    if not names or not others:
        return ""
    if len(names) <= _FEW:
        return f" ({'; '.join(names)})"
    return f" (all but {'; '.join(others)})" if len(others) <= _FEW else ""


def _named(signs: Mapping[str, Sign]) -> str:
    """All comparisons, by what they show."""
    groups = {words: [what for what, one in signs.items() if one == sign] for sign, words in _SAID.items()}
    return " ".join(f"{words.capitalize()}: {'; '.join(names)}." for words, names in groups.items() if names)


def above(high: Cell | None, low: Cell | None) -> Sign | None:
    """Whether a number lies above another: their intervals do not overlap, and no seed has it the other way round."""
    ends = (_interval(high), _interval(low))
    if ends[0] is None or ends[1] is None:
        return None
    sign: Sign = 1 if ends[0][0] > ends[1][1] else -1 if ends[0][1] < ends[1][0] else 0
    return sign if all(sign * difference > 0 for difference in _by_seed(high, low)) else 0


def _by_seed(high: Cell | None, low: Cell | None) -> list[float]:
    """The differences of the seeds that both have; none where either has a single one."""
    one, other = (dict(cell.over_seeds.values) if cell and cell.over_seeds else {} for cell in (high, low))
    return [one[seed] - other[seed] for seed in one if seed in other]


def below(cell: Cell | None, bound: float) -> Sign | None:
    """Whether a number lies below a bound: its interval does not reach it."""
    sign = beyond(cell, bound)
    return None if sign is None else 1 if sign < 0 else -1 if sign > 0 else 0


def _interval(cell: Cell | None) -> tuple[float, float] | None:
    if cell is None or cell.low is None or cell.high is None:
        return None
    return cell.low, cell.high


def of_table1(cells: Cells, config: Config) -> Evidence:
    """Each method is above its baseline: under the union where there is one, else by the paper's figure."""
    rows = [
        one.row for one in paper_decisions("pgd_at", "trades") if Decision(one.model, one.defence).method != "baseline"
    ]
    theirs = [published.value(1, row, table1.PGD) for row in rows]
    base = [published.value(1, f"{row.split(' + ')[0]} baseline", table1.PGD) for row in rows]
    up = sum(a is not None and b is not None and a > b for a, b in zip(theirs, base, strict=True))
    gains = survivals(rows, cells, OVER_BASELINE)
    return Evidence(
        paper="Secs. 3.2 and 3.3 raise robustness over adversarial training alone.",
        signs=_signs(rows, cells, OVER_BASELINE, alone=table1.GAIN),
        compared=f"each method with its baseline {_under(gains, config)}, paired by image",
        aside=f"In the paper's own Table 1, {up} of {len(rows)} are above.",
        first=_fates(gains),
    )


def of_descent(cells: Cells, config: Config) -> Evidence:
    """What Sec. 3.2 gains is its descent's, and not another early state's or a restarted solver's."""
    rows = [one.row for one in paper_decisions("pgd_at", "trades") if one.defence == ENTROPY.name]
    gains = survivals(rows, cells, OVER_CONTROL)
    return Evidence(
        paper="Sec. 3.2 gains by lowering the entropy of the prediction.",
        signs=_signs(rows, cells, OVER_CONTROL, alone=table1.DESCENT),
        compared=f"each defence with its own control, the same weights at the same state without descent, "
        f"{_under(gains, config)}, paired by image",
        aside="Table 1 says what else a gain is made of: another early state, and restarts of the solver.",
        first=_fates(gains),
    )


def _signs(rows: Sequence[str], cells: Cells, columns: GainColumns, *, alone: str) -> Mapping[str, Sign | None]:
    """Those of a gain under the union or, where none of the rows has it, by the paper's figure in Table 1."""
    column = columns.under_union if survivals(rows, cells, columns) else alone
    return {row: beyond(cells.get((row, column)), 0.0) for row in rows}


def _under(gains: Sequence[Survival], config: Config) -> str:
    """Which attacks a verdict rests on."""
    if gains:
        return f"under the union of all attacks (Table 11{_images(gains)})"
    key = "suite.controls" if config.suite.enabled else "suite.enabled"
    return f"under PGD, the paper's figure, as there is no union ({key}: false)"


def _images(gains: Sequence[Survival]) -> str:
    counted = {one.under_union.n for one in gains if one.under_union.n is not None}
    return f", {counted.pop():,} images" if len(counted) == 1 else ""


_FATES: Mapping[Fate, str] = {
    "lost": "Lost under the union of all attacks: {}.",
    "too few images": "Too few images to tell whether it survives the union of all attacks: {}.",
}
"""What must be known before all else: a reader who knows the paper's figure would not expect it."""


def _fates(gains: Sequence[Survival]) -> str:
    """What the paper's figure shows on these images, and the union does not."""
    named = {fate: [one.row for one in gains if one.fate == fate] for fate in _FATES}
    return " ".join(_FATES[fate].format("; ".join(rows)) for fate, rows in named.items() if rows)


def of_table2(cells: Cells, config: Config) -> Evidence:
    """Intermediate-state attacks are stronger than the ready-made one."""
    return Evidence(
        paper="Attacks on intermediate states are always stronger than the ready-made attack.",
        signs={one.row: beyond(cells.get((one.row, "DIFF")), 0.0) for one in paper_decisions("pgd_at", "trades")},
        compared="FINAL with INTER, paired by image",
        aside=(
            "At most open: INTER is a minimum over attacks of which FINAL is one, so never above it, and where attacks "
            "are equally strong the interval excludes 0 far more often than its confidence says."
        ),
        one_sided=True,
    )


def of_table3(cells: Cells, config: Config) -> Evidence:
    """Nothing is stronger against a method than attacks on its own weights."""
    base, random = (Decision(model, "plain").row for model in vocabulary.TRADES)
    other = {vocabulary.TRADES[0]: random, vocabulary.TRADES[1]: base}
    own = {vocabulary.TRADES[0]: base, vocabulary.TRADES[1]: random}
    return Evidence(
        paper="Each method is hurt most by the attacks that were crafted on it.",
        signs={
            one.row: above(
                cells.get((one.row, f"from {other[one.model]}")), cells.get((one.row, f"from {own[one.model]}"))
            )
            for one in paper_decisions("trades")
        },
        compared="images crafted on a method's own weights with those of the other TRADES model",
        aside="Baseline and + Sec. 3.2 share weights and images here: the paper tells them apart.",
    )


def of_table4(cells: Cells, config: Config) -> Evidence:
    """APGD is at least as strong as PGD, and Square weaker."""
    columns = dict.fromkeys(column for row, column in cells if row == "PGD")
    few = "PGD on Square's images"
    apgd = {f"APGD {column}": above(cells.get(("PGD", column)), cells.get(("APGD", column))) for column in columns}
    square = {
        f"Square {column}": above(cells.get(("SQUARE", column)), cells.get((few, column), cells.get(("PGD", column))))
        for column in columns
    }
    return Evidence(
        paper="APGD-CE is stronger than PGD, and Square is weaker.",
        signs={**apgd, **square},
        compared="APGD-CE, and Square on its images, with PGD at every point",
        aside="The points are those where PGD is lowest, which favours PGD a little.",
    )


def of_table5(cells: Cells, config: Config) -> Evidence:
    """A larger T_f is less robust."""
    least, most = min(config.entropy_sweep.solver_steps), max(config.entropy_sweep.solver_steps)
    columns = [f"R = {steps}" for steps in config.entropy_sweep.input_steps]
    pairs = {name: (cells.get((f"T_f = {least}", name)), cells.get((f"T_f = {most}", name))) for name in columns}
    return Evidence(
        paper="A larger T_f, so descent less often, lowers robustness.",
        signs={name: above(*pair) for name, pair in pairs.items() if least != most},
        compared=f"T_f = {least} with T_f = {most} for every R",
    )


def of_table6(cells: Cells, config: Config) -> Evidence:
    """Under all attacks, most clean images have the lower entropy."""
    return Evidence(
        paper="Under every attack, most clean images have a lower entropy than their attacked ones (P > 50 %).",
        signs={row: beyond(cells.get((row, "MIN")), 50.0) for row in _undefended()},
        compared="the lowest P over all attacks with 50 %, for each model",
    )


def of_table7(cells: Cells, config: Config) -> Evidence:
    """Under all attacks, clean entropy is lower on average."""
    return Evidence(
        paper="Under every attack, the mean entropy of clean images is lower (Delta H < 0).",
        signs={row: below(cells.get((row, "MAX")), 0.0) for row in _undefended()},
        compared="the highest Delta H over all attacks with 0, for each model",
    )


def _undefended() -> tuple[str, ...]:
    return tuple(Decision(model, "plain").row for model in vocabulary.DEQS)


def of_table8(cells: Cells, config: Config) -> Evidence:
    """Half damping makes the stronger attacks."""
    rows = tuple(published.table8_rows(damping)[1] for damping in (1.0, 0.5))
    columns = [published.table8_column(state) for state in config.attack.grid.states]
    return Evidence(
        paper="lambda = 0.5 makes stronger attacks than lambda = 1 at every state.",
        signs={name: above(cells.get((rows[0], name)), cells.get((rows[1], name))) for name in columns},
        compared="lambda = 1 with 0.5 at every attacked state",
    )


def of_table9(cells: Cells, config: Config) -> Evidence:
    """Random states make training faster."""
    rows = [tuple(Decision(model, "plain").row for model in pair) for pair in _PAIRS]
    return Evidence(
        paper="Training with Sec. 3.3 is faster, as its solver stops early.",
        signs={fast: above(cells.get((fast, "images/s")), cells.get((slow, "images/s"))) for slow, fast in rows},
        compared="images per second with and without, by the range of the repeats (no interval)",
    )


def of_table10(cells: Cells, config: Config) -> Evidence:
    """More descent steps cost more, seldom ones less."""
    often, descents = sorted(config.entropy_sweep.solver_steps), sorted(config.entropy_sweep.input_steps)
    by_steps = {
        f"T_f = {every}": above(_speed(cells, every, descents[0]), _speed(cells, every, descents[-1]))
        for every in often
        if len(descents) > 1
    }
    by_often = {
        f"R = {steps}": above(_speed(cells, often[-1], steps), _speed(cells, often[0], steps))
        for steps in descents
        if len(often) > 1
    }
    return Evidence(
        paper="The cost of Sec. 3.2 grows with R and falls with T_f.",
        signs={**by_steps, **by_often},
        compared="smallest with largest R and T_f, by the range of the repeats (no interval)",
    )


def _speed(cells: Cells, solver_steps: int, input_steps: int) -> Cell | None:
    return cells.get((f"T_f = {solver_steps}", f"R = {input_steps}"))


def of_figure2(rows: Rows, config: Config) -> Evidence:
    """Attacked images have the higher entropy."""
    quantity = "prediction entropy: median of the paired difference (nats)"
    values = {
        f"difference {number}": _cell(row, "value")
        for number, row in enumerate((row for row in rows if row.get("quantity") == quantity), start=1)
    }
    return Evidence(
        paper="Attacked images have a higher prediction entropy at the last state than clean ones.",
        signs={name: beyond(cell, 0.0) for name, cell in values.items()},
        compared="the median of attacked minus clean with 0, paired by image",
    )


def of_figure3b(rows: Rows, config: Config) -> Evidence:
    """Sec. 3.2 lowers the entropy along the states."""
    first, kind = config.entropy.solver_steps, "entropy with minus without (nats): quantile 0.5"
    values = {
        " ".join(filter(None, (row.get("row"), f"state {row['state']}"))): _cell(row, "value")
        for row in rows
        if row.get("kind") == kind and int(row["state"]) >= first
    }
    return Evidence(
        paper="Sec. 3.2 lowers the prediction entropy at every state after the first.",
        signs={name: below(cell, 0.0) for name, cell in values.items()},
        compared=f"the median of with minus without with 0, paired by image, at every state from {first} (T_f) on",
        aside="Lower entropy alone is no robustness: see the controls.",
    )


def of_figure3c(rows: Rows, config: Config) -> Evidence:
    """Random states keep attacked dynamics closer to clean ones."""
    row_of = {
        (row["row"], int(row["state"])): _cell(row, "value")
        for row in rows
        if row.get("kind") == "mean relative deviation"
    }
    slow, fast = (Decision(model, "plain").row for model in _PAIRS[1])
    states = range(1, config.solver.steps + 1)
    return Evidence(
        paper="With Sec. 3.3, attacked states deviate less from clean ones than with the TRADES baseline.",
        signs={f"state {state}": above(row_of.get((slow, state)), row_of.get((fast, state))) for state in states},
        compared="the baseline's mean relative deviation with that of + Sec. 3.3, at every state",
    )


def of_figure4(rows: Rows, config: Config) -> Evidence:
    """Random states are above the baseline while training."""
    pairs = [tuple(Decision(model, "plain").row for model in pair) for pair in _PAIRS]
    said = [_epochs(rows, better, worse) for worse, better in pairs]
    return Evidence(
        paper="Throughout training, Sec. 3.3 lies above the baseline.",
        signs={better: above(_kept(rows, better), _kept(rows, worse)) for worse, better in pairs},
        compared="validation accuracies under PGD at the kept epochs",
        aside=" ".join([*filter(None, said), "One training run per curve."]),
    )


def _epochs(rows: Rows, better: str, worse: str) -> str:
    """In how many epochs one curve lies above another, whatever the intervals."""
    one, other = (
        {row["epoch"]: float(row["accuracy"]) for row in rows if row.get("row") == name} for name in (better, worse)
    )
    both = [epoch for epoch in one if epoch in other]
    return f"{better} is above in {sum(one[e] > other[e] for e in both)} of {len(both)} epochs." if both else ""


def of_figure5(rows: Rows, config: Config) -> Evidence:
    """As Table 8."""
    cells = {
        (published.table8_rows(float(row["damping"]))[1], published.table8_column(int(row["state"]))): _cell(
            row, "accuracy"
        )
        for row in rows
        if "damping" in row
    }
    return of_table8(cells, config)


def of_figure6(rows: Rows, config: Config) -> Evidence:
    """PGD-AT needs the larger Jacobian weight."""
    usual, other = config.jacobian.weight.pgd_at, config.jacobian.other_weight.pgd_at
    names = [f"PGD-AT, Jacobian weight {weight:g}" for weight in sorted((usual, other))]
    return Evidence(
        paper="PGD-AT needs the larger weight of the Jacobian term; with TRADES the weight matters little.",
        signs={names[1]: above(_kept(rows, names[1]), _kept(rows, names[0]))} if usual != other else {},
        compared=f"weight {max(usual, other):g} with {min(usual, other):g} under PGD-AT, at the kept epochs",
        aside="That a weight matters little is nothing that an interval can show. One training run per curve.",
    )


def _kept(rows: Rows, name: str) -> Cell | None:
    """The epoch whose weights were kept."""
    return next((_cell(row, "accuracy") for row in rows if row.get("row") == name and row["chosen"] == "True"), None)


def _cell(row: Mapping[str, str], column: str) -> Cell:
    here, low, high = (float(row[name]) if row[name] else None for name in (column, "low", "high"))
    return Cell("", column, here=here, low=low, high=high)


Tabular: TypeAlias = Callable[[Cells, Config], Evidence]
Graphic: TypeAlias = Callable[[Rows, Config], Evidence]
OF_TABLES: Mapping[int, Mapping[str, Tabular]] = {
    1: {"Table 1": of_table1, "Table 1 (Sec. 3.2)": of_descent},
    2: {"Table 2": of_table2},
    3: {"Table 3": of_table3},
    4: {"Table 4": of_table4},
    5: {"Table 5": of_table5},
    6: {"Table 6": of_table6},
    7: {"Table 7": of_table7},
    8: {"Table 8": of_table8},
    9: {"Table 9": of_table9},
    10: {"Table 10": of_table10},
}
BESIDE: Mapping[int, int] = {1: 11}
"""Tables whose numbers the claims of another one rest on where they are there: columns of its own it keeps."""
OF_FIGURES: Mapping[int, Mapping[str, Graphic]] = {
    2: {"Figure 2": of_figure2},
    3: {"Figure 3 (b)": of_figure3b, "Figure 3 (c)": of_figure3c},
    4: {"Figure 4": of_figure4},
    5: {"Figure 5": of_figure5},
    6: {"Figure 6": of_figure6},
}


def _with_beside(number: int, tables: Mapping[int, Iterable[Cell]]) -> Cells:
    """The cells of a table, and those of the one beside it."""
    return {**by_name(tables.get(BESIDE.get(number, 0), ())), **by_name(tables[number])}


def overview(tables: Mapping[int, Iterable[Cell]], figures: Mapping[int, Rows], config: Config) -> tuple[Claim, ...]:
    """One line per claim, by table and figure; the figures' rows are those of their csv, none where one is absent."""
    said = [
        judge(name, claim(_with_beside(number, tables), config))
        for number in tables
        for name, claim in OF_TABLES.get(number, {}).items()  # a table that the paper does not have claims nothing
    ]
    graphics = [
        (name, claim, rows) for number, rows in figures.items() for name, claim in OF_FIGURES.get(number, {}).items()
    ]
    return (*said, *(judge(name, claim(rows, config)) for name, claim, rows in graphics))
