import torch
from torch import Tensor, nn

from deqpipe.attack.pgd import PGD
from deqpipe.data import Split
from deqpipe.seeding import Stream
from deqpipe.threat_model import LinfBall
from deqpipe.training.validation import Validator
from tests import tiny


class Threshold(nn.Module):
    """Class 1 where the first pixel is bright; so an attack of size epsilon turns the images that are close to 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), self.scale * (x.flatten(1)[:, 0] - 0.5)], dim=1)


def validator(batch_size: int, *, attack: bool = True) -> Validator:
    # all of class 1: two right beyond reach of epsilon = 20/255, two right within reach, one wrong
    pixels = torch.tensor([255, 160, 140, 130, 10], dtype=torch.uint8).view(-1, 1, 1, 1)
    pgd = PGD(LinfBall(20 / 255), steps=10, step_size=10 / 255)
    split = Split(pixels, torch.ones(5, dtype=torch.int64))
    return Validator(split, lambda model, x: model(x), batch_size, pgd if attack else None, Stream(0, "selection"))


def test_accuracies_are_counted_by_hand_for_every_batch_size() -> None:
    for batch_size in (1, 2, 5, 9):
        found = validator(batch_size)(Threshold())
        assert (found.clean, found.robust) == (0.8, 0.4)


def test_without_an_attack_there_is_no_robust_accuracy() -> None:
    found = validator(2, attack=False)(Threshold())
    assert (found.clean, found.robust) == (0.8, None)


def test_the_model_stays_as_it_was() -> None:
    model = Threshold().train()
    validator(2)(model)
    assert model.training
    assert model.scale.requires_grad
    assert model.scale.grad is None


def test_starts_are_keyed_by_image() -> None:
    """Few steps from a random start: the answer would differ between batch sizes if the start did."""
    split = tiny.dataset().validation
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    starts: list[Tensor] = []

    def logits(model: nn.Module, x: Tensor) -> Tensor:
        if x.requires_grad:
            starts.append(x.detach())
        out: Tensor = model(x)
        return out

    for batch_size in (2, len(split)):
        attack = PGD(LinfBall(0.1), steps=1, step_size=0.1)
        Validator(split, logits, batch_size, attack, Stream(0, "selection"))(network)
    assert torch.equal(torch.cat(starts[:-1]), starts[-1])
    clean = split.float_images(slice(None))
    assert (starts[-1] - clean).abs().max() <= 0.1 + 1e-6
    assert starts[-1].min() >= 0
