"""What an attack of a library has been told so far, so that one that was stopped need not ask again.

A library's attack keeps its state on Python's stack, where nobody can save it. But all that it learns of a model are
logits and their gradients, and all else follows from its seed: told the same, it does the same. So what is kept is what
it was told. Started again, it goes through its own arithmetic, which takes moments, and gets the answers of before;
where these end, the model is asked again.

Answers are kept within a step (a restart, a target class); of a step that is over, its outcome alone. Each carries a
fingerprint of what was asked. Where the attack asks something else than before, as on a device that rounds otherwise,
the rest of the answers is dropped: those that it has had are true ones.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from deqpipe.counts import NO_EVALUATIONS, Evaluations
from deqpipe.machine import stopping
from deqpipe.shapes import Logits

LogitsOf: TypeAlias = Callable[[Tensor], Logits]
Outcome: TypeAlias = tuple[Tensor, ...]

SAVE_SECONDS = 300.0
"""Between two saves, as of a training."""
SAVE_BYTES = 2**29
"""Answers that are saved though the time has not come: memory is not there for all gradients of a long attack."""
_logger = logging.getLogger(__name__)


@runtime_checkable
class Recorder(Protocol):
    """Watches what an attack asks."""

    def watching(self, logits_of: LogitsOf) -> LogitsOf:
        """The same logits, with the same gradient to the images, watched."""
        ...

    def step(self, compute: Callable[[], Outcome], given: Sequence[Tensor], memory: "Memory") -> Outcome:
        """What a part of the attack comes to.

        Args:
            compute: does it; asks the watched logits, draws from the global generators.
            given: what it starts from.
            memory: what else it changes.
        """
        ...


@runtime_checkable
class Memory(Protocol):
    """What an attack changes beside its tensors, such as the warnings of a library."""

    def dump(self) -> Any:
        """As JSON values."""
        ...

    def restore(self, dumped: Any) -> None:
        """Become as it was when it was dumped."""
        ...


class Unrecorded:
    """Keeps nothing."""

    def watching(self, logits_of: LogitsOf) -> LogitsOf:
        """The same logits; where they are asked the attack can be left."""

        def answer(x: Tensor) -> Logits:
            stopping.check()
            return logits_of(x)

        return answer

    def step(self, compute: Callable[[], Outcome], given: Sequence[Tensor], memory: Memory) -> Outcome:
        """What it comes to."""
        return compute()


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        kind: logits; `differentiable` ones, which a gradient follows; or the gradient.
        question: fingerprint of the images, or of the gradient that came in.
        value: on the host.
    """

    kind: str
    question: int
    value: Tensor


@dataclass(frozen=True)
class Step:
    """A part of an attack that is over.

    Attributes:
        question: fingerprint of what it started from.
        outcome: on the host.
        generators: states of the global generators behind it, the CPU's first.
        memory: what `Memory.dump` gave.
    """

    question: int
    outcome: Outcome
    generators: tuple[Tensor, ...]
    memory: Any


