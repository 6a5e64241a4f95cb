"""The users' files that this process has loaded.

A configuration names its files, and only their pieces are part of it: whoever lists pieces says of which files. A name
that stands in a record or a spec is looked up in all of them (`find`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from deqpipe.errors import UserError
from deqpipe.extending import blame, loading
from deqpipe.extending.loading import Extension
from deqpipe.extending.pieces import Piece

P = TypeVar("P", bound=Piece)

_LOADED: dict[str, Extension] = {}


def activate(paths: Sequence[str]) -> tuple[Extension, ...]:
    """Load the files of a configuration, those again that have changed since.

    Raises:
        UserError: a file cannot be loaded, stands there twice, or defines what another one of them defines.
    """
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"config: extensions has {path!r} twice")
        if path not in _LOADED or _LOADED[path].digest != loading.digest_of(path):
            _LOADED[path] = loading.load(path)
    active = loaded(paths)
    _refuse_doubles(active)
    _forget_rivals(active)
    return active


def expect(digests: Mapping[str, str]) -> None:
    """Load the files that a job was planned with.

    Args:
        digests: of the files, by their paths, as they stand in the job's spec.

    Raises:
        UserError: as `activate`; or a file has changed since.
    """
    for one in activate(tuple(digests)):
        if one.digest != digests[one.path]:
            raise UserError(f"extension {one.path} has changed since this job was planned: start the workflow again")


def forget(paths: Iterable[str]) -> None:
    """Know no more of these files: something of them was refused."""
    for path in paths:
        _LOADED.pop(path, None)


def loaded(paths: Iterable[str]) -> tuple[Extension, ...]:
    """These files, as they were loaded."""
    return tuple(_LOADED[path] for path in paths if path in _LOADED)


def digests(paths: Iterable[str]) -> dict[str, str]:
    """What stands in the spec of a job that these files decide, each once."""
    return {one.path: one.digest for one in loaded(dict.fromkeys(paths))}


def pieces(kind: type[P], paths: Iterable[str] | None = None) -> dict[str, tuple[P, Extension]]:
    """The pieces of a kind by name, each with its file: of some files, or of all that are loaded."""
    files = tuple(_LOADED.values()) if paths is None else loaded(paths)
    return {one.name: (one, file) for file in files for one in file.pieces if isinstance(one, kind)}


def find(kind: type[P], name: str) -> P | None:
    """The piece of a name, of whatever file; None: no file that is loaded defines it."""
    known = pieces(kind).get(name)
    return None if known is None else known[0]


def where(piece: Piece) -> str:
    """File and line of a piece, to begin a message with; "": no file that is loaded defines it."""
    file = next((file for file in _LOADED.values() if any(one is piece for one in file.pieces)), None)
    return "" if file is None else f"extension {file.where(piece)}: "


def mistake(kind: type[Piece], name: str, what: str) -> UserError:
    """What is wrong with a piece, in one line; with file and line, where a file that is loaded defines it."""
    piece = find(kind, name)
    return UserError(f"{'' if piece is None else where(piece)}{kind.kind} {name}: {what}")


def explained(error: Exception, *, called_wrongly: bool = False) -> UserError | None:
    """An exception that comes from a line of a user's file, in one line; None: it comes from elsewhere.

    Args:
        error: the exception.
        called_wrongly: as in `blame.place`.
    """
    place = blame.place(error, _LOADED, called_wrongly=called_wrongly)
    return None if place is None else UserError(f"{place}: {blame.words(error)}")


def _refuse_doubles(active: Sequence[Extension]) -> None:
    """Refuse what two pieces of a kind have in common: their name, or the label by which tables tell them apart."""
    named: dict[tuple[str, str], tuple[Piece, Extension]] = {}
    labelled: dict[tuple[str, str], tuple[Piece, Extension]] = {}
    for file, piece in ((one, piece) for one in active for piece in one.pieces):
        rival, of = named.setdefault((piece.kind, piece.name), (piece, file))
        if of is not file:
            raise UserError(f"extension {file.where(piece)}: {piece.kind} {piece.name!r} is taken by {of.where(rival)}")
        rival, of = labelled.setdefault((piece.kind, piece.label), (piece, file))
        if rival is not piece:
            raise UserError(
                f"extension {file.where(piece)}: {piece.kind} {piece.name}: label {piece.label!r} is that of "
                f"{rival.name}, {of.where(rival)}; tables tell rows and columns apart by it"
            )


def _forget_rivals(active: Sequence[Extension]) -> None:
    """Of another configuration in this process, what defines the same names is known no longer."""
    own = {(piece.kind, piece.name) for file in active for piece in file.pieces}
    for path in set(_LOADED) - {file.path for file in active}:
        if own & {(piece.kind, piece.name) for piece in _LOADED[path].pieces}:
            del _LOADED[path]
