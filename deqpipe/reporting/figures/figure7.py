"""Figure 7: robust accuracy over the radius of the ball, under one attack and under random noise."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deqpipe.analysis import sanity, union
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.radius import ATTACK, NOISE, RadiusCurve
from deqpipe.reporting import conditions
from deqpipe.reporting.figures import plotting
from deqpipe.reporting.figures.plotting import Drawing
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Estimate
from deqpipe.workflow import vocabulary
from deqpipe.workflow.shards import radius_images

_COLUMNS = ("row", "attack", "radius_255", "accuracy", "low", "high", "n")
_LINES: Mapping[str, str] = {ATTACK: "-", NOISE: ":"}
_SAID: Mapping[str, str] = {ATTACK: "attack", NOISE: "random noise"}


def draw(tree: Tree) -> Drawing:
    """A panel for each framework, with two curves for each decision."""
    curves = union.curves(tree)
    by_framework = {
        name: found
        for name in dict.fromkeys(one.decision.framework for one in curves)
        if (found := [one for one in curves if one.decision.framework == name])
    }
    named = [[*(short(one.decision, tree) for one in found), "noise", "epsilon"] for found in by_framework.values()]
    figure, parts = plotting.panels([plotting.taller(3.1, labels, columns=3, most=3) for labels in named])
    for letter, part, (framework, found) in zip("abcdef", parts, by_framework.items(), strict=False):
        plotting.headline(part, letter, framework)
        _panel(part.subplots(), found, tree)
    return Drawing(
        caption=_caption(tree),
        alt=_alt(curves),
        figure=figure,
        columns=_COLUMNS,
        rows=tuple(row for one in curves for row in _rows(one, tree)),
        notes=_notes(curves),
        conditions=conditions.setup(tree.config, seed=tree.seed),
        sources=tuple(source for one in curves for source in one.sources),
    )


def short(decision: Decision, tree: Tree) -> str:
    """What a decision is called within its framework."""
    network = vocabulary.MODELS[decision.model].architecture.method
    return conditions.architecture(tree.config, decision.model) if network else decision.method


def _panel(axes: Axes, curves: Sequence[RadiusCurve], tree: Tree) -> None:
    for number, one in enumerate(curves):
        colour, marker = plotting.COLOURS[number % 6], plotting.MARKERS[(number + number // 6) % 6]
        for attack, right in one.right.items():
            accuracy = [100 * float(answers.mean()) for answers in right]
            axes.plot(
                [255 * radius for radius in one.radii], accuracy, color=colour, linestyle=_LINES[attack],
                marker=marker if attack == ATTACK else "", markersize=4,
                linewidth=1.4 if attack == ATTACK else 1, label=short(one.decision, tree) if attack == ATTACK else None,
            )  # fmt: skip
    axes.axvline(tree.config.threat_model.epsilon_255, color=plotting.GREY, linewidth=0.9, linestyle="--")
    axes.set_xlabel("radius of the ball (1/255)")
    axes.set_ylabel("right answers (%)")
    axes.set_ylim(-2, 102)
    handles, _ = axes.get_legend_handles_labels()
    extra = [
        Line2D([], [], color=plotting.GREY, linestyle=":", linewidth=1, label="random noise"),
        Line2D([], [], color=plotting.GREY, linestyle="--", linewidth=0.9, label="epsilon"),
    ]
    plotting.key_above(axes, columns=3, handles=[*handles, *extra])


def _estimates(curve: RadiusCurve, attack: str, tree: Tree) -> list[Estimate]:
    confidence = tree.config.statistics.confidence
    return [intervals.accuracy(right, confidence=confidence) for right in curve.right[attack]]


def _rows(curve: RadiusCurve, tree: Tree) -> list[tuple[str | float | int, ...]]:
    return [
        (curve.decision.row, _SAID[attack], 255 * radius, 100 * one.value, 100 * one.low, 100 * one.high, one.n)
        for attack in (ATTACK, NOISE)
        for radius, one in zip(curve.radii, _estimates(curve, attack, tree), strict=True)
    ]


def _caption(tree: Tree) -> str:
    asked = tree.config.suite
    assert asked.enabled
    return (
        f"Accuracy on {radius_images(tree.config):,} test images in balls of growing radius. Lines: the attack "
        f"through the decision's own gradient with the margin loss (APGD, {asked.iterations} steps, one start), every "
        "iterate judged by the decision. Dotted: a random corner of the ball, with as many draws as the attack has "
        "starts. A sound attack leaves nothing in a ball that is large enough; one that levels off above 0 fails. "
        "Dashed: the epsilon of all other tables."
    )


def _alt(curves: Sequence[RadiusCurve]) -> str:
    said = [
        f"{one.decision.row} falls from {100 * one.clean.mean():.0f} to {100 * one.last.mean():.0f} %" for one in curves
    ]
    return f"Right answers over the radius of the ball: {'; '.join(said)} at {255 * curves[0].radii[-1]:.4g}/255."


def _notes(curves: Sequence[RadiusCurve]) -> tuple[str, ...]:
    """Where curves do not reach 0, and what that means."""
    found = sanity.findings((), curves)
    bad = [f"{one.row}: {one.words}." for one in sanity.failed(found)]
    zero = [one.decision.row for one in curves if not one.last.any()]
    reached = f"{len(zero)} of {len(curves)} decisions keep nothing at the last radius."
    chance = (
        "What may stay in any ball is what a decision always answers, at most the images of one class: so a "
        "curve fails the check if its interval (99.8 %) at the last radius lies above one in the number of classes."
    )
    return (*bad, reached, chance)
