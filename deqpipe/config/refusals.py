"""What pydantic refuses, in one line: the key, its value, and what was allowed."""

import difflib
import math
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from deqpipe.config.base import IN_255THS, Section
from deqpipe.config.experiment import Config
from deqpipe.config.variants import Variants, all_variants, shown, variants_of

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 20
_SHORT.maxlevel = 3  # a file of ten lines of YAML can hold a list of lists of a thousand million


def one_line(error: ValidationError) -> str:
    """The first wrong key, its value and what was allowed; and how many more are wrong."""
    errors = error.errors()
    if overlay := _of_an_overlay(errors):
        return f"config: {overlay}"
    places = dict.fromkeys(_place(one["loc"]).key for one in errors)
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return f"config: {_refusal(errors[0])}{more}"


def _of_an_overlay(errors: Sequence[ErrorDetails]) -> str | None:
    """What to say of settings that name only what differs, with nothing underneath."""
    missing = [str(one["loc"][0]) for one in errors if one["type"] == "missing" and len(one["loc"]) == 1]
    if len(missing) < 2:
        return None
    listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return (
        f"{listed} are missing: this is an overlay, which names only what differs. config.yaml of the workflow's "
        "folder holds every key and must lie underneath: name it first, and the overlay after it"
    )


@dataclass(frozen=True)
class _Place:
    """Where in the configuration an error is.

    Attributes:
        parts: of the dotted key.
        section: that the key stands in.
        variants: that `section` is one of, if it is.
        inner: the section that the key itself holds, if it holds one.
        inside: the variants that `inner` is one of, if it is.
        choices: the variants of which `inner` will be one: the next step says which.
    """

    parts: tuple[str, ...] = ()
    section: type[Section] = Config
    variants: Variants | None = None
    inner: type[Section] | None = Config
    inside: Variants | None = None
    choices: Variants | None = None

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(self.parts)

    def into(self, part: int | str) -> "_Place":
        """One step further along pydantic's path, which has the variant's tag as a step of its own."""
        if self.choices is not None:
            chosen = next((kind for tag, kind in self.choices.sections.items() if tag == part), None)
            if chosen is None:  # a key of a section that a user's file has, which has no step for its tag
                return _Place((*self.parts, _word(part)), Section, inner=None)
            return replace(self, inner=chosen, inside=self.choices, choices=None)
        if self.inner is None:  # within a list, the key of a mapping, or one of several types
            inside = isinstance(part, int) or self.parts == ("imported",)
            return replace(self, parts=(*self.parts, _word(part))) if inside else self
        parts = (*self.parts, _word(part))
        field, choices = self.inner.model_fields.get(str(part)), all_variants().get(".".join(parts))
        inner = () if field is None or choices else variants_of(field)
        return _Place(parts, self.inner, self.inside, next(iter(inner), None), None, choices)


def _word(part: int | str) -> str:
    """A key as it stands in a file, on one line."""
    text = str(part)
    return text if text.isprintable() and text else repr(text)


def _place(loc: Sequence[int | str]) -> _Place:
    place = _Place()
    for part in loc:
        place = place.into(part)
    return place


def _refusal(error: ErrorDetails) -> str:
    place, value = _place(error["loc"]), error["input"]
    match error["type"]:
        case "extra_forbidden":
            return _of_another_variant(place) or f"unknown key {place.key}{_closest(place)}"
        case "missing":
            return f"{place.key} is missing{_needed_by(place)}"
        case "union_tag_not_found" if place.choices:
            return f"{place.key}.{place.choices.tag} is missing"
        case "union_tag_invalid" if place.choices:
            wrong = value[place.choices.tag]
            return f"{place.key}.{place.choices.tag} is {_SHORT.repr(wrong)}: input should be {_tags(place.choices)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{place.key} is {_SHORT.repr(value)}, but must hold keys and values"
        case "invalid_key":
            return f"{place.key} has a key that is no text"
        case "tuple_type":
            return f"{place.key} is {_SHORT.repr(value)}, but must be a list{_listed(value)}"
        case "value_error":
            return f"{place.key} is {_SHORT.repr(value)}: {error['ctx']['error']}"
    hint = _pixel_hint(place, value) or _number_hint(value)
    return f"{place.key} is {_SHORT.repr(value)}: {error['msg'].lower()}{hint}"


def _listed(value: object) -> str:
    """How a single value is written as a list."""
    return "" if value is None or isinstance(value, dict) else f", such as [{shown(value)}]"


def _tags(variants: Variants) -> str:
    """What may stand where a variant is chosen; words in quotes, as pydantic writes them."""
    *most, last = (repr(tag) if isinstance(tag, str) else shown(tag) for tag in variants.sections)
    return f"{', '.join(most)} or {last}"


def _of_another_variant(place: _Place) -> str | None:
    """What to say of a key that another variant of its section has."""
    variants = place.variants
    elsewhere = () if variants is None else variants.with_key(place.parts[-1])
    if variants is None or not elsewhere:
        return None
    tag, here = f"{variants.path}.{variants.tag}", variants.value(place.section)
    return f"{place.key} belongs to {tag}: {' or '.join(elsewhere)}, but {tag} is {here}"


def _needed_by(place: _Place) -> str:
    """Which variant a key is missed in, if not all have it."""
    variants = place.variants
    if variants is None or len(variants.with_key(place.parts[-1])) == len(variants.sections):
        return ""
    return f", which {variants.path}.{variants.tag}: {variants.value(place.section)} needs"


def _closest(place: _Place) -> str:
    kinds = (place.section,) if place.variants is None else tuple(place.variants.sections.values())
    names = list(dict.fromkeys(name for kind in (place.section, *kinds) for name in kind.model_fields))
    if not names:
        return ""
    close = difflib.get_close_matches(place.parts[-1], names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed here: {', '.join(names)}"


def _pixel_hint(place: _Place, value: object) -> str:
    """How a fraction of the pixel range is written where 255ths are counted."""
    fraction = re.fullmatch(r"\s*([\d.]+)\s*/\s*255(?:\.0*)?\s*", value) if isinstance(value, str) else None
    if fraction is None or not place.key.endswith(IN_255THS):
        return ""
    return f"; it is counted in 255ths of the pixel range: write {fraction[1]} for {fraction[0].strip()}"


def _number_hint(value: object) -> str:
    """What is wrong with a number that YAML takes for text, such as 1e-3 or 048."""
    if isinstance(value, str) and (octal := re.fullmatch(r"(0o?)0*([1-9]\d*)", value)):
        ways = [str(int(octal[2], 8))] if octal[1] == "0o" and not set("89") & set(octal[2]) else []
        return f"; this is text, as it begins with 0: write {', or '.join([octal[2], *ways])}"
    try:
        text = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        text = False
    return "; this is text: YAML wants numbers without quotes, and 1.0e-3 instead of 1e-3" if text else ""
