"""The l-infinity ball."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqpipe.threat_model import LinfBall

PIXEL = st.floats(0, 1)


def image(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@given(centre=PIXEL, value=st.floats(-3, 3), epsilon=st.floats(0, 2))
def test_projection_is_the_nearest_point_of_the_ball_and_the_pixel_range(
    centre: float, value: float, epsilon: float
) -> None:
    low, high = max(centre - epsilon, 0), min(centre + epsilon, 1)
    nearest = min(max(value, low), high)
    ball = LinfBall(epsilon)
    projected = ball.project(image(value), image(centre))
    assert projected.item() == pytest.approx(nearest, abs=1e-12)
    assert torch.equal(ball.project(projected, image(centre)), projected)


def test_near_does_not_enforce_the_pixel_range() -> None:
    near = LinfBall(0.25).near(image(-1.0, 2.0, 0.3), image(0.0, 1.0, 0.5))
    torch.testing.assert_close(near, image(-0.25, 1.25, 0.3))


def test_distance_is_the_largest_change_of_a_pixel_per_image() -> None:
    x = torch.zeros(2, 3, 2, 2)
    moved = x.clone()
    moved[0, 2, 1, 0] = -0.5
    moved[0, 0, 0, 0] = 0.25
    moved[1, 1, 1, 1] = 0.125
    assert LinfBall(0.1).distance(moved, x).tolist() == [0.5, 0.125]


@pytest.mark.parametrize("epsilon", [-0.1, math.nan])
def test_radius_below_zero_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon is {epsilon}, but must not be negative"):
        LinfBall(epsilon)
