"""Figure 3: attacks, entropy reduction and deviation along the states, for the four TRADES decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import SubFigure

from deqpipe.analysis import per_state
from deqpipe.analysis.decision import Decision, paper_decisions
from deqpipe.analysis.evaluation import Evaluation, evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.per_state import Attacked, Values
from deqpipe.config import Config
from deqpipe.reporting import conditions, phrases
from deqpipe.reporting.figures import plotting
from deqpipe.reporting.figures.plotting import Drawing
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Estimate
from deqpipe.workflow import gridpoints, vocabulary
from deqpipe.workflow.gridpoints import GridPoint

_COLUMNS = (
    "panel", "row", "kind", "state", "attacked_state", "steps", "damping", "value", "low", "high", "n",
)  # fmt: skip
_HEIGHTS = (3.5, 3.5, 3.4)
_DODGE = 0.15  # Four decisions stand side by side at every state.
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LINES = ("-", "--", "-.", ":")
_Row = tuple[str | float | int, ...]
_Seen = Mapping[Attacked, Values]


@dataclass(frozen=True)
class _Look:
    colour: str
    marker: str
    line: str
    shift: float


@dataclass(frozen=True)
class _Curve:
    """Panel (a), one decision: all its attacks, and the strongest one per state."""

    evaluation: Evaluation
    attacks: tuple[Estimate, ...]
    by_state: dict[int, tuple[GridPoint, Estimate]]
    overall: Estimate


@dataclass(frozen=True)
class _Reduction:
    """Panel (b), one trained model: entropy with minus without Sec. 3.2 on the same attacked images, in nats.

    Attributes:
        evaluation: the decision with Sec. 3.2.
        point: the strongest attack on it.
        quantiles: (quantiles, states), over images.
        medians: per state.
        lower: per state, the share of images whose entropy is lower with Sec. 3.2.
        control: medians of the same for R = 0; None where no controls were scored.
    """

    evaluation: Evaluation
    point: GridPoint
    quantiles: Values
    medians: tuple[Estimate, ...]
    lower: tuple[Estimate, ...]
    control: tuple[Estimate, ...] | None

    @property
    def model(self) -> str:
        """The trained model's row."""
        return Decision(self.evaluation.decision.model, "plain").row

    @property
    def lowest(self) -> int:
        """The state with the lowest median, counted from 1."""
        return 1 + int(np.argmin([one.value for one in self.medians]))


@dataclass(frozen=True)
class _Deviations:
    """Panel (c): mean relative deviation of every decision at its strongest attack.

    Attributes:
        curves: per decision, per state.
        difference: at the last state, + Sec. 3.3 minus the baseline, paired by image.
    """

    curves: Mapping[Decision, tuple[Estimate, ...]]
    difference: Estimate


def draw(tree: Tree) -> Drawing:
    """The paper's three panels, one below the other."""
    decisions = paper_decisions("trades")
    models = tuple(dict.fromkeys(decision.model for decision in decisions))
    by_decision = evaluate_all(tree, models, clean=False)
    evaluations = [by_decision[decision] for decision in decisions]
    curves = [_curve(evaluation, tree) for evaluation in evaluations]
    defended = [by_decision[Decision(model, "entropy")] for model in models]
    entropies = per_state.column(tree, "entropy", [pair for one in defended for pair in _compared(one, tree)])
    reductions = [_reduction(evaluation, entropies, tree) for evaluation in defended]
    strongest = [(one.decision, _strongest(one)) for one in evaluations]
    deviations = _deviations(evaluations, per_state.column(tree, "deviation", strongest), tree)
    figure, parts = plotting.panels(_HEIGHTS)
    _plot_attacks(parts[0], curves, tree)
    _plot_reductions(parts[1], reductions)
    _plot_deviations(parts[2], deviations)
    return Drawing(
        caption=_caption(tree),
        alt=f"{_alt(curves)} {_alt_entropy(reductions)} {_alt_deviation(deviations)}",
        figure=figure,
        columns=_COLUMNS,
        rows=(
            *(row for curve in curves for row in _rows(curve)),
            *(row for one in reductions for row in _entropy_rows(one)),
            *_deviation_rows(deviations, evaluations),
        ),
        notes=_notes(evaluations, reductions, deviations, tree),
        conditions=conditions.setup(tree.config, seed=tree.seed),
        sources=tuple(source for one in evaluations for source in one.sources),
    )


