"""Figure 8: robust accuracy over the evaluations of f that attacks spend."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from deqpipe.analysis import evaluation, union
from deqpipe.analysis.decision import SWEEP_DECISION, Decision
from deqpipe.analysis.evaluation import Evaluation
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.suite import AttackRun, Mode, SuiteOutcome
from deqpipe.config import Config
from deqpipe.reporting import conditions
from deqpipe.reporting.figures import plotting
from deqpipe.reporting.figures.figure7 import short
from deqpipe.reporting.figures.plotting import Drawing
from deqpipe.statistics import intervals
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import defence_of
from deqpipe.workflow.gridpoints import GridPoint

_COLUMNS = ("row", "attack", "evaluations", "accuracy", "n")
UNION, GRID = "union so far", "whole grid, per image"
_POINTS = 60
"""Points of a curve in the csv and the picture: a step for every image says no more."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CostCurve:
    """What is right after so many evaluations of f per image.

    Attributes:
        decision: whose answers.
        attack: that spends them; UNION: all in their order.
        costs: rising.
        accuracy: in [0, 1], after each.
        n: images.
    """

    decision: Decision
    attack: str
    costs: _Floats
    accuracy: _Floats
    n: int


def draw(tree: Tree) -> Drawing:
    """A panel for each framework with all decisions, and one of one decision, attack by attack."""
    union.attacked_images(tree.config)  # refuses a configuration without a suite
    outcomes = {one: union.outcome(tree, one) for one in _drawn(tree.config)}
    models = dict.fromkeys(one.model for one in outcomes)
    graded = evaluation.evaluate_all(tree, tuple(models), clean=False)
    frameworks = list(dict.fromkeys(one.framework for one in outcomes))
    named = [[*(short(one, tree) for one in outcomes if one.framework == name), "", ""] for name in frameworks]
    heights = [plotting.taller(3.3, labels, columns=2, most=3) for labels in named]
    figure, parts = plotting.panels([*heights, 3.3])
    for letter, part, framework in zip("abcdef", parts, frameworks, strict=False):
        plotting.headline(part, letter, f"{framework}: all attacks, in their order")
        own = {one: outcome for one, outcome in outcomes.items() if one.framework == framework}
        _panel(part.subplots(), own, graded, tree)
    title, by_attack = _BY_ATTACK[outcomes[SWEEP_DECISION].mode]
    plotting.headline(parts[-1], "abcdef"[len(frameworks)], f"{SWEEP_DECISION.row}: {title}")
    by_attack(parts[-1].subplots(), outcomes[SWEEP_DECISION])
    curves = [curve for one in outcomes.values() for curve in _curves(one)]
    sources = [source for one in outcomes.values() for source in one.sources]
    sources += [source for one in graded.values() for source in one.sources]
    return Drawing(
        caption=_caption(tree.config),
        alt=_alt(curves),
        figure=figure,
        columns=_COLUMNS,
        rows=(
            *(row for curve in curves for row in _rows(curve)),
            *(row for one in outcomes.values() for row in _sequence_rows(one)),
            *_grid_rows(outcomes, graded, tree.config),
        ),
        notes=_notes(tree.config),
        conditions=conditions.setup(tree.config, seed=tree.seed),
        sources=tuple(sources),
    )


def _drawn(config: Config) -> tuple[Decision, ...]:
    """Decisions of DEQs that the grid attacks too: a network without states evaluates no f."""
    deqs = (one for one in union.decisions(config) if vocabulary.MODELS[one.model].is_deq)
    return tuple(one for one in deqs if not defence_of(one.defence).beside)


def _curves(outcome: SuiteOutcome) -> Iterator[CostCurve]:
    """The union so far, and every attack that faced all images that are right when clean."""
    spent = np.array([run.work(outcome.images) for run in outcome.attacking]).sum(axis=0).max(initial=1.0)
    yield _curve(outcome, UNION, outcome.fallen_after(), float(spent))
    for run in outcome.attacking:
        if _alone(run, outcome):
            fallen = np.where(outcome.clean, run.fallen_after(outcome.images), 0.0)
            yield _curve(outcome, run.attack.label, fallen, float(run.work(outcome.images).max(initial=1.0)))


