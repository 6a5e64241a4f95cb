"""Configuration files: read, laid over each other, resolved and validated."""

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
from deqpipe.config.variants import merge
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
        merged = merge(merged, read_yaml(path))
    return merged


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
    refuse_old_keys(raw)
    try:
        config = Config.model_validate(resolve_protocol(raw))
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    check(config)
    return config