def _looks() -> dict[Decision, _Look]:
    """The same in all panels."""
    styles = zip(paper_decisions("trades"), plotting.COLOURS, plotting.MARKERS, _LINES, strict=False)
    return {
        decision: _Look(colour, marker, line, (position - 1.5) * _DODGE)
        for position, (decision, colour, marker, line) in enumerate(styles)
    }


def _notes(
    evaluations: Sequence[Evaluation], reductions: Sequence[_Reduction], deviations: _Deviations, tree: Tree
) -> tuple[str, ...]:
    return (
        phrases.early_states(evaluations),
        phrases.strongest_attacks(evaluations),
        *(_said_of_entropy(one, tree) for one in reductions),
        _said_of_controls(reductions),
        _said_of_deviations(deviations, tree),
    )


def _strongest(evaluation: Evaluation) -> GridPoint:
    return evaluation.points[evaluation.strongest]


def _curve(evaluation: Evaluation, tree: Tree) -> _Curve:
    right, confidence = evaluation.right, tree.config.statistics.confidence
    by_state = {}
    for state in sorted({point.state for point in evaluation.points}):
        attacks = [index for index, point in enumerate(evaluation.points) if point.state == state]
        best = evaluation.points[attacks[intervals.strongest(right[attacks])]]
        by_state[state] = best, intervals.minimum(right[attacks], tree.bootstrap)
    return _Curve(
        evaluation=evaluation,
        attacks=tuple(intervals.accuracy(row, confidence=confidence) for row in right),
        by_state=by_state,
        overall=intervals.minimum(right, tree.bootstrap),
    )


def _plot_attacks(part: SubFigure, curves: Sequence[_Curve], tree: Tree) -> None:
    axes = part.add_subplot()
    for curve in curves:
        _plot_curve(axes, curve)
    axes.set_xlabel("attacked state $i$")
    axes.set_ylabel(f"accuracy under PGD-{tree.config.attack.pgd.steps} (%)")
    axes.set_xticks(sorted(curves[0].by_state))
    plotting.percent_axis(axes, [100 * value for curve in curves for value in _extent(curve)])
    plotting.headline(part, "a", "All attacks, by attacked state")
    plotting.key_above(axes, columns=2)


def _plot_curve(axes: Axes, curve: _Curve) -> None:
    look = _looks()[curve.evaluation.decision]
    everything = [point.state + look.shift for point in curve.evaluation.points]
    accuracies = [100 * estimate.value for estimate in curve.attacks]
    axes.scatter(everything, accuracies, s=13, color=look.colour, marker=look.marker, alpha=0.22, linewidths=0)
    lowest = [100 * estimate.value for _, estimate in curve.by_state.values()]
    axes.plot(
        [state + look.shift for state in curve.by_state], lowest, color=look.colour, marker=look.marker,
        linestyle=look.line, markersize=5.5, linewidth=0.9, label=curve.evaluation.decision.row,
    )  # fmt: skip
    overall, where = curve.overall, _strongest(curve.evaluation).state + look.shift
    error = [[100 * (overall.value - overall.low)], [100 * (overall.high - overall.value)]]
    axes.errorbar([where], [100 * overall.value], yerr=error, color=look.colour, linewidth=1.4, capsize=3)


def _extent(curve: _Curve) -> list[float]:
    return [*(estimate.value for estimate in curve.attacks), curve.overall.low, curve.overall.high]


