"""The states at which the decisions of a DEQ are taken, of the configuration."""

from deqpipe.analysis.answers import FINAL
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.results.early_states import EarlyState, read
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import DefenceName, defence_of


def early_states(tree: Tree, model: str) -> dict[DefenceName, EarlyState]:
    """The early state of each defence of a DEQ; a control decides at the state of the defence that it controls.

    Raises:
        UserError: the file is missing, no JSON, of another configuration, or names a state that does not exist.
    """
    kind = vocabulary.MODELS[model]
    chosen, _ = _selection(tree, model)
    return chosen | {control: chosen[_controlled(control)] for control in kind.controls(tree.config.entropy)}


def deciding_state(tree: Tree, decision: Decision) -> int:
    """The state of a decision, counted from 1, or FINAL; a control decides where what it is a control of does.

    A baseline of at most a defence's cost decides at its last state: nobody selects one.
    """
    if not vocabulary.MODELS[decision.model].is_deq or defence_of(decision.defence).of_seeds:
        return FINAL
    if defence_of(decision.defence).matched_to:
        return tree.config.solver.steps
    whose: DefenceName = defence_of(decision.defence).control_of or decision.defence
    return early_states(tree, decision.model)[whose].state


def _controlled(control: DefenceName) -> DefenceName:
    """The defence that a control is one of."""
    controlled = defence_of(control).control_of
    assert controlled is not None, f"{control} is no control"
    return controlled


def selection_source(tree: Tree, model: str) -> Source:
    """The file that early states come from."""
    _, source = _selection(tree, model)
    return source


def _selection(tree: Tree, model: str) -> tuple[dict[DefenceName, EarlyState], Source]:
    path = tree.select(model)
    chosen, provenance = read(path, vocabulary.MODELS[model].defences)
    return chosen, tree.checked_source("select", model, path, provenance)
