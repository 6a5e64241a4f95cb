"""Configurations changed at random: anything at all, or within what the types of the sections allow."""

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from deqpipe.config.schema import json_schema
from tests.faults.damages import ODD

Path = tuple[str, ...]
_SPECIAL = {"pathvars", "imported", "device", "compile", "graphs"}
"""Sections that say where and on what: what is allowed there depends on the machine."""

SMALL: Mapping[str, tuple[int, int]] = {
    "solver.steps": (3, 5), "solver.memory": (2, 5), "pretrain.layers": (1, 4), "pretrain.steps": (1, 5),
    "training.epochs": (3, 4), "training.batch_size": (10, 20), "training.gradient.steps": (1, 4),
    "training.unroll.steps": (1, 3), "training.attack.steps": (1, 3), "jacobian.probes": (1, 3),
    "jacobian.length_jitter": (-2, 2), "selection.attack.steps": (1, 3), "selection.first_epoch": (1, 3),
    "early_state.index": (1, 3), "attack.pgd.steps": (1, 3), "attack.grid.states": (1, 3), "attack.grid.steps": (1, 3),
    "attack.in_loop_points": (1, 2), "entropy.solver_steps": (1, 3), "entropy.input_steps": (0, 3),
    "entropy_sweep.solver_steps": (1, 4), "entropy_sweep.input_steps": (1, 3), "entropy_sweep.points": (1, 2),
    "autoattack.iterations": (1, 3), "autoattack.restarts": (1, 2), "autoattack.queries": (1, 5),
    "autoattack.batch_size": (5, 20), "autoattack.top_points": (1, 2), "timing.batch_size": (1, 16),
    "timing.warmup": (0, 2), "timing.repeats": (3, 4), "evaluation.images": (5, 12), "evaluation.batch_size": (3, 20),
    "evaluation.final_unroll_steps": (1, 3), "resnet.layers": (1, 2), "resnet.training.epochs": (1, 2),
    "resnet.training.batch_size": (10, 40), "model.expansion": (1, 3), "model.final_channels": (1, 64),
}  # fmt: skip
"""Least and most of what decides how long a job takes, for those that are run."""
_NOT_SMALL = ("racing", "data", "autoattack.images_per_job", "model.channels", "model.head_channels", "model.groups")
"""Not drawn for those that are run: races are jobs of their own, images are made up, channels must divide."""
_MOST_ITEMS = 3


class Drawn:
    """Values that the schema of the configuration allows."""

    def __init__(self, draws: random.Random, *, small: bool) -> None:
        """Draws of one configuration.

        Args:
            draws: random numbers.
            small: whether a job must end in seconds.
        """
        self._draws, self._small = draws, small

    def overlay(self, keys: int) -> dict[str, Any]:
        """An overlay that sets so many keys or sections with variants."""
        found: dict[str, Any] = {}
        for path in self._draws.sample(self._places(), keys):
            node = found
            for section in path[:-1]:
                node = node.setdefault(section, {})
            node[path[-1]] = self._value(_at(path), path)
        return found

    def _places(self) -> list[Path]:
        left_out = _NOT_SMALL if self._small else ()
        return [path for path in leaves() if not ".".join(path).startswith(left_out)]

    def _value(self, node: Mapping[str, Any], path: Path) -> Any:
        node = _resolved(node)
        if "const" in node:
            return node["const"]
        if "enum" in node:
            return self._draws.choice(node["enum"])
        choices = node.get("anyOf") or node.get("oneOf")
        if choices and self._small and ".".join(path) in SMALL:  # what a protocol says is not small
            choices = [one for one in choices if one.get("const") != "protocol"]
        if choices:
            return self._value(self._draws.choice(choices), path)
        if node["type"] == "object":
            return {name: self._value(below, (*path, name)) for name, below in node["properties"].items()}
        if node["type"] == "array":
            return self._array(node, path)
        if node["type"] == "boolean":
            return self._draws.random() < 0.5
        if node["type"] == "string":
            return self._draws.choice(("data/images", "some folder", "./\u00e9", "a" * 100))
        return self._number(node, path)

    def _array(self, node: Mapping[str, Any], path: Path) -> list[Any]:
        if "prefixItems" in node:
            values = [self._value(item, path) for item in node["prefixItems"]]
            return sorted(values) if path[-1] == "length_jitter" else values
        least = node.get("minItems", 0)
        count = self._draws.randint(least, max(least, min(node.get("maxItems", _MOST_ITEMS), _MOST_ITEMS)))
        values = [self._value(node["items"], path) for _ in range(count)]
        return sorted(set(values)) if node["items"].get("type") in ("integer", "number") and least < 2 else values

    def _number(self, node: Mapping[str, Any], path: Path) -> int | float:
        whole = node["type"] == "integer"
        low, high = node.get("minimum", node.get("exclusiveMinimum")), node.get("maximum", node.get("exclusiveMaximum"))
        if self._small and ".".join(path) in SMALL:
            low, high = SMALL[".".join(path)]
        if whole:
            return self._between(low, high)
        inner = low + (high - low) * self._draws.uniform(1e-3, 1 - 1e-3)
        near = min(high, max(low, 10 ** self._draws.uniform(-6, 2)))
        ends = [bound for bound in (node.get("minimum"), node.get("maximum")) if bound is not None]
        allowed = [value for value in (near, inner, *ends) if value not in _excluded(node)]
        return float(self._draws.choice(allowed))

    def _between(self, low: int, high: int) -> int:
        """Ends, small numbers and large ones, each often."""
        scale = self._draws.uniform(0, math.log(high - low + 1))
        return self._draws.choice((low, high, min(high, low + int(math.exp(scale)) - 1)))


