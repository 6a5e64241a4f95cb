"""Numbers recorded from the authors' release, reached through the commands (tests/golden/release/README.md).

States, logits, losses and gradient norms to 1e-8, gradients and the logits of Sec. 3.2 to 1e-6.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deqpipe import config
from deqpipe.build import build_solver, build_termination
from deqpipe.config import Config
from deqpipe.dynamics import PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.model.architecture import load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.release.names import to_ours
from deqpipe.training.forward import DEQForward, StateChoice, UnrolledForward, draws
from deqpipe.training.jacobian import JacobianRegularisation, jacobian_loss
from tests import tiny
from tests.sampling import one_in

Arrays: TypeAlias = Mapping[str, torch.Tensor]
Predict: TypeAlias = Callable[..., Arrays]

FOLDER = Path(__file__).parents[1] / "golden" / "release"
STRIDE = 31  # of the entries that are kept of states and gradients
MODELS = ("small", "rough", "contractive")
GROUPS = {"small": 4, "rough": 2, "contractive": 2}
SURROGATES = [
    ("small", "Munroll-0-1"), ("small", "Munroll-2-5"), ("small", "Munroll-7-9"), ("small", "Funroll-3-2"),
    ("small", "Funroll-6-1"), ("rough", "Munroll-2-5"), ("contractive", "Munroll-1-4"),
]  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)


def golden(name: str) -> Arrays:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def point_of(attack: str) -> str:
    """The release's name of a surrogate as --surrogate has it: its states count from 0, M is lambda 0.5, F is 1."""
    kind, index, steps = attack.split("-")
    return f"{int(index) + 1},{steps},{0.5 if kind == 'Munroll' else 1}"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The release's checkpoints as ours."""
    folder = tmp_path_factory.mktemp("imported")
    files = {name: folder / f"{name}.safetensors" for name in MODELS}
    for name, file in files.items():
        assert tiny.run("import-checkpoint", FOLDER / f"{name}.pth.tar", file, "--groups", GROUPS[name]) == 0
    return files


