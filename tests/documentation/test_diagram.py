"""Pictures of graphs: no arrow that others imply, and always the same."""

import re
from graphlib import CycleError
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from documentation import rules
from documentation.diagram import picture, reduced
from documentation.layers import crossings, layout
from tests.tiny import ROOT


def test_arrows_that_others_imply_are_left_out() -> None:
    assert reduced([("a", "c"), ("b", "c"), ("c", "d"), ("a", "b"), ("a", "d")]) == [("a", "b"), ("b", "c"), ("c", "d")]


def test_two_ways_of_equal_length_are_both_kept() -> None:
    diamond = {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}
    assert reduced(diamond) == sorted(diamond)


def test_a_cycle_is_refused() -> None:
    with pytest.raises(CycleError):
        reduced({("a", "b"), ("b", "c"), ("c", "a")})


def test_a_picture_names_every_node_and_draws_every_arrow_and_fetches_nothing() -> None:
    svg = picture([("b", "c"), ("a", "b & co"), ("b & co", "c")], title="Letters")
    root = ElementTree.fromstring(svg)
    space = {"svg": "http://www.w3.org/2000/svg"}
    assert [text.text for text in root.findall("svg:text", space)] == ["a", "b", "b & co", "c"]
    assert len(root.findall("svg:path", space)) == 3
    assert svg.count("http") == 1
    assert "<script" not in svg
    assert svg == picture([("b & co", "c"), ("a", "b & co"), ("b", "c")], title="Letters")


def test_layers_untangle_what_need_not_cross() -> None:
    laid = layout([("a", "y"), ("b", "x"), ("x", "end"), ("y", "end")])
    steps = [pair for way in laid.ways.values() for pair in pairwise(way)]
    assert crossings((("a", "b"), ("x", "y"), ("end",)), steps) == 1
    assert crossings(laid.layers, steps) == 0


def test_a_long_arrow_bends_around_what_lies_between() -> None:
    laid = layout([("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")])
    (bend,) = laid.ways["a", "c"][1:-1]
    assert abs(laid.across[bend] - laid.across["b"]) >= 1
    assert all(len({laid.across[name] for name in layer}) == len(layer) for layer in laid.layers)


def test_every_rule_has_a_phase_and_the_phases_are_without_a_cycle() -> None:
    names = re.findall(r"^rule (\w+):", "".join(path.read_text() for path in ROOT.glob("rules/*.smk")), re.MULTILINE)
    targets = {"tables", "figures", "attack_point", "write_config"}
    assert [name for name in names if name not in targets and not rules.phase_of(name)] == []
    with pytest.raises(ValueError, match="rule make_tea is in no phase"):
        rules.coarse([("pretrain", "make_tea")])
    assert rules.coarse([("pretrain", "train_deq"), ("table1", "figure2")]) == {("trunk", "four DEQs")}


def test_the_graph_of_rules_lacks_what_clutters_it() -> None:
    nodes = "".join(f"\tid{number}[{name}]\n" for number, name in enumerate(("all", "c", "b", "a", "write_config")))
    arrows = "".join(f"\tid{start} --> id{end}\n" for start, end in ((3, 2), (2, 1), (3, 1), (1, 0), (4, 1)))
    assert rules.edges(nodes + arrows) == {("a", "b"), ("b", "c"), ("a", "c")}
