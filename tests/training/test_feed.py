"""Batches on the device: the same as picked and augmented by hand, from images that were moved once."""

import pytest
import torch

from deqpipe.data import Augmentation, batches, crop_flip, none, order, steps_per_epoch, to_float
from deqpipe.seeding import Stream
from deqpipe.training import feed as feeding
from deqpipe.training.feed import Feed
from tests import tiny

CPU = torch.device("cpu")
SIZE = 16
PER_EPOCH = steps_per_epoch(tiny.TRAIN, SIZE)


def feed(augment: Augmentation = crop_flip, *, seed: int = 0) -> Feed:
    return Feed(tiny.dataset().train, augment, seed=seed, batch_size=SIZE, device=CPU)


@pytest.mark.parametrize("augment", [crop_flip, none])
@pytest.mark.parametrize("seed", [0, 3])
def test_batches_are_picked_and_augmented_as_by_hand(augment: Augmentation, seed: int) -> None:
    train, fed = tiny.dataset().train, feed(augment, seed=seed)
    for step in range(3 * PER_EPOCH):
        epoch, number = divmod(step, PER_EPOCH)
        picked = batches(tiny.TRAIN, SIZE, epoch=epoch, stream=Stream(seed, "order"))[number]
        x = to_float(augment(train.images[picked], Stream(seed, "augment").generator(step)))
        assert torch.equal(fed(step).x, x)
        assert torch.equal(fed(step).y, train.labels[picked])


def test_a_batch_does_not_depend_on_those_before_it() -> None:
    forwards, backwards = feed(), feed()
    found = {step: backwards(step) for step in reversed(range(7))}
    for step in range(7):
        assert torch.equal(forwards(step).x, found[step].x)


def test_an_epochs_order_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def watched(n: int, *, epoch: int, stream: Stream) -> torch.Tensor:
        drawn.append(epoch)
        return order(n, epoch=epoch, stream=stream)

    monkeypatch.setattr(feeding, "order", watched)
    fed = feed()
    for step in range(3 * PER_EPOCH):
        fed(step)
    assert drawn == [0, 1, 2]


def test_batches_are_the_pieces_of_the_order() -> None:
    stream = Stream(1, "order")
    pieces = batches(10, 4, epoch=2, stream=stream)
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert torch.equal(torch.cat(pieces), order(10, epoch=2, stream=stream))
