import numpy as np
import pytest
import torch
from torch import Tensor

from deqpipe.compute.host import to_host
from tests.pretend import HostSynchronisation, Kind, pretended, put

TENSORS: dict[str, Tensor] = {
    "bytes": torch.arange(3, dtype=torch.int8),
    "half of one": torch.arange(8.0).view(4, 2)[:, :1],
    "truths": torch.tensor([True, False]),
    "nothing": torch.empty(0, 3),
    "turned": torch.arange(6, dtype=torch.float64).view(2, 3).T / 3,
    "one": torch.tensor(-(2**40)),
    "no numbers": torch.tensor([torch.nan, torch.inf]),
}


def test_arrays_have_the_values_shapes_and_types_of_the_tensors() -> None:
    found = to_host(TENSORS)
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)
        assert found[name].dtype == tensor.numpy().dtype
        assert found[name].flags.aligned


@pytest.mark.parametrize("kind", ["meta", "cuda"])
def test_all_tensors_are_copied_at_once(kind: Kind) -> None:
    with pretended(kind, reads=1) as device:
        there = {name: put(tensor, device) for name, tensor in TENSORS.items()}
        assert {name: array.shape for name, array in to_host(there).items()} == {
            name: tuple(tensor.shape) for name, tensor in TENSORS.items()
        }
        with pytest.raises(HostSynchronisation):
            to_host(there)