def _alone(run: AttackRun, outcome: SuiteOutcome) -> bool:
    """Whether an attack faced every image that is right when clean."""
    return bool(np.isin(np.flatnonzero(outcome.clean), run.images).all())


def _curve(outcome: SuiteOutcome, attack: str, fallen: _Floats, most: float) -> CostCurve:
    costs = np.unique(
        np.quantile(np.append(fallen[np.isfinite(fallen)], [0.0, most]), np.linspace(0, 1, _POINTS), method="nearest")
    )
    accuracy = np.array([(fallen > cost).mean() for cost in costs])
    return CostCurve(outcome.decision, attack, costs, accuracy, outcome.images)


def point_cost(point: GridPoint, config: Config) -> int:
    """Evaluations of f that PGD spends on an image at a point of the grid: crafting alone, gradients counted twice.

    Each step takes the states up to i, and K_a steps (and a leading one, where there is one) with their gradient.
    """
    return config.attack.pgd.steps * (point.state + 2 * (point.steps + config.attack.unroll.lead_step))


def _panel(
    axes: Axes, outcomes: Mapping[Decision, SuiteOutcome], graded: Mapping[Decision, Evaluation], tree: Tree
) -> None:
    ends = []
    for number, (decision, outcome) in enumerate(outcomes.items()):
        colour = plotting.COLOURS[number % 6]
        curve = next(_curves(outcome))
        axes.step(curve.costs, 100 * curve.accuracy, where="post", color=colour, linewidth=1.5,
                  linestyle="-" if number < 6 else "--",
                  label=short(decision, tree))  # fmt: skip
        points = _grid_points(graded[decision], outcome.images, tree.config)
        axes.plot(
            *zip(*points[:-1], strict=True), linestyle="none", marker=".", markersize=2.5, color=colour, alpha=0.4
        )
        axes.plot(*points[-1], linestyle="none", marker="*", markersize=8, color=colour, markeredgecolor="white")
        ends += [curve.costs[-1], *(cost for cost, _ in points)]
        ends += [min((cost for cost in curve.costs if cost > 0), default=1.0)]
    plotting.logarithmic(axes, max(1.0, min(ends)), max(ends))
    _frame(axes)
    extra = [
        Line2D([], [], color=plotting.GREY, linestyle="none", marker=marker, markersize=size, label=label)
        for marker, size, label in ((".", 5, "one attack of the grid"), ("*", 8, GRID))
    ]
    plotting.key_above(axes, columns=2, handles=[*axes.get_legend_handles_labels()[0], *extra])


def _grid_points(evaluation: Evaluation, images: int, config: Config) -> list[tuple[float, float]]:
    """Cost and accuracy (%) of each attack of the grid, and last of all of them together, per image."""
    right = evaluation.right[:, :images]
    costs = [point_cost(point, config) for point in evaluation.points]
    each = [(float(cost), 100 * float(one.mean())) for cost, one in zip(costs, right, strict=True)]
    return [*each, (float(sum(costs)), 100 * float(intervals.worst_case(right).mean()))]


def _sequence(axes: Axes, outcome: SuiteOutcome) -> None:
    """One staircase: how far the accuracy has come down by the end of each attack, in the colour of its group."""
    steps = [(run.attack.group.label, cost, 100 * accuracy) for run, cost, accuracy in outcome.after_each()]
    styles = _styles(label for label, _, _ in steps)
    first = next((cost for _, cost, _ in steps if cost > 0), 1.0)
    least, before, shown = max(1.0, first / 2), 100 * float(outcome.clean.mean()), set[str]()
    start = least
    for label, cost, accuracy in steps:
        colour, dash = styles[label]
        axes.plot([start, cost, cost], [before, before, accuracy], color=colour, linestyle=dash, linewidth=2.2,
                  solid_capstyle="butt", label=None if label in shown else label)  # fmt: skip
        start, before = max(start, cost), accuracy
        shown.add(label)
    plotting.logarithmic(axes, least, start)
    _frame(axes)
    plotting.key_above(axes, columns=4)


