"""What the TRADES decisions say of images that were crafted on the other TRADES DEQ, or through Sec. 3.2."""

from collections.abc import Mapping
from dataclasses import dataclass

from deqpipe.analysis import attack_answers
from deqpipe.analysis.attack_answers import Scored
from deqpipe.analysis.decisions import Attacks, Decision, Source, Tree, attacks, early_states
from deqpipe.results.records import Records
from deqpipe.workflow import vocabulary


@dataclass(frozen=True)
class Judged:
    """Several decisions on the images that were crafted on one model.

    Attributes:
        by_decision: the answers of each.
        sources: the files behind them.
    """

    by_decision: Mapping[Decision, Scored]
    sources: tuple[Source, ...]


def transferred(tree: Tree, crafter: str) -> Judged:
    """The other TRADES DEQ's decisions on the grid's images of one; none where images are not transferred.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    other = vocabulary.transfers_to(tree.config, crafter)
    if other is None:
        return Judged({}, ())
    paths, ran = tree.attacked(crafter), attacks(tree, crafter)
    rows = attack_answers.read(tree, "attack_grid", crafter, paths, keep=lambda found: found["model"] == other)
    judged = _judge(tree, rows, ran, models=(other,), where=f"records transferred from {crafter}")
    return Judged(judged, (*attack_answers.sources(tree, paths, rows), *ran.sources))


def in_loop(tree: Tree, crafter: str) -> Judged:
    """All TRADES decisions on images that were crafted on one TRADES DEQ through Sec. 3.2.

    Raises:
        UserError: as `transferred`, or there are not as many attacks as the configuration asks for.
    """
    paths, where = tree.in_loop(crafter), f"records crafted in the loop on {crafter}"
    rows = attack_answers.read(tree, "attack_in_loop", crafter, paths)
    ran = attack_answers.few(rows, tree.config.attack.in_loop_points, tree.config, where=where)
    judged = _judge(tree, rows, ran, models=vocabulary.TRADES, where=where)
    return Judged(judged, attack_answers.sources(tree, paths, rows))


def _judge(tree: Tree, rows: Records, ran: Attacks, *, models: tuple[str, ...], where: str) -> dict[Decision, Scored]:
    found = {}
    for model in models:
        states = early_states(tree, model)
        for defence in vocabulary.MODELS[model].defences:
            decision = Decision(model, defence)
            mask = (rows["model"] == model) & (rows["defence"] == defence)
            found[decision] = attack_answers.score(
                rows.where(mask), ran, state=states[defence].state, config=tree.config,
                where=f"{where}, judged by {decision.row},",
            )  # fmt: skip
    return found