def _compared(defended: Evaluation, tree: Tree) -> list[Attacked]:
    """The decisions of a model whose entropies panel (b) compares, all under the attack strongest with Sec. 3.2."""
    model = defended.decision.model
    compared = [Decision(model, "plain"), defended.decision]
    if "entropy_zero_steps" in vocabulary.MODELS[model].controls(tree.config.entropy):
        compared.append(Decision(model, "entropy_zero_steps"))
    return [(decision, _strongest(defended)) for decision in compared]


def _reduction(evaluation: Evaluation, entropies: _Seen, tree: Tree) -> _Reduction:
    model, point = evaluation.decision.model, _strongest(evaluation)
    last, confidence = tree.config.solver.steps, tree.config.statistics.confidence
    plain = entropies[Decision(model, "plain"), point][:, :last]
    control = entropies.get((Decision(model, "entropy_zero_steps"), point))
    difference = entropies[evaluation.decision, point][:, :last] - plain
    return _Reduction(
        evaluation=evaluation,
        point=point,
        quantiles=_quantiles(difference),
        medians=_medians(difference, confidence),
        lower=tuple(intervals.accuracy(column < 0, confidence=confidence) for column in difference.T),
        control=None if control is None else _medians(control[:, :last] - plain, confidence),
    )


def _medians(difference: Values, confidence: float) -> tuple[Estimate, ...]:
    return tuple(per_state.median(column, confidence=confidence) for column in difference.T)


def _quantiles(difference: Values) -> Values:
    """(quantiles, states); images with a value that is not finite are left out at that state."""
    finite = [column[np.isfinite(column)] for column in difference.T]
    nothing = np.full(len(_QUANTILES), np.nan)
    return np.stack([np.quantile(one, _QUANTILES) if len(one) else nothing for one in finite], axis=1)


def _plot_reductions(part: SubFigure, reductions: Sequence[_Reduction]) -> None:
    axes = part.add_subplot()
    for side, one in zip((-1, 1), reductions, strict=True):
        _plot_reduction(axes, one, shift=0.19 * side)
    axes.axhline(0, color="black", linewidth=0.8, zorder=0.5)
    axes.set_xlabel("state $t$")
    axes.set_ylabel("entropy with minus\nwithout Sec. 3.2 (nats)")
    axes.set_xticks(range(1, len(reductions[0].medians) + 1))
    plotting.headline(part, "b", "Entropy with minus without Sec. 3.2")
    plotting.key_above(axes, columns=2)


def _plot_reduction(axes: Axes, one: _Reduction, *, shift: float) -> None:
    """Boxes from quantiles, so that what is drawn is what the csv says."""
    look = _looks()[one.evaluation.decision]
    names = ("whislo", "q1", "med", "q3", "whishi")
    boxes = [dict(zip(names, (float(value) for value in column), strict=True)) for column in one.quantiles.T]
    places = [state + shift for state in range(1, len(boxes) + 1)]
    edge = {"color": look.colour, "linewidth": 1.1}
    axes.bxp(
        boxes, positions=places, widths=0.3, showfliers=False, patch_artist=True, manage_ticks=False,
        boxprops={"edgecolor": look.colour, "facecolor": _pale(look.colour)}, whiskerprops=edge, capprops=edge,
        medianprops={"color": look.colour, "linewidth": 1.8},
    )  # fmt: skip
    medians = [median.value for median in one.medians]
    axes.plot(places, medians, color=look.colour, marker=look.marker, markersize=4.5, linestyle="none", label=one.model)
    if one.control is not None:
        control = [median.value for median in one.control]
        axes.plot(
            places, control, color=plotting.GREY, marker=look.marker, markersize=3.5, markerfacecolor="white",
            linestyle=look.line, linewidth=0.9, label="its control, R = 0",
        )  # fmt: skip


def _pale(colour: str) -> tuple[float, float, float, float]:
    red, green, blue = to_rgb(colour)
    return red, green, blue, 0.22


