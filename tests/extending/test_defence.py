"""A decision rule of one's own: what is decided by, and the gradient that attacks which know it follow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe import build, extending
from deqpipe.attack.suite import Victim, decision_of
from deqpipe.config import Config
from deqpipe.data import load
from deqpipe.defence.rule import DecisionRule
from deqpipe.dynamics import PlainDynamics
from deqpipe.errors import UserError
from deqpipe.gradient import Unrolled
from deqpipe.model.adapter import AdaptedModel
from deqpipe.model.architecture import load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import records
from deqpipe.settings import Settings
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import specs
from deqpipe.workflow.gridpoints import FINAL_DAMPING
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
    trajectory = build.plain_dynamics(settings)(model, images)
    logits = [model.logits(z) for z in trajectory.solution.states]
    unroll = Unrolled(steps=tiny.settings().evaluation.final_unroll_steps, damping=FINAL_DAMPING, lead_step=True)
    final = [*logits[:-1], model.logits(trajectory.final_state(unroll))]  # in the place of z^[N]
    for n, read in enumerate([*(logits[:n] for n in range(1, len(logits) + 1)), final]):
        kept = read[-3:]
        expected = (sum(kept[1:], start=kept[0]) / len(kept)).argmax(1)
        assert decided[:, n].tolist() == expected.tolist(), n


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


WEIGHING = """import torch
from deqpipe.extending import Defence
WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.4])

def weigh(along):
    return (WEIGHTS[: len(along), None, None] * along).sum(0)

W = Defence('weighing', 'weighing', decide=weigh)
"""


def test_a_rule_with_a_weight_for_each_of_the_n_states_is_never_asked_about_more(
    trained: tiny.Trained, tmp_path: Path
) -> None:
    path = tmp_path / "weighing.py"
    path.write_text(WEIGHING)
    assert clean(trained, tmp_path, f"{BASE}_weighing", str(path)).shape == (tiny.TEST, 4 + 1)


def test_a_rule_is_tried_with_the_classes_of_the_images() -> None:
    prior = DecisionRule("prior", lambda along: along[-1] + torch.tensor([0.5, 0.3, 0.2]))
    prior.check(4, 3)
    with pytest.raises(RuntimeError, match="size"):  # of no file: nobody's line
        prior.check(4, 10)


def test_the_configuration_says_how_many_classes_there_are(tmp_path: Path) -> None:
    content = (
        "import torch\nx = Defence('prior', 'prior', decide=lambda along: along[-1] + torch.tensor([0.5, 0.3, 0.2]))\n"
    )
    with pytest.raises(UserError, match=r"line 3: RuntimeError: .* \(decide of defence prior, logits of shape"):
        build.try_rules(defined(tmp_path, content))  # ten digits
    data = {"source": "shapes", "validation": 9}
    shapes = str(Path(__file__).parent / "data.py")
    build.try_rules(tiny.settings({"extensions": [str(tmp_path / "mine.py"), shapes], "data": data}))
    folder = {"source": "folder", "root": str(tmp_path), "validation": 9}
    build.try_rules(tiny.settings({"extensions": [str(tmp_path / "mine.py")], "data": folder}))


def test_a_rule_that_fails_at_one_state_between_is_refused() -> None:
    with pytest.raises(UserError, match="gives what is no number"):
        DecisionRule("mine", lambda along: along[-1] / (len(along) - 3)).check(4, 10)


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
        (lambda along: along[-1] / 0 * 0, "gives what is no number for finite logits, but must give finite ones"),
        (lambda along: along[-1] + torch.rand(()), "gives other logits when it is asked again"),
    ],
)
def test_a_rule_that_is_none_is_refused_before_anything_is_computed(decide: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        DecisionRule("mine", decide).check(4, 10)


def defined(tmp_path: Path, content: str) -> Config:
    """The tiny experiment with a file of one's own."""
    path = tmp_path / "mine.py"
    path.write_text("from deqpipe.extending import Defence\n" + content)
    return tiny.settings({"extensions": [str(path)]})


def settings_of(config: Config) -> Settings:
    return Settings(specs.pick(config.model_dump(mode="json"), "solver"))


def test_a_rule_that_fails_at_the_first_state_is_named_with_its_line_and_the_shape(tmp_path: Path) -> None:
    config = defined(tmp_path, "x = Defence('back', 'back', decide=lambda logits: logits[-3])\n")
    with pytest.raises(UserError) as refused:
        build.rule(settings_of(config), "back", classes=10)
    assert str(refused.value) == (
        f"extension {tmp_path / 'mine.py'}, line 2: IndexError: index -3 is out of bounds for dimension 0 with size 1 "
        "(decide of defence back, logits of shape (1, 4, 10))"
    )


def test_dynamics_that_read_a_key_which_is_not_named_are_refused(tmp_path: Path) -> None:
    reading = "x = Defence('reading', 'reading', dynamics=lambda plain, settings: settings['entropy.step_size_255'])\n"
    with pytest.raises(
        UserError, match=r"defence reading: dynamics reads entropy\.step_size_255, which its keys do not"
    ):
        build.dynamics(settings_of(defined(tmp_path, reading)), "reading")


def test_an_exception_in_a_users_file_ends_a_command_with_one_line(
    tmp_path: Path, trained: tiny.Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from deqpipe.extending import Defence\n\ndef wrong(plain, settings):\n    return plain.nonsense\n\n"
        "x = Defence('wrong', 'wrong', dynamics=wrong)\n"
    )
    config = tiny.settings({"extensions": [str(path)]})
    spec = specs.dumps(specs.build("clean", config, model=f"{BASE}_wrong", seed=0))
    words = ("clean", "--spec", spec, "--data", trained.data, "--checkpoint", trained.file(BASE))
    assert tiny.run(*words, "--output", tmp_path / "c.parquet", "--batch-size", 5, "--state", tmp_path / "state") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"deqpipe: extension {path}, line 4: AttributeError: 'PlainDynamics' object has no attribute 'nonsense'"
    )


def test_a_defence_whose_dynamics_are_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(
        "from deqpipe.extending import Defence\n"
        "W = Defence('wrong', 'wrong', dynamics=lambda plain, settings: plain.solver)\n"
    )
    extending.activate([str(path)])
    settings = Settings(specs.pick(tiny.settings().model_dump(mode="json"), "solver"))
    with pytest.raises(
        UserError, match=r"wrong\.py, line 2: defence wrong: dynamics made a Broyden, but must make a Dynamics"
    ):
        build.dynamics(settings, "wrong")
