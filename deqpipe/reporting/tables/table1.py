"""Table 1: robustness of all methods, clean, under the strongest attack of the grid, and under AutoAttack."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from deqpipe.analysis import autoattack_outcomes, gains, own_attacks
from deqpipe.analysis.autoattack_outcomes import AutoAttackOutcome
from deqpipe.analysis.decision import (
    AWP,
    Decision,
    all_decisions,
    controls,
    own_decisions,
    paper_decisions,
    perturbed_decisions,
)
from deqpipe.analysis.evaluation import Evaluation, evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.own_attacks import OwnOutcome
from deqpipe.analysis.reading import Source
from deqpipe.config import Config, Framework
from deqpipe.reporting import absent, conditions, phrases, quantities
from deqpipe.reporting.cells import EMPTY, Block, Cell, Line, Shown, percent, show
from deqpipe.reporting.paper import published
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Correct
from deqpipe.workflow import table1_columns, vocabulary
from deqpipe.workflow.defences import defence_of, is_own
from deqpipe.workflow.library_attacks import APGD_CE, SQUARE

COLUMNS, OVER_CONTROL = table1_columns.MAIN, table1_columns.OVER_CONTROL
CLEAN, PGD, AA, ALL, PER_IMAGE, ALL_PER_IMAGE, GAIN = COLUMNS
DEFENCE_PARTS, OWN_PARTS = table1_columns.DEFENCE_PARTS, table1_columns.OWN_PARTS
OF_DEFENCE, STATE, RESTARTS, DESCENT = DEFENCE_PARTS
OF_OWN, OWN_STATE, OWN_REST = OWN_PARTS
TRAINING_PARTS = table1_columns.TRAINING_PARTS
OF_TRAINING, TRAINING_STATE, WEIGHTS = TRAINING_PARTS
_SIGNED = (GAIN, OVER_CONTROL, *DEFENCE_PARTS, *OWN_PARTS, *TRAINING_PARTS)
TRUNK = Decision(vocabulary.TRUNK, "plain")


@dataclass(frozen=True)
class Group:
    """Rows of one framework: the paper's, or those with adversarial weight perturbation.

    Attributes:
        networks: without states.
        baseline: of the DEQs, which the gains of the others are over.
        others: the decisions of the DEQs but the baseline.
        over: what the baseline's own gain is over; None: it has none.
        named: how the networks were trained.
    """

    networks: tuple[Decision, ...]
    baseline: Decision
    others: tuple[Decision, ...]
    over: Decision | None = None
    named: str = "Pang et al. (2021)"

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Those of the DEQs, the baseline first."""
        return (self.baseline, *self.others)

    @property
    def as_published(self) -> bool:
        """Whether a row that is only published stands between networks and DEQs."""
        return self.over is None and self.baseline.framework == "PGD-AT"


def _groups(config: Config) -> tuple[Group, ...]:
    """The rows in the paper's order; those with weight perturbation, if there are any, below each framework's."""
    return tuple(group for framework in vocabulary.FRAMEWORKS for group in _of(framework, config))


def _of(framework: Framework, config: Config) -> Iterator[Group]:
    networks = [name for name in vocabulary.FEEDFORWARD if vocabulary.MODELS[name].framework == framework]
    baseline, *others = all_decisions(framework)
    yield Group(_plain(networks), baseline, (*others, *own_decisions(config, framework)))
    perturbed = perturbed_decisions(config, framework)
    if perturbed:
        also = vocabulary.feedforward_networks(config)
        more = [name for name in also if name not in vocabulary.FEEDFORWARD]
        mine = [name for name in more if vocabulary.MODELS[name].framework == framework]
        named = f"{Group.named} + {AWP}"
        yield Group(_plain(mine), perturbed[0], perturbed[1:], over=baseline, named=named)


def _plain(models: Iterable[str]) -> tuple[Decision, ...]:
    return tuple(Decision(name, "plain") for name in models)


def _controls(config: Config) -> tuple[Decision, ...]:
    return controls(config, vocabulary.deqs(config))


