"""One YAML file read: every key once, every number as it looks, and nothing that loading would not end with."""

import json
from pathlib import Path
from typing import Any

import yaml

from deqpipe.errors import UserError

_MOST_CHARACTERS = 1_000_000  # config.yaml has 12,000
_MOST_LEVELS = 50  # config.yaml has 4
_MOST_VALUES = 100_000  # config.yaml has 350, keys included
_MOST_DIGITS = 100
_TOO_DEEP = "is nested too deeply, or within itself"

# The loader of libyaml, which PyYAML is usually built with, is ten times as fast; their types are not related.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, in which every key stands once.

    Raises:
        UserError: the file cannot be read, is no YAML, or holds something else than keys and values, a number that
            YAML reads as another one than it looks like, or far more than any configuration.
    """
    text = ""
    try:
        text = _text(path)
        value = _json(text) if text.lstrip().startswith("{") else _yaml(text)
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist") from None
    except _MisreadError as error:
        raise UserError(f"config file {path} {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"config file {path} is not YAML: {_words(error, text)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"config file {path} is no text in UTF-8{_coded(error)}: save it as UTF-8") from None
    except (OSError, ValueError) as error:  # a folder, no permission; the 32nd of a month
        raise UserError(f"config file {path} cannot be read: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"config file {path} {_TOO_DEEP}") from None
    if not isinstance(value, dict):
        held = "nothing" if value is None else f"a {type(value).__name__}"
        raise UserError(f"config file {path} holds {held}, but must hold keys and values")
    if "__use_yte__" in value:
        raise UserError(f"config file {path} has __use_yte__, but must be plain YAML: templates are not filled here")
    return value


def _words(error: yaml.YAMLError, text: str) -> str:
    """What YAML says, on one line and of this file; a tab, which cannot be seen, is called by its name."""
    mark = getattr(error, "problem_mark", None)
    at = (text.split("\n")[mark.line : mark.line + 1] or [""])[0] if mark else ""
    if mark and at[mark.column : mark.column + 1] == "\t":
        return f"there is a tab in line {mark.line + 1}, where YAML takes spaces only"
    return " ".join(str(error).replace('in "<unicode string>", ', "in ").split())


def _coded(error: UnicodeDecodeError) -> str:
    """In which encoding a file is instead, as far as its first bytes tell, and where it shows."""
    if error.object.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ", but in UTF-16"
    return f", but has byte 0x{error.object[error.start]:02x} in line {error.object.count(10, 0, error.start) + 1}"


def _json(text: str) -> Any:
    """What a file in JSON holds, with 1e-3 for a number; of what is no JSON, what it holds as YAML."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError:
        return _yaml(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise yaml.YAMLError(f"key {twice} stands twice")
    return value


def _yaml(text: str) -> Any:
    _check_nesting(text)
    return yaml.load(text, _Loader)


class _MisreadError(Exception):
    """What is wrong with a file that is YAML, but not what its writer means, or more than can be loaded."""


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


def _checked_whole(loader: Any, node: Any) -> int:
    """A whole number as YAML 1.1 reads it, unless it hardly means that: 0100 is 64 there, and 1:30 is 90."""
    digits, where = node.value.replace("_", "").lstrip("+-"), f"in line {node.start_mark.line + 1}"
    if len(digits) > _MOST_DIGITS:
        raise _MisreadError(f"has a number of {len(digits)} digits {where}: {digits[:20]}...")
    number: int = loader.construct_yaml_int(node)
    octal = digits.isdigit() and digits.startswith("0") and number
    if octal or ":" in digits:
        decimal = f", or {digits.lstrip('0')} if that is meant" if octal else ""
        raise _MisreadError(f"has {node.value} {where}, which is read as {number}: write {number}{decimal}")
    return number


def _checked_number(loader: Any, node: Any) -> float:
    """A number as YAML 1.1 reads it, unless it looks like a time: 1:30.5 is 90.5 there."""
    number: float = loader.construct_yaml_float(node)
    if ":" in node.value:
        where = f"in line {node.start_mark.line + 1}"
        raise _MisreadError(f"has {node.value} {where}, which is read as {number}: write {number}")
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _checked_whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _checked_number)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(4 * _MOST_CHARACTERS + 1).decode()  # of at most four bytes each; a device has no end
    if len(text) > _MOST_CHARACTERS:
        raise _MisreadError(f"has more than {_MOST_CHARACTERS:,} characters")
    return text


def _check_nesting(text: str) -> None:
    """Refuse what loading, which goes down by recursion and follows aliases, cannot come to the end of.

    Raises:
        _MisreadError: too deep (libyaml's loader would end the process), a part of itself, or huge once every alias
            is replaced by what it stands for.
    """
    sizes: dict[str | None, int] = {}  # of what an anchor names, aliases within it replaced
    anchors, totals = list[str | None](), [0]  # of the collections around, from the outermost; their sizes so far
    for event in yaml.parse(text, _SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            totals.append(1)
        elif isinstance(event, yaml.CollectionEndEvent):
            size = sizes[anchors.pop()] = totals.pop()
            totals[-1] += size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise _MisreadError(_TOO_DEEP)
            totals[-1] += sizes.get(event.anchor, 1)  # of a single value, or of none that was named
        elif isinstance(event, yaml.ScalarEvent):
            totals[-1] += 1
        if len(anchors) > _MOST_LEVELS:
            raise _MisreadError(_TOO_DEEP)
        if totals[-1] > _MOST_VALUES:
            raise _MisreadError(f"holds more than {_MOST_VALUES:,} values, once aliases are replaced")
