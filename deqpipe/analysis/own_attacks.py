"""What attacks from users' files leave of decisions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deqpipe import extending
from deqpipe.analysis import reading
from deqpipe.analysis.answers import FINAL, refuse_uncomputed
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.early_states import deciding_state
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.extending import Attack
from deqpipe.statistics.intervals import Correct

_COLUMNS = ("image", "label", "model", "defence", "attack", "predicted")


@dataclass(frozen=True)
class OwnOutcome:
    """One attack on one decision.

    Attributes:
        attack: the piece.
        decision: whose answers.
        right: (images,) under the attack.
        sources: the files behind it.
    """

    attack: Attack
    decision: Decision
    right: Correct
    sources: tuple[Source, ...]


def attacks(config: Config) -> Mapping[str, Attack]:
    """The attacks that the users' files of a configuration define, by name."""
    return {name: piece for name, (piece, _) in extending.pieces(Attack, config.extensions).items()}


def outcomes(tree: Tree, decision: Decision) -> tuple[OwnOutcome, ...]:
    """Every attack from a user's file on a decision.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    return tuple(_outcome(tree, attack, decision) for attack in attacks(tree.config).values())


def _outcome(tree: Tree, attack: Attack, decision: Decision) -> OwnOutcome:
    paths = tree.files("attack_own", decision.model, attack=attack.name, defence=decision.defence)
    files = tree.opened("attack_own", decision.model, paths, defence=decision.defence, attack=attack.name)
    rows, images = reading.whole(files, _COLUMNS), tree.config.evaluation.images
    where = f"records of {attack.label} on {decision.row}"
    if sorted(rows["image"].tolist()) != list(range(images)):
        raise UserError(f"{where} are not of the first {images:,} test images, each once")
    state = deciding_state(tree, decision)
    predicted = rows["predicted"][:, -1 if state == FINAL else state - 1]
    refuse_uncomputed(predicted, state, where)
    right = np.zeros(images, bool)
    right[rows["image"]] = predicted == rows["label"]
    return OwnOutcome(attack, decision, right, files.sources)
