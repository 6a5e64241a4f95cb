"""Figure 4: robust validation accuracy of the four trained DEQs, epoch by epoch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.reporting import conditions
from deqpipe.reporting.figures import plotting
from deqpipe.reporting.figures.plotting import Drawing
from deqpipe.results import history, weights
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Estimate

COLUMNS = ("row", "epoch", "accuracy", "low", "high", "n", "chosen")


@dataclass(frozen=True)
class Look:
    """How the curve of a training run is called and drawn."""

    row: str
    colour: str
    line: str
    marker: str


_LOOKS: Mapping[str, Look] = {
    model: Look(Decision(model, "plain").row, colour, line, marker)
    for model, (colour, line, marker) in {
        "deq_pgd_at_base": (plotting.VERMILION, "--", "s"),
        "deq_pgd_at_random_states": (plotting.VERMILION, "-", "o"),
        "deq_trades_base": (plotting.BLUE, "--", "D"),
        "deq_trades_random_states": (plotting.BLUE, "-", "^"),
    }.items()
}


@dataclass(frozen=True)
class Curve:
    """One training run: validation accuracy under PGD, and the epoch whose weights were kept."""

    look: Look
    robust: dict[int, float]
    chosen: int | None


@dataclass(frozen=True)
class Chart:
    """Curves of validation accuracy, drawn, with their numbers and what there is to say of them."""

    curves: tuple[Curve, ...]
    figure: Figure
    rows: tuple[tuple[str | float | int | bool | None, ...], ...]
    notes: tuple[str, ...]
    sources: tuple[Source, ...]


def draw(tree: Tree) -> Drawing:
    """One curve per trained DEQ; the chosen epoch stands out."""
    drawn = chart(tree, _LOOKS)
    return Drawing(
        caption=caption(tree),
        alt=alt(drawn.curves, tree),
        figure=drawn.figure,
        columns=COLUMNS,
        rows=drawn.rows,
        notes=drawn.notes,
        conditions=(),
        sources=drawn.sources,
    )


def chart(tree: Tree, looks: Mapping[str, Look]) -> Chart:
    """Curves of these models, but for what was imported and so has no history.

    Raises:
        UserError: a history, or the weights that were kept, are missing or not ours.
    """
    curves = tuple(_curve(tree, model, look) for model, look in looks.items() if model not in tree.config.imported)
    return Chart(
        curves=curves,
        figure=_figure(curves, tree),
        rows=tuple(row for curve in curves for row in _rows(curve, tree)),
        notes=(_attack(tree), *_kept(curves, tree), *_absent(tree, looks)),
        sources=_sources(tree, looks),
    )


def _figure(curves: Sequence[Curve], tree: Tree) -> Figure:
    figure, axes = plotting.new()
    for curve in curves:
        _plot(axes, curve)
    values = [100 * accuracy for curve in curves for accuracy in curve.robust.values()]
    axes.set_xlabel("epoch, counted from the start of pretraining")
    axes.set_ylabel(f"validation accuracy under PGD-{tree.config.selection.attack.steps} (%)")
    plotting.whole_numbers(axes)
    plotting.percent_axis(axes, values or [0.0], least_span=max(20.0, 1.1 * _width(values, tree)))
    if curves:
        plotting.legend_above(figure, axes, columns=2)
    _typical_interval(axes, values, tree)
    return figure


def _curve(tree: Tree, model: str, look: Look) -> Curve:
    kept = weights.read(tree.weights(model))
    epochs = history.read(tree.history(model), kept.history)
    robust = {epoch.epoch: epoch.robust for epoch in epochs if epoch.robust is not None}
    return Curve(look, robust, kept.epoch)


def _plot(axes: Axes, curve: Curve) -> None:
    look, epochs, accuracies = curve.look, list(curve.robust), [100 * accuracy for accuracy in curve.robust.values()]
    every = max(1, len(epochs) // 12)  # markers tell the lines apart in grey, and must not hide them
    axes.plot(
        epochs, accuracies, color=look.colour, linestyle=look.line, linewidth=1.4, label=look.row, marker=look.marker,
        markevery=every, markersize=3.5,
    )  # fmt: skip
    if curve.chosen is not None and curve.chosen in curve.robust:
        axes.plot(
            [curve.chosen], [100 * curve.robust[curve.chosen]], marker=look.marker, markersize=9,
            markerfacecolor="none", markeredgecolor=look.colour, markeredgewidth=1.4, linestyle="none",
        )  # fmt: skip


def _estimate(accuracy: float, tree: Tree) -> Estimate | None:
    """An accuracy on the held-out images with its interval; None where the size of the split is not known here."""
    if tree.config.selection.split != "validation":
        return None
    n = tree.config.data.validation
    return intervals.wilson(round(accuracy * n), n, confidence=tree.config.statistics.confidence)


def _width(values: list[float], tree: Tree) -> float:
    """Points between the ends of the interval that stands beside the axes: it must not reach beyond them."""
    one = _estimate(_middle(values) / 100, tree)
    return 0.0 if one is None else 100 * (one.high - one.low)


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _typical_interval(axes: Axes, values: list[float], tree: Tree) -> None:
    """The interval of a point in the middle, once, beside the axes: on every point it would hide the curves."""
    middle = _middle(values)
    estimate = _estimate(middle / 100, tree)
    if estimate is None:
        return
    error = [[100 * (estimate.value - estimate.low)], [100 * (estimate.high - estimate.value)]]
    axes.errorbar(
        [1.03], [100 * estimate.value], yerr=error, transform=axes.get_yaxis_transform(), clip_on=False,
        color=plotting.GREY, capsize=3, linewidth=1.2,
    )  # fmt: skip
    axes.text(
        1.05, 100 * estimate.value, f"{100 * tree.config.statistics.confidence:g} %\ninterval\nn = {estimate.n:,}",
        transform=axes.get_yaxis_transform(), va="center", color=plotting.GREY, fontsize=8,
    )  # fmt: skip


def _rows(curve: Curve, tree: Tree) -> list[tuple[str | float | int | bool | None, ...]]:
    rows: list[tuple[str | float | int | bool | None, ...]] = []
    for epoch, accuracy in curve.robust.items():
        one = _estimate(accuracy, tree)
        interval = (100 * one.low, 100 * one.high, one.n) if one else (None, None, None)
        rows.append((curve.look.row, epoch, 100 * accuracy, *interval, epoch == curve.chosen))
    return rows


def _sources(tree: Tree, models: Iterable[str]) -> tuple[Source, ...]:
    paths = [tree.weights(model) for model in models]
    return tuple(tree.source(path, weights.read(path).provenance) for path in paths)


def _absent(tree: Tree, looks: Mapping[str, Look]) -> tuple[str, ...]:
    rows = [look.row for model, look in looks.items() if model in tree.config.imported]
    return (f"No curve for what was imported instead of trained: {', '.join(rows)}.",) if rows else ()


def _kept(curves: Sequence[Curve], tree: Tree) -> tuple[str, ...]:
    """The numbers at the open markers."""
    said = []
    for curve in curves:
        if curve.chosen in curve.robust:
            accuracy = curve.robust[curve.chosen]
            one = _estimate(accuracy, tree)
            interval = f" ({100 * one.low:.1f} to {100 * one.high:.1f})" if one else ""
            said.append(f"{curve.look.row}: {100 * accuracy:.1f} %{interval}, epoch {curve.chosen}")
    return (f"At the epoch whose weights were kept: {'; '.join(said)}.",) if said else ()


def _attack(tree: Tree) -> str:
    attack, threat = tree.config.selection.attack, tree.config.threat_model.epsilon_255
    return (
        f"Data: {conditions.data(tree.config)}; seed {tree.seed}. PGD: {attack.steps} steps of "
        f"{attack.step_size_255:g}/255 at the final state, epsilon = {threat:g}/255. Epochs were chosen on the same "
        "images, so that accuracies at the kept ones lie a little too high."
    )


def caption(tree: Tree) -> str:
    """What is drawn, of any models."""
    attack, threat = tree.config.selection.attack, tree.config.threat_model.epsilon_255
    held_out = tree.config.selection.split == "validation"
    images = f"{tree.config.data.validation:,} held-out training images" if held_out else "the test images (they leak)"
    return (
        f"Accuracy of the DEQs under ready-made PGD-{attack.steps} (epsilon = {threat:g}/255) on {images} after each "
        "epoch. Large open marker: the epoch whose weights were kept. Epochs before adversarial training are those of "
        "the shared trunk." + (" Bar at the right: the interval of one point in the middle." if held_out else "")
    )


def alt(curves: Sequence[Curve], tree: Tree) -> str:
    """What is seen."""
    said = "; ".join(
        f"{curve.look.row}: {100 * curve.robust[curve.chosen]:.1f} % at epoch {curve.chosen}"
        for curve in curves
        if curve.chosen in curve.robust
    )
    return (
        f"Accuracy (%) on validation images under PGD-{tree.config.selection.attack.steps} by epoch for {len(curves)} "
        f"trained models. Chosen: {said or 'none'}."
    )
