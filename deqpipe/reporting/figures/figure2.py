"""Figure 2: residuals and entropies of the PGD-AT baseline on clean and attacked images, and one of them up close."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D

from deqpipe.analysis import example, per_state
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.early_states import early_states, selection_source
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.per_state import States, Values
from deqpipe.analysis.reading import Source
from deqpipe.errors import UserError
from deqpipe.reporting import conditions
from deqpipe.reporting.figures import plotting
from deqpipe.reporting.figures.plotting import Drawing
from deqpipe.results.example import Example
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Estimate
from deqpipe.workflow import gridpoints, vocabulary

_DECISION = Decision(vocabulary.FIGURE2_MODEL, "plain")
_COLUMNS = ("panel", "series", "quantity", "state", "from", "to", "value", "low", "high", "n", "class", "right")
_HEIGHTS = (2.35, 2.35, 4.0)
_Row = tuple[str | float | int | bool | None, ...]


@dataclass(frozen=True)
class _Style:
    name: str
    colour: str
    line: Literal["-", "--"]
    marker: str
    filled: bool


_CLEAN = _Style("clean", plotting.BLUE, "-", "o", filled=True)
_ATTACKED = _Style("attacked", plotting.VERMILION, "--", "s", filled=False)


@dataclass(frozen=True)
class _Distribution:
    """A quantity at z^[N] over all images, clean and attacked.

    Attributes:
        letter: of the panel.
        name, unit: of the quantity.
        logarithmic: whether the axis is.
        clean, attacked: (images,).
        confidence: of the intervals.
    """

    letter: str
    name: str
    unit: str
    logarithmic: bool
    clean: Values
    attacked: Values
    confidence: float

    def drawable(self, values: Values) -> Values:
        """The values that have a place on the axis."""
        kept: Values = values[np.isfinite(values) & ((values > 0) | (not self.logarithmic))]
        return kept

    def median(self, values: Values) -> Estimate:
        """Of the values that are finite."""
        return per_state.median(values, confidence=self.confidence)

    @property
    def edges(self) -> Values:
        """Of the bins, shared by both histograms."""
        both = np.concatenate([self.drawable(self.clean), self.drawable(self.attacked)])
        low, high = (both.min(), both.max()) if len(both) else (0.5, 1.0)
        if low == high:
            low, high = (low / 1.5, high * 1.5) if self.logarithmic else (low - 0.1, high + 0.1)
        bins = min(40, max(10, round(len(both) ** 0.5)))
        edges: Values = (np.geomspace if self.logarithmic else np.linspace)(low, high, bins + 1)
        edges[0], edges[-1] = low, high  # rounding must not push an extreme value out
        return edges

    def shares(self, values: Values) -> Values:
        """Of all images, in percent, per bin."""
        shares: Values = 100 * np.histogram(self.drawable(values), self.edges)[0] / len(values)
        return shares


@dataclass(frozen=True)
class _Shown:
    """The example along the states.

    Attributes:
        example: the images.
        source: their file.
        state: the early state.
        entropy: of (clean, attacked) at the states 1 .. N.
        predicted: classes, as entropy.
    """

    example: Example
    source: Source
    state: int
    entropy: tuple[Values, Values]
    predicted: tuple[tuple[int, ...], tuple[int, ...]]

    def name(self, label: int) -> str:
        """Of a class."""
        return self.example.classes[label] if label < len(self.example.classes) else str(label)

    def seen(self, which: int) -> str:
        """The class at the early state."""
        return self.name(self.decided(which))

    def decided(self, which: int) -> int:
        """The same by its number."""
        return self.predicted[which][self.state - 1]

    def drawn(self, label: int) -> str:
        """A class in the picture, whose font lacks the characters of some names."""
        return plotting.plain(self.name(label), f"class {label}")

    def undrawn(self) -> tuple[str, ...]:
        """Names in the picture that are drawn as a number, each with it."""
        labels = dict.fromkeys((self.example.label, self.decided(0), self.decided(1)))
        return tuple(f"class {one} is {self.name(one)}" for one in labels if plotting.plain(self.name(one), "") == "")


def draw(tree: Tree) -> Drawing:
    """Two histograms and the example, one below the other."""
    clean = per_state.clean(tree, _DECISION)
    attacked = per_state.attacked(tree, _DECISION, gridpoints.ready_made(tree.config))
    per_state.same_images(clean, attacked, where=f"clean and attacked records of {_DECISION.row}")
    both = _distributions(clean, attacked, tree)
    shown = _shown(clean, attacked, tree)
    figure, parts = plotting.panels(_HEIGHTS)
    for part, distribution in zip(parts, both, strict=False):
        _plot_distribution(part, distribution)
    _plot_example(parts[2], shown)
    return Drawing(
        caption=_caption(tree, shown),
        alt=_alt(both, shown),
        figure=figure,
        columns=_COLUMNS,
        rows=(*(row for one in both for row in _distribution_rows(one, tree)), *_example_rows(shown)),
        notes=_notes(both, shown, tree),
        conditions=conditions.setup(tree.config, seed=tree.seed),
        sources=(*clean.sources, *attacked.sources, selection_source(tree, _DECISION.model), shown.source),
    )


def _distributions(clean: States, attacked: States, tree: Tree) -> tuple[_Distribution, _Distribution]:
    last, confidence = tree.config.solver.steps - 1, tree.config.statistics.confidence
    return (
        _Distribution(
            letter="a", name="relative residual", unit="", logarithmic=True,
            clean=clean.residual[:, last], attacked=attacked.residual[:, last], confidence=confidence,
        ),
        _Distribution(
            letter="b", name="prediction entropy", unit="nats", logarithmic=False,
            clean=clean.entropy[:, last], attacked=attacked.entropy[:, last], confidence=confidence,
        ),
    )  # fmt: skip


def _shown(clean: States, attacked: States, tree: Tree) -> _Shown:
    """The example with its records, which must tell the same of it.

    Raises:
        UserError: they do not.
    """
    (image, source), last = example.read(tree), tree.config.solver.steps
    state = early_states(tree, _DECISION.model)["plain"].state
    turned = np.flatnonzero(clean.right[:, state - 1] & ~attacked.right[:, state - 1])
    _check_example(image, clean, turned, tree)
    return _Shown(
        example=image,
        source=source,
        state=state,
        entropy=(clean.entropy[image.image, :last], attacked.entropy[image.image, :last]),
        predicted=(_classes(clean, image.image, last), _classes(attacked, image.image, last)),
    )


def _check_example(shown: Example, clean: States, turned: np.ndarray, tree: Tree) -> None:
    path, images = tree.example(_DECISION.model), len(clean.label)
    if not 0 <= shown.image < images:
        raise UserError(f"example {path} shows image {shown.image}, but images 0 to {images - 1} are evaluated")
    if shown.label != clean.label[shown.image]:
        label = clean.label[shown.image]
        raise UserError(f"example {path} gives image {shown.image} the label {shown.label}, but records say {label}")
    first = int(turned[0]) if len(turned) else None
    if (shown.image if shown.fooled else None) != first:
        said = f"image {shown.image}" if shown.fooled else "no image"
        turns = "none" if first is None else f"image {first}"
        raise UserError(f"example {path} says that the attack turns {said} first, but records say {turns}")


def _classes(states: States, image: int, last: int) -> tuple[int, ...]:
    return tuple(int(label) for label in states.predicted[image, :last])


def _plot_distribution(part: SubFigure, one: _Distribution) -> None:
    axes = part.add_subplot()
    top = max(float(one.shares(values).max()) for values in (one.clean, one.attacked)) or 1.0
    for style, values in ((_CLEAN, one.clean), (_ATTACKED, one.attacked)):
        _plot_histogram(axes, one, style, values=values, height=1.08 * top)
    axes.set_ylim(0, 1.18 * top)
    if one.logarithmic:
        plotting.logarithmic(axes, float(one.edges[0]), float(one.edges[-1]))
    axes.set_xlabel(f"{one.name} at $z^{{[N]}}$" + (f" ({one.unit})" if one.unit else ""))
    axes.set_ylabel("images (%)")
    plotting.headline(part, one.letter, f"{one.name.capitalize()} at the last state")
    plotting.key_above(axes, columns=2)


def _plot_histogram(axes: Axes, one: _Distribution, style: _Style, *, values: Values, height: float) -> None:
    shares, middle = one.shares(values), one.median(values).value
    axes.stairs(shares, one.edges, color=style.colour, linewidth=1.5, linestyle=style.line)
    if style.filled:
        axes.stairs(shares, one.edges, color=style.colour, fill=True, alpha=0.3, linewidth=0)
    axes.plot(
        [middle, middle], [0, height], color=style.colour, linestyle=style.line, linewidth=1, marker=style.marker,
        markevery=[1], markersize=5.5, label=f"{style.name}, median {middle:.3g}",
    )  # fmt: skip


def _plot_example(part: SubFigure, shown: _Shown) -> None:
    pictured = shown.example
    grid = part.add_gridspec(2, 3, height_ratios=[1, 1.75])
    change = pictured.attacked - pictured.clean
    largest = float(np.abs(change).max())
    amplified = 0.5 + (0.5 * change / largest if largest else 0 * change)
    pictures = (
        (pictured.clean, f"clean:\nseen as {shown.drawn(shown.decided(0))}"),
        (pictured.attacked, f"attacked:\nseen as {shown.drawn(shown.decided(1))}"),
        (amplified, f"difference,\n{0.5 / largest:.3g} times, grey: none" if largest else "difference:\nnone"),
    )
    for column, (image, words) in enumerate(pictures):
        _plot_image(part.add_subplot(grid[0, column]), image, words)
    _plot_along(part.add_subplot(grid[1, :]), shown)
    drawn = shown.drawn(pictured.label)
    named = drawn if drawn == f"class {pictured.label}" else f"class {drawn}"
    plotting.headline(part, "c", f"Test image {pictured.image} (counted from 0; {named}) along the states")


def _plot_image(axes: Axes, image: np.ndarray, words: str) -> None:
    colour = image.shape[0] == 3
    axes.imshow(
        image.transpose(1, 2, 0) if colour else image[0], cmap=None if colour else "gray", vmin=0, vmax=1,
        interpolation="nearest",
    )  # fmt: skip
    axes.set_title(words, fontsize=8.5)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=plotting.GREY, linewidth=0.6)


def _plot_along(axes: Axes, shown: _Shown) -> None:
    label = shown.example.label
    for style, entropy, predicted in zip((_CLEAN, _ATTACKED), shown.entropy, shown.predicted, strict=True):
        numbers = np.arange(1, len(entropy) + 1)
        axes.plot(numbers, entropy, color=style.colour, linestyle=style.line, linewidth=1.4)
        for number, value, seen in zip(numbers, entropy, predicted, strict=True):
            face = style.colour if seen == label else "white"
            axes.plot([number], [value], marker=style.marker, markersize=6.5, color=style.colour, markerfacecolor=face)
    axes.axvline(shown.state, color=plotting.GREY, linestyle=":", linewidth=1.2)
    axes.set_xlabel("state $t$")
    axes.set_ylabel("prediction entropy (nats)")
    axes.set_xticks(range(1, len(shown.entropy[0]) + 1))
    axes.margins(y=0.12)
    plotting.key_above(axes, columns=3, handles=_keys())


def _keys() -> list[Line2D]:
    """What lines and markers mean."""
    lines = [
        Line2D([], [], color=style.colour, linestyle=style.line, marker=style.marker, label=style.name)
        for style in (_CLEAN, _ATTACKED)
    ]
    early = Line2D([], [], color=plotting.GREY, linestyle=":", label="early state")
    marks = [
        Line2D([], [], color=plotting.GREY, linestyle="none", marker="o", markerfacecolor=face, label=words)
        for face, words in ((plotting.GREY, "filled: right"), ("white", "open: wrong"))
    ]
    return [*lines, early, *marks]


def _distribution_rows(one: _Distribution, tree: Tree) -> list[_Row]:
    state, unit = tree.config.solver.steps, f" ({one.unit})" if one.unit else ""
    rows: list[_Row] = []
    for style, values in ((_CLEAN, one.clean), (_ATTACKED, one.attacked)):
        for low, high, share in zip(one.edges, one.edges[1:], one.shares(values), strict=False):
            bounds = float(low), float(high), float(share)
            rows.append(
                (one.letter, style.name, f"{one.name}: images (%)", state, *bounds, "", "", len(values), "", "")
            )
        rows.append(_summary(one, (style.name, f"{one.name}: median{unit}"), state, one.median(values)))
    names = "attacked minus clean", f"{one.name}: median of the paired difference{unit}"
    rows.append(_summary(one, names, state, one.median(one.attacked - one.clean)))
    names = "attacked minus clean", f"{one.name}: images where it is positive (%)"
    return [*rows, _summary(one, names, state, _percent(_raised(one)))]


def _summary(one: _Distribution, names: tuple[str, str], state: int, estimate: Estimate) -> _Row:
    return (one.letter, *names, state, "", "", estimate.value, estimate.low, estimate.high, estimate.n, "", "")


def _raised(one: _Distribution) -> Estimate:
    """Share of the images whose value is higher when attacked."""
    return intervals.accuracy(one.attacked > one.clean, confidence=one.confidence)


def _percent(one: Estimate) -> Estimate:
    return Estimate(100 * one.value, 100 * one.low, 100 * one.high, one.n)


def _example_rows(shown: _Shown) -> list[_Row]:
    series = zip(("clean", "attacked"), shown.entropy, shown.predicted, strict=True)
    return [
        ("c", name, "prediction entropy (nats)", number, "", "", float(value), "", "", 1, shown.name(seen),
         seen == shown.example.label)
        for name, entropy, predicted in series
        for number, (value, seen) in enumerate(zip(entropy, predicted, strict=True), start=1)
    ]  # fmt: skip


def _caption(tree: Tree, shown: _Shown) -> str:
    config = tree.config
    what = (
        "the first one that is right when clean and wrong when attacked"
        if shown.example.fooled
        else "an example that the attack does not turn"
    )
    return (
        f"{_DECISION.row}, without a test-time defence, on {config.evaluation.images:,} test images, clean and under "
        f"{_attack(tree)}. (a) Distribution of the relative residual and (b) of the prediction entropy at the last "
        f"state, z^[{config.solver.steps}]; lines with a marker: medians. (c) Test image {shown.example.image} "
        f"(counted from 0), "
        f"{what}: its prediction entropy along the states; filled markers: its class is right there. The dotted line "
        f"is the early state, {shown.state}, which decides."
        + "".join(f" The font of the picture lacks the name of a class: {words}." for words in shown.undrawn())
    )


def _attack(tree: Tree) -> str:
    pgd, epsilon = tree.config.attack.pgd, tree.config.threat_model.epsilon_255
    return f"ready-made PGD-{pgd.steps} {gridpoints.ready_made(tree.config).triple}, epsilon = {epsilon:g}/255"


def _notes(both: tuple[_Distribution, _Distribution], shown: _Shown, tree: Tree) -> tuple[str, ...]:
    confidence = f"{100 * tree.config.statistics.confidence:g} %"
    pictured = shown.example
    said = [_said(one, confidence) for one in both]
    said.append(f"Intervals of medians ({confidence}) lie between two order statistics and hold for any distribution.")
    if not pictured.fooled:
        said.append(f"(c) No test image is right when clean and wrong when attacked: image {pictured.image} stands in.")
    return (*said, *(f"({one.letter}) {_left_out(one)}" for one in both if _left_out(one)), _along(shown))


def _said(one: _Distribution, confidence: str) -> str:
    unit = f" {one.unit}" if one.unit else ""
    clean, attacked = one.median(one.clean), one.median(one.attacked)
    difference, raised = one.median(one.attacked - one.clean), _percent(_raised(one))
    return (
        f"({one.letter}) Median {one.name}{unit and ','}{unit}: clean {_interval(clean)}, attacked "
        f"{_interval(attacked)}; median of attacked minus clean, paired by image: {_interval(difference)}; higher when "
        f"attacked on {raised.value:.1f} % of the images ({raised.low:.1f} to {raised.high:.1f})."
    )


def _interval(one: Estimate) -> str:
    return f"{one.value:.3g} ({one.low:.3g} to {one.high:.3g})"


def _left_out(one: _Distribution) -> str:
    """How many values have no place on the axis; nothing if all have."""
    counts = [len(values) - len(one.drawable(values)) for values in (one.clean, one.attacked)]
    if not any(counts):
        return ""
    why = "not finite, or zero, which has no logarithm" if one.logarithmic else "not finite"
    return f"Not in the histograms: {counts[0]:,} clean and {counts[1]:,} attacked values ({why})."


def _along(shown: _Shown) -> str:
    """The example at its early state, in words."""
    numbers = [values[shown.state - 1] for values in shown.entropy]
    return (
        f"(c) At the early state, {shown.state}: clean {numbers[0]:.3g} nats, seen as {shown.seen(0)}; attacked "
        f"{numbers[1]:.3g} nats, seen as {shown.seen(1)}; the class is {shown.name(shown.example.label)}. One image: "
        "an illustration, no evidence."
    )


def _alt(both: tuple[_Distribution, _Distribution], shown: _Shown) -> str:
    said = []
    for one in both:
        clean, attacked = one.median(one.clean).value, one.median(one.attacked).value
        raised = 100 * _raised(one).value
        said.append(
            f"({one.letter}) Histograms of the {one.name} at the last state: median {clean:.3g} on clean and "
            f"{attacked:.3g} on attacked images; higher when attacked on {raised:.1f} % of them."
        )
    curves = zip(("clean", "attacked"), shown.entropy, shown.predicted, strict=True)
    along = "; ".join(
        f"{name} from {entropy[0]:.3g} to {entropy[-1]:.3g} nats, "
        f"right at {predicted.count(shown.example.label)} states"
        for name, entropy, predicted in curves
    )
    return (
        f"{' '.join(said)} (c) Test image {shown.example.image} clean, attacked, and their difference, above its "
        f"entropy along {len(shown.entropy[0])} states: {along}."
    )