def _deviations(evaluations: Sequence[Evaluation], seen: _Seen, tree: Tree) -> _Deviations:
    last = tree.config.solver.steps
    deviations = [seen[one.decision, _strongest(one)] for one in evaluations]
    plain = [part for part, one in zip(deviations, evaluations, strict=True) if one.decision.defence == "plain"]
    difference = plain[1][:, last - 1] - plain[0][:, last - 1]
    columns = [*(part[:, :last] for part in deviations), difference[:, None]]
    estimates = per_state.means(np.concatenate(columns, axis=1), tree.bootstrap)
    return _Deviations(
        curves={one.decision: estimates[last * k : last * (k + 1)] for k, one in enumerate(evaluations)},
        difference=estimates[-1],
    )


def _plot_deviations(part: SubFigure, deviations: _Deviations) -> None:
    axes = part.add_subplot()
    for decision, curve in deviations.curves.items():
        look, numbers = _looks()[decision], range(1, len(curve) + 1)
        axes.fill_between(
            numbers, [one.low for one in curve], [one.high for one in curve], color=look.colour, alpha=0.13, linewidth=0
        )
        axes.plot(
            numbers, [one.value for one in curve], color=look.colour, marker=look.marker, linestyle=look.line,
            markersize=5, linewidth=1.4, label=decision.row,
        )  # fmt: skip
    axes.set_xlabel("state $t$")
    axes.set_ylabel("mean relative deviation\nfrom the clean states")
    axes.set_xticks(range(1, len(next(iter(deviations.curves.values()))) + 1))
    axes.margins(y=0.1)
    plotting.headline(part, "c", "Deviation under the strongest attack")
    plotting.key_above(axes, columns=2)


def _rows(curve: _Curve) -> list[_Row]:
    name, state = curve.evaluation.decision.row, curve.evaluation.state
    every = zip(curve.evaluation.points, curve.attacks, strict=True)
    kinds = (
        ("attack", every),
        ("strongest at attacked state", curve.by_state.values()),
        ("strongest", [(_strongest(curve.evaluation), curve.overall)]),
    )
    return [
        ("a", name, f"accuracy (%): {kind}", state, *_attack(point), *_percent(one), one.n)
        for kind, pairs in kinds
        for point, one in pairs
    ]


def _attack(point: GridPoint) -> tuple[int, int, float]:
    return point.state, point.steps, point.damping


def _percent(one: Estimate) -> tuple[float, float, float]:
    return 100 * one.value, 100 * one.low, 100 * one.high


def _entropy_rows(one: _Reduction) -> list[_Row]:
    name, attack = one.evaluation.decision.row, _attack(one.point)
    rows: list[_Row] = []
    for state, (median, lower) in enumerate(zip(one.medians, one.lower, strict=True), start=1):
        for share, value in zip(_QUANTILES, one.quantiles[:, state - 1], strict=True):
            kind = f"entropy with minus without (nats): quantile {share:g}"
            between = (median.low, median.high) if share == 0.5 else ("", "")
            rows.append(("b", name, kind, state, *attack, float(value), *between, median.n))
        rows.append(("b", name, "images with lower entropy (%)", state, *attack, *_percent(lower), lower.n))
    for state, median in enumerate(one.control or (), start=1):
        kind = "entropy with R = 0 minus without (nats): quantile 0.5"
        rows.append(("b", name, kind, state, *attack, median.value, median.low, median.high, median.n))
    return rows


def _deviation_rows(deviations: _Deviations, evaluations: Sequence[Evaluation]) -> list[_Row]:
    return [
        ("c", evaluation.decision.row, "mean relative deviation", state, *_attack(_strongest(evaluation)), one.value,
         one.low, one.high, one.n)
        for evaluation in evaluations
        for state, one in enumerate(deviations.curves[evaluation.decision], start=1)
    ]  # fmt: skip


