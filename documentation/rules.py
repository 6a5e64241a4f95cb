"""The picture of README.md: which rule of the workflow needs which."""

import re
import subprocess
import sys
from pathlib import Path

from documentation.diagram import Edge, flowchart

LEFT_OUT = {"all", "write_config"}
"""The target of everything, and the merged config that every table and figure reads."""


def picture(root: Path) -> str:
    """The rules as a Mermaid diagram, from left to right."""
    return flowchart(edges(rule_graph(root)), direction="LR")


def rule_graph(root: Path) -> str:
    """Which rule needs which, as Snakemake draws it (Mermaid)."""
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def edges(graph: str) -> set[Edge]:
    """The arrows of Snakemake's graph between the names of rules, without what would only clutter it."""
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    arrows = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}
    return {arrow for arrow in arrows if not LEFT_OUT & set(arrow)}
