"""Writes the generated files: schemas/config.schema.json, two pages of docs/ and the diagram of rules in README.md.

Run from the root of the repository:

    python -m deqpipe.docs            write them
    python -m deqpipe.docs --check    exit 1, naming the file, where one is not what would be written
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deqpipe import config
from deqpipe.differences import DIFFERENCES, FINDINGS, NO_RESULT, Difference
from deqpipe.results import records

SCHEMA = Path("schemas/config.schema.json")
PAGE = Path("docs/configuration.md")
DIFFERENCES_PAGE = Path("docs/differences.md")
README = Path("README.md")
DIAGRAM = re.compile(r"(?<=<!-- rulegraph -->\n).*?(?=<!-- /rulegraph -->)", re.DOTALL)

BOUNDS: Mapping[str, str] = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}

HEAD = """\
# Configuration

`config.yaml` holds every key with its default: the paper's experiment on CIFAR-10. Another experiment is an overlay
that names only what differs, as `config/demo.yaml` does:

    snakemake --configfile my.yaml
    snakemake results/tables/table2.csv --configfile my.yaml

A target stands before `--configfile`, which takes everything behind it for a config file.

Unknown and missing keys, wrong types and impossible values are refused when the Snakefile is read, in one line and with
exit status 2. `deqpipe check-config config.yaml my.yaml` does only that; it also refuses a key that stands twice, of
which Snakemake takes the last, and says in one line what is wrong with a file that is no YAML. Nested values cannot be
given with `--config`, which makes text of them.

`protocol` as a value means: what the key `protocol` at the top says of this key; that value follows in brackets.

The column "allowed" gives types and bounds; values that make no sense together are refused too, with the reason.

This page is generated from the types in `deqpipe/config.py` (`make generate`).
"""

DIFFERENCES_HEAD = """\
# Paper, authors' code, deqpipe

The paper and the code that its authors released disagree in places, and each leaves open what the other settles. Here
is every choice known to touch a result: what the paper says, what the authors' code does, what deqpipe does, and the
key that decides. Equations, sections and tables are the paper's; states are counted from 1.

"The authors' code" is the repository minicheshire/DEQ-Regulating-Neural-Dynamics at commit 862034f: its training code
in `random-intermediate-states/`, its evaluation code in `input-entropy-reduction/`. "The earlier repository" is
minicheshire/DEQ-White-Box-Robustness at commit b99ab3f, the code of Yang et al. (2022).

## Two protocols

* `protocol: paper` takes what the paper's text and equations say, wherever they say something definite; where the paper
  is silent (initialisation, dropout, when the Jacobian is regularised), what the authors' code does.
* `protocol: release` takes what the authors' code does, as far as there is a key for it.

The word sets the keys of the first table below, as long as their value in the configuration is `protocol`. All other
keys are the same in both. Any key can be set alone, on top of either protocol. Laid over config.yaml, this file

    protocol: paper
    attack:
      unroll:
        lead_step: true

runs the paper's text, but for the authors' unroll in attacks and to the final state. Few mixtures are refused: those in
which one value takes away the meaning of another, and jobs that would cut batches of coupled images.

What ran is recorded, not what was asked for: the provenance of every result holds the resolved values of the keys that
its job depends on, and fingerprints of the jobs before it; `config.yaml` in the results folder holds those of all keys.
Every table names the protocol and the keys that depart from it.

**Coupled images.** The authors' solver takes norms over a whole batch: they decide when a solve stops and which of its
states is z*. A prediction then depends on the images beside it. `solver.scope: batch` and `solver.returned:
lowest_batch` do the same here. With one of them the size of a batch is part of what results depend on, and
`attack.images_per_job` must be a multiple of it, or no less than all images. (Training couples the images of a batch in
any case, by BatchNorm; a selecting attack at random states draws one of them per batch.)
"""

FINDINGS_HEAD = """\
## What to know first

What is *verified* was seen by running the authors' code on a CPU, what is *read* stands in it, what is *inferred*
follows from numbers in the paper and may be wrong.

"""

PROTOCOL_KEYS = """\
## Keys that the protocols set

