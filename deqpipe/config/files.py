"""Configuration files: read, laid over each other, resolved and validated."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deqpipe.config.checks import check
from deqpipe.config.experiment import Config
from deqpipe.config.old_keys import refuse_old_keys
from deqpipe.config.protocols import resolve_protocol
from deqpipe.config.refusals import one_line
from deqpipe.config.variants import merge, refuse_lookalikes
from deqpipe.errors import UserError


def load(paths: Sequence[Path], *, protocol: str | None = None) -> Config:
    """The configuration in YAML files, later ones laid over earlier ones.

    Args:
        paths: the files.
        protocol: the protocol in force, whatever the files say of it.

    Raises:
        UserError: a file is missing or no YAML mapping, or the result is not a valid configuration.
    """
    merged = read(paths)
    return parse(merged if protocol is None else merged | {"protocol": protocol})


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """What stands in YAML files, later ones laid over earlier ones; nothing is checked.

    Raises:
        UserError: a file is missing or no YAML mapping.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            merged = merge(merged, read_yaml(path))
        except RecursionError:
            raise UserError(f"config file {path} is nested too deeply, or within itself") from None
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, in which every key stands once.

    Raises:
        UserError: the file cannot be read, is no YAML, or holds something else than keys and values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = _json(text) if text.lstrip().startswith("{") else yaml.load(text, _Loader)
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist") from None
    except yaml.YAMLError as error:
        raise UserError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from None
    except (OSError, ValueError) as error:  # a folder, no permission; not UTF-8, the 32nd of a month
        raise UserError(f"config file {path} cannot be read: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"config file {path} is nested too deeply, or within itself") from None
    if not isinstance(value, dict):
        held = "nothing" if value is None else f"a {type(value).__name__}"
        raise UserError(f"config file {path} holds {held}, but must hold keys and values")
    if "__use_yte__" in value:
        raise UserError(f"config file {path} has __use_yte__, but must be plain YAML: templates are not filled here")
    return value


def _json(text: str) -> Any:
    """What a file in JSON holds, with 1e-3 for a number; of what is no JSON, what it holds as YAML."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError:
        return yaml.load(text, _Loader)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise yaml.YAMLError(f"key {twice} stands twice")
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
    refuse_old_keys(raw)
    refuse_lookalikes(raw)
    try:
        config = Config.model_validate(resolve_protocol(raw))
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    except RecursionError:
        raise UserError("config: sections are nested too deeply, or within themselves") from None
    check(config)
    return config
