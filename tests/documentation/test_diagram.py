"""Pictures of graphs: no arrow that others imply, and always the same."""

from graphlib import CycleError

import pytest

from documentation import rules
from documentation.diagram import flowchart, reduced


def test_arrows_that_others_imply_are_left_out() -> None:
    assert reduced([("a", "c"), ("b", "c"), ("c", "d"), ("a", "b"), ("a", "d")]) == [("a", "b"), ("b", "c"), ("c", "d")]


def test_two_ways_of_equal_length_are_both_kept() -> None:
    diamond = {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}
    assert reduced(diamond) == sorted(diamond)


def test_a_cycle_is_refused() -> None:
    with pytest.raises(CycleError):
        reduced({("a", "b"), ("b", "c"), ("c", "a")})


def test_a_flowchart_is_a_block_of_mermaid() -> None:
    assert flowchart([("b", "c"), ("a", "b")], direction="TD") == (
        "```mermaid\nflowchart TD\n    a --> b\n    b --> c\n```\n"
    )


def test_the_graph_of_rules_lacks_what_clutters_it() -> None:
    nodes = "".join(f"\tid{number}[{name}]\n" for number, name in enumerate(("all", "c", "b", "a", "write_config")))
    arrows = "".join(f"\tid{start} --> id{end}\n" for start, end in ((3, 2), (2, 1), (3, 1), (1, 0), (4, 1)))
    assert rules.edges(nodes + arrows) == {("a", "b"), ("b", "c"), ("a", "c")}
