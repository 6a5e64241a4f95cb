"""What an attack from a user's file is given, and what it must give back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deqpipe import extending
from deqpipe.attack.judged import Crafted
from deqpipe.attack.pgd import uniform_start
from deqpipe.attack.suite import Victim, decision_of
from deqpipe.errors import UserError
from deqpipe.extending import Attack
from deqpipe.machine import faults
from deqpipe.seeding import Stream
from deqpipe.settings import MissingSettingError, Settings
from deqpipe.shapes import Images, Labels, Logits
from deqpipe.threat_model import LinfBall


@dataclass(frozen=True)
class Target:
    """A decision under attack, and some images of it.

    Attributes:
        victim: the decision with its model, dynamics and state, for attacks that want more than its logits.
        settings: the keys that the attack asked for.
        stream: random numbers of this attack and seed.
        keys: index of each image, the key of its random numbers: what is made of one depends on no other. Global
            generators depend on the first one alone, so on how many images go together.
    """

    victim: Victim
    settings: Settings
    stream: Stream
    keys: Sequence[int]

    @property
    def ball(self) -> LinfBall:
        """The threat model: its radius, and how images are brought back into it."""
        return self.victim.ball

    def logits(self, x: Images) -> Logits:
        """What the decision goes by, with gradient to the images: through the solver's own steps and the defence."""
        return decision_of(self.victim)(x)

    def decide(self, x: Images) -> Logits:
        """The same without gradient, as the decision is judged."""
        return self.victim.logits(x)

    def start(self, x: Images) -> Images:
        """A uniform draw from the ball, the same at every call."""
        return uniform_start(x, ball=self.ball, stream=self.stream, images=self.keys, clamp=True)


def crafted(attack: Attack, target: Target, x: Images, y: Labels) -> Crafted:
    """What an attack makes of some images. It gets copies, which it may write into.

    Raises:
        UserError: it ends with an exception, or gives something else than images within the ball and [0, 1].
    """
    made = _checked(attack, _made(attack, target, x, y), x, target.ball)
    count, device = len(x), x.device
    unknown, taken = torch.full((count,), torch.nan, device=device), torch.full((count,), attack.gradients)
    return Crafted(made - x, made, unknown, torch.full_like(taken, -1), taken, unknown, unknown)


def _made(attack: Attack, target: Target, x: Images, y: Labels) -> object:
    assert attack.craft is not None
    try:
        with target.stream.globally(*target.keys[:1], device=x.device):
            return attack.craft(target, x.detach().clone(), y.clone())
    except MissingSettingError as missing:
        reads = f"craft reads {missing.key}, which its keys do not name: they are {', '.join(attack.keys) or 'none'}"
        raise _error(attack, reads) from None
    except UserError:
        raise
    except Exception as error:
        mistake = None if faults.is_out_of_memory(error) else _mistake(error, target, x)
        if mistake is None:
            raise
        raise UserError(f"{mistake} (craft of attack {attack.name}, images of shape {tuple(x.shape)})") from error


def _mistake(error: Exception, target: Target, x: Images) -> UserError | None:
    """An exception in one line; None: it may be ours.

    What arises within the package is taken for a wrong call of it where the decision itself answers the images.
    """
    return extending.explained(error) or (
        extending.explained(error, called_wrongly=True) if _answers(target, x) else None
    )


def _answers(target: Target, x: Images) -> bool:
    try:
        target.logits(x)
    except Exception:  # whatever it is, it is none of the attack's
        return False
    return True


_ROUNDING = 1e-6


def _checked(attack: Attack, made: object, x: Images, ball: LinfBall) -> Images:
    if not isinstance(made, Tensor) or made.shape != x.shape:
        gave = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise _error(attack, f"craft gives {gave}, but must give images of shape {tuple(x.shape)}")
    made = made.detach()
    if (made.dtype, made.device) != (x.dtype, x.device):
        raise _error(
            attack,
            f"craft gives {made.dtype} on {made.device}, but must give images as it got: {x.dtype} on {x.device}",
        )
    if not made.isfinite().all():
        raise _error(attack, "craft gives pixels that are no numbers, but must give numbers in [0, 1]")
    if made.min() < 0 or made.max() > 1:
        where = f"{float(made.min()):g} to {float(made.max()):g}"
        raise _error(attack, f"craft gives pixels from {where}, but must give pixels in [0, 1]")
    change = float(ball.distance(made, x).max())
    if change > ball.epsilon + _ROUNDING:
        raise _error(attack, f"craft changes a pixel by {change:g}, but must change it by at most {ball.epsilon:g}")
    return made


def _error(attack: Attack, what: str) -> UserError:
    return extending.mistake(Attack, attack.name, what)
