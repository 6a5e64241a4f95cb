"""Sections of the configuration that a piece of a user's file decides."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar

from pydantic import create_model

from deqpipe import extending
from deqpipe.config.base import Section
from deqpipe.extending import Piece

S = TypeVar("S", bound=Section)
P = TypeVar("P", bound=Piece)


def own_section(
    raw: object, base: type[S], tag: str, kind: type[P], keys: Callable[[P], Mapping[str, Any]]
) -> S | None:
    """A section whose tag is the name of a user's piece; None where it is not.

    Args:
        raw: as it stands in a file; or validated already.
        base: what all variants of the section have in common.
        tag: the key that chooses.
        kind: of piece.
        keys: the types of the keys that a piece has beside the common ones, by their names.

    Raises:
        ValidationError: the piece is known, but a key is wrong.
    """
    if isinstance(raw, base):
        return raw
    name = raw.get(tag) if isinstance(raw, Mapping) else None
    piece = extending.find(kind, name) if isinstance(name, str) else None
    return None if piece is None else _section(base, tag, piece, tuple(keys(piece).items())).model_validate(raw)


@lru_cache(maxsize=64)
def _section(base: type[S], tag: str, piece: Piece, keys: tuple[tuple[str, Any], ...]) -> type[S]:
    """The type of the section: the common keys, and the piece's own."""
    types: dict[str, Any] = {tag: (Literal[piece.name], ...)} | {key: (kind, ...) for key, kind in keys}
    section: type[S] = create_model(piece.name, __base__=base, __doc__=piece.label, __module__=__name__, **types)
    return section


def is_own(section: Section) -> bool:
    """Whether a section is one that a user's file has."""
    return type(section).__module__ == __name__
