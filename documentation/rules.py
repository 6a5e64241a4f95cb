"""The pictures of the workflow: which rule needs which, and the same in a few phases for README.md."""

import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from documentation.diagram import picture
from documentation.layers import Edge

LEFT_OUT = {"all", "write_config"}
"""The target of everything, and the merged config that every table and figure reads."""
PHASES: Mapping[str, tuple[str, ...]] = {
    "images": ("prepare_data",),
    "trunk": ("pretrain",),
    "four DEQs": ("train_deq", "train_own", "use_imported"),
    "two ResNets": ("train_feedforward",),
    "clean and PGD": ("clean", "attack_pgd"),
    "early states": ("select_early_state",),
    "144 attacks": ("attack_grid",),
    "strongest": ("strongest", "race", "race_sweep"),
    "AutoAttack, sweeps": ("autoattack", "attack_top", "attack_in_loop", "attack_sweep"),
    "attacks that know it": ("attack_suite", "attack_transferred", "attack_radius", "attack_ensemble", "attack_own"),
    "speed": ("time_training", "time_inference"),
    "tables, figures": (r"table\d+", r"figure\d+", "attack_example"),
    "report": ("report", "model_cards"),
}
"""The rules of each phase, as regular expressions."""


def pictures(graph: str) -> dict[str, str]:
    """The pictures of a graph of Snakemake's, by file name.

    Args:
        graph: as `rule_graph` gives it.
    """
    every = edges(graph)
    return {
        "rulegraph.svg": picture(coarse(every), title="The workflow in phases: images to report"),
        "rules.svg": picture(every, title="Which rule of the workflow needs which"),
    }


def rule_graph(root: Path) -> str:
    """Which rule needs which, as Snakemake draws it (Mermaid)."""
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def edges(graph: str) -> set[Edge]:
    """The arrows of Snakemake's graph between the names of rules, without what would only clutter it."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    arrows = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}
    return {arrow for arrow in arrows if not LEFT_OUT & set(arrow)}


def coarse(arrows: Collection[Edge]) -> set[Edge]:
    """The arrows between phases.

    Raises:
        ValueError: a rule is in no phase.
    """
    between = {(phase_of(before), phase_of(after)) for before, after in arrows}
    return {(before, after) for before, after in between if before != after}


def phase_of(rule: str) -> str:
    """The phase of a rule.

    Raises:
        ValueError: it is in none.
    """
    for phase, patterns in PHASES.items():
        if any(re.fullmatch(pattern, rule) for pattern in patterns):
            return phase
    raise ValueError(f"rule {rule} is in no phase of documentation/rules.py, but every rule must be in one")
