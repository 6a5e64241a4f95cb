"""What an attack was told is told again, and only to one that asks the same."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe.attack.autoattack import Flags
from deqpipe.attack.transcript import Kept, Transcript, fingerprint
from deqpipe.counts import Evaluations
from deqpipe.machine.stopping import Interrupted, StopRequest

X = torch.linspace(0, 1, 12).reshape(3, 4)


class Model:
    """Logits, of which each image counts as one evaluation."""

    def __init__(self) -> None:
        self.counted = Evaluations()

    def __call__(self, x: Tensor) -> Tensor:
        self.counted += Evaluations(forward=len(x))
        return torch.stack([x.square().sum(1), x.sin().prod(1)], dim=1)


def transcript(model: Model, earlier: Kept | None = None, *, saved: list[Kept] | None = None) -> Transcript:
    saves = [] if saved is None else saved
    return Transcript(earlier or Kept(), save=saves.append, counted=lambda: model.counted)


def attack(
    recorder: Transcript, model: Model, x: Tensor = X, *, steps: int = 2, flags: Flags | None = None
) -> tuple[Tensor, Tensor]:
    """Gradient steps from random starts, twice: an outcome, and what a generator gives behind it."""
    ask, flags = recorder.watching(model), flags or Flags()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for _ in range(2):
            (x,) = recorder.step(lambda x=x: (climbed(ask, x, steps, flags),), (x,), flags)  # type: ignore[misc]
        return x, torch.rand(1)


def climbed(ask: Any, x: Tensor, steps: int, flags: Flags) -> Tensor:
    flags.warning("zero gradients")
    flags.warning("a number that is none")
    moved = x + torch.rand_like(x)
    for _ in range(steps):
        with torch.enable_grad():
            leaf = moved.clone().requires_grad_()
            loss = ask(leaf)[:, 0].sum()
        (gradient,) = torch.autograd.grad(loss, [leaf])
        moved = torch.where((ask(moved)[:, 1] > 0)[:, None], moved + gradient, moved)
    return moved


def through_file(kept: Kept) -> Kept:
    """As it comes back from tensors and JSON."""
    return Kept.of(kept.tensors(), json.loads(json.dumps(kept.facts(), sort_keys=True)))


def test_a_gradient_through_a_transcript_is_the_models_own() -> None:
    leaf = X.clone().requires_grad_()
    ask = transcript(Model()).watching(Model())
    value = ask(leaf)
    assert torch.equal(value, Model()(X))
    arriving = torch.rand_like(value)
    for _ in range(2):  # the second time the graph is used up, and made anew
        (gradient,) = torch.autograd.grad(value, leaf, arriving, retain_graph=True)
        (wanted,) = torch.autograd.grad(Model()(leaf), leaf, arriving)
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("after", range(2, 9))
def test_an_attack_left_after_any_answer_ends_with_the_same_bits_and_count(after: int) -> None:
    whole, warned = Model(), Flags()
    wanted = attack(transcript(whole), whole, flags=warned)
    model, kept = Model(), Kept()
    asked, tries = [0], 0

    class Patience(StopRequest):
        @property
        def reason(self) -> str | None:
            asked[0] += 1
            return "SIGTERM" if asked[0] > after else None

    while True:
        model, asked[0], tries = Model(), 0, tries + 1
        saved: list[Kept] = []
        recorder = transcript(model, through_file(kept), saved=saved)
        try:
            with Patience() as stop, stop.interruptible():
                again = Flags()
                found = attack(recorder, model, flags=again)
            break
        except Interrupted:
            told = recorder.leave()
            assert bool(told) == bool(saved)
            kept = saved[-1] if saved else kept
        assert tries < 20
    spent = recorder.earlier + model.counted
    assert [torch.equal(a, b) for a, b in zip(found, wanted, strict=True)] == [True, True]
    assert spent == whole.counted
    assert again.lines == warned.lines


def test_another_question_drops_the_rest_and_asks_the_model(caplog: pytest.LogCaptureFixture) -> None:
    model, saved = Model(), list[Kept]()
    recorder = transcript(model, saved=saved)
    attack(recorder, model)
    recorder.leave()
    other, fresh = Model(), Model()
    found = attack(transcript(other, saved[-1]), other, X + 1e-6)
    assert "asks something else than before" in caplog.messages[0]
    assert torch.equal(found[0], attack(transcript(fresh), fresh, X + 1e-6)[0])
    assert other.counted == fresh.counted


def test_what_a_transcript_gives_may_be_changed_in_place() -> None:
    model, saved = Model(), list[Kept]()
    recorder = transcript(model, saved=saved)
    recorder.watching(model)(X).add_(1)
    recorder.leave()
    again = transcript(model, saved[-1]).watching(model)(X)
    assert torch.equal(again, Model()(X))


def test_fingerprints_tell_one_bit_and_places_apart() -> None:
    other = X.clone()
    other[1, 2] = torch.nextafter(other[1, 2], torch.tensor(2.0))
    numbers = {fingerprint(X), fingerprint(other), fingerprint(X.flip(0)), fingerprint(X, X), fingerprint(X > 0.5)}
    assert len(numbers) == 5
    assert fingerprint(X) == fingerprint(X.clone())
