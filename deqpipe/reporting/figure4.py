"""Figure 4: robust validation accuracy of the four trained DEQs, epoch by epoch."""

from dataclasses import dataclass

from matplotlib.axes import Axes

from deqpipe import specs, statistics
from deqpipe.reporting import conditions, history, plotting, weights
from deqpipe.reporting.decisions import Decision, Source, Tree
from deqpipe.reporting.plotting import Drawing
from deqpipe.statistics import Estimate

_COLUMNS = ("row", "epoch", "accuracy", "low", "high", "n", "chosen")
_STYLES = {
    "PGD-AT baseline": (plotting.VERMILION, "--", "s"),
    "PGD-AT + Sec. 3.3": (plotting.VERMILION, "-", "o"),
    "TRADES baseline": (plotting.BLUE, "--", "D"),
    "TRADES + Sec. 3.3": (plotting.BLUE, "-", "^"),
}


@dataclass(frozen=True)
class _Curve:
    """One training run: validation accuracy under PGD, and the epoch whose weights were kept."""

    row: str
    robust: dict[int, float]
    chosen: int | None


def draw(tree: Tree) -> Drawing:
    """One curve per trained DEQ; the chosen epoch stands out."""
    curves = [_curve(tree, model) for model in specs.trained_here(tree.config)]
    figure, axes = plotting.new()
    for curve in curves:
        _plot(axes, curve)
    values = [100 * accuracy for curve in curves for accuracy in curve.robust.values()]
    axes.set_xlabel("epoch, counted from the start of pretraining")
    axes.set_ylabel(f"validation accuracy under PGD-{tree.config.selection.attack.steps} (%)")
    plotting.whole_numbers(axes)
    plotting.percent_axis(axes, values or [0.0])
    if curves:
        plotting.legend_above(figure, axes, columns=2)
    _typical_interval(axes, values, tree)
    return Drawing(
        title="Robustness while training.",
        caption=_caption(tree),
        alt=_alt(curves),
        figure=figure,
        columns=_COLUMNS,
        rows=tuple(row for curve in curves for row in _rows(curve, tree)),
        notes=(_attack(tree), *_absent(tree)),
        conditions=(),
        sources=_sources(tree),
    )


def _curve(tree: Tree, model: str) -> _Curve:
    epochs = history.read(tree.history(model))
    robust = {epoch.epoch: epoch.robust for epoch in epochs if epoch.robust is not None}
    return _Curve(Decision(model, "plain").row, robust, weights.read(tree.weights(model)).epoch)


def _plot(axes: Axes, curve: _Curve) -> None:
    colour, line, marker = _STYLES[curve.row]
    epochs, accuracies = list(curve.robust), [100 * accuracy for accuracy in curve.robust.values()]
    few = len(epochs) <= 30
    axes.plot(
        epochs, accuracies, color=colour, linestyle=line, linewidth=1.4, label=curve.row,
        marker=marker if few else None, markersize=3.5,
    )  # fmt: skip
    if curve.chosen is not None and curve.chosen in curve.robust:
        axes.plot(
            [curve.chosen], [100 * curve.robust[curve.chosen]], marker=marker, markersize=9, markerfacecolor="none",
            markeredgecolor=colour, markeredgewidth=1.4, linestyle="none",
        )  # fmt: skip


def _estimate(accuracy: float, tree: Tree) -> Estimate | None:
    """An accuracy on the held-out images with its interval; None where the size of the split is not known here."""
    if tree.config.selection.split != "validation":
        return None
    n = tree.config.data.validation
    return statistics.wilson(round(accuracy * n), n, confidence=tree.config.statistics.confidence)


def _typical_interval(axes: Axes, values: list[float], tree: Tree) -> None:
    """The interval of a point in the middle, once, beside the axes: on every point it would hide the curves."""
    middle = sorted(values)[len(values) // 2] if values else 0.0
    estimate = _estimate(middle / 100, tree)
    if estimate is None:
        return
    error = [[100 * (estimate.value - estimate.low)], [100 * (estimate.high - estimate.value)]]
    axes.errorbar(
        [1.03], [100 * estimate.value], yerr=error, transform=axes.get_yaxis_transform(), clip_on=False,
        color=plotting.GREY, capsize=3, linewidth=1.2,
    )  # fmt: skip
    axes.text(
        1.05, 100 * estimate.value, f"{100 * tree.config.statistics.confidence:g} % interval\nn = {estimate.n:,}",
        transform=axes.get_yaxis_transform(), va="center", color=plotting.GREY, fontsize=8,
    )  # fmt: skip


def _rows(curve: _Curve, tree: Tree) -> list[tuple[str | float | int | bool | None, ...]]:
    rows: list[tuple[str | float | int | bool | None, ...]] = []
    for epoch, accuracy in curve.robust.items():
        one = _estimate(accuracy, tree)
        interval = (100 * one.low, 100 * one.high, one.n) if one else (None, None, None)
        rows.append((curve.row, epoch, 100 * accuracy, *interval, epoch == curve.chosen))
    return rows


def _sources(tree: Tree) -> tuple[Source, ...]:
    paths = [tree.weights(model) for model in specs.DEQS]
    return tuple(Source(str(path.relative_to(tree.root)), weights.read(path).provenance) for path in paths)


def _absent(tree: Tree) -> tuple[str, ...]:
    rows = [Decision(model, "plain").row for model in specs.DEQS if model in tree.config.imported]
    return (f"No curve for what was imported instead of trained: {', '.join(rows)}.",) if rows else ()


def _attack(tree: Tree) -> str:
    attack, threat = tree.config.selection.attack, tree.config.threat_model.epsilon_255
    return (
        f"Data: {conditions.data(tree.config)}; seed {tree.seed}. PGD: {attack.steps} steps of "
        f"{attack.step_size_255:g}/255 at the final state, epsilon = {threat:g}/255."
    )


def _caption(tree: Tree) -> str:
    held_out = tree.config.selection.split == "validation"
    images = f"{tree.config.data.validation:,} held-out training images" if held_out else "the test images (they leak)"
    return (
        f"Accuracy of the DEQs under ready-made PGD on {images} after each epoch. Open marker: the epoch whose "
        "weights were kept. Epochs before adversarial training are those of the shared trunk. "
        "Bar at the right: the interval of one point in the middle."
    )


def _alt(curves: list[_Curve]) -> str:
    said = "; ".join(
        f"{curve.row}: {100 * curve.robust[curve.chosen]:.1f} % at epoch {curve.chosen}"
        for curve in curves
        if curve.chosen is not None and curve.chosen in curve.robust
    )
    return f"Robust validation accuracy by epoch for {len(curves)} trained models. Chosen: {said or 'none'}."
