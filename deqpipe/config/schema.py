"""The JSON schema of a config file."""

from collections.abc import Mapping
from typing import Any

from deqpipe.config.experiment import Config
from deqpipe.config.protocols import PROTOCOLS


def json_schema() -> dict[str, Any]:
    """JSON schema of a config file: the types' own, with `protocol` allowed where a protocol has a say."""
    schema = Config.model_json_schema()
    for key in PROTOCOLS["paper"]:
        node = schema
        for part in key.split(".")[:-1]:
            node = _resolve_reference(schema, node["properties"][part])
        name = key.rsplit(".", 1)[-1]
        plain = dict(node["properties"][name])
        if {"const": "protocol"} in plain.get("anyOf", ()):
            continue  # a section used twice (Unroll) is reached twice
        text = {word: plain.pop(word) for word in ("title", "description") if word in plain}
        node["properties"][name] = {**text, "anyOf": [plain, {"const": "protocol"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _resolve_reference(schema: Mapping[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return found
    return node
