"""Figure 3 (a): accuracy under every attack of the grid, along the attacked states, for the four TRADES decisions."""

from dataclasses import dataclass

from matplotlib.axes import Axes

from deqpipe import specs, statistics
from deqpipe.reporting import conditions, plotting, wording
from deqpipe.reporting.decisions import Evaluation, Tree, eight, evaluate_all
from deqpipe.reporting.plotting import Drawing
from deqpipe.statistics import Estimate

_COLUMNS = ("row", "kind", "state", "steps", "damping", "accuracy", "low", "high", "n")
_DODGE = 0.15  # Four decisions stand side by side at every state.


@dataclass(frozen=True)
class _Curve:
    """One decision: all its attacks, and the strongest one per state."""

    evaluation: Evaluation
    attacks: tuple[Estimate, ...]
    per_state: dict[int, tuple[specs.GridPoint, Estimate]]
    overall: Estimate


def draw(tree: Tree) -> Drawing:
    """All attacks transparent, the strongest per state solid."""
    decisions = eight("trades")
    evaluations = evaluate_all(tree, tuple(dict.fromkeys(decision.model for decision in decisions)), clean=False)
    curves = [_curve(evaluations[decision], tree) for decision in decisions]
    figure, axes = plotting.new()
    for position, curve in enumerate(curves):
        _plot(axes, curve, position)
    axes.set_xlabel("attacked state $i$")
    axes.set_ylabel(f"accuracy under PGD-{tree.config.attack.pgd.steps} (%)")
    axes.set_xticks(sorted(curves[0].per_state))
    plotting.percent_axis(axes, [100 * value for curve in curves for value in _extent(curve)])
    plotting.legend_above(figure, axes, columns=2)
    return Drawing(
        title="Attacks along the neural dynamics.",
        caption=_caption(tree),
        alt=_alt(curves),
        figure=figure,
        columns=_COLUMNS,
        rows=tuple(row for curve in curves for row in _rows(curve)),
        notes=(
            "Panel (a) of the paper's figure.",
            wording.early_states([curve.evaluation for curve in curves]),
            wording.strongest_attacks([curve.evaluation for curve in curves]),
        ),
        conditions=conditions.setup(tree.config, seed=tree.seed),
        sources=tuple(source for curve in curves for source in curve.evaluation.sources),
    )


def _curve(evaluation: Evaluation, tree: Tree) -> _Curve:
    right, confidence = evaluation.right, tree.config.statistics.confidence
    per_state = {}
    for state in sorted({point.state for point in evaluation.points}):
        attacks = [index for index, point in enumerate(evaluation.points) if point.state == state]
        best = evaluation.points[attacks[statistics.strongest(right[attacks])]]
        per_state[state] = best, statistics.minimum(right[attacks], tree.bootstrap)
    return _Curve(
        evaluation=evaluation,
        attacks=tuple(statistics.accuracy(row, confidence=confidence) for row in right),
        per_state=per_state,
        overall=statistics.minimum(right, tree.bootstrap),
    )


def _plot(axes: Axes, curve: _Curve, position: int) -> None:
    colour, marker = plotting.COLOURS[position], plotting.MARKERS[position]
    shift = (position - 1.5) * _DODGE
    everything = [point.state + shift for point in curve.evaluation.points]
    accuracies = [100 * estimate.value for estimate in curve.attacks]
    axes.scatter(everything, accuracies, s=13, color=colour, marker=marker, alpha=0.22, linewidths=0)
    states = list(curve.per_state)
    lowest = [100 * estimate.value for _, estimate in curve.per_state.values()]
    axes.plot(
        [state + shift for state in states], lowest, color=colour, marker=marker, markersize=5.5, linewidth=0.9,
        label=curve.evaluation.decision.row,
    )  # fmt: skip
    where = curve.evaluation.points[curve.evaluation.strongest].state + shift
    overall = curve.overall
    error = [[100 * (overall.value - overall.low)], [100 * (overall.high - overall.value)]]
    axes.errorbar([where], [100 * overall.value], yerr=error, color=colour, linewidth=1.4, capsize=3)


def _extent(curve: _Curve) -> list[float]:
    return [*(estimate.value for estimate in curve.attacks), curve.overall.low, curve.overall.high]


def _rows(curve: _Curve) -> list[tuple[str | float | int, ...]]:
    name = curve.evaluation.decision.row
    every = zip(curve.evaluation.points, curve.attacks, strict=True)
    strongest = curve.per_state.values()
    best = curve.evaluation.points[curve.evaluation.strongest]
    kinds = (("attack", every), ("strongest at state", strongest), ("strongest", [(best, curve.overall)]))
    return [
        (name, kind, point.state, point.steps, point.damping, *(100 * x for x in (one.value, one.low, one.high)), one.n)
        for kind, pairs in kinds
        for point, one in pairs
    ]


def _caption(tree: Tree) -> str:
    config = tree.config
    return (
        f"Accuracy of the four TRADES decisions on {config.evaluation.images:,} test images under all "
        f"{len(specs.grid_points(config))} attacks of Eq. (11), by attacked state i. Transparent: every K_a and "
        f"lambda; solid: the strongest at that state; bar: {100 * config.statistics.confidence:g} % interval of the "
        "strongest overall. Decisions are shifted sideways so that none hides another."
    )


def _alt(curves: list[_Curve]) -> str:
    said = "; ".join(
        f"{curve.evaluation.decision.row}: lowest {100 * curve.overall.value:.1f} % at state "
        f"{curve.evaluation.points[curve.evaluation.strongest].state}"
        for curve in curves
    )
    return f"Accuracy against attacked state for four decisions. {said}."
