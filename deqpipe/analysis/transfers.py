"""What the TRADES decisions say of images that were crafted on the other TRADES DEQ, or through Sec. 3.2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deqpipe.analysis import answers
from deqpipe.analysis.answers import AttackAnswers
from deqpipe.analysis.attacks import Attacks, attacks, strongest_present
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.early_states import early_states
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Judge, Rows, Source
from deqpipe.workflow import vocabulary


@dataclass(frozen=True)
class Judged:
    """Several decisions on the images that were crafted on one model.

    Attributes:
        by_decision: the answers of each.
        sources: the files behind them.
    """

    by_decision: Mapping[Decision, AttackAnswers]
    sources: tuple[Source, ...]


def transferred(tree: Tree, crafter: str) -> Judged:
    """The other TRADES DEQ's decisions on the grid's images of one; none where images are not transferred.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    other = vocabulary.transfers_to(tree.config, crafter)
    if other is None:
        return Judged({}, ())
    files, ran = tree.opened("attack_grid", crafter, tree.attacked(crafter)), attacks(tree, crafter)
    states = _states(tree, (other,))
    rows = answers.read(tree, files, _judges(states), crafter=crafter)
    judged = _judge(tree, rows, ran, states, where=f"records transferred from {crafter}")
    return Judged(judged, (*files.sources, *ran.sources))


def in_loop(tree: Tree, crafter: str) -> Judged:
    """All TRADES decisions on images that were crafted on one TRADES DEQ through Sec. 3.2.

    Raises:
        UserError: as `transferred`, or there are not as many attacks as the configuration asks for.
    """
    files = tree.opened("attack_in_loop", crafter, tree.in_loop(crafter))
    where = f"records crafted in the loop on {crafter}"
    states = _states(tree, vocabulary.TRADES)
    rows = answers.read(tree, files, _judges(states), crafter=crafter)
    ran = strongest_present(rows.values(), tree.config.attack.in_loop_points, tree.config, where=where)
    return Judged(_judge(tree, rows, ran, states, where=where), files.sources)


def _states(tree: Tree, models: Sequence[str]) -> dict[Decision, int]:
    """The state that decides, for each decision of the models."""
    chosen = {model: early_states(tree, model) for model in models}
    return {
        Decision(model, defence): chosen[model][defence].state
        for model in models
        for defence in vocabulary.MODELS[model].defences
    }


def _judges(states: Mapping[Decision, int]) -> dict[Judge, int]:
    return {decision.judge: state for decision, state in states.items()}


def _judge(
    tree: Tree, rows: Mapping[Judge, Rows], ran: Attacks, states: Mapping[Decision, int], *, where: str
) -> dict[Decision, AttackAnswers]:
    return {
        decision: answers.score(
            rows[decision.judge], ran, state=state, config=tree.config, where=f"{where}, judged by {decision.row},"
        )
        for decision, state in states.items()
    }
