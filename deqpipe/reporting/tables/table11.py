"""Table 11: every decision under attacks that know it, what each group of them leaves, and what remains of gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from deqpipe.analysis import gains, own_attacks, sanity, suite, union
from deqpipe.analysis.answers import FINAL
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.analysis.sanity import Finding
from deqpipe.analysis.union import Faced, Faces
from deqpipe.config import Config
from deqpipe.reporting import conditions, phrases, quantities
from deqpipe.reporting.cells import EMPTY, Block, Cell, Digits, Line, Shown, percent, show
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Correct, Estimate
from deqpipe.workflow import equal_cost, vocabulary
from deqpipe.workflow.defences import ENTROPY, MATCHED, PLAIN, defence_of, is_own
from deqpipe.workflow.suite_attacks import GROUPS, NOISE

CLEAN, PGD, PER_IMAGE, AA, UNION, SPENT = "Clean", "PGD", "PGD per image", "AA", "Union", "f per image"
TURNED = "turned by"
"""How columns begin that say how many images an attack turned: the csv alone has them."""
_ROUNDED = Digits(0, 0, 0)


@dataclass(frozen=True)
class GainColumns:
    """The columns of a gain, all three on the same images.

    Attributes:
        by_figure: by the paper's figure, the lowest mean accuracy over the grid.
        under_union: over what both decisions faced, image by image.
        fall: how much less the second is than the first.
    """

    by_figure: str
    under_union: str
    fall: str


OVER_BASELINE = GainColumns("Gain by PGD", "Union gain", "Gain: fall")
OF_DEFENCE = GainColumns("Sec. 3.2 by PGD", "Sec. 3.2 under union", "Sec. 3.2: fall")
OVER_CONTROL = GainColumns("Sec. 3.2 over R = 0 by PGD", "Sec. 3.2 over R = 0", "Sec. 3.2 over R = 0: fall")
OVER_MATCHED = {
    name: GainColumns(f"{over} by PGD", over, f"{over}: fall")
    for name, over in ((name, f"Sec. 3.2 over {defence_of(name).label}") for name in MATCHED)
}
"""Over each baseline of at most its cost."""
OF_TRAINING = GainColumns("Sec. 3.3 by PGD", "Sec. 3.3 under union", "Sec. 3.3: fall")
OF_OWN = GainColumns("Own defence by PGD", "Own defence under union", "Own defence: fall")
"""Of a user's file, over the same weights undefended."""
GAINS = (OVER_BASELINE, OF_DEFENCE, OF_OWN, OVER_CONTROL, *OVER_MATCHED.values(), OF_TRAINING)
"""In the order of the columns."""
FALLS = tuple(gain.fall for gain in GAINS)
COLUMNS = (
    CLEAN, PGD, PER_IMAGE, AA, UNION, *(name for gain in GAINS for name in (gain.by_figure, gain.under_union)), SPENT,
)  # fmt: skip


@dataclass(frozen=True)
class Gathered:
    """What one seed's numbers are made of.

    Attributes:
        faces: what every decision faced.
        members: of the ensembles among them, the states at which their networks are read, seed by seed.
    """

    faces: Faces
    members: Mapping[Decision, tuple[int, ...]] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files behind it."""
        return self.faces.sources

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the sanity checks say."""
        return sanity.findings(self.faces.outcomes, self.faces.curves)


