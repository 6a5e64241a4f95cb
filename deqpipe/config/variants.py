"""Sections of several variants: a key chooses one, and only that one's keys may stand there.

Which section has which variants follows from its type, a discriminated union such as `SolverConfig`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic.fields import FieldInfo

from deqpipe.config.base import Section
from deqpipe.config.experiment import Config


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


def _merged(base: Mapping[str, Any], overlay: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    merged = _fitting(base, overlay, path)
    for key, value in overlay.items():
        if isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, Mapping) else {}, value, (*path, str(key)))
        else:
            merged[key] = value
    return merged


def _fitting(base: Mapping[str, Any], overlay: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """What of a section goes with the variant that is laid over it."""
    variants = all_variants().get(".".join(path))
    chosen = None if variants is None else _chosen(variants, overlay)
    return {key: value for key, value in base.items() if chosen is None or key in chosen.model_fields}


def _chosen(variants: Variants, section: Mapping[str, Any]) -> type[Section] | None:
    """The variant that a section of a file chooses; None where it chooses none, or none that there is."""
    value = section.get(variants.tag)
    return next((kind for tag, kind in variants.sections.items() if tag == value), None)


def shown(value: object) -> str:
    """The value of a tag as it stands in a file."""
    return str(value).lower() if isinstance(value, bool) else str(value)
