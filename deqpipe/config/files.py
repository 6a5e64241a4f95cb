"""Configuration files: read, laid over each other, resolved and validated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deqpipe import extending
from deqpipe.config.checks import check
from deqpipe.config.experiment import Config
from deqpipe.config.old_keys import refuse_old_keys
from deqpipe.config.paths import expanded
from deqpipe.config.protocols import is_resolved, resolve_protocol
from deqpipe.config.reader import read_yaml
from deqpipe.config.refusals import one_line
from deqpipe.config.variants import merge, refuse_lookalikes
from deqpipe.errors import UserError
from deqpipe.lazy import named


def load(paths: Sequence[Path], *, protocol: str | None = None) -> Config:
    """The configuration in YAML files, later ones laid over earlier ones.

    Args:
        paths: the files.
        protocol: the protocol in force, whatever the files say of it.

    Raises:
        UserError: a file is missing or no YAML mapping, or the result is not a valid configuration.
    """
    return parse(read(paths, over={} if protocol is None else {"protocol": protocol}))


def read(paths: Sequence[Path], *, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What stands in YAML files, later ones laid over earlier ones; of its values nothing is checked.

    Args:
        paths: the files.
        over: what is laid over all of them, by the command line.

    Raises:
        UserError: a file is missing or no YAML mapping, or the protocol is changed of values that were resolved.
    """
    merged: dict[str, Any] = {}
    resolved: tuple[Path, object] | None = None
    for path in paths:
        layer = read_yaml(path)
        if resolved is not None:
            _refuse_other_protocol(layer, *resolved)
        try:
            merged = merge(merged, layer)
        except RecursionError:
            raise UserError(f"config file {path} is nested too deeply, or within itself") from None
        if is_resolved(layer):
            resolved = path, layer["protocol"]
    if resolved is not None and over:
        _refuse_other_protocol(over, *resolved)
    return merge(merged, over) if over else merged


def _refuse_other_protocol(layer: Mapping[str, Any], path: Path, protocol: object) -> None:
    """Refuse a protocol that nothing would follow: which of the values are the former's is not known any more."""
    asked = layer.get("protocol", protocol)
    if asked != protocol:
        raise UserError(
            f"config: protocol is {asked}, but {path} is resolved: it holds the values of protocol {protocol}, and "
            f"none that would change. Lay protocol: {asked} over the files that it was made from, such as config.yaml "
            "and your own"
        )


def parse(raw: Mapping[str, Any]) -> Config:
    """The configuration that a mapping describes, with `protocol` resolved and every key checked.

    Raises:
        UserError: one line that names the first wrong key, its value and what was allowed.
    """
    refuse_old_keys(raw)
    refuse_lookalikes(raw)
    _load_extensions(raw.get("extensions"))
    try:
        config = Config.model_validate(resolve_protocol(raw))
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    except RecursionError:
        raise UserError("config: sections are nested too deeply, or within themselves") from None
    check(config)
    if config.extensions:
        named("deqpipe.workflow.own:check_keys")(config)
    return config


def _load_extensions(paths: object) -> None:
    """Run the users' files, whose names other keys may have; what is no list of names is refused with other keys."""
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) and path.strip() for path in paths):
        return
    try:
        active = [expanded(path) for path in paths]
    except ValueError as error:
        raise UserError(f"config: extensions: {error}") from None
    extending.activate(active)
    if active:
        try:
            named("deqpipe.workflow.own:refuse_taken")(active)  # which names are taken, is known above
        except UserError:
            extending.forget(active)
            raise