def gather(tree: Tree) -> Gathered:
    """All that every decision faced.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    faces = union.gather(tree)
    ensembles = (one for one in faces.by_decision if defence_of(one.defence).of_seeds)
    return Gathered(faces, {one: union.members(tree, one) for one in ensembles})


def caption(config: Config) -> str:
    """What the columns are."""
    images = union.attacked_images(config)
    together = ", an ensemble of the networks of all seeds" if len(config.seeds) > 1 and _static(config) else ""
    own = "".join(f", {one.label}" for one in own_attacks.attacks(config).values())
    alone = "alone" if _individual(config) else "in the order of the columns, what is left after each"
    return (
        f"Accuracy (%) of {conditions.data(config)}, the first {images:,} test images in every column. PGD: the "
        "paper's figure, the lowest mean accuracy over the grid. Per image: right under every attack of the grid. AA: "
        "AutoAttack. Union: right when clean and under everything that was run: grid, AutoAttack, suite, "
        f"images made against other decisions{own}. Below, each group of attacks {alone}. Gains, paired by "
        "image: Union gain over the baseline of the same framework; of Sec. 3.2 over the same weights undefended at "
        f"their own early state, its own control R = 0{together} and a longer solve of at most its cost; "
        "of Sec. 3.3 over the weights without it, same defence. By PGD: the same gain by the paper's figure; fall: it "
        "minus what is left of it under the union. f per image: evaluations of f that the suite spent."
    )


def _static(config: Config) -> bool:
    return config.suite.enabled and config.suite.static


def _individual(config: Config) -> bool:
    return config.suite.enabled and config.suite.mode == "individual"


# Numbers


def cells(gathered: Gathered, tree: Tree) -> tuple[Cell, ...]:
    """Every column of every decision that has it."""
    faces = gathered.faces.by_decision
    return tuple(cell for one in faces.values() for cell in (*_own(one, tree), *_gains(one, faces, tree)))


def _own(one: Faced, tree: Tree) -> list[Cell]:
    row, confidence = one.decision.row, tree.config.statistics.confidence

    def alone(column: str, right: Correct, note: str = "") -> Cell:
        return percent(row, column, intervals.accuracy(right, confidence=confidence), note=note)

    shown = [alone(CLEAN, one.outcome.clean)]
    if one.grid is not None:
        shown.append(percent(row, PGD, intervals.minimum(one.grid, tree.bootstrap), note=_strongest(one)))
        shown.append(alone(PER_IMAGE, intervals.worst_case(one.grid)))
    if one.library is not None:
        shown.append(percent(row, AA, intervals.minimum(one.library, tree.bootstrap)))
    groups = ((group, one.outcome.group(group)) for group in GROUPS)
    shown += [alone(group.label, right, note=group.meaning) for group, right in groups if right is not None]
    return [*shown, alone(UNION, one.union(), note=f"over {', '.join(one.parts)}"), _spent(one), *_turned(one)]


def _strongest(one: Faced) -> str:
    assert one.evaluation is not None
    if not vocabulary.MODELS[one.decision.model].is_deq:
        return "one attack"
    assert one.grid is not None
    return f"strongest at {one.evaluation.points[intervals.strongest(one.grid)].triple}"


def _spent(one: Faced) -> Cell:
    spent, row = one.outcome.evaluations, one.decision.row
    if not np.isfinite(spent):
        return Cell(row, SPENT, quantity=quantities.EVALUATIONS, note="a network without states evaluates no f")
    return Cell(row, SPENT, spent, n=one.outcome.images, quantity=quantities.EVALUATIONS)


def _turned(one: Faced) -> list[Cell]:
    """How many images each attack turned, of those that it faced."""
    row = one.decision.row
    return [
        Cell(
            row, f"{TURNED} {name}", float((~run.right).sum()), n=len(run.images), quantity=quantities.IMAGES,
            note=f"{run.attack.label}; n: the images that it faced",
        )
        for name, run in one.outcome.runs.items()
    ]  # fmt: skip


def _gains(one: Faced, faces: Mapping[Decision, Faced], tree: Tree) -> list[Cell]:
    """What remains of the gains of Secs. 3.2 and 3.3, each beside what it is by the paper's figure.

    What only explains a gain has none.
    """
    found: list[Cell] = []
    if _explains(one.decision):
        return found
    for rival, columns in (
        (baseline(one.decision), OVER_BASELINE),
        (gains.undefended(one.decision), OF_OWN if is_own(one.decision.defence) else OF_DEFENCE),
        (gains.own_control(one.decision), OVER_CONTROL),
        *((rival, OVER_MATCHED[rival.defence]) for rival in gains.equal_cost(one.decision)),
        (gains.without_random_states(one.decision), OF_TRAINING),
    ):
        if rival in faces and rival is not None:
            found += _over(one, faces[rival], columns, tree)
    return found


def baseline(decision: Decision) -> Decision | None:
    """The undefended DEQ of the same framework without Sec. 3.3; None for that, for rivals and for networks."""
    if not vocabulary.MODELS[decision.model].is_deq or _explains(decision):
        return None
    framework = vocabulary.MODELS[decision.model].framework
    base = next(name for name in vocabulary.BASELINES if vocabulary.MODELS[name].framework == framework)
    found = Decision(base, PLAIN.name)
    return None if found == decision else found


def _over(one: Faced, other: Faced, columns: GainColumns, tree: Tree) -> list[Cell]:
    """A gain under the union; where the grid attacked both, by the paper's figure too, and the paired fall."""
    row = one.decision.row
    here, there, lacking = union.shared_difference(one, other)
    without = f", without {' and '.join(sorted(lacking))}, which one of them did not face" if lacking else ""
    note = f"over {other.decision.row}{without}"
    left = intervals.minimum_difference(here[None], there[None], tree.bootstrap)
    found = [_gain(row, columns.under_union, left, note)]
    if one.grid is not None and other.grid is not None:
        gain = intervals.minimum_difference(one.grid, other.grid, tree.bootstrap)
        fall = intervals.paired_difference(gain.answers, left.answers, tree.bootstrap)
        found.append(_gain(row, columns.by_figure, gain, f"over {other.decision.row}"))
        found.append(percent(row, columns.fall, fall, note=note, quantity=quantities.DIFFERENCE))
    return found