@pytest.fixture(scope="module")
def predict(imported: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Predict:
    """`deqpipe predict` on the recorded images."""
    folder = tmp_path_factory.mktemp("predictions")

    def run(name: str, *options: str, protocol: str = "release") -> Arrays:
        recorded = golden(name)
        np.savez(folder / "images.npz", x=recorded["x"].numpy(), y=recorded["y"].numpy())
        files = (imported[name], folder / "images.npz", folder / "out.npz")
        assert tiny.run("predict", *files, "--protocol", protocol, "--dtype", "float64", *options) == 0
        with np.load(folder / "out.npz", allow_pickle=False) as file:
            return {key: torch.from_numpy(file[key]) for key in file.files}

    return run


def assert_close(ours: torch.Tensor, recorded: torch.Tensor, tolerance: float = 1e-8) -> None:
    """Entry by entry."""
    torch.testing.assert_close(ours.detach(), recorded, rtol=tolerance, atol=1e-12)


def assert_near(ours: torch.Tensor, recorded: torch.Tensor, tolerance: float) -> None:
    """In norm, as a few entries of a large vector are zero up to rounding."""
    assert ours.shape == recorded.shape
    assert (ours - recorded).norm() <= tolerance * recorded.norm()


@every_model
def test_states_and_what_the_head_reads_off_them_are_the_releases(predict: Predict, name: str) -> None:
    recorded, ours = golden(name), predict(name, "--states")
    assert len(ours["states"]) == (4 if name == "contractive" else 8)
    for state, expected in zip(ours["states"], recorded["states"], strict=True):
        assert_near(state[:, ::STRIDE], expected, 1e-8)
    assert_close(ours["state_logits"], recorded["state_logits"])
    assert_close(ours["steps"], torch.full_like(ours["steps"], len(recorded["states"])))


def test_relative_residuals_are_the_releases(predict: Predict) -> None:
    assert_close(predict("small")["relative_residual"], golden("small")["relative_residual"])


@pytest.mark.parametrize("name", ["rough", "contractive"])
def test_final_logits_are_those_behind_the_state_of_lowest_residual(predict: Predict, name: str) -> None:
    recorded = golden(name)
    assert_close(predict(name)["final_logits"], recorded["final_logits"])
    step = int(recorded["returned_step"])
    assert step == int(recorded["batch_relative_residual"].argmin()) + 1
    assert step == {"rough": 3, "contractive": 4}[name]


@pytest.mark.parametrize("name", ["rough", "contractive"])
def test_residuals_over_the_batch_are_the_releases(imported: Mapping[str, Path], name: str) -> None:
    settings, recorded = released().solver, golden(name)
    dynamics = PlainDynamics(build_solver(settings), build_termination(settings), settings.returned)
    solution = dynamics(load(imported[name]), recorded["x"]).solution
    taken = solution.moved.any(1)
    assert_close(solution.batch_residuals[taken], recorded["batch_relative_residual"])


@pytest.mark.parametrize(("name", "attack"), one_in(2, SURROGATES))
def test_surrogates_and_their_gradients_are_the_releases(predict: Predict, name: str, attack: str) -> None:
    recorded, point = golden(name), point_of(attack)
    ours, suffix = predict(name, "--surrogate", point), point.replace(",", "_")
    assert_close(ours[f"surrogate_logits_{suffix}"], recorded[f"logits_{attack}"])
    assert_near(ours[f"gradient_{suffix}"].flatten(1)[:, ::STRIDE], recorded[f"grad_{attack}"], 1e-6)


def test_every_recorded_surrogate_is_compared() -> None:
    recorded = [(name, key.removeprefix("grad_")) for name in MODELS for key in golden(name) if key.startswith("grad_")]
    assert sorted(recorded) == sorted(SURROGATES)


@pytest.mark.parametrize("name", ["small", "rough"])
def test_logits_under_section_3_2_are_the_releases(predict: Predict, name: str) -> None:
    recorded, ours = golden(name), predict(name, "--defence", "entropy")
    found = torch.cat([ours["state_logits"], ours["final_logits"][None]])
    assert_close(found, recorded["entropy_state_logits"], 1e-6)
    plain = predict(name)
    assert not torch.allclose(plain["state_logits"][3:], recorded["entropy_state_logits"][3:8], rtol=1e-3)


@pytest.mark.parametrize("name", ["small", "rough"])
def test_protocol_of_the_paper_gives_other_numbers(predict: Predict, name: str) -> None:
    recorded, paper = golden(name), predict(name, "--defence", "entropy", protocol="paper")
    assert not torch.allclose(paper["state_logits"][1], recorded["entropy_state_logits"][1], rtol=1e-3)
    assert not torch.allclose(paper["final_logits"], recorded["entropy_state_logits"][8], rtol=1e-3)


def released() -> Config:
    root = config.read_yaml(tiny.ROOT / "config.yaml")
    return config.parse(root | {"protocol": "release"})


def training_forward() -> DEQForward:
    """As training builds it under `protocol: release`, for a model without random states."""
    settings, never = released(), JacobianRegularisation(1.0, 0.0, 0, 2, (0, 0))
    unroll = settings.training.unroll
    return DEQForward(
        build_solver(settings.solver),
        build_termination(settings.solver),
        Unrolled(steps=unroll.steps, damping=unroll.damping, lead_step=unroll.lead_step),
        random_states=None,
        jacobian=never,
        returned=settings.solver.returned,
    )


def load(path: Path) -> DEQClassifier:
    model = load_model(path, torch.device("cpu"), torch.float64).model
    assert isinstance(model, DEQClassifier)
    return model


@pytest.fixture
def trained(imported: Mapping[str, Path]) -> DEQClassifier:
    """The small model in training mode, without dropout, its parameters free."""
    model = load(imported["small"])
    model.cell.dropout = 0.0
    return model.train().requires_grad_(True)


def check_gradients(model: DEQClassifier, logits: torch.Tensor, case: str) -> None:
    recorded = golden("small")
    loss = F.cross_entropy(logits, recorded["y"])
    assert_close(logits, recorded[f"logits_{case}"])
    assert_close(loss, recorded[f"loss_{case}"])
    torch.autograd.backward(loss)
    start = f"gnorm_{case}/"
    norms = to_ours({key.removeprefix(start): norm for key, norm in recorded.items() if key.startswith(start)})
    assert set(norms) == {key for key, _ in model.named_parameters()}
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert_close(parameter.grad.norm(), norms[key])


def test_pretraining_pass_and_parameter_gradients_are_the_releases(trained: DEQClassifier) -> None:
    logits = UnrolledForward(released().pretrain.layers).logits(trained, golden("small")["x"], draws(0, 0))
    check_gradients(trained, logits, "pretrain")


@pytest.mark.parametrize("length", [3, 8])
def test_training_pass_and_parameter_gradients_are_the_releases(trained: DEQClassifier, length: int) -> None:
    """A threshold of `length` steps, as random states draw it, then the state of lowest residual."""
    forward = training_forward()
    passes = forward.prepare(trained, draws(0, 0))
    state = StateChoice(length, forward.returned)
    output = passes.training(golden("small")["x"], state, penalised=True)
    assert output.penalty == 0
    check_gradients(trained, output.logits, f"t{length}")


def test_jacobian_loss_is_the_releases(trained: DEQClassifier) -> None:
    recorded, forward = golden("small"), training_forward()
    fn = trained.bind(recorded["x"])
    z = forward.solve(trained, fn, recorded["x"], StateChoice(6, forward.returned))
    assert_close(jacobian_loss(fn, z, recorded["jac_probes"]), recorded["jac_loss_t6"])
