"""AutoAttack (Croce and Hein, 2020) by its library: one of its attacks on one batch at a time, and its checks.

The library returns only images that fool the logits that it is given. Where those are a surrogate of the decision, that
says too little: of every image the one of highest loss is handed out as well. So the loops over restarts and targets
stand here, around the library's own runs, with its seeds, its draws and its batches: what fools is what it would find.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import Tensor

from deqpipe.attack.transcript import LogitsOf, Recorder, Unrecorded
from deqpipe.config import AttackName
from deqpipe.errors import UserError
from deqpipe.shapes import Images, Labels, Logits
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.library_attacks import APGD_T, LIBRARY_ATTACKS

UNRECORDED = Unrecorded()
PACKAGES = ("pyautoattack", "autoattack")
"""The maintained package, and the original one; the first that is installed is used."""
TOLERANCE = 1e-6  # rounding of an image at the border of its ball


@dataclass(frozen=True)
class Library:
    """What is used of the library."""

    apgd: Any
    apgd_targeted: Any
    fab: Any
    square: Any
    checks: Any


def library() -> Library:
    """The installed library.

    Raises:
        UserError: there is none.
    """
    package = next((name for name in PACKAGES if find_spec(name) is not None), None)
    if package is None:
        raise UserError(f"AutoAttack needs one of the packages {', '.join(PACKAGES)}, but none is installed")
    autopgd, square = import_module(f"{package}.autopgd_base"), import_module(f"{package}.square")
    fab, checks = import_module(f"{package}.fab_pt"), import_module(f"{package}.checks")
    return Library(autopgd.APGDAttack, autopgd.APGDAttack_targeted, fab.FABAttack_PT, square.SquareAttack, checks)


class Flags:
    """Keeps what the library warns of; passed to it as its logger."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def warning(self, message: str) -> None:
        """Keep a warning; those that differ in numbers only are kept once, and counted."""
        text = re.sub(r" See \S+ for details\.", "", message)
        kind = re.sub(r"\d+", "#", text)
        self._first.setdefault(kind, text)
        self._times[kind] = self._times.get(kind, 0) + 1

    log = warning  # what the original package calls

    def dump(self) -> Any:
        """All that was kept, as JSON values."""
        return [[kind, text, self._times[kind]] for kind, text in self._first.items()]

    def restore(self, dumped: Any) -> None:
        """Become as it was when it was dumped."""
        self._first = {kind: text for kind, text, _ in dumped}
        self._times = {kind: times for kind, _, times in dumped}

    @property
    def lines(self) -> tuple[str, ...]:
        """The warnings, in order."""
        return tuple(
            text + (f" (first of {self._times[kind]} such warnings)" if self._times[kind] > 1 else "")
            for kind, text in self._first.items()
        )


@dataclass(frozen=True)
class Crafted:
    """What an attack made of a batch.

    Attributes:
        fooled: an image that fools the logits; the clean one where there is none.
        best: the image of highest loss; the clean one where the attack has none of its own.
    """

    fooled: Images
    best: Images


