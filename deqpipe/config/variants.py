"""Sections of several variants: a key chooses one, and only that one's keys may stand there.

Which section has which variants follows from its type, a discriminated union such as `SolverConfig`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic.fields import FieldInfo

from deqpipe.config.base import Section, value_at
from deqpipe.config.experiment import Config
from deqpipe.errors import UserError


@dataclass(frozen=True)
class Variants:
    """A section of several variants.

    Attributes:
        path: dotted name of the section.
        tag: its key that chooses.
        sections: the variants by the value of that key.
    """

    path: str
    tag: str
    sections: Mapping[Any, type[Section]]

    def value(self, section: type[Section]) -> str:
        """The value of `tag` that chooses a variant, as it stands in a file."""
        return next(shown(value) for value, kind in self.sections.items() if kind is section)

    def with_key(self, key: str) -> tuple[str, ...]:
        """The values of `tag` that a key goes with, as they stand in a file."""
        return tuple(shown(value) for value, section in self.sections.items() if key in section.model_fields)


def variants_of(field: FieldInfo) -> tuple[type[Section], ...]:
    """The sections that a key may hold; none if it holds a single value."""
    kinds = (field.annotation,) if isinstance(field.annotation, type) else get_args(field.annotation)
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))


@cache
def all_variants() -> Mapping[str, Variants]:
    """Every section of several variants, by its dotted name."""
    return {one.path: one for one in _below(Config, ())}


def _below(section: type[Section], path: tuple[str, ...]) -> Iterator[Variants]:
    for name, field in section.model_fields.items():
        kinds, here = variants_of(field), (*path, name)
        if isinstance(field.discriminator, str):
            values = {get_args(kind.model_fields[field.discriminator].annotation)[0]: kind for kind in kinds}
            yield Variants(".".join(here), field.discriminator, values)
        for kind in kinds:
            yield from _below(kind, here)


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`overlay` laid over `base`: sections are merged, everything else is replaced.

    So does Snakemake, but here another variant takes only those keys along that it has as well: `source: digits` over
    CIFAR-10 leaves no `root` behind.
    """
    return _merged(base, overlay, ())


def _merged(
    base: Mapping[str, Any], overlay: Mapping[str, Any], path: Sequence[str], *, fit: bool = False
) -> dict[str, Any]:
    merged = _fitting(base, overlay, path)
    for key, value in (_fitting(overlay, overlay, path) if fit else overlay).items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value, (*path, str(key)), fit=fit)
        else:
            merged[key] = value
    return merged


def _fitting(base: Mapping[str, Any], overlay: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """What of a section goes with the variant that is laid over it."""
    variants = all_variants().get(".".join(path))
    chosen = None if variants is None else overlay.get(variants.tag)
    keys = None if variants is None or chosen is None else _keys_of_choice(variants, chosen, itself=base is overlay)
    return {key: value for key, value in base.items() if keys is None or key in keys}


def _keys_of_choice(variants: Variants, value: object, *, itself: bool) -> set[str] | None:
    """The keys of the variant that a file chooses.

    Of one that the package does not have, which may be that of a user's file, those that all have; in the section that
    chooses it itself all (None).
    """
    for tag, kind in variants.sections.items():
        if _equal(tag, value):
            return set(kind.model_fields)
    if itself and value != "protocol":
        return None
    return set.intersection(*(set(kind.model_fields) for kind in variants.sections.values()))


def fitted(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that somebody else laid over each other, without the keys that only other variants have.

    A user's mistake is not told from a leftover there, as which file says what is not known any more.
    """
    return _merged({}, raw, (), fit=True)


def _equal(tag: object, value: object) -> bool:
    """Whether a value of a file is a tag; 1 is not true there."""
    return type(tag) is type(value) and tag == value


def refuse_lookalikes(raw: Mapping[str, Any]) -> None:
    """Refuse 1 for true where the key chooses a variant: pydantic takes what is equal in Python.

    Raises:
        UserError: names the key and its value.
    """
    for variants in all_variants().values():
        value = value_at(raw, f"{variants.path}.{variants.tag}")
        if isinstance(value, int | float) and any(tag == value and not _equal(tag, value) for tag in variants.sections):
            raise UserError(f"config: {variants.path}.{variants.tag} is {value!r}: input should be a boolean")


def shown(value: object) -> str:
    """The value of a tag as it stands in a file."""
    return str(value).lower() if isinstance(value, bool) else str(value)
