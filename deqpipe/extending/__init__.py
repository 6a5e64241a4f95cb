"""Pieces of one's own: what a file that `extensions:` in the configuration names may define (docs/extending.md).

A file defines values of the classes below at its top level. From then on their names are allowed in the configuration,
their jobs are planned and priced, and their rows stand in the tables. Nothing here imports torch; a user's file may.
"""

from deqpipe.extending.loading import Extension
from deqpipe.extending.pieces import KINDS, Attack, DataSource, Defence, Model, Piece, Solver, Table
from deqpipe.extending.registry import (
    activate,
    digests,
    expect,
    explained,
    find,
    forget,
    loaded,
    mistake,
    pieces,
    where,
)

__all__ = [
    "KINDS",
    "Attack",
    "DataSource",
    "Defence",
    "Extension",
    "Model",
    "Piece",
    "Solver",
    "Table",
    "activate",
    "digests",
    "expect",
    "explained",
    "find",
    "forget",
    "loaded",
    "mistake",
    "pieces",
    "where",
]
