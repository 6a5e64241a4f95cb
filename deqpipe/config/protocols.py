"""Every place where the paper's text and its authors' code differ: what `key: protocol` stands for."""

from collections.abc import Mapping
from typing import Any

from deqpipe.config.base import DEFAULT_BATCH, value_at
from deqpipe.errors import UserError

# `key: protocol` in a config file takes the value that stands here: every place where the paper's text and its authors'
# code differ, so that one word sets them together. docs/differences.md says what each of them means.
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "solver.returned": "last",
        "solver.tolerance": 0.0,
        "solver.scope": "sample",
        "training.unroll.lead_step": False,
        "attack.unroll.lead_step": False,
        "evaluation.final_unroll_steps": 5,
        "evaluation.batch_size": DEFAULT_BATCH,
        "training.epochs": 210,
        "training.learning_rate_min": 0.0,
        "random_state.pick": "iterate",
        "random_state.natural": "final",
        "selection.split": "validation",
        "selection.first_epoch": 1,
        "selection.attack_random_state": False,
        "selection.freeze_fooled": False,
        "early_state.mode": "select",
        "attack.pgd.clamp_start": True,
        "autoattack.mode": "standard",
        "autoattack.keep": "best_loss",
        "autoattack.restarts": 1,
        "entropy.resolve": "alg1",
        "entropy.last_update": "resolve",
        "entropy.state": "last",
        "entropy.final_input": "updated",
    },
    "release": {
        "solver.returned": "lowest_batch",
        "solver.tolerance": 1.0e-3,
        "solver.scope": "batch",
        "training.unroll.lead_step": True,
        "attack.unroll.lead_step": True,
        "evaluation.final_unroll_steps": 9,
        "evaluation.batch_size": 96,
        "training.epochs": 220,
        "training.learning_rate_min": 1.0e-6,
        "random_state.pick": "prefix_lowest",
        "random_state.natural": "independent",
        "selection.split": "test",
        "selection.first_epoch": 30,
        "selection.attack_random_state": True,
        "selection.freeze_fooled": True,
        "early_state.mode": "last",
        "attack.pgd.clamp_start": False,
        "autoattack.mode": "individual",
        "autoattack.keep": "success",
        "autoattack.restarts": 5,
        "entropy.resolve": "quasi_newton",
        "entropy.last_update": "dead",
        "entropy.state": "lowest",
        "entropy.final_input": "original",
    },
}


def resolve_protocol(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with every `key: protocol` replaced by what the protocol in force says of that key."""
    name = raw.get("protocol", "paper")
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise UserError(f"config: protocol is {name!r}, but must be one of {', '.join(sorted(PROTOCOLS))}")
    resolved: dict[str, Any] = dict(raw)
    for key, value in PROTOCOLS[name].items():
        *sections, last = key.split(".")
        resolved = _replace_sentinel(resolved, sections, last, value)
    return resolved


def is_resolved(raw: Mapping[str, Any]) -> bool:
    """Whether settings were written with their protocol's values in place of the word `protocol`.

    It takes the name of the protocol and a value for most of its keys: an older version may have had fewer keys, and an
    overlay states a few.
    """
    values = [value_at(raw, key) for key in PROTOCOLS["paper"]]
    stated = [value for value in values if value is not None]
    return "protocol" in raw and "protocol" not in stated and len(stated) > len(values) // 2


def _replace_sentinel(node: dict[str, Any], sections: list[str], key: str, value: object) -> dict[str, Any]:
    if sections:
        below = node.get(sections[0])
        if not isinstance(below, Mapping):
            return node
        return {**node, sections[0]: _replace_sentinel(dict(below), sections[1:], key, value)}
    return {**node, key: value} if node.get(key) == "protocol" else node
