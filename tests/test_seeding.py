"""Streams depend on seed, purpose and key, and on nothing else."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqpipe.seeding import Stream

RECORDED = [0.678653, 0.0170945, 0.2144136, 0.9846894]
IMAGES = st.lists(st.integers(0, 60_000), min_size=1, max_size=5)


def numbers(generator: torch.Generator) -> list[float]:
    return torch.rand(4, generator=generator).tolist()


@given(images=IMAGES, seed=st.integers(0, 2**31))
def test_numbers_of_an_image_do_not_depend_on_its_batch_mates(images: list[int], seed: int) -> None:
    stream = Stream(seed, "starts")
    together = stream.uniform(images, (2, 3))
    for row, image in zip(together, images, strict=True):
        assert torch.equal(row, stream.uniform([image], (2, 3))[0])


def test_seed_purpose_and_key_each_make_a_stream_of_their_own() -> None:
    generators = [
        Stream(seed, purpose).generator(*key)
        for seed, purpose, key in itertools.product(
            (0, 1, 11), ("a", "b", "a/b"), ((), (0,), (1,), (0, 1), (1, 0), (11,))
        )
    ]
    drawn = [tuple(numbers(generator)) for generator in generators]
    assert len(set(drawn)) == len(drawn)


def test_same_name_gives_the_same_numbers_whenever_it_is_asked() -> None:
    stream = Stream(5, "order")
    first = numbers(stream.generator(3))
    torch.rand(7)
    numbers(stream.generator(2))
    assert numbers(stream.generator(3)) == first
    assert numbers(Stream(5, "order").generator(3)) == first


def test_recorded_numbers_stay_what_they_are() -> None:
    """Results of earlier runs rest on these: made with PyTorch 2.15 on a CPU."""
    assert numbers(Stream(0, "attack/start").generator(17)) == pytest.approx(RECORDED, abs=1e-7)


def test_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    Stream(1, "a").uniform([1, 2], (3,))
    assert torch.equal(before, torch.get_rng_state())


def test_numbers_are_uniform_between_0_and_1() -> None:
    drawn = Stream(2, "starts").uniform(range(500), (40,))
    assert drawn.dtype == torch.float32
    assert drawn.shape == (500, 40)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn[:, 0].var()) == pytest.approx(1 / 12, rel=0.15)