def _excluded(node: Mapping[str, Any]) -> tuple[Any, ...]:
    return (node.get("exclusiveMinimum"), node.get("exclusiveMaximum"))


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


def _resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return _schema()["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node


@cache
def leaves() -> tuple[Path, ...]:
    """Keys that hold no section, and sections of several variants, by their paths."""
    return tuple(path for path in _leaves(_schema(), ()) if path[0] not in _SPECIAL)


def _leaves(node: Mapping[str, Any], path: Path) -> Iterator[Path]:
    for name, below in node["properties"].items():
        found = _resolved(below)
        if "properties" in found:
            yield from _leaves(found, (*path, name))
        else:
            yield (*path, name)


def _at(path: Path) -> Mapping[str, Any]:
    node: Mapping[str, Any] = _schema()
    for name in path:
        node = _resolved(node)["properties"][name]
    return node


# --- anything at all ---------------------------------------------------------------------------------------------


def wild(text: str, draws: random.Random) -> tuple[bytes, str]:
    """A file in YAML with something odd in it, and what."""
    if draws.random() < 0.25:
        return _wild_bytes(text.encode(), draws)
    content = yaml.safe_load(text)
    told = [_wild_value(content, draws) for _ in range(draws.choice((1, 1, 1, 2, 3)))]
    try:
        return yaml.safe_dump(content, sort_keys=False).encode("utf-8", "surrogatepass"), "; ".join(told)
    except (yaml.YAMLError, ValueError, RecursionError):
        return json.dumps(content, default=str).encode(), "; ".join(told)


def _wild_value(content: dict[str, Any], draws: random.Random) -> str:
    """Change one place of a mapping in place; returns in words what was done."""
    node, key, path = _any_place(content, draws)
    act = draws.choice(("odd", "odd", "odd", "near", "near", "gone", "unknown", "of another key", "list", "text"))
    if act == "gone":
        del node[key]
    elif act == "unknown":
        node[draws.choice(("x", "", "images ", "Steps", 7, None, True))] = draws.choice((1, "a", None, {}))
    elif act == "of another key":
        other, name, _ = _any_place(content, draws)
        node[key] = json.loads(json.dumps(other[name], default=str))
    elif act == "list":
        node[key] = node[key] * 2 if isinstance(node[key], list) else [node[key]]
    elif act == "text":
        node[key] = str(node[key])
    else:
        node[key] = _near(node[key], draws) if act == "near" else draws.choice(ODD)
    return f"{path}: {act}, {repr(node.get(key))[:60]}"


def _any_place(content: dict[str, Any], draws: random.Random) -> tuple[dict[Any, Any], Any, str]:
    node, path = content, list[str]()
    while True:
        if not node:
            node = content
            node.setdefault("seeds", [0])
        key = draws.choice(sorted(node, key=str))
        path.append(str(key))
        below = node[key]
        if not isinstance(below, dict) or not below or draws.random() < 0.1:
            return node, key, ".".join(path)
        node = below


def _near(value: Any, draws: random.Random) -> Any:
    """A number that is somewhat, or vastly, another one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return draws.choice((value + 1, value - 1, -value, value * 10, value * 10**9, float(value), value / 3, 0))
    if isinstance(value, list) and value:
        place = draws.randrange(len(value))
        return draws.choice(
            (value[:place], value[::-1], [*value, value[place]], [*value[:place], _near(value[place], draws)])
        )
    return value


def _wild_bytes(content: bytes, draws: random.Random) -> tuple[bytes, str]:
    lines = content.split(b"\n")
    place = draws.randrange(len(lines))
    kinds: Sequence[tuple[str, bytes]] = (
        ("a line twice", b"\n".join([*lines[:place], lines[place], *lines[place:]])),
        ("a line lost", b"\n".join([*lines[:place], *lines[place + 1 :]])),
        ("a line moved in", b"\n".join([*lines[:place], b"  " + lines[place], *lines[place + 1 :]])),
        ("a tab", b"\n".join([*lines[:place], b"\t" + lines[place], *lines[place + 1 :]])),
        ("bytes that are no text", content[: place * 7] + b"\xff\xfe\x00" + content[place * 7 :]),
        ("cut off", content[: draws.randrange(len(content))]),
        ("a byte changed", _one_byte(content, draws)),
        ("deep", content + b"\nx: " + b"[" * 3000),
        ("a tag", b"\n".join([*lines[:place], b"x: !!python/object/apply:os.system ['true']", *lines[place:]])),
        ("an alias of itself", content + b"\nx: &a [*a]\n"),
        ("merged", content + b"\n<<: {seeds: [1]}\n"),
        ("two documents", content + b"\n---\nseeds: [1]\n"),
        ("as UTF-16", content.decode().encode("utf-16")),
        ("nothing", b""),
    )
    name, changed = draws.choice(kinds)
    return changed, f"{name}, at line {place + 1}"


def _one_byte(content: bytes, draws: random.Random) -> bytes:
    place = draws.randrange(len(content))
    return (
        content[:place] + draws.choice((b"0", b"-", b"'", b"{", b"]", b":", b"#", b"%", b"\0")) + content[place + 1 :]
    )
