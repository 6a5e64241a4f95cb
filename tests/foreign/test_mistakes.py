"""A model with a mistake in it is answered by one line, and nothing is written."""

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import deqpipe
from deqpipe.errors import UserError
from deqpipe.foreign import evaluation, loading
from deqpipe.foreign.description import Description, named_defence
from deqpipe.foreign.evaluation import Options
from deqpipe.foreign.subject import Subject, subject_of
from tests import tiny

X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Network(nn.Module):
    """A sound network, with a place for a mistake."""

    def __init__(self, after: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.after = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)), after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.layers(x))


class States(nn.Module):
    """A sound model with states, with places for mistakes."""

    def __init__(self, f: Callable[[Tensor], Any] = lambda z: z, z0: Any = None, scale: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inject, self.w, self.head = nn.Linear(16, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.f, self.z0, self.scale = f, z0, scale

    def bind(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        injected = self.inject(x.flatten(1))
        return lambda z: self.f(self.scale * self.w(z) + injected)

    def initial_state(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 5) if self.z0 is None else self.z0(x)

    def logits(self, z: Tensor) -> Tensor:
        out: Tensor = self.head(z)
        return out


class Stubborn(Network):
    """Its dropout ignores eval()."""

    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.5))

    def train(self, mode: bool = True) -> "Stubborn":
        super().train(mode)
        self.after.train()  # type: ignore[attr-defined]
        return self


class InTurns(nn.Module):
    """Every call adds to the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.calls = Network(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.network(x) + self.calls * torch.tensor([1.0, 0.0, 0.0])
        return logits


def whole_batch(logits: Tensor) -> Tensor:
    return logits - logits.mean(0)


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], str]] = {
    "detached": (lambda: Network(lambda logits: logits.detach()), "no gradient leads from the logits to the images"),
    "wrong shape": (lambda: Network(lambda logits: logits[:, 0]), "must be (images, classes)"),
    "a tuple": (lambda: Network(lambda logits: (logits, logits)), "model(x) gives a tuple, but must give logits"),
    "classes": (lambda: Network(lambda logits: logits.argmax(1)), "model(x) gives torch.int64, but must give logits"),
    "NaN": (lambda: Network(lambda logits: logits / 0 * 0), "the logits of image 0 are not finite"),
    "training mode": (Stubborn, "stays in training mode after eval(): after"),
    "dropout": (lambda: Network(lambda logits: nn.functional.dropout(logits, 0.5)), "other logits when asked again"),
    "a counter": (InTurns, "other logits when asked again"),
    "batch": (lambda: Network(whole_batch), "images influence each other"),
    "equal": (lambda: Network(lambda logits: 0 * logits + 1), "all equal (1): the model decides nothing"),
    "constant": (lambda: Network(lambda logits: 0 * logits + torch.arange(3.0)), "the model does not look at them"),
    "other images": (lambda: nn.Linear(7, 3), "the model fails at model(x) with images of shape (6, 1, 4, 4)"),
    "leaves": (lambda: Network(lambda logits: sys.exit(0)), "SystemExit: 0"),
    "infinite gradient": (lambda: Network(lambda logits: (logits - logits.detach()).sqrt() + logits), "not finite"),
}
STATES: Mapping[str, tuple[Callable[[], nn.Module], str]] = {
    "shape of f": (lambda: States(lambda z: z[:, :4]), "f(z) has shape (6, 4), but must have that of z, (6, 5)"),
    "no flat state": (lambda: States(z0=lambda x: x), "initial_state(x) is of shape (6, 1, 4, 4), but must be flat"),
    "other state": (lambda: States(z0=lambda x: x.new_zeros(len(x), 7)), "f(z) with a state of shape (6, 7)"),
    "diverges": (lambda: States(scale=1e6), "the solver diverges"),
    "not finite": (lambda: States(lambda z: torch.where(z > -1e9, math.nan, z)), "the solver diverges"),
    "detached": (lambda: States(lambda z: z.detach()), "no gradient leads from the logits to the images"),
}


def subject(model: nn.Module, x: Tensor = X, y: Tensor = Y, **said: Any) -> Subject:
    return subject_of(Description(model, **said), x, y)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_a_mistake_is_refused(name: str) -> None:
    make, line = NETWORKS[name]
    with pytest.raises(UserError) as refused:
        subject(make())
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", STATES)
def test_a_model_with_states_and_a_mistake_is_refused(name: str) -> None:
    make, line = STATES[name]
    with pytest.raises(UserError) as refused:
        subject(make(), solver={"name": "fixed_point", "steps": 12})
    assert line in str(refused.value)


@pytest.mark.parametrize(
    ("x", "y", "line"),
    [
        (255 * X, Y, "images are from"),
        (X - 0.5, Y, "must be in [0, 1]"),
        (X[0], Y, "must be (images, channels, height, width)"),
        (X.double(), Y, "must be torch.float32"),
        (X, Y + 1, "label 3 is among the labels, but the model has classes 0 to 2"),
        (X, Y - 1, "label -1 is among the labels"),
        (X, Y[:5], "must be 6 whole numbers"),
        (X.clone().fill_(math.nan), Y, "not finite"),
    ],
)
def test_images_and_labels_that_are_none_are_refused(x: Tensor, y: Tensor, line: str) -> None:
    with pytest.raises(UserError) as refused:
        subject(Network(), x, y)
    assert line in str(refused.value)


@pytest.fixture
def _types_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions do not look at the types of their arguments, as in a user's process."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"solver": {"name": "newton"}}, "solver is {'name': 'newton'}"),
        ({"solver": {"name": "broyden", "steps": 0}}, "steps is 0"),
        ({"solver": {"name": "broyden", "steps": 3, "scope": "batch"}}, "couples the images of a batch"),
        ({"state": 21}, "state is 21, but the dynamics have states 1 to 20"),
        ({"state": 0}, "state is 0, but must be a whole number from 1 on"),
        ({"state": True}, "state is True, but must be a whole number"),
        ({"state": "3"}, "state is '3', but must be a whole number"),
        ({"state": 2.0}, "state is 2.0, but must be a whole number"),
        ({"solver": "broyden"}, "solver is 'broyden', but must be keys and values"),
        ({"solver": {}}, "solver is {}: "),
        ({"epsilon_255": 0}, "epsilon_255 is 0"),
        ({"epsilon_255": True}, "epsilon_255 is True"),
        ({"epsilon_255": math.nan}, "epsilon_255 is nan"),
        ({"mean": 0.5}, "mean is 0.5, but must be a list of numbers, one per channel"),
        ({"mean": ["a"]}, "mean is ['a'], but must be a list of numbers"),
        ({"mean": "5"}, "mean is '5', but must be a list of numbers"),
        ({"mean": [math.nan]}, "mean is [nan], but must be a list of numbers"),
        ({"std": 0.2}, "std is 0.2, but must be a list of numbers"),
        ({"name": 3}, "name is 3, but must be text"),
        ({"defence": "entropy"}, "defence is 'entropy', but must be a deqpipe.dynamics.Dynamics, a function"),
        ({"mean": [0.5, 0.5]}, "mean is [0.5, 0.5], but must be 1 numbers"),
        ({"std": [0.0]}, "std is [0.0], but must be 1 numbers above 0"),
        ({"defence": {"input_steps": -1}}, "input_steps is -1"),
        ({"defence": lambda plain, ball: None}, "defence is a NoneType, but must be a deqpipe.dynamics.Dynamics"),
    ],
)
@pytest.mark.usefixtures("_types_unchecked")
def test_what_is_said_of_a_model_and_is_senseless_is_refused(said: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        subject(States(), **said)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sound_models_pass() -> None:
    assert subject(Network()).victim.kind == "network"
    one = subject(States(), defence={"solver_steps": 5, "input_steps": 1})
    assert (one.victim.kind, one.victim.state, one.classes) == ("defended", 20, 3)
    assert one.residual is not None
    assert one.residual < 1e-4


def test_normalisation_is_what_the_model_sees() -> None:
    network = Network()
    expected = network((X - 0.25) / 0.5)
    torch.testing.assert_close(subject(network, mean=[0.25], std=[0.5]).victim.logits(X), expected)
    states = States()
    alone = subject(states, X, mean=[0.25], std=[0.5]).victim.logits(X)
    assert not torch.allclose(alone, subject(states).victim.logits(X))


def test_a_model_with_an_f_alone_is_told_what_it_lacks() -> None:
    class Half(Network):
        def bind(self, x: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda z: z

    with pytest.raises(UserError, match=r"has bind\(x\), but lacks initial_state and logits"):
        subject(Half())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"effort": "huge"}, "effort is 'huge', but must be one of quick, standard, thorough"),
        ({"mode": "x"}, "mode is 'x', but must be one of standard, individual"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "1"}, "seed is '1', but must be a whole number"),
        ({"batch_size": True}, "batch_size is True, but must be a whole number"),
        ({"budget_minutes": 0.0}, "budget_minutes is 0.0"),
    ],
)
@pytest.mark.usefixtures("_types_unchecked")
def test_senseless_options_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Options(**options)


def test_a_model_is_given_back_as_it_came(tmp_path: Path) -> None:
    model = Network()
    model.layers[1].eval()
    model.layers[1].bias.requires_grad_(False)
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="other files"):
        deqpipe.evaluate(model, X, Y, output=tmp_path, effort="quick")
    assert model.training
    assert not model.layers[1].training
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True]


# Files


def test_modules_beside_a_file_can_be_imported_and_its_code_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_evaluated.py").write_text("import torch\nmodel = torch.nn.Linear(3, 2)\n")
    (tmp_path / "a.py").write_text("from beside_evaluated import model\ndef defence(plain, ball):\n    return plain\n")
    first = loading.read_description(tmp_path / "a.py")
    assert named_defence(first.defence) == "defence"
    (tmp_path / "a.py").write_text("from beside_evaluated import model\nstate = 3\n")
    second = loading.read_description(tmp_path / "a.py")
    assert first.source != second.source != ""
    monkeypatch.delitem(sys.modules, "beside_evaluated")
    (tmp_path / "beside_evaluated.py").write_text("import torch\nmodel = torch.nn.Sequential(torch.nn.Linear(3, 2))\n")
    third = loading.read_description(tmp_path / "a.py")
    assert second.source != third.source == loading.read_description(tmp_path / "a.py").source


def test_a_mistake_in_a_file_is_one_line_with_its_number_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "images.npz", x=X.numpy(), y=Y.numpy())
    files = {
        "import torch\n\nmodel = torch.nn.Linear(1, 'a')\n": ", line 3: TypeError",
        "def load(tensors:\n": ", line 1: SyntaxError",
        "x = 1\n": "gives `model` no value and defines no load(tensors)",
        "model = 3\n": "model is a int, but must be a torch.nn.Module",
        "import sys\nsys.exit(0)\n": "model.py, line 2: SystemExit: 0\n",
        "import broken_beside\n": "broken_beside.py, line 3: SyntaxError",
        "import ast\nast.literal_eval('1 +')\n": "model.py, line 2: SyntaxError",
    }
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_beside.py").write_text("a = 1\nb = 2\nc = =\n")
    for text, line in files.items():
        (tmp_path / "model.py").write_text(text)
        arguments = ("evaluate", tmp_path / "model.py", "--data", tmp_path / "images.npz", "--output", tmp_path / "out")
        assert tiny.run(*arguments) == 2
        told = capsys.readouterr().err
        assert line in told
        assert told.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "trapped"), "w"))

    torch.save({"state_dict": {"a": Trap()}}, tmp_path / "trap.pt")
    with pytest.raises(UserError, match="could run code"):
        loading.read_tensors(tmp_path / "trap.pt")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_weights_come_into_the_model_of_a_file(tmp_path: Path, prefix: str, ending: str) -> None:
    (tmp_path / "model.py").write_text("import torch\nmodel = torch.nn.Linear(3, 2)\nepsilon_255 = 4\n")
    tensors = {f"{prefix}weight": torch.ones(2, 3), f"{prefix}bias": torch.zeros(2)}
    file = tmp_path / f"weights{ending}"
    (save_file if ending == ".safetensors" else torch.save)(tensors, file)
    described = loading.read_description(tmp_path / "model.py", file)
    assert torch.equal(described.model.state_dict()["weight"], torch.ones(2, 3))
    assert (described.epsilon_255, described.name) == (4, "model")
    del tensors[f"{prefix}bias"]
    (save_file if ending == ".safetensors" else torch.save)(tensors, file)
    with pytest.raises(UserError, match="bias is missing"):
        loading.read_description(tmp_path / "model.py", file)


def test_a_file_may_make_the_model_of_the_tensors(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\ndef load(tensors):\n    return torch.nn.Linear(3, 2 if tensors is None else len(tensors))\n"
    )
    torch.save({"a": torch.ones(1), "b": torch.ones(1), "c": torch.ones(1)}, tmp_path / "a.pt")
    assert loading.read_description(tmp_path / "own.py").model.out_features == 2
    assert loading.read_description(tmp_path / "own.py", tmp_path / "a.pt").model.out_features == 3


def test_weights_that_a_file_draws_are_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import torch\nmodel = torch.nn.Linear(3, 2)\n")
    first, again = (loading.weights_of(loading.read_description(tmp_path / "model.py").model) for _ in range(2))
    assert first == again


def test_bytes_are_pixels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((2, 1, 2, 2), 51, np.uint8), y=np.array([1, 0], np.uint8))
    x, y = loading.read_images(tmp_path / "a.npz", 1)
    assert torch.equal(x, torch.full((1, 1, 2, 2), 0.2))
    assert y.tolist() == [1]
    with pytest.raises(UserError, match="--images is 3, but must be 1 to 2"):
        loading.read_images(tmp_path / "a.npz", 3)


def test_evaluate_is_offered_by_the_package() -> None:
    assert deqpipe.evaluate is evaluation.evaluate
    assert "evaluate" in dir(deqpipe)
