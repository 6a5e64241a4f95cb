"""Figure 5: the strongest attack per state, one curve per damping, on TRADES + Secs. 3.2 & 3.3."""

from matplotlib.axes import Axes

from deqpipe.analysis.decision import SWEEP_DECISION
from deqpipe.analysis.evaluation import Evaluation, evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.reporting import conditions, phrases
from deqpipe.reporting.figures import plotting
from deqpipe.reporting.figures.plotting import Drawing
from deqpipe.reporting.paper import published
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Estimate
from deqpipe.workflow import gridpoints

DECISION = SWEEP_DECISION
_COLUMNS = ("damping", "state", "steps", "accuracy", "low", "high", "n", "paper")
_Point = tuple[gridpoints.GridPoint, Estimate]


def draw(tree: Tree) -> Drawing:
    """One curve per damping, with intervals."""
    evaluation = evaluate_all(tree, (DECISION.model,), clean=False)[DECISION]
    dampings = sorted({point.damping for point in evaluation.points})
    curves = {damping: _curve(evaluation, damping, tree) for damping in dampings}
    figure, axes = plotting.new(height=3.2)
    for position, (damping, curve) in enumerate(curves.items()):
        _plot(axes, damping, curve, position=position, of=len(curves))
    numbers = [end for curve in curves.values() for _, one in curve for end in (100 * one.low, 100 * one.high)]
    if conditions.comparable(tree.config):
        numbers += _plot_paper(axes, dampings)
    axes.set_xlabel("attacked state $i$")
    axes.set_ylabel(f"accuracy under PGD-{tree.config.attack.pgd.steps} (%)")
    axes.set_xticks(sorted({point.state for point in evaluation.points}))
    plotting.percent_axis(axes, numbers)
    plotting.legend_above(figure, axes, columns=min(4, 2 * len(curves)))
    return Drawing(
        caption=_caption(tree),
        alt=_alt(curves),
        figure=figure,
        columns=_COLUMNS,
        rows=tuple(_row(point, one) for curve in curves.values() for point, one in curve),
        notes=(phrases.early_states([evaluation]),),
        conditions=conditions.setup(tree.config, seed=tree.seed),
        sources=evaluation.sources,
    )


def _curve(evaluation: Evaluation, damping: float, tree: Tree) -> list[_Point]:
    curve = []
    for state in sorted({point.state for point in evaluation.points if point.damping == damping}):
        attacks = evaluation.at(damping=damping, state=state)
        right = evaluation.right[attacks]
        best = evaluation.points[attacks[intervals.strongest(right)]]
        curve.append((best, intervals.minimum(right, tree.bootstrap)))
    return curve


def _plot(axes: Axes, damping: float, curve: list[_Point], *, position: int, of: int) -> None:
    shift = 0.12 * (position - (of - 1) / 2)
    values = [100 * one.value for _, one in curve]
    error = [[100 * (one.value - one.low) for _, one in curve], [100 * (one.high - one.value) for _, one in curve]]
    axes.errorbar(
        [point.state + shift for point, _ in curve], values, yerr=error, label=f"λ = {damping:g}",
        color=plotting.COLOURS[position % 6], marker=plotting.MARKERS[position % 6], markersize=5, linewidth=1.4,
        elinewidth=1, capsize=2.5,
    )  # fmt: skip


def _plot_paper(axes: Axes, dampings: list[float]) -> list[float]:
    """Draw the paper's curves; their numbers."""
    drawn: list[float] = []
    for position, damping in enumerate(dampings):
        row = published.table8_rows(damping)[1]
        published_by_state = {state: published.value(8, row, published.table8_column(state)) for state in range(1, 9)}
        numbers = {state: number for state, number in published_by_state.items() if number is not None}
        axes.plot(
            list(numbers), list(numbers.values()), linestyle=":", linewidth=1, color=plotting.COLOURS[position % 6],
            marker=plotting.MARKERS[position % 6], markersize=4, markerfacecolor="none",
            label=f"paper, λ = {damping:g}",
        )  # fmt: skip
        drawn += numbers.values()
    return drawn


def _row(point: gridpoints.GridPoint, one: Estimate) -> tuple[str | float | int | None, ...]:
    paper = published.value(8, published.table8_rows(point.damping)[1], published.table8_column(point.state))
    return point.damping, point.state, point.steps, 100 * one.value, 100 * one.low, 100 * one.high, one.n, paper


def _caption(tree: Tree) -> str:
    return (
        f"Accuracy of {DECISION.row} on {tree.config.evaluation.images:,} test images under the strongest attack (over "
        f"K_a) on each state, PGD-{tree.config.attack.pgd.steps} with epsilon = "
        f"{tree.config.threat_model.epsilon_255:g}/255, with {100 * tree.config.statistics.confidence:g} % intervals. "
        "Curves are shifted sideways so that none hides another; Table 8 has the numbers."
    )


def _alt(curves: dict[float, list[_Point]]) -> str:
    said = []
    for damping, curve in curves.items():
        point, one = min(curve, key=lambda pair: pair[1].value)
        said.append(f"lambda {damping:g}: lowest {100 * one.value:.1f} % at state {point.state}")
    return f"Accuracy under the strongest attack per state, by damping. {'; '.join(said)}."
