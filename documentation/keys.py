"""The keys of the configuration in words: what pages show of their types and values."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from deqpipe import config

BOUNDS: Mapping[str, str] = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def leaves(section: type[config.Section], prefix: str, *, nested: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted name and JSON schema of every key that holds no section; with `nested` those of its sections too."""
    properties = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, config.Section)):
            yield prefix + name, properties[name]
        elif nested:
            yield from leaves(inner, f"{prefix}{name}.", nested=True)


def allowed(schema: Mapping[str, Any]) -> str:
    """What a key may hold, in words: the choices, or the type and its bounds."""
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices:
        return ", ".join(shown(choice) for choice in choices)
    if "anyOf" in schema:
        return " or ".join(allowed(one) for one in schema["anyOf"])
    if schema["type"] == "array":
        items = schema.get("items") or schema["prefixItems"][0]
        return f"list of {allowed(items)}"
    return " ".join([schema["type"], *(f"{sign} {schema[word]:g}" for word, sign in BOUNDS.items() if word in schema)])


def shown(value: object) -> str:
    """A value as it stands in a config file: YAML takes 1e-06 for text."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else re.sub(r"\b(\d+)e", r"\1.0e", json.dumps(value))
    return f"`{text}`"


def look_up(mapping: Mapping[str, Any], key: str) -> object:
    """The value of a dotted key, or None where it does not stand."""
    node: object = mapping
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def by_protocol(key: str) -> tuple[str, ...]:
    """What each protocol sets a key to."""
    return tuple(shown(values[key]) for values in config.PROTOCOLS.values())


def cell(text: str) -> str:
    """Words as a cell of a table."""
    return text.replace("|", "\\|").replace("<", "\\<")
