"""Figure 6: robust validation accuracy of the baselines, trained with two weights of the Jacobian term each."""

from collections.abc import Mapping

from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config, Framework
from deqpipe.reporting.figures import figure4, plotting
from deqpipe.reporting.figures.figure4 import Look
from deqpipe.reporting.figures.plotting import Drawing
from deqpipe.workflow import vocabulary

_COLOURS: Mapping[Framework, str] = {"pgd_at": plotting.VERMILION, "trades": plotting.BLUE}
_LINES: Mapping[bool, str] = {False: "--", True: ":"}
_MARKERS: Mapping[str, str] = {
    "deq_pgd_at_base": "s", "deq_pgd_at_jac_low": "o", "deq_trades_base": "D", "deq_trades_jac_high": "^",
}  # fmt: skip


def draw(tree: Tree) -> Drawing:
    """Two curves per framework: with the weight of all other results, and with the other one."""
    drawn = figure4.chart(tree, _looks(tree.config))
    return Drawing(
        caption=f"{figure4.caption(tree)} {_weights(tree.config)}",
        alt=f"{figure4.alt(drawn.curves, tree)} Dashed: the usual weight; dotted: the other one.",
        figure=drawn.figure,
        columns=figure4.COLUMNS,
        rows=drawn.rows,
        notes=(*drawn.notes, "One training run per curve: a difference may be the run's as well as the weight's."),
        conditions=(),
        sources=drawn.sources,
    )


def _looks(config: Config) -> dict[str, Look]:
    """The baselines and, below each, the same with the other weight."""
    pairs = [model for framework in _COLOURS for model in _MARKERS if vocabulary.MODELS[model].framework == framework]
    return {model: _look(model, config) for model in pairs}


def _look(model: str, config: Config) -> Look:
    kind = vocabulary.MODELS[model]
    assert kind.framework is not None
    weight = getattr(config.jacobian.other_weight if kind.other_jacobian else config.jacobian.weight, kind.framework)
    return Look(
        row=f"{Decision(model, 'plain').framework}, Jacobian weight {weight:g}",
        colour=_COLOURS[kind.framework],
        line=_LINES[kind.other_jacobian],
        marker=_MARKERS[model],
    )


def _weights(config: Config) -> str:
    usual, other = config.jacobian.weight, config.jacobian.other_weight
    return (
        f"Weight: that of the Jacobian term, {usual.pgd_at:g} (PGD-AT) and {usual.trades:g} (TRADES) in all other "
        f"results (dashed), {other.pgd_at:g} and {other.trades:g} here beside them (dotted)."
    )