| key | paper | release | allowed | config.yaml | items |
| --- | --- | --- | --- | --- | --- |
"""

SHARED_KEYS = """\
## Keys that decide something below and are the same in both

| key | config.yaml | allowed | items |
| --- | --- | --- | --- |
"""

SECTION_HEAD = """\
| item | what | paper | authors' code | here | key: paper / release, or config.yaml |
| --- | --- | --- | --- | --- | --- |
"""

NO_RESULT_HEAD = """\
## Items that touch no result

| item | what |
| --- | --- |
"""

DIFFERENCES_END = """\
This page is generated from `deqpipe/differences.py` and the types in `deqpipe/config.py` (`make generate`).
"""


def generate(root: Path) -> dict[Path, str]:
    """The generated files and what they should hold.

    Args:
        root: the repository.
    """
    schema = json.dumps(config.json_schema(), indent=2) + "\n"
    picture = f"```mermaid\n{diagram(rule_graph(root))}```\n"
    readme = DIAGRAM.sub(lambda match: picture, (root / README).read_text(encoding="utf-8"))
    return {
        SCHEMA: schema,
        PAGE: configuration_page(root),
        DIFFERENCES_PAGE: differences_page(root),
        README: readme,
    }


def rule_graph(root: Path) -> str:
    """Which rule needs which, as Snakemake draws it (Mermaid)."""
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def diagram(graph: str) -> str:
    """Snakemake's graph of rules, always in the same order and without what clutters it.

    Left out: the target `all`, the merged config that every table and figure reads, and arrows that others imply.
    """
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph)}
    edges = {edge for edge in edges if not {"all", "write_config"} & set(edge)}
    kept = sorted(edge for edge in edges if not _implied(edge, edges))
    return "flowchart LR\n" + "".join(f"    {before} --> {after}\n" for before, after in kept)


def _implied(edge: tuple[str, str], edges: set[tuple[str, str]]) -> bool:
    """Whether a longer way leads from one end of an edge to the other."""
    start, end = edge
    reached, waiting = set(), [after for before, after in edges if before == start and after != end]
    while waiting:
        rule = waiting.pop()
        if rule not in reached:
            reached.add(rule)
            waiting.extend(after for before, after in edges if before == rule)
    return end in reached


def configuration_page(root: Path) -> str:
    """The page that explains every key."""
    defaults = config.read_yaml(root / "config.yaml")
    demo = config.read_yaml(root / "config" / "demo.yaml")
    lines = [HEAD, "## Top level", ""]
    lines += _table(_leaves(config.Config, "", nested=False), defaults, demo)
    for name, field in config.Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, config.Section):
            lines += ["", f"## {name}", "", (section.__doc__ or "").strip(), ""]
            lines += _table(_leaves(section, f"{name}.", nested=True), defaults, demo)
    return "\n".join(lines) + "\n"


def differences_page(root: Path) -> str:
    """The page that says where paper, authors' code and deqpipe differ."""
    defaults = config.read_yaml(root / "config.yaml")
    parts = [DIFFERENCES_HEAD, _findings(), _protocol_keys(defaults), _shared_keys(defaults)]
    parts += [_section(title, differences, defaults) for title, differences in DIFFERENCES.items()]
    parts += [NO_RESULT_HEAD + "".join(f"| {item} | {_cell(why)} |\n" for item, why in sorted(NO_RESULT.items()))]
    return "\n".join([*parts, DIFFERENCES_END])


def _findings() -> str:
    lines = [
        f"{number}. {finding.text} (*{', '.join(finding.evidence)}*; "
        f"item{'s' if len(finding.items) > 1 else ''} {', '.join(map(str, finding.items))})\n"
        for number, finding in enumerate(FINDINGS, 1)
    ]
    return FINDINGS_HEAD + "".join(lines)


def _protocol_keys(defaults: Mapping[str, Any]) -> str:
    leaves = dict(_leaves(config.Config, "", nested=True))
    rows = []
    for key in config.PROTOCOLS["paper"]:
        cells = (*_by_protocol(key), _allowed(leaves[key]), _value(_look_up(defaults, key)), _named_by(key))
        rows.append(f"| `{key}` | {' | '.join(cells)} |\n")
    return PROTOCOL_KEYS + "".join(rows)


