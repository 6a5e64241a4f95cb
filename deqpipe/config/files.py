"""Configuration files: read, laid over each other, resolved and validated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deqpipe.config.checks import check
from deqpipe.config.experiment import Config
from deqpipe.config.old_keys import refuse_old_keys
from deqpipe.config.protocols import resolve_protocol
from deqpipe.config.reader import read_yaml
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