@dataclass(frozen=True)
class LibraryAttacks:
    """The library's attacks in an l-infinity ball.

    Attributes:
        ball: the threat model.
        iterations: of APGD-CE, APGD-T and FAB-T.
        restarts: random starts of APGD-CE.
        targets: classes that APGD-T and FAB-T aim at; of fewer wrong ones, all.
        queries: of Square per image.
        misclassified: whether images that the logits misclassify already get a `best` of their own. The library
            leaves them as they are, which makes sense where the logits decide. They are attacked behind the others,
            whose random numbers this does not move; APGD-T aims at the class that they are taken for. FAB-T, which
            looks for the smallest change, leaves them.
    """

    ball: LinfBall
    iterations: int
    restarts: int = 1
    targets: int = 9
    queries: int = 5000
    misclassified: bool = True

    def __post_init__(self) -> None:
        """Refuse an attack that does nothing.

        Raises:
            ValueError: fewer than one of anything.
        """
        for name in ("iterations", "restarts", "targets", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")

    @torch.no_grad()
    def __call__(
        self,
        name: AttackName,
        logits_of: LogitsOf,
        x: Images,
        y: Labels,
        *,
        seed: int,
        flags: Flags,
        recorder: Recorder = UNRECORDED,
    ) -> Crafted:
        """One attack on one batch.

        Without a recorder, parameters that are not frozen gather gradients from FAB-T.

        Args:
            name: the attack.
            logits_of: what is attacked; differentiable, but for Square.
            x: clean images in [0, 1], float32.
            y: their classes.
            seed: of the library's draws. The global generators are left as they were.
            flags: where warnings go.
            recorder: watches what is asked, so that an attack that was stopped can go on.

        Raises:
            ValueError: images beyond [0, 1], none, or too few classes for APGD-T.
            Interrupted: the attack is to be left.
        """
        _check_images(x)
        with _own_generators(seed):
            runs = self._runs(name, recorder, logits_of, x, y, flags)
            run = {"apgd_ce": self._apgd_ce, "apgd_t": self._apgd_t, "fab_t": self._fab_t, "square": self._square}
            run[name](runs, seed, flags)
        return Crafted(self._inside(runs.fooled, x), self._inside(runs.best, x))

    def _runs(
        self, name: AttackName, recorder: Recorder, logits_of: LogitsOf, x: Images, y: Labels, flags: Flags
    ) -> "_Runs":
        """The runs of an attack, before the first one."""
        watched = recorder.watching(logits_of)
        (logits,) = recorder.step(lambda: (watched(x),), (x,), flags)
        if name not in runnable([name], classes=logits.shape[1]):
            attack = LIBRARY_ATTACKS[name]
            raise ValueError(f"{attack.label} needs {attack.least_classes} classes, but there are {logits.shape[1]}")
        return _Runs(
            x,
            y,
            misclassified=logits.max(1).indices != y,
            logits_of=_answering(watched, logits),
            in_steps=partial(_in_steps, recorder, flags),
        )

    def _inside(self, images: Tensor, x: Tensor) -> Tensor:
        away = float(self.ball.distance(images, x).max())
        assert away <= self.ball.epsilon + TOLERANCE, f"an attack left its ball: {away}"
        assert -TOLERANCE <= float(images.min()) <= float(images.max()) <= 1 + TOLERANCE, "an attack left [0, 1]"
        return self.ball.project(images, x)

    def _apgd_ce(self, runs: "_Runs", seed: int, flags: Flags) -> None:
        attack = library().apgd(
            runs.logits_of, norm="Linf", eps=self.ball.epsilon, n_iter=self.iterations, n_restarts=self.restarts,
            seed=seed, loss="ce", device=runs.x.device,
        )  # fmt: skip
        attack.init_hyperparam(runs.x)
        for _ in range(self.restarts):
            runs.attack_those_left(attack.attack_single_run)
        if self.misclassified:
            for _ in range(self.restarts):
                runs.attack_misclassified(attack.attack_single_run)

    def _apgd_t(self, runs: "_Runs", seed: int, flags: Flags) -> None:
        attack = library().apgd_targeted(
            runs.logits_of, norm="Linf", eps=self.ball.epsilon, n_iter=self.iterations, n_restarts=1, seed=seed,
            n_target_classes=self._targets(runs), device=runs.x.device,
        )  # fmt: skip
        attack.logger = flags  # no argument in older versions
        attack.init_hyperparam(runs.x)

        def towards(rank: int) -> _Run:
            def run(x: Tensor, y: Tensor) -> _Outcome:
                attack.y_target = runs.logits_of(x).sort(dim=1).indices[:, -rank]
                outcome: _Outcome = attack.attack_single_run(x, y)
                return outcome

            return run

        for rank in range(2, self._targets(runs) + 2):
            runs.attack_those_left(towards(rank))
        if self.misclassified:
            runs.attack_misclassified(towards(1))

    def _fab_t(self, runs: "_Runs", seed: int, flags: Flags) -> None:
        """Class by class, as the library's own loop does it; without restarts it draws nothing."""
        attack = library().fab(
            runs.logits_of, norm="Linf", eps=self.ball.epsilon, n_iter=self.iterations, n_restarts=1, seed=seed,
            targeted=True, n_target_classes=self._targets(runs), device=runs.x.device,
        )  # fmt: skip

        def towards(rank: int) -> _Run:
            def run(x: Tensor, y: Tensor) -> _Outcome:
                attack.target_class = rank
                images = attack.attack_single_run(x, y, use_rand_start=False, is_targeted=True)
                beyond = self.ball.distance(images, x) > self.ball.epsilon
                right = (runs.logits_of(images).max(1).indices == y) | beyond
                return images, right, torch.full((len(x),), -torch.inf, device=x.device), images

            return run

        for rank in range(2, self._targets(runs) + 2):
            runs.attack_those_left(towards(rank))
        runs.best = runs.fooled

    def _square(self, runs: "_Runs", seed: int, flags: Flags) -> None:
        attack = library().square(
            runs.logits_of, norm="Linf", eps=self.ball.epsilon, p_init=0.8, n_queries=self.queries, n_restarts=1,
            seed=seed, resc_schedule=False, device=runs.x.device,
        )  # fmt: skip
        attack.init_hyperparam(runs.x)

        def run(x: Tensor, y: Tensor) -> _Outcome:
            _, images = attack.attack_single_run(x, y)
            right = runs.logits_of(images).max(1).indices == y
            return images, right, torch.zeros(len(x), device=x.device), images

        runs.attack_those_left(run)
        if self.misclassified:
            runs.attack_misclassified(run)

    def _targets(self, runs: "_Runs") -> int:
        return min(self.targets, runs.classes - 1)


def _check_images(x: Images) -> None:
    if not len(x):
        raise ValueError("no image to attack")
    if not (float(x.min()) >= 0 and float(x.max()) <= 1):
        raise ValueError(f"images are from {float(x.min()):g} to {float(x.max()):g}, but must be within [0, 1]")


def runnable(attacks: Sequence[AttackName], *, classes: int) -> tuple[AttackName, ...]:
    """The attacks that so many classes allow: APGD-T needs four."""
    return tuple(name for name in attacks if classes >= LIBRARY_ATTACKS[name].least_classes)


_Outcome: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Images of highest loss; whether the logits are right on all images of the run; that loss; images that fool."""
_Run: TypeAlias = Callable[[Tensor, Tensor], _Outcome]


class _Runs:
    """The runs of one attack on a batch, and what they have come to."""

    def __init__(
        self, x: Tensor, y: Tensor, *, misclassified: Tensor, logits_of: LogitsOf, in_steps: Callable[[_Run], _Run]
    ) -> None:
        self.x, self.y, self.logits_of, self._in_steps = x, y, logits_of, in_steps
        self.fooled, self.best = x.clone(), x.clone()
        self.classes = logits_of(x[:0]).shape[1]
        self._misclassified, self._left = misclassified, ~misclassified
        self._loss = torch.full((len(x),), -torch.inf, device=x.device)

    def attack_those_left(self, run: _Run) -> None:
        """Run on the images that nothing has fooled the logits on yet, as the library does."""
        where = self._left.nonzero().flatten()
        if not len(where):
            return
        best, right, loss, fooled = self._in_steps(run)(self.x[where].clone(), self.y[where].clone())
        wrong = ~right.bool()
        self.fooled[where[wrong]] = fooled[wrong]
        self._left[where[wrong]] = False
        self._keep_better(where, best, loss)

    def attack_misclassified(self, run: _Run) -> None:
        """Run on the images that the logits misclassify when clean."""
        where = self._misclassified.nonzero().flatten()
        if len(where):
            best, _, loss, _ = self._in_steps(run)(self.x[where].clone(), self.y[where].clone())
            self._keep_better(where, best, loss)

    def _keep_better(self, where: Tensor, best: Tensor, loss: Tensor) -> None:
        better = loss > self._loss[where]
        self.best[where[better]] = best[better]
        self._loss[where[better]] = loss[better]


def _in_steps(recorder: Recorder, flags: Flags, run: _Run) -> _Run:
    """The run as a step that a recorder watches."""

    def recorded(x: Tensor, y: Tensor) -> _Outcome:
        best, right, loss, fooled = recorder.step(lambda: run(x, y), (x, y), flags)
        return best, right, loss, fooled

    return recorded


def _answering(logits_of: LogitsOf, example: Logits) -> LogitsOf:
    """The same logits, also of no image: Square asks for them when no margin is above 0, but one is 0 or no number."""
    return lambda x: logits_of(x) if len(x) else example[:0]


@contextmanager
def _own_generators(seed: int) -> Iterator[None]:
    """The global generators seeded as the library does it, and given back as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.random.manual_seed(seed)
        yield


def check(logits_of: LogitsOf, x: Images, y: Labels, *, attacks: Sequence[AttackName], flags: Flags) -> None:
    """The library's checks of what it attacks: random or dynamic logits, probabilities, too few classes."""
    checks = library().checks
    with torch.no_grad():
        checks.check_randomized(logits_of, x, y, bs=len(x), logger=flags)
        classes = checks.check_range_output(logits_of, x, logger=flags)
        _check_dynamic(checks, logits_of, x, flags)
    names = [LIBRARY_ATTACKS[name].library_name for name in attacks]
    checks.check_n_classes(classes, names, classes - 1, classes - 1, logger=flags)
    if len(runnable(attacks, classes=classes)) < len(attacks):
        flags.warning(f"{APGD_T.label} is left out: it needs {APGD_T.least_classes} classes, and there are {classes}")


def _check_dynamic(checks: Any, logits_of: LogitsOf, x: Images, flags: Flags) -> None:
    """Whether gradients are taken within the logits. The library counts for ever, and drops the trace function."""
    for name in checks.funcs:
        checks.funcs[name] = 0
    before = sys.gettrace()
    try:
        checks.check_dynamic(logits_of, x, False, logger=flags)
    finally:
        sys.settrace(before)


def check_square(accuracy: dict[AttackName, float], *, flags: Flags) -> None:
    """The library's check whether Square, without gradients, does what the attacks with gradients did not.

    Args:
        accuracy: after each attack, on the images that Square attacks.
        flags: where a warning goes.
    """
    named = {LIBRARY_ATTACKS[name].library_name: value for name, value in accuracy.items()}
    library().checks.check_square_sr({"clean": 1.0, **named}, logger=flags)
