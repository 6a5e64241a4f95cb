"""Runs a user's file, and says of what is wrong with it where it stands."""

import ast
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from deqpipe.errors import UserError
from deqpipe.extending import blame
from deqpipe.extending.pieces import KINDS, Piece


@dataclass(frozen=True)
class Extension:
    """A user's file, as it was when it was loaded.

    Attributes:
        path: as the configuration names it.
        digest: of its content: part of the specs of what it decides.
        pieces: what it defines, in the order of the file.
        lines: where each piece is defined, by kind and name.
    """

    path: str
    digest: str
    pieces: tuple[Piece, ...]
    lines: Mapping[tuple[str, str], int]

    def where(self, piece: Piece) -> str:
        """File and line of a piece, for messages."""
        return f"{self.path}, line {self.lines[piece.kind, piece.name]}"


def digest_of(path: str) -> str:
    """Sixteen hexadecimal digits that stand for the content of a file.

    Raises:
        UserError: it cannot be read.
    """
    return hashlib.sha256(_content(path)).hexdigest()[:16]


def load(path: str) -> Extension:
    """Run a user's file, and gather the pieces that it defines.

    Raises:
        UserError: the file is missing, is no Python, ends with an exception, or defines nothing or a name twice; in one
            line with file and line number.
    """
    content = _content(path)
    digest = hashlib.sha256(content).hexdigest()[:16]
    module = _executed(content, path, digest)
    lines = _assignments(content)
    named = {name: value for name, value in vars(module).items() if isinstance(value, KINDS)}
    if not named:
        kinds = ", ".join(kind.__name__ for kind in KINDS)
        raise UserError(
            f"extension {path} defines nothing: a value at its top level, outside lists and functions, must be one of "
            f"{kinds}"
        )
    where: dict[tuple[str, str], int] = {}
    unique = dict[int, Piece]()
    for name, piece in named.items():
        if id(piece) in unique:
            continue  # one value under two names
        unique[id(piece)] = piece
        key, line = (piece.kind, piece.name), lines.get(name, 1)
        if key in where:
            raise UserError(
                f"extension {path}, line {line}: {piece.kind} {piece.name!r} is defined in line {where[key]}"
            )
        where[key] = line
    return Extension(path, digest, tuple(unique.values()), where)


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise UserError(f"extension {path} {reason}") from None


def _executed(content: bytes, path: str, digest: str) -> ModuleType:
    module = ModuleType(f"deqpipe_extension_{digest}")
    module.__file__ = path
    try:
        code = compile(content, path, "exec")
    except SyntaxError as error:
        raise UserError(f"extension {path}, line {error.lineno}: {error.msg}") from None
    except ValueError as error:  # null bytes
        raise UserError(f"extension {path} is no Python: {error}") from None
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        exec(code, vars(module))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise UserError(f"extension {path}, line {blame.line_of(error, path) or '?'}: {blame.words(error)}") from None
    return module


def _assignments(content: bytes) -> dict[str, int]:
    """The line of the last assignment to each name."""
    names = (node for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Name))
    return {name.id: name.lineno for name in names if isinstance(name.ctx, ast.Store)}
