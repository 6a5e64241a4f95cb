"""Whether a decision answers an image alike whenever it is asked, and whatever images are beside it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from deqpipe.errors import UserError
from deqpipe.shapes import Images

Answers = Float[Tensor, "batch ..."]
"""Logits of images; or of all states, the images first."""

TRIED = 8
"""Images that are looked at."""
INFLUENCE = 0.01
"""Share of the logits' range that an image's may change by with the images beside it: a solver makes more of rounding
errors than a network, and a batch norm in training mode far more than this."""


def refuse_other_answers(answers: Answers, again: Answers) -> None:
    """Refuse logits that are others when the same images are asked about again.

    Raises:
        UserError: they are.
    """
    changes = _changes(again, answers)
    allowed = 0.0 if answers.device.type == "cpu" else INFLUENCE * _range(answers)
    if bool((changes > allowed).any()):  # a device may choose another way to the same sums
        raise UserError(
            f"the same images have other logits when asked again (by up to {float(changes.max()):.3g}), in evaluation "
            "mode: dropout or noise that eval() does not turn off; a random decision needs other attacks than these"
        )


def refuse_influence(ask: Callable[[Images], Answers], x: Images, answers: Answers, *, share: float = 0.0) -> None:
    """Refuse images that influence each other: alone, and in another order, their logits must be the same.

    Args:
        ask: what gives the logits of images.
        x: some images.
        answers: their logits.
        share: of the images, which may change: what a solver makes of rounding errors may turn one of many.

    Raises:
        UserError: they do.
    """
    if len(x) < 2:
        return
    alone = torch.cat([ask(x[row : row + 1]) for row in range(len(x))])
    order = torch.arange(len(x), device=x.device).roll(1)
    permuted = torch.empty_like(answers)
    permuted[order] = ask(x[order])
    allowed = INFLUENCE * _range(answers)
    for what, other in (("alone", alone), ("in another order", permuted)):
        changes = _changes(other, answers)
        if float((~(changes <= allowed)).double().mean()) > share:
            raise UserError(
                f"images influence each other: {what} an image's logits change by up to {float(changes.max()):.3g} of "
                f"a range of {_range(answers):.3g}: a batch norm in training mode, or a solver that looks at the whole "
                "batch"
            )


def _changes(other: Answers, answers: Answers) -> Float[Tensor, " batch"]:
    """The largest change of each image; what is no number in both has not changed."""
    change = (other - answers).abs()
    nowhere = ~other.isfinite() & ~answers.isfinite()
    largest: Tensor = change.masked_fill(nowhere, 0.0).flatten(1).amax(1)
    return largest


def _range(answers: Answers) -> float:
    finite = answers[answers.isfinite()]
    return float(finite.max() - finite.min()) if len(finite) else 0.0
