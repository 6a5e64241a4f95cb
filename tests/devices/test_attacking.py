"""On a GPU, attacks mix no devices and wait for nothing between their start and their last step."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe.attack import pgd
from deqpipe.attack.autoattack import Flags, LibraryAttacks
from deqpipe.attack.pgd import PGD, Drawn, Objective, cross_entropy_objective, unfooled_objective, uniform_start
from deqpipe.attack.surrogate import defended_surrogate_of, stacked_surrogate_of, surrogate_of
from deqpipe.config import PgdConfig
from deqpipe.dynamics import PlainDynamics
from deqpipe.evaluation.crafting import Attack, craft, craft_together
from deqpipe.evaluation.evaluated_model import load_evaluated_model
from deqpipe.evaluation.images import Chunk
from deqpipe.results.provenance import PACKAGE
from deqpipe.seeding import Stream
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.training.objectives import divergence
from deqpipe.workflow.gridpoints import GridPoint
from tests.devices.world import BALL, KINDS, PLAIN, REDUCTIONS, N, batch, both, deq, job, network
from tests.pretend import HostSynchronisation, Kind, WrongDevice, pretended

LogitsOf = Callable[[Tensor], Tensor]
ATTACK = PGD(BALL, steps=2, step_size=0.03)
POINT = GridPoint(damping=0.5, state=2, steps=1)


def surrogates(model: Any) -> dict[str, LogitsOf]:
    """One of each kind."""
    plain = surrogate_of(POINT, dynamics=PLAIN, lead_step=True)
    tolerant = PlainDynamics(Broyden(), Termination(N, rtol=0.1))
    found: dict[str, Any] = {
        "intermediate": plain,
        "undamped": surrogate_of(GridPoint(1.0, 1, 2), dynamics=tolerant, lead_step=False),
    }
    for name in ("Algorithm 1, every 2, lowest", "authors' code, every 2, lowest"):
        found[f"defended by {name}"] = defended_surrogate_of(POINT, dynamics=REDUCTIONS[name], lead_step=False)
    return {name: lambda x, one=one: one(model, x) for name, one in found.items()}  # type: ignore[misc]


NAMES = list(surrogates(None))


@both
@pytest.mark.parametrize("which", NAMES)
def test_gradients_of_every_surrogate_stay_on_the_device(kind: Kind, which: str) -> None:
    with pretended(kind) as device:
        model, (x, y) = deq(device), batch(device)
        found = ATTACK(cross_entropy_objective(surrogates(model)[which], y), x, start=x)
        assert found.images.device.type == found.lost_gradient.device.type == kind


@both
def test_surrogates_that_share_a_solve_stay_on_the_device(kind: Kind) -> None:
    with pretended(kind) as device:
        model, (x, y) = deq(device), batch(device, 2)
        points = [GridPoint(0.5, 2, steps) for steps in (3, 1)]
        stacked = stacked_surrogate_of(points, dynamics=PLAIN, lead_step=True)
        objective = cross_entropy_objective(lambda x: stacked(model, x), y.repeat(2))
        found = ATTACK(objective, x.repeat(2, 1, 1, 1), start=x.repeat(2, 1, 1, 1))
        assert [part.images.device.type for part in found.parts(2)] == [kind, kind]


def away_from_uniform(logits_of: LogitsOf, y: Tensor) -> Objective:
    """What TRADES makes large."""
    return lambda x: divergence(logits_of(x), torch.zeros(len(y), 5, device=y.device))


OBJECTIVES: dict[str, Callable[[LogitsOf, Tensor], Objective]] = {
    "cross-entropy": cross_entropy_objective,
    "unfooled": unfooled_objective,
    "divergence": away_from_uniform,
    "drawn": lambda logits_of, y: Drawn(lambda: cross_entropy_objective(logits_of, y)),
}


@both
@pytest.mark.parametrize("which", OBJECTIVES)
@pytest.mark.parametrize("clamp", [True, False])
def test_attacks_on_every_objective_wait_for_nothing(kind: Kind, which: str, clamp: bool) -> None:
    with pretended(kind) as device:
        x, y = batch(device)
        start = uniform_start(x, ball=BALL, stream=Stream(0, "start"), images=range(3), clamp=clamp)
        found = ATTACK(OBJECTIVES[which](network(device), y), x, start=start)
        assert BALL.distance(found.images, x).device.type == kind


@both
@pytest.mark.parametrize("protocol", ["paper", "release"])
def test_crafting_waits_for_nothing(kind: Kind, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the images in memory, which were copied to the device once, to the attacked ones."""
    changes: dict[str, Any] = {"protocol": protocol, "solver": {"scope": "sample"}}
    changes |= {"threat_model": {"epsilon_255": 20.0}}
    with pretended(kind) as device:
        evaluated = load_evaluated_model(job(tmp_path, device, monkeypatch, changes=changes))
        chunk, some = Chunk(evaluated.dataset.test, range(12)), range(2, 5)
        recipe = PgdConfig(steps=2, step_size_255=10.0, clamp_start=protocol == "paper")
        for through in ("plain", "entropy"):
            attack = Attack(GridPoint(0.5, 3, 1), through=through)
            assert craft(evaluated, attack, chunk, some, pgd=recipe, purpose="start").images.device.type == kind
        several = [Attack(GridPoint(0.5, 2, steps)) for steps in (1, 2)]
        found = craft_together(evaluated, several, chunk, some, pgd=recipe, purpose="start")
        assert [made.images.device.type for made in found] == [kind, kind]


@both
def test_the_library_is_handed_what_lies_on_the_device(kind: Kind) -> None:
    """As far as it goes: the adapter asks first whether the images are within [0, 1], and the library reads numbers."""
    attack = LibraryAttacks(BALL, iterations=2, targets=2, queries=3)
    with pretended(kind) as device:
        x, y = batch(device)
        with pytest.raises(HostSynchronisation) as waited:
            attack("apgd_ce", network(device), x, y, seed=0, flags=Flags())
    ours = [frame for frame in traceback.extract_tb(waited.tb) if frame.filename.startswith(f"{PACKAGE}/")]
    assert ours[-1].name == "_check_images"


# What these tests are there for is noticed.


@both
def test_a_mask_of_the_host_in_an_objective_is_noticed(kind: Kind) -> None:
    with pretended(kind) as device:
        (x, _), model = batch(device), network(device)
        mask = torch.ones(3)
        with pytest.raises(WrongDevice):
            ATTACK(lambda x: (model(x).sum(1) * mask).sum(), x, start=x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_read_in_an_attack_step_is_noticed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    before = LinfBall.project

    def project(self: LinfBall, images: Tensor, centre: Tensor) -> Tensor:
        assert images.max().item() <= 2
        return before(self, images, centre)

    monkeypatch.setattr(LinfBall, "project", project)
    with pretended(kind) as device:
        x, y = batch(device)
        with pytest.raises(HostSynchronisation):
            ATTACK(cross_entropy_objective(network(device), y), x, start=x)


@both
def test_an_allocation_on_the_host_in_an_attack_is_noticed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def unfooled(logits_of: LogitsOf, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(logits_of(x).argmax(1) == y, torch.zeros(len(y)), 0).sum()

    monkeypatch.setattr(pgd, "_unfooled", unfooled)
    with pretended(kind) as device:
        x, y = batch(device)
        with pytest.raises(WrongDevice):
            ATTACK(unfooled_objective(network(device), y), x, start=x)