def _gain(row: str, column: str, gain: Estimate, note: str) -> Cell:
    return percent(row, column, gain, note=note, quantity=quantities.GAIN)


# Layout

_STUB = ("Training", "Model", "Method")


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """What decisions keep and what remains of gains, and how much less; pooled over seeds; what groups leave."""
    deciding = [one for one in union.decisions(config) if (one.row, CLEAN) in cells]
    pooled = tuple(phrases.pooled(column) for gain in GAINS for column in (gain.by_figure, gain.under_union, gain.fall))
    groups = (*(group.label for group in GROUPS), UNION)

    def having(columns: Sequence[str]) -> list[Decision]:
        return [one for one in deciding if any((one.row, column) in cells for column in columns)]

    parts = ((deciding, COLUMNS), (having(FALLS), FALLS), (having(pooled), pooled), (deciding, groups))
    return tuple(_block(rows, columns, cells, config) for rows, columns in parts if rows)


def _block(
    rows: Sequence[Decision], columns: Sequence[str], cells: Mapping[tuple[str, str], Cell], config: Config
) -> Block:
    named = tuple(column for column in columns if any((one.row, column) in cells for one in rows))
    best = max((cells[one.row, UNION].here or 0.0 for one in rows if not _explains(one)), default=0.0)
    lines = tuple(
        Line(
            (one.framework, conditions.architecture(config, one.model), _method(one, config)),
            tuple(_shown(cells.get((one.row, column)), best=best, explains=_explains(one)) for column in named),
        )
        for one in rows
    )
    return Block(_STUB, named, lines)


def _explains(decision: Decision) -> bool:
    """Whether it only explains the gain of another decision: a control, or a rival at equal cost."""
    return defence_of(decision.defence).beside is not None


def _method(decision: Decision, config: Config) -> str:
    """Its name in the table; what explains a gain stands right below whose gain that is."""
    if steps := _longer(decision, config):
        return f"undefended, N = {steps} steps"
    if defence_of(decision.defence).of_seeds:
        return _of_seeds(config)
    if _explains(decision):
        return defence_of(decision.defence).label
    network = vocabulary.MODELS[decision.model].architecture.method
    return "no states" if network else decision.method


def _of_seeds(config: Config) -> str:
    return f"undefended, ensemble of {len(config.seeds)} seeds"


def _longer(decision: Decision, config: Config) -> int | None:
    """The steps of a solve that costs as much as a defence does; None for every other decision."""
    longer, steps = defence_of(decision.defence).longer, config.solver.steps
    return None if longer is None else steps * longer(config.entropy, steps)


def _shown(cell: Cell | None, *, best: float, explains: bool) -> Shown:
    if cell is None or cell.here is None:
        return EMPTY
    if cell.quantity == quantities.EVALUATIONS:
        return show(cell, digits=_ROUNDED)
    strong = cell.column == UNION and not explains and cell.here == best
    return show(cell, signed=cell.quantity in (quantities.GAIN, quantities.DIFFERENCE), strong=strong)


# Words


def warnings(gathered: Gathered, config: Config) -> tuple[str, ...]:
    """What the sanity checks found wrong, a sentence each: numbers that rest on it are worth nothing."""
    found = sanity.failed(gathered.findings)
    return tuple(f"Sanity check failed ({one.check}) on {one.row}: {one.words}." for one in found)


def notes(gathered: Gathered, config: Config) -> tuple[str, ...]:
    """What the checks say first, then how to read columns, and what was run."""
    return (
        *warnings(gathered, config),
        _checks(gathered.findings),
        _mode(config),
        _faced(gathered.faces),
        _groups(gathered, config),
        _by_attack(config),
        _states(gathered),
        *_equal_cost(gathered, config),
        _budget(config),
    )