@dataclass(frozen=True)
class Kept:
    """All that is known of an attack under way.

    Attributes:
        steps: those that are over, in order.
        answers: of the step under way, in order.
        evaluations: of f, that these took.
    """

    steps: tuple[Step, ...] = ()
    answers: tuple[Answer, ...] = ()
    evaluations: Evaluations = NO_EVALUATIONS

    def tensors(self) -> dict[str, Tensor]:
        """By names that tell their place."""
        found = {f"answer.{number}": answer.value for number, answer in enumerate(self.answers)}
        for number, step in enumerate(self.steps):
            found |= {f"step.{number}.outcome.{place}": one for place, one in enumerate(step.outcome)}
            found |= {f"step.{number}.generator.{place}": one for place, one in enumerate(step.generators)}
        return found

    def facts(self) -> dict[str, Any]:
        """All else, as JSON values."""
        return {
            "answers": [[answer.kind, answer.question] for answer in self.answers],
            "steps": [[step.question, step.memory] for step in self.steps],
            "evaluations": asdict(self.evaluations),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "Kept":
        """The same from its tensors and facts.

        Raises:
            KeyError, TypeError, ValueError: they do not belong together.
        """
        answers = tuple(
            Answer(kind, question, tensors[f"answer.{number}"])
            for number, (kind, question) in enumerate(facts["answers"])
        )
        steps = tuple(
            Step(
                question,
                _numbered(tensors, f"step.{number}.outcome"),
                _numbered(tensors, f"step.{number}.generator"),
                memory,
            )
            for number, (question, memory) in enumerate(facts["steps"])
        )
        return cls(steps, answers, Evaluations(**facts["evaluations"]))


def _numbered(tensors: Mapping[str, Tensor], start: str) -> tuple[Tensor, ...]:
    count = sum(name.startswith(f"{start}.") for name in tensors)
    return tuple(tensors[f"{start}.{place}"] for place in range(count))


class Transcript:
    """Keeps what an attack is told, and tells it again what it was told before."""

    def __init__(self, earlier: Kept, *, save: Callable[[Kept], None], counted: Callable[[], Evaluations]) -> None:
        """Begin an attack, or go on with one.

        Args:
            earlier: what is known of it.
            save: keeps what is known; called now and then.
            counted: evaluations of f that this process has made so far.
        """
        self._earlier, self._save, self._counted = earlier, save, counted
        self._waiting_steps, self._waiting_answers = list(earlier.steps), list(earlier.answers)
        self._steps: list[Step] = []
        self._answers: list[Answer] = []
        self._counted_before = counted()
        self._settled, self._spent, self._new = 0, NO_EVALUATIONS, 0  # answers of the step under way; of all; of ours
        self._saved_at, self._unsaved_bytes = time.monotonic(), 0

    @property
    def earlier(self) -> Evaluations:
        """Those of f that the answers of before took."""
        return self._earlier.evaluations

    def watching(self, logits_of: LogitsOf) -> LogitsOf:
        """The same logits, with the same gradient to the images; what was asked before is not asked again."""

        def answer(x: Tensor) -> Logits:
            if torch.is_grad_enabled() and x.requires_grad:
                value: Tensor = _Asked.apply(x, self, logits_of)
                return value
            return self.told("logits", x, lambda: logits_of(x))

        return answer

    def step(self, compute: Callable[[], Outcome], given: Sequence[Tensor], memory: Memory) -> Outcome:
        """What a part of the attack comes to; what came of it before, where it was over already."""
        question = fingerprint(*given)
        if self._waiting_steps:
            known = self._waiting_steps.pop(0)
            if known.question == question:
                self._steps.append(known)
                _draw_on_from(known.generators)
                memory.restore(known.memory)
                return tuple(one.to(given[0].device, copy=True) for one in known.outcome)
            self._drop_the_rest()
        outcome = compute()
        self._steps.append(Step(question, tuple(map(_on_host, outcome)), _generators(), memory.dump()))
        self._answers.clear()
        self._waiting_answers.clear()
        self._settle(sum(map(_bytes, outcome)))
        return outcome

    def told(self, kind: str, asked: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """The answer to a question; `compute` asks it."""
        question = fingerprint(asked)
        if self._waiting_answers:
            known = self._waiting_answers.pop(0)
            if (known.kind, known.question) == (kind, question):
                self._answers.append(known)
                return known.value.to(asked.device, copy=True)
            self._drop_the_rest()
        stopping.check()
        value = compute()
        self._answers.append(Answer(kind, question, _on_host(value)))
        if kind == "differentiable":
            return value  # worth nothing without its gradient, which whoever goes on would have to ask for
        self._settle(_bytes(value))
        return value

    def leave(self) -> str:
        """Save what is new; what that is, in words: "" if there is nothing."""
        if not self._new:
            return ""
        self._save_now()
        return f"{self._new} more answer{'' if self._new == 1 else 's'} to the attack under way"

    def _settle(self, more_bytes: int) -> None:
        self._settled, self._new = len(self._answers), self._new + 1
        self._spent = self._earlier.evaluations + self._counted() - self._counted_before
        self._unsaved_bytes += more_bytes
        if time.monotonic() - self._saved_at > SAVE_SECONDS or self._unsaved_bytes > SAVE_BYTES:
            self._save_now()

    def _save_now(self) -> None:
        self._save(Kept(tuple(self._steps), tuple(self._answers[: self._settled]), self._spent))
        self._saved_at, self._unsaved_bytes = time.monotonic(), 0

    def _drop_the_rest(self) -> None:
        self._waiting_steps.clear()
        self._waiting_answers.clear()
        _logger.warning("the attack asks something else than before it was stopped: from here on it asks the model")


class _Asked(torch.autograd.Function):
    """Logits whose graph stays apart, so that both they and their gradient can come from a transcript."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, transcript: Transcript, logits_of: LogitsOf) -> Tensor:
        ctx.transcript, ctx.asked = transcript, _Question(x.detach(), logits_of)
        return transcript.told("differentiable", x, lambda: ctx.asked.logits().detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return ctx.transcript.told("gradient", gradient, lambda: ctx.asked.gradient(gradient)), None, None


class _Question:
    """Images, and the graph from them to their logits once it was asked for."""

    def __init__(self, x: Tensor, logits_of: LogitsOf) -> None:
        self._x, self._logits_of = x, logits_of
        self._graph: tuple[Tensor, Tensor] | None = None

    def logits(self) -> Tensor:
        return self._graph_of_logits()[1]

    def gradient(self, arriving: Tensor) -> Tensor:
        """By a graph that is used up, so that no second one lies beside the next question's; asked anew if need be."""
        leaf, value = self._graph_of_logits()
        self._graph = None
        (gradient,) = torch.autograd.grad(value, leaf, arriving)
        return gradient

    def _graph_of_logits(self) -> tuple[Tensor, Tensor]:
        if self._graph is None:
            with torch.enable_grad():
                leaf = self._x.requires_grad_()
                self._graph = leaf, self._logits_of(leaf)
        return self._graph


def fingerprint(*tensors: Tensor) -> int:
    """A whole number that other tensors have by accident only, summed exactly: in whatever order a device adds."""
    total = 0
    for place, tensor in enumerate(tensors):
        flat = tensor.detach().contiguous().view(-1)
        words = flat.view(torch.int32 if flat.element_size() % 4 == 0 else torch.uint8).to(torch.int64)
        weights = torch.arange(len(words), device=words.device).mul_(_MULTIPLIER).bitwise_or_(1)
        total = (total * _MULTIPLIER + place + int((words * weights).sum())) % 2**63
    return total


_MULTIPLIER = 0x5851F42D4C957F2D
"""Of Knuth's linear congruential generator: it spreads places over all bits."""


def _generators() -> tuple[Tensor, ...]:
    on_device = (torch.cuda.get_rng_state(),) if torch.cuda.is_initialized() else ()
    return (torch.get_rng_state(), *on_device)


def _draw_on_from(generators: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(generators[0])
    if len(generators) > 1 and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(generators[1])


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
