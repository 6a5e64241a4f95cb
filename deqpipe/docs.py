"""Writes the generated files: schemas/config.schema.json, docs/configuration.md and the diagram of rules in README.md.

Run from the root of the repository:

    python -m deqpipe.docs            write them
    python -m deqpipe.docs --check    exit 1, naming the file, where one is not what would be written
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deqpipe import config, records

SCHEMA = Path("schemas/config.schema.json")
PAGE = Path("docs/configuration.md")
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


def generate(root: Path) -> dict[Path, str]:
    """The generated files and what they should hold.

    Args:
        root: the repository.
    """
    schema = json.dumps(config.json_schema(), indent=2) + "\n"
    picture = f"```mermaid\n{diagram(rule_graph(root))}```\n"
    readme = DIAGRAM.sub(lambda match: picture, (root / README).read_text(encoding="utf-8"))
    return {SCHEMA: schema, PAGE: configuration_page(root), README: readme}


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
    return "" if value is None else f"`{json.dumps(value) if not isinstance(value, str) else value}`"


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
