"""Configuration files: read, laid over each other, resolved and validated."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deqpipe.config.base import merge
from deqpipe.config.checks import check
from deqpipe.config.experiment import Config
from deqpipe.config.protocols import resolve_protocol
from deqpipe.errors import UserError


def load(paths: Sequence[Path], *, protocol: str | None = None) -> Config:
    """The configuration in YAML files, later ones laid over earlier ones.

    Args:
        paths: the files.
        protocol: the protocol in force, whatever the files say of it.

    Raises:
        UserError: a file is missing or no YAML mapping, or the result is not a valid configuration.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path))
    return parse(merged if protocol is None else merged | {"protocol": protocol})


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, in which every key stands once.

    Raises:
        UserError: the file cannot be read, is no YAML, or holds something else than keys and values.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist") from None
    except yaml.YAMLError as error:
        raise UserError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from None
    except (OSError, ValueError) as error:  # a folder, no permission; not UTF-8, the 32nd of a month
        raise UserError(f"config file {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UserError(f"config file {path} holds a {type(value).__name__}, but must hold keys and values")
    return value


# The one of libyaml, which PyYAML is usually built with, is ten times as fast; their types are not related.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """YAML's safe loader, which otherwise takes the last of several equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        constructed: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return constructed


def parse(raw: Mapping[str, Any]) -> Config:
    """The configuration that a mapping describes, with `protocol` resolved and every key checked.

    Raises:
        UserError: one line that names the first wrong key, its value and what was allowed.
    """
    try:
        config = Config.model_validate(resolve_protocol(raw))
    except ValidationError as error:
        raise UserError(_one_line(error)) from None
    check(config)
    return config


def _one_line(error: ValidationError) -> str:
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        return f"config: unknown key {key}{_closest(first['loc'])}{more}"
    if first["type"] == "missing":
        return f"config: {key} is missing{more}"
    return f"config: {key} is {first['input']!r}: {first['msg'].lower()}{_number_hint(first['input'])}{more}"


def _number_hint(value: object) -> str:
    """What is wrong with a number that YAML takes for text, such as 1e-3."""
    try:
        text = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        text = False
    return "; this is text: YAML wants numbers without quotes, and 1.0e-3 instead of 1e-3" if text else ""


def _closest(loc: tuple[int | str, ...]) -> str:
    import difflib

    section: Any = Config
    for part in loc[:-1]:
        section = section.model_fields[str(part)].annotation
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed here: {', '.join(names)}"
