"""Numbers recorded from the authors' release (tests/golden/release/README.md), to 1e-8 and 1e-6 for gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deqpipe.attack.surrogate import IntermediateState
from deqpipe.config import Model
from deqpipe.dynamics import PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier, build_classifier
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from tests.reference.release_names import rename

FOLDER = Path(__file__).parents[1] / "golden" / "release"
STRIDE = 31  # of the entries that are kept of states and gradients
ARCHITECTURE = {
    "small": {"channels": [8, 16, 32], "head_channels": [4, 8, 16], "final_channels": 48, "groups": 4, "expansion": 5},
    "rough": {"channels": [6, 12], "head_channels": [3, 5], "final_channels": 20, "groups": 2, "expansion": 3},
}
DYNAMICS = PlainDynamics(Broyden(), Termination(max_steps=8))
SURROGATES = [("small", "Munroll-0-1"), ("small", "Munroll-2-5"), ("small", "Munroll-7-9"), ("small", "Funroll-3-2"),
              ("small", "Funroll-6-1"), ("rough", "Munroll-2-5")]  # fmt: skip


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def released_model(name: str) -> DEQClassifier:
    settings = {**ARCHITECTURE[name], "weight_norm": True, "dropout": 0.0, "init": "release"}
    model = build_classifier(Model.model_validate(settings), image_shape=(3, 32, 32), classes=10, seed=0).double()
    stored = torch.load(FOLDER / f"{name}.pth.tar", weights_only=True)["state_dict"]
    model.load_state_dict({rename(key): value for key, value in stored.items()}, strict=True)
    return model.eval()


def close(ours: torch.Tensor, recorded: torch.Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(ours.detach(), recorded, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("name", ["small", "rough"])
def test_states_and_what_the_head_reads_off_them_are_the_releases(name: str) -> None:
    model, recorded = released_model(name), golden(name)
    trajectory = DYNAMICS(model, recorded["x"])
    for n in range(1, 9):
        ours = trajectory.state(n)[:, ::STRIDE]
        assert (ours - recorded["states"][n - 1]).norm() <= 1e-8 * recorded["states"][n - 1].norm()
    with torch.no_grad():
        close(model.trajectory_logits(trajectory.solution.states), recorded["state_logits"])


def test_relative_residuals_are_the_releases() -> None:
    recorded = golden("small")
    close(DYNAMICS(released_model("small"), recorded["x"]).solution.residuals, recorded["relative_residual"])


@pytest.mark.parametrize(("name", "attack"), SURROGATES)
def test_surrogates_of_all_states_and_their_gradients_are_the_releases(name: str, attack: str) -> None:
    model, recorded = released_model(name), golden(name)
    kind, index, steps = attack.split("-")
    gradient = Unrolled(steps=int(steps), damping=0.5 if kind == "Munroll" else 1.0, lead_step=True)
    x = recorded["x"].clone().requires_grad_()
    logits = IntermediateState(index=int(index) + 1, gradient=gradient, dynamics=DYNAMICS)(model, x)
    close(logits, recorded[f"logits_{attack}"])
    (ours,) = torch.autograd.grad(F.cross_entropy(logits, recorded["y"], reduction="sum"), x)
    expected = recorded[f"grad_{attack}"]
    assert (ours.flatten(1)[:, ::STRIDE] - expected).norm() <= 1e-6 * expected.norm()


def batch_residuals(model: DEQClassifier, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    fn = model.bind(x)
    values = [fn(z) for z in states]
    return torch.stack([(value - z).norm() / value.norm() for value, z in zip(values, states, strict=True)])


@torch.no_grad()
def test_final_state_of_the_release_is_ours_behind_its_lowest_residual() -> None:
    model, recorded = released_model("rough"), golden("rough")
    states = DYNAMICS(model, recorded["x"]).solution.states
    residuals = batch_residuals(model, recorded["x"], states)
    close(residuals, recorded["batch_relative_residual"])
    step = int(recorded["returned_step"])
    assert int(residuals.argmin()) + 1 == step
    final = Unrolled(steps=9, damping=0.5, lead_step=True)(model.bind(recorded["x"]), states[step - 1])
    close(model.logits(final), recorded["final_logits"])


def check_training(model: DEQClassifier, logits: torch.Tensor, recorded: dict[str, torch.Tensor], name: str) -> None:
    close(logits, recorded[f"logits_{name}"])
    loss = F.cross_entropy(logits, recorded["y"])
    close(loss, recorded[f"loss_{name}"])
    loss.backward()
    norms = {rename(key.split("/")[1]): value for key, value in recorded.items() if key.startswith(f"gnorm_{name}/")}
    assert set(norms) == {key for key, _ in model.named_parameters()}
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad.norm(), norms[key], 1e-6)


def test_pretraining_pass_and_parameter_gradients_are_the_releases() -> None:
    model, recorded = released_model("small").train(), golden("small")
    fn, z = model.bind(recorded["x"]), model.initial_state(recorded["x"])
    for _ in range(8):
        z = fn(z)
    check_training(model, model.logits(z), recorded, "pretrain")


@pytest.mark.parametrize("length", [3, 8])
def test_training_pass_and_parameter_gradients_are_the_releases(length: int) -> None:
    model, recorded = released_model("small").train(), golden("small")
    with torch.no_grad():
        states = PlainDynamics(Broyden(), Termination(length))(
            released_model("small").train(), recorded["x"]
        ).solution.states
        residuals = batch_residuals(released_model("small").train(), recorded["x"], states)
    fn = model.bind(recorded["x"])
    z = Unrolled(steps=5, damping=0.5, lead_step=True)(fn, states[int(residuals.argmin())])
    check_training(model, model.logits(z), recorded, f"t{length}")
