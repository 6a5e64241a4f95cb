"""Pages of the configuration and of differences: every key and every item, with the values that are in force."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from deqpipe import config
from documentation import configuration_page, differences_page
from documentation.differences import DIFFERENCES, FINDINGS, NO_RESULT, Difference
from tests.tiny import ROOT


def keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every dotted key that holds no section, with its value."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_page_explains_every_key_with_its_default() -> None:
    page = configuration_page.page(ROOT)
    for key, value in keys(config.read_yaml(ROOT / "config.yaml")):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
        shown = value if isinstance(value, str) else json.dumps(value)
        assert f"`{shown}`" in row.split("|")[2], row


def rows_of(page: str, title: str) -> list[list[str]]:
    """The cells of the table under a title, head left out."""
    (part,) = [part for part in page.split("\n## ") if part.startswith(f"{title}\n")]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def read_back(cell: str) -> object:
    """The value that a cell shows, as a config file that it is copied into would have it."""
    assert (cell[0], cell[-1]) == ("`", "`"), cell
    return yaml.safe_load(cell[1:-1])


def test_keys_of_the_protocols_are_shown_as_the_protocols_set_them() -> None:
    rows = rows_of(differences_page.page(ROOT), "Keys that the protocols set")
    shown = {row[0].strip("`"): [read_back(cell) for cell in row[1:3]] for row in rows}
    assert shown == {key: [value, config.PROTOCOLS["release"][key]] for key, value in config.PROTOCOLS["paper"].items()}
    assert all(row[4] == "`protocol`" and row[5] for row in rows)


def test_keys_that_both_protocols_share_are_shown_as_config_yaml_has_them() -> None:
    rows = rows_of(differences_page.page(ROOT), "Keys that decide something below and are the same in both")
    shown = {row[0].strip("`"): row[1] if row[1].startswith("with ") else read_back(row[1]) for row in rows}
    defaults = dict(keys(config.read_yaml(ROOT / "config.yaml")))
    named = {key for section in DIFFERENCES.values() for one in section for key in one.keys}
    of_variants = {
        "solver.memory": "with name: anderson",
        "training.gradient.steps": "with name: exact",
        "early_state.index": "with mode: fixed",
    }
    assert shown == {key: (defaults | of_variants)[key] for key in named - set(config.PROTOCOLS["paper"])}
    assert all(row[3] for row in rows)


@pytest.mark.parametrize("title", DIFFERENCES)
def test_a_section_of_differences_shows_all_of_each(title: str) -> None:
    rows = rows_of(differences_page.page(ROOT), title)
    for row, one in zip(rows, DIFFERENCES[title], strict=True):
        words = (one.topic, one.paper, one.release, one.here)
        assert row[:5] == [", ".join(map(str, one.items)), *(text.replace("<", "\\<") for text in words)]
        named = [part.partition(":")[0].strip("`") for part in row[5].split("<br>") if part]
        assert named == list(one.keys)


def test_an_item_shows_what_each_protocol_makes_of_its_key() -> None:
    rows = rows_of(differences_page.page(ROOT), "Solver")
    (row,) = [row for row in rows if row[0] == "10"]
    paper, release = (values["solver.returned"] for values in config.PROTOCOLS.values())
    assert row[5] == f"`solver.returned`: `{paper}` / `{release}`"


def test_the_overlay_on_the_page_of_differences_is_valid() -> None:
    lines = differences_page.page(ROOT).partition("\n## What to know first")[0].splitlines()
    overlay = yaml.safe_load("\n".join(line for line in lines if line.startswith("    ")))
    mixed = config.parse(config.merge(config.read_yaml(ROOT / "config.yaml"), overlay))
    assert (mixed.protocol, mixed.attack.unroll.lead_step) == ("paper", True)


def test_findings_say_how_they_are_known() -> None:
    page = differences_page.page(ROOT)
    for number, finding in enumerate(FINDINGS, 1):
        (line,) = [line for line in page.splitlines() if line.startswith(f"{number}. ")]
        assert finding.text in line
        assert f"*{', '.join(finding.evidence)}*" in line


def test_items_without_a_result_are_listed_with_their_reason() -> None:
    rows = rows_of(differences_page.page(ROOT), "Items that touch no result")
    assert {int(item): why for item, why in rows} == dict(NO_RESULT)


def test_a_key_that_does_not_exist_is_not_shown_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Difference((1,), "topic", "paper", "release", "here", ("solver.nonsense",))
    monkeypatch.setattr(differences_page, "DIFFERENCES", {"Wrong": (wrong,)})
    with pytest.raises(KeyError, match=r"solver\.nonsense"):
        differences_page.page(ROOT)
