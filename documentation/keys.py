"""The keys of the configuration in words: what pages show of their types and values."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from deqpipe import config

BOUNDS: Mapping[str, str] = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


Leaf: TypeAlias = tuple[str, dict[str, Any]]
"""Dotted name and JSON schema of a key that holds no section."""


def leaves(section: type[config.Section], prefix: str, *, nested: bool) -> Iterator[Leaf]:
    """Every key that holds no section; with `nested` those of its sections too, and those of all their variants."""
    properties = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        kinds, variants = config.variants_of(field), config.all_variants().get(prefix + name)
        if not kinds:
            yield prefix + name, properties[name]
        elif variants is not None and nested:
            yield from _of_variants(variants)
        elif nested:
            yield from leaves(kinds[0], f"{prefix}{name}.", nested=True)


def _of_variants(variants: config.Variants) -> Iterator[Leaf]:
    """The key that chooses, what all variants have, and last what some have."""
    every = {
        config.shown(value): dict(leaves(kind, f"{variants.path}.", nested=True))
        for value, kind in variants.sections.items()
    }
    tag = f"{variants.path}.{variants.tag}"
    yield tag, {"enum": list(variants.sections), "description": _chosen(variants)}
    for key in dict.fromkeys(key for keys in every.values() for key in keys if key != tag):
        schemas = {value: keys[key] for value, keys in every.items() if key in keys}
        alone = f" Only with {variants.tag}: {' or '.join(schemas)}." if len(schemas) < len(every) else ""
        yield key, {**next(iter(schemas.values())), "description": f"{_meaning(schemas)}{alone}"}


def _meaning(schemas: Mapping[str, Mapping[str, Any]]) -> str:
    """What a key means, by the variant where that is not the same in all that have it."""
    texts: dict[str, str] = {value: schema.get("description", "") for value, schema in schemas.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return " ".join(f"{value}: {text}" for value, text in texts.items())


def _chosen(variants: config.Variants) -> str:
    """What each variant is."""
    kinds = variants.sections.items()
    return " ".join(f"{config.shown(value)}: {(kind.__doc__ or '').strip()}" for value, kind in kinds)


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
    return " ".join(
        [schema["type"], *(f"{sign} {_bound(schema[word])}" for word, sign in BOUNDS.items() if word in schema)]
    )


def _bound(number: float) -> str:
    """A bound in digits: those of 64 bits as a power."""
    if number == 2**63 - 1:
        return "2^63 - 1"
    return f"{number:,}" if isinstance(number, int) or number >= 1 else f"{number:g}"


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