def _singles(axes: Axes, outcome: SuiteOutcome) -> None:
    """A curve of every attack alone, in the colour of its group, and of all in their order."""
    every, *singles = _curves(outcome)
    groups = {run.attack.label: run.attack.group.label for run in outcome.runs.values()}
    styles, seen = _styles(groups[one.attack] for one in singles), set[str]()
    for curve in singles:
        group = groups[curve.attack]
        colour, dash = styles[group]
        axes.step(curve.costs, 100 * curve.accuracy, where="post", color=colour, linestyle=dash, linewidth=1,
                  label=None if group in seen else group)  # fmt: skip
        seen.add(group)
    axes.step(every.costs, 100 * every.accuracy, where="post", color="black", linewidth=1.8, label=UNION)
    least = min((cost for curve in (every, *singles) for cost in curve.costs if cost > 0), default=1.0)
    plotting.logarithmic(axes, max(1.0, least), max(curve.costs[-1] for curve in (every, *singles)))
    _frame(axes)
    plotting.key_above(axes, columns=4)


def _styles(groups: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a dash of each group."""
    return {name: (plotting.COLOURS[at % 6], ("-", "--")[at // 6]) for at, name in enumerate(dict.fromkeys(groups))}


_BY_ATTACK: Mapping[Mode, tuple[str, Callable[[Axes, SuiteOutcome], None]]] = {
    "standard": ("what is left after each attack", _sequence),
    "individual": ("single attacks", _singles),
}
"""The last panel: where images leave, most attacks meet but what is left."""


def _frame(axes: Axes) -> None:
    axes.set_xlabel("evaluations of f per image")
    axes.set_ylabel("right answers (%)")
    axes.set_ylim(-2, 102)


def _rows(curve: CostCurve) -> Iterator[tuple[str | float | int, ...]]:
    for cost, accuracy in zip(curve.costs.tolist(), curve.accuracy.tolist(), strict=True):
        yield curve.decision.row, curve.attack, cost, 100 * accuracy, curve.n


def _sequence_rows(outcome: SuiteOutcome) -> Iterator[tuple[str | float | int, ...]]:
    """Where images leave: what is left after each attack."""
    if outcome.mode == "standard":
        for run, cost, accuracy in outcome.after_each():
            yield outcome.decision.row, f"after {run.attack.label}", cost, 100 * accuracy, outcome.images


def _grid_rows(
    outcomes: Mapping[Decision, SuiteOutcome], graded: Mapping[Decision, Evaluation], config: Config
) -> Iterator[tuple[str | float | int, ...]]:
    for decision, outcome in outcomes.items():
        names = [*(f"grid {point.triple}" for point in graded[decision].points), GRID]
        points = _grid_points(graded[decision], outcome.images, config)
        for name, (cost, accuracy) in zip(names, points, strict=True):
            yield decision.row, name, cost, accuracy, outcome.images


_LAST_PANEL: Mapping[Mode, str] = {
    "standard": "all attacks in their order again, what each takes away in the colour of its group",
    "individual": "attacks alone, coloured by group, on all images that are right when clean",
}


def _caption(config: Config) -> str:
    assert config.suite.enabled
    return (
        f"Accuracy on the first {union.attacked_images(config):,} test images after so many evaluations of f per image "
        "(forward 1, gradient to the input 1 more, judging included). Lines: the suite's attacks one after the other, "
        "an image is left alone once the decision errs. Dots: single attacks of the grid; star: all of them, per image;"
        f" both without judging. Last panel: {_LAST_PANEL[config.suite.mode]}."
    )


def _alt(curves: Sequence[CostCurve]) -> str:
    said = [
        f"{one.decision.row} ends at {100 * one.accuracy[-1]:.0f} % after {one.costs[-1]:.3g}"
        for one in curves
        if one.attack == UNION
    ]
    return f"Right answers over evaluations of f per image, all attacks in order: {'; '.join(said)}."


def _notes(config: Config) -> tuple[str, ...]:
    assert config.suite.enabled
    if config.suite.mode == "individual":
        return ()
    return (
        "Mode standard: an attack meets what those before it left, so that those behind have little to take away; "
        "suite.mode: individual has every attack alone.",
    )
