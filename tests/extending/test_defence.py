"""A decision rule of one's own: what is decided by, and the gradient that attacks which know it follow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe import build, extending
from deqpipe.attack.suite import Victim, decision_of
from deqpipe.data import load
from deqpipe.defence.rule import DecisionRule
from deqpipe.dynamics import PlainDynamics
from deqpipe.errors import UserError
from deqpipe.model.adapter import AdaptedModel
from deqpipe.model.architecture import load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import records
from deqpipe.settings import Settings
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import specs
from tests import tiny
from tests.extending.defence import average
from tests.extending.model import Dense

AVERAGE = str(Path(__file__).parent / "defence.py")
BASE = "deq_pgd_at_base"


def clean(trained: tiny.Trained, folder: Path, model: str, file: str) -> np.ndarray:
    """Classes (images, states and the final one) that a model's only decision gives the test images."""
    config = tiny.settings({"extensions": [file]})
    spec = specs.dumps(specs.build("clean", config, model=model, seed=0))
    output = folder / f"{model}.parquet"
    words = ("clean", "--spec", spec, "--data", trained.data, "--checkpoint", trained.file(BASE), "--output", output)
    assert tiny.run(*words, "--batch-size", 5, "--state", folder / f"{model}_state") == 0
    rows = records.read(output)
    predicted: np.ndarray = rows["predicted"][rows["defence"] != "entropy"]
    return predicted


def test_it_decides_by_the_mean_of_the_logits_so_far(trained: tiny.Trained, tmp_path: Path) -> None:
    decided = clean(trained, tmp_path, f"{BASE}_average", AVERAGE)
    model = load_model(trained.file(BASE), torch.device("cpu")).model
    assert isinstance(model, DEQClassifier)
    settings = Settings(specs.pick(tiny.settings().model_dump(mode="json"), "solver"))
    images = load(trained.data).test.float_images(slice(0, tiny.TEST))
    along = build.plain_dynamics(settings)(model, images).solution.states
    logits = [model.logits(z) for z in along]
    for n in range(1, len(logits) + 1):
        kept = logits[max(0, n - 3) : n]
        expected = (sum(kept[1:], start=kept[0]) / len(kept)).argmax(1)
        assert decided[:, n - 1].tolist() == expected.tolist(), n


def test_a_rule_that_reads_the_last_state_alone_is_the_undefended_decision(
    trained: tiny.Trained, tmp_path: Path
) -> None:
    path = tmp_path / "last.py"
    path.write_text(
        "from deqpipe.extending import Defence\nLAST = Defence('last', 'last state', decide=lambda along: along[-1])\n"
    )
    own = clean(trained, tmp_path, f"{BASE}_last", str(path))
    plain = clean(trained, tmp_path, BASE, str(path))
    assert np.array_equal(own, plain)


def victim(rule: DecisionRule | None) -> Victim:
    """A dense DEQ in double precision, decided at z^[4]."""
    torch.manual_seed(3)
    model = AdaptedModel(Dense((1, 4, 4), 3).double(), torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    dynamics = PlainDynamics(Anderson(memory=3), Termination(4))
    return Victim(model, LinfBall(0.1), dynamics, 4, dynamics, rule)


def test_the_gradient_of_the_decision_goes_through_the_rule_and_the_solvers_steps() -> None:
    target = victim(DecisionRule("average", average))
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reach = 1e-6
    up, down = (target.logits(x + sign * reach * direction) for sign in (1, -1))
    wanted = ((up - down) / (2 * reach))[:, 1]
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(decision_of(target)(x)[:, 1].sum(), x)
    assert torch.allclose((gradient * direction).flatten(1).sum(1), wanted, rtol=1e-6)
    (of_plain,) = torch.autograd.grad(decision_of(replace(target, rule=None))(x)[:, 1].sum(), x)
    assert not torch.allclose(gradient, of_plain, rtol=1e-3)


@pytest.mark.parametrize(
    ("decide", "told"),
    [
        (lambda along: along, "gives shape"),
        (lambda along: along.argmax(2), "gives shape"),
        (lambda along: along[-1].detach(), "has no gradient"),
        (lambda along: along[-1] - along[-1].mean(0), "gives an image other logits beside others than alone"),
    ],
)
def test_a_rule_that_is_none_is_refused_before_anything_is_computed(decide: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        DecisionRule("mine", decide).check(4)


def test_a_defence_whose_dynamics_are_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(
        "from deqpipe.extending import Defence\n"
        "W = Defence('wrong', 'wrong', dynamics=lambda plain, settings: plain.solver)\n"
    )
    extending.activate([str(path)])
    settings = Settings(specs.pick(tiny.settings().model_dump(mode="json"), "solver"))
    with pytest.raises(UserError, match="defence wrong: dynamics made a Broyden, but must make a Dynamics"):
        build.dynamics(settings, "wrong")
