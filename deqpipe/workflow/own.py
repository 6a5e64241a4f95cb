"""Mistakes in users' files that only the whole program can tell: taken names; keys, models and stages there are not."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from deqpipe import extending
from deqpipe.config import KNOWN_IMAGES, Config, all_variants
from deqpipe.errors import UserError
from deqpipe.extending import Attack, DataSource, Defence, Extension, Model, Piece, Solver, Table
from deqpipe.workflow import specs, table1_columns
from deqpipe.workflow.defences import DEFENCES
from deqpipe.workflow.stages import STAGES
from deqpipe.workflow.vocabulary import EVERY_DEQ, RESNET, added, is_built_in

P = TypeVar("P", bound=Piece)
PAPER = "Sec. "
"""Labels of the paper's methods begin so, and are drawn together: Secs. 3.2 & 3.3."""


def refuse_taken(paths: Sequence[str]) -> None:
    """Refuse names that the package has, and models and stages that are none.

    Raises:
        UserError: in one line, with the line of the file.
    """
    sections = all_variants()
    _refuse_built_in(Solver, paths, sections["solver"].sections)
    _refuse_built_in(DataSource, paths, sections["data"].sections)
    _refuse_built_in(Defence, paths, DEFENCES)
    _refuse_built_in(Model, paths, ("deq", "resnet"))
    _refuse_labels(Defence, paths, {defence.label for defence in DEFENCES.values()})
    _refuse_labels(Model, paths, {"baseline", str(RESNET.method)})
    _refuse_labels(Attack, paths, set(table1_columns.EVERY))
    for defence, file in _pieces(Defence, paths):
        _refuse_unknown(defence, file, "models", defence.models, EVERY_DEQ)
    for table, file in _pieces(Table, paths):
        _refuse_unknown(table, file, "needs", table.needs, STAGES)
    _refuse_images(paths)
    _refuse_models(paths)


def _refuse_images(paths: Iterable[str]) -> None:
    """Refuse labels by which other images would be measured where a trained model goes with its data's name alone."""
    known = {_letters(text) for key, one in KNOWN_IMAGES.items() for text in (key, one.name, one.described)}
    for source, file in _pieces(DataSource, paths):
        if _letters(source.label) in known or source.label.lower().startswith("folder "):
            taken = f"label {source.label!r} stands for images of the package's own"
            raise _error(source, file, f"{source.kind} {source.name}: {taken}")


def _letters(label: str) -> str:
    """A label by which `CIFAR-10` and `cifar10` are one."""
    return "".join(character for character in label.lower() if character.isalnum())


def _refuse_models(paths: Iterable[str]) -> None:
    """Refuse pieces by which two models would have one name, which is made of a piece's and another one."""
    makers = dict[str, str]()
    for entry, piece, file in added(paths):
        rival = "the package" if is_built_in(entry.name) else makers.get(entry.name)
        if rival is not None:
            raise _error(piece, file, f"{piece.kind} {piece.name!r} makes model {entry.name!r}, which {rival} has")
        makers[entry.name] = f"{piece.kind} {piece.name!r}, {file.where(piece)},"


def _refuse_built_in(kind: type[P], paths: Iterable[str], names: Iterable[str]) -> None:
    for piece, file in _pieces(kind, paths):
        if piece.name in names:
            raise _error(piece, file, f"{piece.kind} {piece.name!r} is taken by the package")


def _refuse_labels(kind: type[P], paths: Iterable[str], labels: Collection[str]) -> None:
    """Refuse labels by which tables would take a piece for one of the package's own."""
    for piece, file in _pieces(kind, paths):
        if piece.label in labels or piece.label.startswith(PAPER):
            raise _error(piece, file, f"{piece.kind} {piece.name}: label {piece.label!r} stands for the package's own")


def check_keys(config: Config) -> None:
    """Refuse pieces that ask for keys which the configuration does not have.

    Raises:
        UserError: in one line, with the line of the file.
    """
    settings = config.model_dump(mode="json")
    asking: tuple[tuple[Defence | Attack, Extension], ...] = (
        *_pieces(Defence, config.extensions),
        *_pieces(Attack, config.extensions),
    )
    for piece, file in asking:
        for key in piece.keys:
            try:
                specs.pick(settings, key)
            except (KeyError, TypeError):
                raise _error(piece, file, f"keys has {key!r}, which the configuration does not have") from None


def _pieces(kind: type[P], paths: Iterable[str]) -> Iterator[tuple[P, Extension]]:
    yield from extending.pieces(kind, paths).values()


def _refuse_unknown(piece: Piece, file: Extension, attribute: str, named: Iterable[str], known: Iterable[str]) -> None:
    for name in named:
        if name not in known:
            raise _error(piece, file, f"{attribute} has {name!r}, but may have {', '.join(known)}")


def _error(piece: Piece, file: Extension, what: str) -> UserError:
    return UserError(f"extension {file.where(piece)}: {what}")