def _by_protocol(key: str) -> tuple[str, ...]:
    return tuple(_value(values[key]) for values in config.PROTOCOLS.values())


def _shared_keys(defaults: Mapping[str, Any]) -> str:
    rows = [
        f"| `{key}` | {_value(_look_up(defaults, key))} | {_allowed(schema)} | {_named_by(key)} |\n"
        for key, schema in _leaves(config.Config, "", nested=True)
        if key not in config.PROTOCOLS["paper"] and _named_by(key)
    ]
    return SHARED_KEYS + "".join(rows)


def _named_by(key: str) -> str:
    """The items that name a key."""
    found = {item for section in DIFFERENCES.values() for one in section if key in one.keys for item in one.items}
    return ", ".join(map(str, sorted(found)))


def _section(title: str, differences: Iterable[Difference], defaults: Mapping[str, Any]) -> str:
    rows = []
    for one in differences:
        cells = (", ".join(map(str, one.items)), *map(_cell, (one.topic, one.paper, one.release, one.here)))
        keys = "<br>".join(f"`{key}`: {_resolved(key, defaults)}" for key in one.keys)
        rows.append(f"| {' | '.join(cells)} | {keys} |\n")
    return f"## {title}\n\n{SECTION_HEAD}{''.join(rows)}"


def _resolved(key: str, defaults: Mapping[str, Any]) -> str:
    """What a key is under each protocol, if they differ about it; otherwise what config.yaml says.

    Raises:
        KeyError: there is no such key.
    """
    if key in config.PROTOCOLS["paper"]:
        return " / ".join(_by_protocol(key))
    value = _look_up(defaults, key)
    if value is None:
        raise KeyError(key)
    return _value(value)


def _cell(text: str) -> str:
    """Words as a cell of a table."""
    return text.replace("|", "\\|").replace("<", "\\<")


def _leaves(section: type[config.Section], prefix: str, *, nested: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted name and JSON schema of every key that holds no section; with `nested` those of its sections too."""
    properties = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, config.Section)):
            yield prefix + name, properties[name]
        elif nested:
            yield from _leaves(inner, f"{prefix}{name}.", nested=True)


def _table(
    leaves: Iterator[tuple[str, dict[str, Any]]], defaults: Mapping[str, Any], demo: Mapping[str, Any]
) -> list[str]:
    rows = ["| key | default | demo | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    for key, schema in leaves:
        meaning = " ".join(schema.get("description", "").split()).replace("|", "\\|").replace("<", "\\<")
        default, reduced = _default(key, defaults), _value(_look_up(demo, key))
        rows.append(f"| `{key}` | {default} | {reduced} | {_allowed(schema)} | {meaning} |")
    return rows


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a key may hold, in words: the choices, or the type and its bounds."""
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices:
        return ", ".join(_value(choice) for choice in choices)
    if "anyOf" in schema:
        return " or ".join(_allowed(one) for one in schema["anyOf"])
    if schema["type"] == "array":
        items = schema.get("items") or schema["prefixItems"][0]
        return f"list of {_allowed(items)}"
    return " ".join([schema["type"], *(f"{sign} {schema[word]:g}" for word, sign in BOUNDS.items() if word in schema)])


def _default(key: str, defaults: Mapping[str, Any]) -> str:
    value = _look_up(defaults, key)
    if value != "protocol":
        return _value(value)
    return f"`protocol` ({', '.join(f'{name}: {_value(of[key])}' for name, of in config.PROTOCOLS.items())})"


def _value(value: object) -> str:
    """A value as it stands in a config file: YAML takes 1e-06 for text."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else re.sub(r"\b(\d+)e", r"\1.0e", json.dumps(value))
    return f"`{text}`"


def _look_up(mapping: Mapping[str, Any], key: str) -> object:
    """The value of a dotted key, or None where it does not stand."""
    node: object = mapping
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def main(arguments: list[str]) -> int:
    """Write the generated files, or only compare them; returns the exit status."""
    stale = {path: text for path, text in generate(Path()).items() if not path.exists() or path.read_text() != text}
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path} is not current: run `make generate`", file=sys.stderr)
        return int(bool(stale))
    for path, text in stale.items():
        records.write_text(path, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
