"""Table 1: robustness of all methods, clean and under the strongest attack of the grid."""

from collections.abc import Mapping

from deqpipe import specs, statistics
from deqpipe.config import Config
from deqpipe.reporting import conditions, formats, published, wording
from deqpipe.reporting.decisions import Decision, Evaluation, Tree, controls, eight
from deqpipe.reporting.formats import EMPTY, Block, Cell, Line, Shown

TITLE = "Robustness of ResNets and DEQs in two adversarial training frameworks."
MODELS = tuple(specs.MODELS)
CLEAN_RECORDS = True
CLEAN, PGD, PER_IMAGE, GAIN = "Clean", "PGD", "PGD per image", "PGD gain"
TRUNK = Decision(specs.TRUNK, "plain")
# Rows in the paper's order: the ResNet of a framework, then its four DEQs, the baseline first.
_FRAMEWORKS = tuple(
    (Decision(resnet, "plain"), eight(framework))
    for resnet in specs.RESNETS
    if (framework := specs.MODELS[resnet].framework)
)


def caption(config: Config) -> str:
    """What the columns are."""
    return (
        f"Accuracy (%) of {conditions.data(config)}. PGD: minimum over the grid of mean accuracies (ResNets: "
        f"PGD-{config.attack.pgd.steps} alone); per image: right under every attack of the grid; gain: points of PGD "
        "over the baseline of the same framework."
    )


def cells(evaluations: Mapping[Decision, Evaluation], tree: Tree) -> tuple[Cell, ...]:
    """Four columns for every decision, three for a control; the trunk with a column of its own."""
    rows: list[Cell] = []
    for resnet, (baseline, *others) in _FRAMEWORKS:
        rows += _single(evaluations[resnet], tree, PGD)
        rows += _published_only() if resnet.framework == "PGD-AT" else []
        rows += _deq(evaluations[baseline], tree)
        for decision in others:
            rows += [*_deq(evaluations[decision], tree), _gain(evaluations[decision], evaluations[baseline], tree)]
    rows += [cell for control in controls(tree.config) for cell in _deq(evaluations[control], tree)]
    return (*rows, *_single(evaluations[TRUNK], tree, final_column(tree.config)))


def final_column(config: Config) -> str:
    """Name of the trunk's own column."""
    return f"PGD-{config.attack.pgd.steps}, final state"


def _published_only() -> list[Cell]:
    row = published.AS_PUBLISHED
    return [Cell(row, column, paper=published.value(1, row, column)) for column in (CLEAN, PGD)]


def _single(evaluation: Evaluation, tree: Tree, column: str) -> list[Cell]:
    """A model under one attack, at its final state."""
    confidence, row = tree.config.statistics.confidence, evaluation.decision.row
    return [
        _percent(row, CLEAN, statistics.accuracy(evaluation.right_when_clean, confidence=confidence)),
        _percent(row, column, statistics.accuracy(evaluation.right[0], confidence=confidence), note="one attack"),
    ]


def _deq(evaluation: Evaluation, tree: Tree) -> list[Cell]:
    confidence, row = tree.config.statistics.confidence, evaluation.decision.row
    survived = statistics.accuracy(statistics.worst_case(evaluation.right), confidence=confidence)
    return [
        _percent(row, CLEAN, statistics.accuracy(evaluation.right_when_clean, confidence=confidence)),
        _percent(
            row,
            PGD,
            statistics.minimum(evaluation.right, tree.bootstrap),
            note=f"strongest at {wording.strongest(evaluation)}",
        ),
        _percent(row, PER_IMAGE, survived),
    ]


def _gain(evaluation: Evaluation, baseline: Evaluation, tree: Tree) -> Cell:
    gain = statistics.minimum_difference(evaluation.right, baseline.right, tree.bootstrap)
    return _percent(evaluation.decision.row, GAIN, gain, note=f"over {baseline.decision.row}")


def _percent(row: str, column: str, estimate: statistics.Estimate, *, note: str = "") -> Cell:
    return formats.percent(row, column, estimate, paper=published.value(1, row, column), note=note)


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """The paper's eleven rows; the controls of Sec. 3.2 and the trunk apart."""
    best = most_robust(cells).row
    lines: list[Line] = []
    for resnet, decisions in _FRAMEWORKS:
        lines.append(_line(resnet, "Pang et al. (2021)", cells, config))
        lines += [_as_published(cells)] if resnet.framework == "PGD-AT" else []
        lines += [_line(one, one.method, cells, config, strong=one.row == best) for one in decisions]
    final = final_column(config)
    shown = tuple(formats.show(cells[TRUNK.row, column]) for column in (CLEAN, final))
    trunk = Line(("clean", conditions.architecture(config, TRUNK.method), TRUNK.method), shown)
    stub = ("Training", "Model", "Method")
    main = Block(stub, (CLEAN, PGD, PER_IMAGE, GAIN), tuple(lines))
    return main, *_control_block(stub, cells, config), Block(stub, (CLEAN, final), (trunk,))


def _control_block(stub: tuple[str, ...], cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    columns = (CLEAN, PGD, PER_IMAGE)
    lines = tuple(_line(one, one.method, cells, config, columns=columns) for one in controls(config))
    return (Block(stub, columns, lines),) if lines else ()


def most_robust(cells: Mapping[tuple[str, str], Cell]) -> Decision:
    """The DEQ decision with the highest accuracy under its strongest attack; of equal ones the first."""
    return max(eight("pgd_at", "trades"), key=lambda decision: cells[decision.row, PGD].here or 0.0)


def _line(
    decision: Decision,
    method: str,
    cells: Mapping[tuple[str, str], Cell],
    config: Config,
    *,
    strong: bool = False,
    columns: tuple[str, ...] = (CLEAN, PGD, PER_IMAGE, GAIN),
) -> Line:
    shown = tuple(
        formats.show(cells[decision.row, column], signed=column == GAIN, strong=strong and column == PGD)
        if (decision.row, column) in cells
        else EMPTY
        for column in columns
    )
    return Line((decision.framework, conditions.architecture(config, decision.method), method), shown)


def _as_published(cells: Mapping[tuple[str, str], Cell]) -> Line:
    shown: tuple[Shown, ...] = tuple(formats.show(cells[published.AS_PUBLISHED, column]) for column in (CLEAN, PGD))
    return Line(("PGD-AT", "DEQ-Large", "Yang et al. (2022)"), (*shown, EMPTY, EMPTY))


def notes(evaluations: Mapping[Decision, Evaluation], config: Config) -> tuple[str, ...]:
    """What is absent, what is not the same attack, and which states decide."""
    judged = [evaluations[decision] for decision in eight("pgd_at", "trades")]
    return (
        "AA and ALL are absent: AutoAttack is not part of the workflow yet.",
        f"ResNets and trunk face PGD-{config.attack.pgd.steps} alone and answer at their final state; DEQs face the "
        "whole grid (Table 2 says where its minimum is attained) and answer at their early state. The row of Yang et "
        "al. (2022) is published only.",
        wording.blind(),
        *([wording.controls(config)] if controls(config) else []),
        wording.early_states(judged),
        wording.attack_checks(list(evaluations.values())),
    )