def _checks(found: Sequence[Finding]) -> str:
    """How many sanity checks passed, and how many could not be told."""
    few = [one for one in found if one.verdict == "too few"]
    bad = sanity.failed(found)
    passed = len(found) - len(few) - len(bad)
    said = f"Sanity checks of the attacks: {passed} of {len(found)} passed, {len(bad)} failed"
    if not few:
        return f"{said}."
    names = ", ".join(dict.fromkeys(one.check for one in few))
    return f"{said}, {len(few)} had too few images or steps to tell ({names})."


def _mode(config: Config) -> str:
    if _individual(config):
        return "Each group alone: its attacks faced every image that is right when clean, whatever others had turned."
    return (
        "An image leaves once the decision errs: a column says what was right when clean and after its group and all "
        "groups before it, so the first has the most to turn. suite.mode: individual runs each alone."
    )


def _faced(faces: Faces) -> str:
    """Which decisions lack a part of the union."""
    every = {name for one in faces.by_decision.values() for name in one.parts}
    lacking: dict[str, list[str]] = {}
    for one in faces.by_decision.values():
        absent = sorted(every - one.parts.keys())
        if absent:
            lacking.setdefault(" and ".join(absent), []).append(one.decision.row)
    if not lacking:
        return "Every decision faced every part of the union."
    said = "; ".join(f"{', '.join(rows)} did not face {parts}" for parts, rows in lacking.items())
    return f"{said}; a gain over such a row is counted without these parts on both sides."


def _groups(gathered: Gathered, config: Config) -> str:
    shown = suite.shown_groups(gathered.faces.outcomes)
    return f"Groups of attacks: {'; '.join(f'{group.label}: {group.meaning}' for group in (*shown, NOISE))}."


def _by_attack(config: Config) -> str:
    return (
        f'What each attack did alone stands in table11.csv: columns "{TURNED} ..." count the images that it turned, '
        "and n those that it faced."
    )


def _states(gathered: Gathered) -> str:
    deqs = [one for one in gathered.faces.outcomes if one.state != FINAL]
    return f"Early states, counted from 1: {'; '.join(f'{one.decision.row} {one.state}' for one in deqs)}."


def _equal_cost(gathered: Gathered, config: Config) -> tuple[str, ...]:
    """What the rows of a longer solve are, and what a decision costs beside Sec. 3.2's; none: there is no such row."""
    outcomes, steps = gathered.faces.outcomes, config.solver.steps
    solve = next((_longer(one.decision, config) for one in outcomes if _longer(one.decision, config)), None)
    if solve is None:
        return ()
    states = sorted({one.state for one in outcomes if one.decision.defence == ENTROPY.name})
    costs = ((state, equal_cost.way_to(config.entropy, state, steps=steps).total) for state in states)
    each = ", ".join(f"{cost} at state {state}" for state, cost in costs)
    return (
        f"Undefended, N = {solve} steps: the same weights, solved for {solve} steps in place of {steps}, as long as "
        f"costs about what Sec. 3.2 does, and read at the last one. Evaluations of f of a decision: {solve}; with "
        f"Sec. 3.2: {each}.",
        *_together(gathered, config, each),
    )


def _together(gathered: Gathered, config: Config, defended: str) -> tuple[str, ...]:
    """What the rows of an ensemble are, and what its decision costs; none: there is no such row."""
    if not gathered.members:
        return ()
    spent = "; ".join(
        f"{replace(one, defence=PLAIN.name).row} {' + '.join(map(str, states))} = {sum(states)}"
        for one, states in gathered.members.items()
    )
    seeds = ", ".join(map(str, config.seeds))
    return (
        f"{_of_seeds(config).capitalize()}: the mean of the softmax of the networks of seeds {seeds}, each undefended "
        "and read at its own early state. It is one decision, which belongs to no seed: gains over it are those of "
        "each seed's Sec. 3.2 over this one. Its images were shown to no other decision. Evaluations of f of a "
        f"decision, network by network: {spent}; with Sec. 3.2: {defended}.",
    )


def _starts(count: int) -> str:
    return "one start" if count == 1 else f"{count} starts"


def _classes(count: int) -> str:
    return "one class" if count == 1 else f"{count} classes"


def _budget(config: Config) -> str:
    """What the attacks might spend."""
    asked = config.suite
    assert asked.enabled
    lengths = ", ".join(map(str, asked.long))
    return (
        f"Budget: APGD {asked.iterations} steps from {_starts(asked.restarts)} (targeted losses: "
        f"{_classes(asked.targets)}), PGD {lengths} steps, Square {asked.queries:,} and RayS "
        f"{asked.decision_queries:,} queries; every iterate is judged by the decision itself. An evaluation of f "
        "counts 1, its gradient to the input 1 more."
    )