@dataclass(frozen=True)
class Robustness:
    """What one seed's numbers are made of.

    Attributes:
        evaluations: of every decision, controls and trunk included.
        outcomes: AutoAttack on every decision but controls and trunk.
        bootstrap: how intervals are made.
        own: attacks from users' files.
    """

    evaluations: Mapping[Decision, Evaluation]
    outcomes: Mapping[Decision, AutoAttackOutcome]
    bootstrap: Bootstrap
    own: tuple[OwnOutcome, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files behind it."""
        graded = tuple(source for one in self.evaluations.values() for source in one.sources)
        attacked = tuple(source for one in self.outcomes.values() for source in one.sources)
        return (*graded, *attacked, *(source for one in self.own for source in one.sources))


def gather(tree: Tree) -> Robustness:
    """Every decision on clean images, under PGD, and under AutoAttack.

    Raises:
        UserError: records are missing, incomplete, doubled, of another configuration, or of another point than the
            strongest.
    """
    evaluated = vocabulary.evaluated(tree.config)
    evaluations = evaluate_all(tree, evaluated, elsewhere=gains.states_needed(tree))
    attacked = _attacked(tree.config)
    outcomes = {decision: autoattack_outcomes.outcome(tree, evaluations[decision]) for decision in attacked}
    own = tuple(one for decision in attacked for one in own_attacks.outcomes(tree, decision))
    return Robustness(evaluations, outcomes, tree.bootstrap, own)


def _attacked(config: Config) -> tuple[Decision, ...]:
    """The decisions that AutoAttack is run on, in the order of the rows."""
    return tuple(decision for group in _groups(config) for decision in (*group.networks, *group.decisions))


def caption(config: Config) -> str:
    """What the columns are."""
    return (
        f"Accuracy (%) of {conditions.data(config)}. PGD: minimum over the grid of mean accuracies (ResNets: "
        f"PGD-{config.attack.pgd.steps} alone). AA: AutoAttack, for DEQs on the surrogate at the strongest point of "
        "the grid. ALL: minimum of the two. Per image: right under every attack of the grid; ALL: and when "
        "clean and under every attack of AutoAttack. Gain: points of PGD over the baseline of the same framework. "
        "Below, what gains are made of: of Sec. 3.2 over the same weights undefended, of Sec. 3.3 over the weights "
        "without it; every part is paired by image, and parts add up."
    )


def cells(gathered: Robustness, tree: Tree) -> tuple[Cell, ...]:
    """Seven columns for every decision, four for a control; the trunk with a column of its own."""
    rows: list[Cell] = []
    for group in _groups(tree.config):
        for one in group.networks:
            rows += [*_single(gathered.evaluations[one], tree, PGD), *_autoattack(gathered.outcomes[one], tree)]
        rows += _published_only() if group.as_published else []
        rows += [*_method(gathered, group.baseline, tree), *_own_gain(gathered, group, tree)]
        for decision in group.others:
            gain = _gain(gathered.evaluations[decision], gathered.evaluations[group.baseline], tree)
            rows += [*_method(gathered, decision, tree), gain]
    for control in _controls(tree.config):
        method = gathered.evaluations[controlled(control)]
        rows += [*_deq(gathered.evaluations[control], tree), _over(method, gathered.evaluations[control], tree)]
    rows += [cell for one in _with_parts(tree.config) for cell in _parts(one, gathered, tree)]
    rows += [_percent(one.decision.row, one.attack.label, _accuracy_of(one.right, tree), note=_OWN_ATTACK)
             for one in gathered.own]  # fmt: skip
    return (*rows, *_single(gathered.evaluations[TRUNK], tree, final_column(tree.config)))


_OWN_ATTACK = "an attack of a user's file, on the decision itself; not in ALL, which is the paper's"


def _accuracy_of(right: Correct, tree: Tree) -> intervals.Estimate:
    return intervals.accuracy(right, confidence=tree.config.statistics.confidence)


def _method(gathered: Robustness, decision: Decision, tree: Tree) -> list[Cell]:
    return [*_deq(gathered.evaluations[decision], tree), *_autoattack(gathered.outcomes[decision], tree)]


def _autoattack(outcome: AutoAttackOutcome, tree: Tree) -> list[Cell]:
    """AutoAttack alone, with PGD, and what withstands every image of both."""
    row, config = outcome.decision.row, tree.config
    confidence = config.statistics.confidence
    if config.autoattack.mode == "standard":
        alone = intervals.accuracy(outcome.survived, confidence=confidence)
    else:
        alone = intervals.minimum(outcome.rows, tree.bootstrap)
    own = [
        _percent(row, AA, alone, note=f"mode {config.autoattack.mode}"),
        _percent(row, ALL, intervals.minimum(outcome.with_grid, tree.bootstrap), note=f"{_lower(outcome)} is lower"),
    ]
    if not phrases.every_attack_on_every_image(config):
        return own
    both = intervals.worst_case(outcome.evaluation.right) & outcome.survived
    return [*own, _percent(row, ALL_PER_IMAGE, intervals.accuracy(both, confidence=confidence))]


def _lower(outcome: AutoAttackOutcome) -> str:
    """Which of the two is the minimum; PGD where they are equal."""
    return PGD if intervals.strongest(outcome.with_grid) < len(outcome.evaluation.right) else AA


def final_column(config: Config) -> str:
    """Name of the trunk's own column."""
    return f"PGD-{config.attack.pgd.steps}, final state"


def _published_only() -> list[Cell]:
    row = published.AS_PUBLISHED
    return [Cell(row, column, paper=published.value(1, row, column)) for column in (CLEAN, PGD, AA, ALL)]


def _single(evaluation: Evaluation, tree: Tree, column: str) -> list[Cell]:
    """A model under one attack, at its final state."""
    confidence, row = tree.config.statistics.confidence, evaluation.decision.row
    return [
        _percent(row, CLEAN, intervals.accuracy(evaluation.right_when_clean, confidence=confidence)),
        _percent(row, column, intervals.accuracy(evaluation.right[0], confidence=confidence), note="one attack"),
    ]


def _deq(evaluation: Evaluation, tree: Tree) -> list[Cell]:
    confidence, row = tree.config.statistics.confidence, evaluation.decision.row
    own = [
        _percent(row, CLEAN, intervals.accuracy(evaluation.right_when_clean, confidence=confidence)),
        _percent(
            row,
            PGD,
            intervals.minimum(evaluation.right, tree.bootstrap),
            note=f"strongest at {phrases.strongest(evaluation)}",
        ),
    ]
    if not phrases.every_attack_on_every_image(tree.config):
        return own
    survived = intervals.accuracy(intervals.worst_case(evaluation.right), confidence=confidence)
    return [*own, _percent(row, PER_IMAGE, survived)]


def _own_gain(gathered: Robustness, group: Group, tree: Tree) -> tuple[Cell, ...]:
    """That of a baseline, where it is over another one."""
    if group.over is None:
        return ()
    return (_gain(gathered.evaluations[group.baseline], gathered.evaluations[group.over], tree),)


def _gain(evaluation: Evaluation, baseline: Evaluation, tree: Tree) -> Cell:
    gain = intervals.minimum_difference(evaluation.right, baseline.right, tree.bootstrap)
    row, words = evaluation.decision.row, f"over {baseline.decision.row}"
    return percent(row, GAIN, gain, paper=published.value(1, row, GAIN), note=words, quantity=quantities.GAIN)


def _with_parts(config: Config) -> tuple[Decision, ...]:
    """The decisions whose gains are taken apart."""
    return (*all_decisions(*vocabulary.FRAMEWORKS), *own_decisions(config, *vocabulary.FRAMEWORKS))


def _parts(decision: Decision, gathered: Robustness, tree: Tree) -> list[Cell]:
    """What the gains of Secs. 3.2 and 3.3 of a decision are made of."""
    parts: list[tuple[str, intervals.Estimate, str]] = []
    if defence := gains.of_defence(decision, gathered.evaluations, tree.config, tree.bootstrap):
        whole, moved, rest = OWN_PARTS if is_own(decision.defence) else (OF_DEFENCE, STATE, DESCENT)
        state = gathered.evaluations[decision].state
        at = f"state {state} in place of {gathered.evaluations[defence.undefended].state}, undefended"
        parts += [(whole, defence.whole, f"over {defence.undefended.row}"), (moved, defence.state, at)]
        parts += [(RESTARTS, defence.restarts, "R = 0 over undefended")] if defence.restarts else []
        parts += [(rest, defence.descent, f"the rest, at state {state}")]
    if training := gains.of_training(decision, gathered.evaluations, tree.bootstrap):
        state = gathered.evaluations[decision].state
        at = f"state {state} in place of {gathered.evaluations[training.baseline].state}, weights without"
        parts += [(OF_TRAINING, training.whole, f"over {training.baseline.row}"), (TRAINING_STATE, training.state, at)]
        parts += [(WEIGHTS, training.weights, f"the rest, at state {state}")]
    return [percent(decision.row, name, one, note=note, quantity=quantities.GAIN) for name, one, note in parts]


def controlled(control: Decision) -> Decision:
    """The decision that a control lacks the point of: the same weights, decided at the same state."""
    method = defence_of(control.defence).control_of
    assert method is not None
    return replace(control, defence=method)


def _over(method: Evaluation, control: Evaluation, tree: Tree) -> Cell:
    """What a method has over its own control, paired by image."""
    gain = intervals.minimum_difference(method.right, control.right, tree.bootstrap)
    return _percent(control.decision.row, OVER_CONTROL, gain, note=f"{method.decision.row} over it")


def _percent(row: str, column: str, estimate: intervals.Estimate, *, note: str = "") -> Cell:
    return percent(row, column, estimate, paper=published.value(1, row, column), note=note)


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """The paper's eleven rows, and those of further defences; the controls of Sec. 3.2 and the trunk apart."""
    best = most_robust(cells, perturbed_decisions(config, *vocabulary.FRAMEWORKS)).row
    lines: list[Line] = []
    for group in _groups(config):
        lines += [_line(one, group.named, cells, config) for one in group.networks]
        lines += [_as_published(cells, config)] if group.as_published else []
        lines += [_line(one, one.method, cells, config, strong=one.row == best) for one in group.decisions]
    final = final_column(config)
    shown = tuple(show(cells[TRUNK.row, column]) for column in (CLEAN, final))
    trunk = Line(("clean", conditions.architecture(config, TRUNK.model), TRUNK.method), shown)
    stub = ("Training", "Model", "Method")
    main = Block(stub, _columns(COLUMNS, config), tuple(lines))
    parts = (_part_block(stub, names, cells, config) for names in (DEFENCE_PARTS, OWN_PARTS, TRAINING_PARTS))
    made_of = [block for block in parts if block.lines]
    return main, *made_of, *_control_block(stub, cells, config), Block(stub, (CLEAN, final), (trunk,))


def _part_block(
    stub: tuple[str, ...], names: tuple[str, ...], cells: Mapping[tuple[str, str], Cell], config: Config
) -> Block:
    """A gain and its parts, of every decision that has it; parts that no decision has are left out."""
    having = [one for one in _with_parts(config) if (one.row, names[0]) in cells]
    columns = tuple(name for name in names if any((one.row, name) in cells for one in having))
    lines = tuple(_line(one, one.method, cells, config, columns=columns) for one in having)
    return Block(stub, columns, lines)


def _control_block(stub: tuple[str, ...], cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    columns = _columns((CLEAN, PGD, PER_IMAGE, OVER_CONTROL), config)
    lines = tuple(_line(one, one.method, cells, config, columns=columns) for one in _controls(config))
    return (Block(stub, columns, lines),) if lines else ()


def _columns(names: tuple[str, ...], config: Config) -> tuple[str, ...]:
    """Those of the columns that there are: with racing, not every attack meets every image."""
    absent = () if phrases.every_attack_on_every_image(config) else (PER_IMAGE, ALL_PER_IMAGE)
    own = tuple(attack.label for attack in own_attacks.attacks(config).values()) if names is COLUMNS else ()
    return (*(name for name in names if name not in absent), *own)


def most_robust(cells: Mapping[tuple[str, str], Cell], also: Sequence[Decision] = ()) -> Decision:
    """Of the paper's DEQ decisions, and others, that of highest accuracy under its strongest attack; the first one."""
    return max((*paper_decisions("pgd_at", "trades"), *also), key=lambda decision: cells[decision.row, PGD].here or 0.0)


def _line(
    decision: Decision,
    method: str,
    cells: Mapping[tuple[str, str], Cell],
    config: Config,
    *,
    strong: bool = False,
    columns: tuple[str, ...] = COLUMNS,
) -> Line:
    shown = tuple(
        show(cells[decision.row, column], signed=column in _SIGNED, strong=strong and column == PGD)
        if (decision.row, column) in cells
        else EMPTY
        for column in _columns(columns, config)
    )
    return Line((decision.framework, conditions.architecture(config, decision.model), method), shown)


def _as_published(cells: Mapping[tuple[str, str], Cell], config: Config) -> Line:
    shown: tuple[Shown, ...] = tuple(
        show(cells[published.AS_PUBLISHED, column]) if (published.AS_PUBLISHED, column) in cells else EMPTY
        for column in _columns(COLUMNS, config)
    )
    return Line(("PGD-AT", "DEQ-Large", "Yang et al. (2022)"), shown)


def notes(gathered: Robustness, config: Config) -> tuple[str, ...]:
    """What is absent, what is not the same attack, and which states decide."""
    decisions = (*_with_parts(config), *perturbed_decisions(config, *vocabulary.FRAMEWORKS))
    judged = [gathered.evaluations[decision] for decision in decisions]
    outcomes = tuple(gathered.outcomes.values())
    return (
        f"Of PGD, ResNets and trunk face PGD-{config.attack.pgd.steps} alone; they answer at their final state. DEQs "
        "face the whole grid (Table 2 says where its minimum is attained) and answer at their early state. The row of "
        "Yang et al. (2022) is published only.",
        f"PGD: {phrases.blind()}",
        phrases.made_of(config),
        *([phrases.controls(config)] if controls(config) else []),
        *_perturbation(config),
        _absent(config),
        *file_names(config),
        *autoattack_notes(outcomes, gathered.bootstrap, config),
        phrases.early_states(judged),
        phrases.attack_checks(list(gathered.evaluations.values())),
        *absent.raced(judged, config),
    )


def _perturbation(config: Config) -> tuple[str, ...]:
    """What rows with weight perturbation are, where there are some."""
    how = config.weight_perturbation
    if not how.enabled:
        return ()
    spared = f", from epoch {how.warmup_epochs + 1} of adversarial training on" if how.warmup_epochs else ""
    return (
        f"{AWP}: trained with adversarial weight perturbation (Wu, Xia & Wang, 2020; gamma {how.size.pgd_at:g} with "
        f"PGD-AT, {how.size.trades:g} with TRADES{spared}), not in the paper. The gain of row + {AWP} is over the "
        f"baseline, that of the rows below over it.",
    )


def file_names(config: Config) -> tuple[str, ...]:
    """What the files of a network are called, where its depth is not the one that their names say."""
    named: dict[str, list[str]] = {}
    for model in vocabulary.feedforward_networks(config):
        name = conditions.architecture(config, model)
        if not model.startswith(name.replace("-", "").lower()):
            named.setdefault(name, []).append(model)
    return tuple(
        f"{name}, with the depth that this configuration gives it, is {' and '.join(models)} in file names, after the "
        "paper's network."
        for name, models in named.items()
    )


def _absent(config: Config) -> str:
    """Why cells or columns are empty."""
    said = "Dashes: a baseline has no gain over itself; a ResNet faces one attack of PGD, which is its worst case"
    rows = "control rows and the trunk" if controls(config) else "the trunk"
    said += f". AA and ALL are absent from {rows}: AutoAttack is not run on controls and on the trunk."
    if not phrases.every_attack_on_every_image(config):
        said += " Columns per image are absent: with racing, not every attack meets every image."
    return said


def autoattack_notes(outcomes: tuple[AutoAttackOutcome, ...], bootstrap: Bootstrap, config: Config) -> tuple[str, ...]:
    """How AutoAttack was run, what its attacks did, and what the library said."""
    return (
        f"AutoAttack: {phrases.budget(config.autoattack.attacks, config)}. {phrases.mode(config)}",
        phrases.kept(config),
        f"Points of AutoAttack: {_points(outcomes)}. With Sec. 3.2 the surrogate goes through the defended states, and "
        "its gradient is that of the unroll at the input as received.",
        phrases.met(outcomes, config),
        *phrases.against_pgd(outcomes, bootstrap),
        *([phrases.square_against_apgd(outcomes, bootstrap)] if _square_compares(config) else []),
        phrases.flags(outcomes),
        *_above_pgd(outcomes),
    )


def _points(outcomes: tuple[AutoAttackOutcome, ...]) -> str:
    deqs = [one for one in outcomes if vocabulary.MODELS[one.decision.model].is_deq]
    return "; ".join(f"{one.decision.row} {phrases.strongest(one.evaluation)}" for one in deqs)


def _square_compares(config: Config) -> bool:
    """Whether Square and APGD-CE met the same images; in standard mode Square meets what is left."""
    return config.autoattack.mode == "individual" and {SQUARE.name, APGD_CE.name} <= set(config.autoattack.attacks)


def _above_pgd(outcomes: tuple[AutoAttackOutcome, ...]) -> list[str]:
    """Where AutoAttack is the weaker of the two, and why that can be."""
    rows = [one.decision.row for one in outcomes if _accuracy(one) > _pgd(one)]
    if not rows:
        return []
    return [
        f"AA is higher than PGD for {'; '.join(rows)}: AutoAttack optimises a surrogate at one point within its "
        "budget, while PGD is a minimum over all points (ResNets: one attack, crafted on the decision itself)."
    ]


def _accuracy(outcome: AutoAttackOutcome) -> float:
    return float(outcome.rows.mean(axis=1).min())


def _pgd(outcome: AutoAttackOutcome) -> float:
    return float(outcome.evaluation.right.mean(axis=1).min())
