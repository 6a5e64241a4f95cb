import pytest
import torch
from torch import Tensor

from deqpipe.training.jacobian import JacobianRegularisation, gaussian_probes, jacobian_loss

BATCH, STATE = 2, 5


def matrix() -> Tensor:
    return torch.randn(STATE, STATE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def wavy(z: Tensor) -> Tensor:
    """A map that is neither linear nor symmetric."""
    return torch.sin(z @ matrix().T) + z.square()


def explicit_jacobians(z: Tensor) -> Tensor:
    """One matrix per image, from a gradient per entry."""
    return torch.stack([torch.autograd.functional.jacobian(lambda v: wavy(v[None])[0], image) for image in z])


def regularisation(**changes: object) -> JacobianRegularisation:
    values = {"weight": 1.0, "frequency": 0.5, "last_step": 100, "probes": 2, "length_jitter": (-2, 1)} | changes
    return JacobianRegularisation(**values)  # type: ignore[arg-type]


def test_loss_is_the_mean_over_probes_of_a_vector_times_the_jacobian() -> None:
    z = torch.randn(BATCH, STATE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    probes = torch.Generator().manual_seed(2)
    expected = 0.0
    for _ in range(3):
        v = torch.randn(BATCH, STATE, generator=probes).double()
        expected += torch.einsum("bi,bij->bj", v, explicit_jacobians(z)).square().sum().item() / 3
    found = jacobian_loss(wavy, z, gaussian_probes(z, count=3, generator=torch.Generator().manual_seed(2)))
    assert found.item() == pytest.approx(expected / (BATCH * STATE), rel=1e-12)


def test_loss_is_on_average_the_squared_frobenius_norm_over_the_entries() -> None:
    z = torch.randn(BATCH, STATE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = explicit_jacobians(z).square().sum().item() / (BATCH * STATE)
    probes = gaussian_probes(z, count=2000, generator=torch.Generator().manual_seed(3))
    found = jacobian_loss(wavy, z, probes).item()
    assert found == pytest.approx(exact, rel=0.1)


def test_loss_has_the_gradient_of_finite_differences_and_none_reaches_the_state() -> None:
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    z = torch.ones(BATCH, STATE, dtype=torch.float64, requires_grad=True)

    def loss(factor: Tensor) -> Tensor:
        probes = gaussian_probes(z, count=1, generator=torch.Generator().manual_seed(4))
        return jacobian_loss(lambda state: wavy(factor * state), z, probes)

    gradient = torch.autograd.grad(loss(scale), [scale, z], allow_unused=True)
    delta = 1e-6
    slope = (loss(scale + delta).item() - loss(scale - delta).item()) / (2 * delta)
    assert gradient[0].item() == pytest.approx(slope, rel=1e-6)
    assert gradient[1] is None


def test_jitter_covers_its_range_ends_included() -> None:
    generator = torch.Generator().manual_seed(0)
    assert {regularisation().extra_steps(generator) for _ in range(200)} == {-2, -1, 0, 1}


def due(step: int, seed: int = 0, **changes: object) -> bool:
    return regularisation(**changes).due(step, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("frequency", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_frequency_is_the_share_of_regularised_steps(frequency: float, share: float) -> None:
    hits = [due(0, seed, frequency=frequency) for seed in range(600)]
    assert sum(hits) / len(hits) == pytest.approx(share, abs=0.06 if 0 < share < 1 else 0)


def test_nothing_is_due_from_the_last_step_on_or_without_weight() -> None:
    assert due(99, frequency=1.0)
    assert not due(100, frequency=1.0)
    assert not due(0, frequency=1.0, weight=0.0)


def test_later_draws_do_not_depend_on_whether_the_term_is_due() -> None:
    after = []
    for frequency in (0.0, 1.0):
        generator = torch.Generator().manual_seed(7)
        regularisation(frequency=frequency).due(0, generator)
        after.append(float(torch.rand((), generator=generator)))
    assert after[0] == after[1]
