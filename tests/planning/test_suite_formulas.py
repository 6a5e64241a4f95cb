"""What attacks of the suite take, against what a real model counts, to the last evaluation."""

from typing import Any

import pytest
import torch

from deqpipe import build
from deqpipe.attack.suite import Batch, Victim, run
from deqpipe.config import AttackSuiteConfig
from deqpipe.dynamics import PlainDynamics
from deqpipe.model.architecture import load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.planning import suite_formulas
from deqpipe.seeding import Stream
from deqpipe.settings import Settings
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.suite_attacks import against
from tests import tiny
from tests.sampling import one_in
from tests.tiny import Trained

IMAGES, CLASSES = 2, len(tiny.CLASSES)
SUITE = AttackSuiteConfig(
    enabled=True, mode="standard", images=2, images_per_job=2, controls=True, static=True, iterations=1, restarts=2,
    targets=2, long=(2,), queries=2, decision_queries=2, radii=(0.0, 1.0), radius_images=2,
)  # fmt: skip
CASES = [
    (protocol, every, defence, state)
    for protocol in ("paper", "release")
    for every in (2, 1)
    for defence in ("plain", "entropy", "entropy_restart_only", "entropy_zero_steps")
    for state in (4, 3)
] + [("paper", 2, "longer_solve", 4)]


@pytest.mark.parametrize(("protocol", "every", "defence", "state"), one_in(16, CASES, first=0))
def test_every_attack_takes_what_its_formula_says_where_nothing_falls(
    trained: Trained, protocol: str, every: int, defence: str, state: int
) -> None:
    """Within a ball of one point no image falls that is right when clean."""
    changes: dict[str, Any] = {"protocol": protocol, "solver": {"tolerance": 0.0}, "entropy": {"solver_steps": every}}
    config = tiny.settings(changes)
    model = load_model(trained.file("deq_pgd_at_base"), torch.device("cpu")).model
    assert isinstance(model, DEQClassifier)
    settings = Settings(config.model_dump(mode="json"))
    dynamics, undefended = build.dynamics(settings, defence), build.plain_dynamics(settings)
    own = undefended if isinstance(dynamics, PlainDynamics) else dynamics
    victim = Victim(model, LinfBall(0.0), own, state, undefended)
    one = suite_formulas.decided(config, defence, state)
    assert one.kind == victim.kind
    x = torch.rand(IMAGES, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = victim.logits(x).argmax(1)
    for attack in against(SUITE, victim.kind):
        if attack.search == "rays":
            continue  # which ends with a search that it has begun
        before = model.counter.counted
        batch = Batch(x, y, range(IMAGES), x if attack.warm else None)
        run(attack, victim, batch, stream=Stream(0, "x"), suite=SUITE)
        expected = suite_formulas.spent(attack, SUITE, one, others=CLASSES - 1) * IMAGES
        assert model.counter.counted - before == expected, attack.name
