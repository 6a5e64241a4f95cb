"""Paper, authors' code, deqpipe: every item once, every key known, every choice explained."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import pytest

from deqpipe import config
from deqpipe.config import PROTOCOLS
from deqpipe.workflow import products
from documentation.differences import DIFFERENCES, FINDINGS, NO_RESULT, Difference
from tests.tiny import ROOT

DEFAULTS = config.read_yaml(ROOT / "config.yaml")
ALL: tuple[Difference, ...] = tuple(chain.from_iterable(DIFFERENCES.values()))
NAMED = {key for difference in ALL for key in difference.keys}

ABSENT = "ot part of the workflow yet"

# Keys that no item names: they say where and how to compute, which images, what the word `protocol` means, or what only
# tables beside the paper's are made of.
UNNAMED = {
    "protocol",
    "device",
    "gpu_request",
    "compile",
    "graphs",
    "pathvars.results",
    "pathvars.logs",
    "pathvars.state",
    "data.source",
    "data.root",
    "attack.states_per_job",
    "attack.images_per_job",
    "imported",
    "extensions",
    "racing.enabled",
    "racing.images",
    "racing.confidence",
    "weight_perturbation.enabled",
    "weight_perturbation.size.pgd_at",
    "weight_perturbation.size.trades",
    "weight_perturbation.warmup_epochs",
    "suite.enabled",
    "suite.mode",
    "suite.images",
    "suite.images_per_job",
    "suite.controls",
    "suite.static",
    "suite.iterations",
    "suite.restarts",
    "suite.targets",
    "suite.long",
    "suite.queries",
    "suite.decision_queries",
    "suite.radii",
    "suite.radius_images",
}


def keys(section: type[config.Section], prefix: str = "") -> Iterator[str]:
    """Every dotted key of the configuration's types, those of all variants included."""
    for name, field in section.model_fields.items():
        kinds = config.variants_of(field)
        yield from dict.fromkeys(key for kind in kinds for key in keys(kind, f"{prefix}{name}."))
        if not kinds:
            yield prefix + name


def look_up(node: Any, key: str) -> Any:
    """The value of a dotted key in nested mappings; None where it belongs to a variant that is not chosen."""
    path = list[str]()
    for part in key.split("."):
        if part not in node and ".".join(path) in config.all_variants():
            return None
        node = node[part]
        path.append(part)
    return node


def under(protocol: str) -> dict[str, Any]:
    """Every value of the default configuration, resolved under a protocol."""
    return config.parse({**DEFAULTS, "protocol": protocol}).model_dump()


def laid_over(mapping: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    """A mapping with one dotted key changed."""
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return config.merge(mapping, value)


def test_every_item_stands_exactly_once() -> None:
    counted = Counter(chain(NO_RESULT, *(difference.items for difference in ALL)))
    assert counted == Counter(range(1, 98))


def test_tables_and_figures_are_absent_exactly_where_the_workflow_does_not_make_them() -> None:
    made = {f"table {number}" for number in products.TABLES} | {f"figure {number}" for number in products.FIGURES}
    for difference in DIFFERENCES["Figures and tables"]:
        wanted = set(results_in(re.sub(r"3\([abc]\)", "3", difference.topic)))
        assert (ABSENT in difference.here) == bool(wanted - made), difference.topic


def results_in(topic: str) -> Iterator[str]:
    """What a topic is about, such as `table 6` and `table 7`."""
    for kind, numbers in re.findall(r"(Table|Figure)s? (\d+(?: and \d+)*)", topic):
        yield from (f"{kind.lower()} {number}" for number in numbers.split(" and "))


def test_items_ascend_within_a_section() -> None:
    for title, differences in DIFFERENCES.items():
        numbers = [item for difference in differences for item in difference.items]
        assert numbers == sorted(numbers), title


def test_findings_concern_items_that_touch_a_result() -> None:
    touched = {item for difference in ALL for item in difference.items}
    for finding in FINDINGS:
        assert finding.items
        assert touched.issuperset(finding.items), finding.text


def test_nothing_is_left_empty_or_named_twice() -> None:
    for difference in ALL:
        assert all((difference.topic, difference.paper, difference.release, difference.here)), difference
        assert len(set(difference.keys)) == len(difference.keys), difference
    assert all(finding.text and finding.evidence for finding in FINDINGS)
    assert all(NO_RESULT.values())


def test_topics_are_told_apart_within_a_section() -> None:
    for title, differences in DIFFERENCES.items():
        assert len({difference.topic for difference in differences}) == len(differences), title


def test_every_key_that_an_item_names_exists() -> None:
    assert set(keys(config.Config)) >= NAMED


def test_every_key_of_a_protocol_is_named_by_an_item() -> None:
    assert set(PROTOCOLS["paper"]) <= NAMED


def test_every_other_key_is_named_or_touches_no_result() -> None:
    assert set(keys(config.Config)) - NAMED == UNNAMED


def test_both_protocols_set_the_same_keys() -> None:
    assert PROTOCOLS.keys() == {"paper", "release"}
    assert PROTOCOLS["paper"].keys() == PROTOCOLS["release"].keys()


def test_the_protocols_differ_in_every_key() -> None:
    same = [key for key, value in PROTOCOLS["paper"].items() if PROTOCOLS["release"][key] == value]
    assert not same


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_protocol_says_nothing_that_its_keys_do_not_allow(name: str) -> None:
    resolved = under(name)
    for key, value in PROTOCOLS[name].items():
        found = look_up(resolved, key)
        assert (found, type(found)) == (value, type(value)), key


def test_config_yaml_leaves_to_the_protocol_what_a_protocol_sets() -> None:
    left = [key for key in keys(config.Config) if key != "protocol" and look_up(DEFAULTS, key) == "protocol"]
    assert sorted(left) == sorted(PROTOCOLS["paper"])


def test_the_protocols_change_no_other_key() -> None:
    paper, release = under("paper"), under("release")
    differing = {key for key in keys(config.Config) if look_up(paper, key) != look_up(release, key)}
    assert differing == {"protocol", *PROTOCOLS["paper"]}


@pytest.mark.parametrize("key", sorted(PROTOCOLS["paper"]))
@pytest.mark.parametrize(("name", "other"), [("paper", "release"), ("release", "paper")])
def test_a_key_can_be_set_alone(name: str, other: str, key: str) -> None:
    whole = DEFAULTS
    alone = config.parse({**whole, "protocol": name}).model_dump()
    mixed = config.parse(laid_over({**whole, "protocol": name}, key, PROTOCOLS[other][key])).model_dump()
    assert {one for one in keys(config.Config) if look_up(mixed, one) != look_up(alone, one)} == {key}
