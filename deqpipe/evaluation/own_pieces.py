"""Solvers, models and dynamics from users' files are tried on some images before anything is evaluated with them.

Batch sizes differ between machines, and a job that was stopped goes on elsewhere: results mean something only where an
image is answered alike whenever it is asked about, and whatever images are beside it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from deqpipe import build, extending
from deqpipe.config import parse_solver
from deqpipe.dynamics import Dynamics
from deqpipe.errors import UserError
from deqpipe.extending import Defence, Model, Piece, Solver
from deqpipe.model import alone
from deqpipe.model.architecture import Loaded
from deqpipe.model.interface import FixedPointModel
from deqpipe.settings import Settings
from deqpipe.shapes import Images
from deqpipe.workflow import vocabulary

CHANGED = 0.5
"""Share of the images that must change: a solver that looks at whole batches changes all, rounding errors a few."""


def check(loaded: Loaded, settings: Settings, name: str, x: Images) -> None:
    """Try the pieces that decide of a model's states.

    Args:
        loaded: the model.
        settings: of the job.
        name: of the model.
        x: some images.

    Raises:
        UserError: images influence each other, though no key says so, or are answered otherwise when asked about again.
    """
    assert isinstance(loaded.model, FixedPointModel)
    if build.plain_dynamics(settings).couples_images:
        return
    for dynamics, pieces in _of_users(loaded, settings, name):
        _check(loaded.model, dynamics, pieces, x)


def _of_users(loaded: Loaded, settings: Settings, name: str) -> Iterator[tuple[Dynamics, list[Piece]]]:
    """The dynamics of a model that users' files have a say in, each with the pieces that have."""
    solver = extending.find(Solver, settings.variant("solver", parse_solver).name)
    model = extending.find(Model, loaded.architecture["type"])
    beneath: list[Piece] = [piece for piece in (solver, model) if piece is not None]
    if beneath:
        yield build.plain_dynamics(settings), beneath
    for defence in vocabulary.MODELS[name].defences:
        piece = extending.find(Defence, defence)
        if piece is not None and piece.dynamics is not None:
            yield build.dynamics(settings, defence), [piece, *beneath]


def _check(model: FixedPointModel, dynamics: Dynamics, pieces: list[Piece], x: Images) -> None:
    @torch.no_grad()
    def ask(images: Images) -> Tensor:
        states = dynamics(model, images, last_residual=False).solution.states
        return model.trajectory_logits(states).transpose(0, 1)

    try:
        answers = ask(x)
        alone.refuse_other_answers(answers, ask(x))
        alone.refuse_influence(ask, x, answers, share=CHANGED)
    except UserError as error:
        whose = " with ".join(f"{piece.kind} {piece.name}" for piece in pieces)
        raise UserError(f"{extending.where(pieces[0])}{whose}: {error}") from None