def _caption(tree: Tree) -> str:
    config = tree.config
    interval = f"{100 * config.statistics.confidence:g} %"
    return (
        f"The four TRADES decisions on {config.evaluation.images:,} test images under PGD-{config.attack.pgd.steps} "
        f"through Eq. (11), epsilon = {config.threat_model.epsilon_255:g}/255. (a) Accuracy under all "
        f"{len(gridpoints.grid_points(config))} attacks, by attacked state i. Transparent: every K_a and lambda; "
        f"solid: the strongest at that state; bar: {interval} interval of the strongest overall. Decisions are shifted "
        "sideways so that none hides another. (b) Prediction entropy with minus without Sec. 3.2 on the same attacked "
        "images, those of the attack that is strongest on the decision with Sec. 3.2, by state: boxes hold the middle "
        "half of the images, whiskers the middle 90 %, markers stand at medians"
        f"{_control_words(config)}. (c) Mean over images of norm(z - z_clean) / norm(z_clean) for each decision under "
        "the attack that is strongest on it, z_clean being its states on the clean image; bands: "
        f"{interval} intervals."
    )


def _control_words(config: Config) -> str:
    return "; grey: the same for R = 0, the defence without descent steps" if config.entropy.controls else ""


def _said_of_entropy(one: _Reduction, tree: Tree) -> str:
    median, lower = one.medians[one.lowest - 1], one.lower[one.lowest - 1]
    low, high = 100 * lower.low, 100 * lower.high
    return (
        f"(b) {one.evaluation.decision.row} at {one.point.triple}: the median of entropy with minus without "
        f"Sec. 3.2 is lowest at state {one.lowest}, {_interval(median)} nats; there it lowers the entropy of "
        f"{100 * lower.value:.1f} % of the images ({low:.1f} to {high:.1f}). At state {len(one.medians)}: "
        f"{_interval(one.medians[-1])} nats. Intervals ({100 * tree.config.statistics.confidence:g} %) of medians lie "
        "between two order statistics."
    )


def _said_of_controls(reductions: Sequence[_Reduction]) -> str:
    said = [
        f"{one.model} {_interval(one.control[one.lowest - 1])} nats at state {one.lowest}"
        for one in reductions
        if one.control is not None
    ]
    if not said:
        return "(b) No R = 0 line: the controls of Sec. 3.2 were not scored (entropy.controls: false)."
    return f"(b) R = 0, which makes no descent step: median {'; '.join(said)}."


def _said_of_deviations(deviations: _Deviations, tree: Tree) -> str:
    last = tree.config.solver.steps
    listed = "; ".join(f"{decision.row} {_interval(curve[-1])}" for decision, curve in deviations.curves.items())
    return (
        f"(c) Mean relative deviation at state {last}: {listed}. Sec. 3.3 minus baseline, without Sec. 3.2, paired by "
        f"image, each at its own strongest attack: {_interval(deviations.difference)}. Intervals: percentiles of a "
        "bootstrap over images."
    )


def _interval(one: Estimate) -> str:
    return f"{one.value:.3g} ({one.low:.3g} to {one.high:.3g})"


def _alt(curves: Sequence[_Curve]) -> str:
    said = "; ".join(
        f"{curve.evaluation.decision.row}: lowest {100 * curve.overall.value:.1f} % at state "
        f"{_strongest(curve.evaluation).state}"
        for curve in curves
    )
    return f"(a) Accuracy against attacked state for four decisions. {said}."


def _alt_entropy(reductions: Sequence[_Reduction]) -> str:
    said = "; ".join(
        f"{one.model}: median lowest at state {one.lowest}, {one.medians[one.lowest - 1].value:.3g} nats"
        for one in reductions
    )
    return f"(b) Boxes of the entropy with minus without Sec. 3.2, by state. {said}."


def _alt_deviation(deviations: _Deviations) -> str:
    said = "; ".join(
        f"{decision.row} from {curve[0].value:.3g} to {curve[-1].value:.3g}"
        for decision, curve in deviations.curves.items()
    )
    return f"(c) Mean relative deviation, from the first state to the last: {said}."
