"""The JSON schema of a config file."""

from collections.abc import Iterator, Mapping
from typing import Any

from deqpipe.config.experiment import Config
from deqpipe.config.protocols import PROTOCOLS
from deqpipe.config.variants import all_variants


def json_schema() -> dict[str, Any]:
    """JSON schema of a config file: the types' own, with `protocol` allowed where a protocol has a say."""
    schema = Config.model_json_schema()
    tags = {f"{path}.{variants.tag}" for path, variants in all_variants().items()}
    for key in PROTOCOLS["paper"]:
        *sections, name = key.split(".")
        if key in tags:
            _allow_variant(_holder(schema, sections), name)
        else:
            for node in _nodes(schema, sections):
                _allow(node["properties"], name)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _allow(properties: dict[str, Any], name: str) -> None:
    plain = dict(properties[name])
    if {"const": "protocol"} in plain.get("anyOf", ()):
        return  # a section used twice (Unroll) is reached twice
    text = {word: plain.pop(word) for word in ("title", "description") if word in plain}
    properties[name] = {**text, "anyOf": [plain, {"const": "protocol"}]}


def _allow_variant(choice: dict[str, Any], tag: str) -> None:
    """One variant more: the one that the protocol chooses."""
    alone = {"properties": {tag: {"const": "protocol"}}, "required": [tag], "additionalProperties": False}
    choice["oneOf"].append({"title": "ByProtocol", "type": "object", **alone})


def _holder(schema: dict[str, Any], sections: list[str]) -> dict[str, Any]:
    """What a schema says of a section of several variants."""
    *above, last = sections
    (node,) = _nodes(schema, above)
    holder: dict[str, Any] = node["properties"][last]
    return holder


def _nodes(schema: dict[str, Any], sections: list[str]) -> list[dict[str, Any]]:
    """The sections of a path, of which there are several where it leads through variants."""
    nodes = [schema]
    for part in sections:
        nodes = [below for node in nodes for below in _resolved(schema, node["properties"][part])]
    return nodes


def _resolved(schema: Mapping[str, Any], node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in node.get("oneOf", [node]):
        yield schema["$defs"][one["$ref"].rsplit("/", 1)[-1]] if "$ref" in one else one
