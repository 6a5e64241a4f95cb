"""The exported network: the logits of our decision, with the gradient through the solver's own steps."""

import ast
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deqpipe.api import Model, WhichState
from deqpipe.gradient import Unrolled
from deqpipe.model.architecture import load_model
from deqpipe.robustbench import contents
from deqpipe.robustbench.standalone import deq, reproduce
from deqpipe.solver.anderson import REGULARISATION
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Termination, reach
from tests import tiny
from tests.robustbench import hand_in
from tests.robustbench.hand_in import NAME
from tests.tiny import ROOT, Trained

BROYDEN: dict[str, Any] = {"name": "broyden", "steps": 5}
SOLVES: Mapping[str, tuple[dict[str, Any], WhichState]] = {
    "first state": (BROYDEN, 1),
    "early state": (BROYDEN, 3),
    "final state": (BROYDEN, "final"),
    "anderson": ({"name": "anderson", "steps": 6, "memory": 3}, 6),
    "fixed point": ({"name": "fixed_point", "steps": 4}, "final"),
    "tolerance": (BROYDEN | {"tolerance": 0.95}, 5),
    "lowest": (BROYDEN | {"returned": "lowest_sample"}, "final"),
    "tolerance of anderson": ({"name": "anderson", "steps": 6, "memory": 3, "tolerance": 0.6}, "final"),
}
STOPPED: Sequence[tuple[dict[str, Any], float]] = (
    (BROYDEN | {"steps": 6}, 0.8),
    ({"name": "anderson", "steps": 6, "memory": 3}, 0.75),
    ({"name": "fixed_point", "steps": 6}, 0.97),
)
"""Tolerances that a random network of three scales has some images reach before the last step."""
SOLVED = {"scope": "sample", "returned": "last", "tolerance": 0.0}


def export(folder: Path, source: Path, *options: object) -> Path:
    target = folder / "out"
    assert tiny.run("export-robustbench", source, target, "--name", NAME, *options) == 0
    return target


def difference(
    folder: Path, source: Path, solver: Mapping[str, Any], state: WhichState, shape: tuple[int, ...]
) -> float:
    """Between the logits of the exported network and ours, in single precision."""
    configuration = hand_in.configured(folder, {"solver": {**SOLVED, **solver}})
    network = hand_in.exported(export(folder, source, "--configuration", configuration, "--state", state))
    x = torch.rand(6, *shape, generator=torch.Generator().manual_seed(5))
    ours = hand_in.loaded(source, configuration).logits(x, state=state)
    assert ours.std(0).max() > 1e-3
    return float((network(x) - ours).abs().max())


@pytest.mark.parametrize(("solver", "state"), SOLVES.values(), ids=SOLVES)
def test_logits_are_those_of_our_decision(
    tmp_path: Path, trained: Trained, solver: dict[str, Any], state: WhichState
) -> None:
    assert difference(tmp_path, trained.file("deq_pgd_at_base"), solver, state, (1, 8, 8)) < 1e-6


@pytest.mark.parametrize("scales", [1, 3, 4])
def test_logits_are_ours_whatever_the_number_of_scales(tmp_path: Path, scales: int) -> None:
    """To the same digits, although a random network makes differences of rounding a hundred times as large.

    With four scales, a change of one unit in the last place of its weights changes the logits by some 1e-5.
    """
    assert difference(tmp_path, hand_in.write_deq(tmp_path, scales=scales), BROYDEN, 3, (3, 8, 8)) < 1e-6


def in_double_precision(
    folder: Path, source: Path, solver: Mapping[str, Any], state: WhichState, **changes: Any
) -> tuple[Model, nn.Module]:
    """Our model and the exported network, weight norm folded in double precision, too."""
    configuration = hand_in.configured(folder, {"solver": {**SOLVED, **solver}, **changes})
    model = hand_in.loaded(source, configuration, torch.float64)
    network = hand_in.exported(export(folder, source, "--configuration", configuration, "--state", state))
    network.double().load_state_dict(contents.weights(model.network))
    return model, network


def assert_the_same(network: nn.Module, model: Model, x: Tensor, state: WhichState) -> None:
    """To the last digits of double precision: logits, and their gradient."""
    ours, theirs = hand_in.logits_with_gradient(model, x.requires_grad_(), state), network(x)
    assert torch.allclose(theirs, ours, rtol=1e-12, atol=1e-12)
    expected, gradient = (torch.autograd.grad(logits.square().sum(), x)[0] for logits in (ours, theirs))
    assert expected.abs().max() > 1e-3
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("solver", "state"), SOLVES.values(), ids=SOLVES)
def test_logits_and_gradient_are_ours_to_the_last_digits_of_double_precision(
    tmp_path: Path, solver: dict[str, Any], state: WhichState
) -> None:
    model, network = in_double_precision(tmp_path, hand_in.write_deq(tmp_path), solver, state)
    assert_the_same(network, model, hand_in.pictures(3, torch.float64), state)


def test_unroll_of_the_final_state_may_begin_with_a_plain_step(tmp_path: Path) -> None:
    lead = {"unroll": {"lead_step": True}}
    model, network = in_double_precision(tmp_path, hand_in.write_deq(tmp_path), BROYDEN, "final", attack=lead)
    assert_the_same(network, model, hand_in.pictures(3, torch.float64), "final")


def test_damping_is_the_share_of_the_new_state(tmp_path: Path) -> None:
    """Of one half, which all exports have, its complement is the same."""
    model, network = in_double_precision(tmp_path, hand_in.write_deq(tmp_path), BROYDEN, 3)
    network.dampings = (0.25, 0.25)  # type: ignore[assignment]  # modules have tensors and modules, for mypy
    x = hand_in.pictures(3, torch.float64)
    z = Unrolled(2, 0.25).onwards(model.network.bind(x), model.trajectory(x).state(3))
    assert torch.allclose(network(x), model.network.logits(z), rtol=1e-12, atol=1e-12)


def test_early_states_are_read_where_they_are_even_if_the_final_one_is_that_of_lowest_residual(tmp_path: Path) -> None:
    solver = BROYDEN | {"returned": "lowest_sample"}
    model, network = in_double_precision(tmp_path, hand_in.write_deq(tmp_path), solver, 5)
    assert_the_same(network, model, hand_in.pictures(3, torch.float64), 5)


def test_an_image_whose_residuals_are_no_numbers_keeps_its_first_state() -> None:
    def f(z: Tensor) -> Tensor:
        return torch.where(z == 0, 1.0, torch.nan)

    z, termination = torch.zeros(2, 3), Termination(3)
    ours = reach(FixedPointIteration(), f, z, termination=termination, returned="lowest_sample")
    theirs = deq.solve(f, z, deq.FixedPoint, steps=3, tolerance=0.0, lowest=True)
    assert torch.equal(ours, torch.ones_like(z))
    assert torch.equal(theirs, ours)


def test_regularisation_of_anderson_mixing_is_ours() -> None:
    """Too small to be seen in logits."""
    assert deq.Anderson.regularisation == REGULARISATION


@pytest.mark.parametrize(("solver", "tolerance"), STOPPED, ids=[solver["name"] for solver, _ in STOPPED])
def test_images_that_reach_the_tolerance_keep_their_state_and_others_do_not(
    tmp_path: Path, solver: dict[str, Any], tolerance: float
) -> None:
    """Some images stop before the last step; their logits alone are others than without a tolerance."""
    source, x, last = hand_in.write_deq(tmp_path, scales=3), hand_in.pictures(6, torch.float64), solver["steps"]
    going = hand_in.loaded(source, hand_in.configured(tmp_path, {"solver": SOLVED | solver}), torch.float64)
    model, network = in_double_precision(tmp_path, source, solver | {"tolerance": tolerance}, last)
    stopped = model.trajectory(x).solution.steps < last
    assert 0 < stopped.sum() < len(x)
    assert torch.equal((network(x) - going.logits(x, state=last)).abs().amax(1) > 1e-6, stopped)
    assert_the_same(network, model, x, last)


@pytest.mark.parametrize("case", ["early state", "anderson", "final state"])
def test_gradient_is_that_of_finite_differences(tmp_path: Path, case: str) -> None:
    solver, state = SOLVES[case]
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {"solver": SOLVED | solver})
    folder = export(tmp_path, source, "--configuration", configuration, "--state", state)
    network, x = hand_in.exported(folder, torch.float64), hand_in.pictures(1, torch.float64)
    (gradient,) = torch.autograd.grad(network(x.requires_grad_())[0, 0], x)
    x = x.detach()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction, step = torch.randn(x.shape, generator=generator, dtype=torch.float64), 1e-6
        difference = (network(x + step * direction) - network(x - step * direction))[0, 0] / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-5, abs=1e-7)


def test_logits_of_an_image_do_not_depend_on_its_batch_mates(tmp_path: Path) -> None:
    source = hand_in.write_deq(tmp_path, scales=3)
    configuration = hand_in.configured(tmp_path, {"solver": SOLVED | SOLVES["tolerance of anderson"][0]})
    network = hand_in.exported(export(tmp_path, source, "--configuration", configuration, "--state", 6), torch.float64)
    x = hand_in.pictures(5, torch.float64)
    alone = torch.cat([network(image[None]) for image in x])
    assert torch.allclose(network(x), alone, rtol=1e-9, atol=1e-12)


def test_resnet_is_exported_too(tmp_path: Path, trained: Trained) -> None:
    source = trained.file("resnet18_pgd_at")
    configuration = hand_in.configured(tmp_path, {})
    network = hand_in.exported(export(tmp_path, source, "--configuration", configuration))
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = load_model(source, torch.device("cpu")).model(x)
    assert torch.allclose(network(x), ours, rtol=1e-5, atol=1e-5)
    (file,) = (tmp_path / "out").glob("model_info/*/*/*.json")
    assert json.loads(file.read_text())["architecture"] == "ResNet-10"


def cut(tensors: Mapping[str, Tensor], text: str) -> dict[str, Tensor]:
    """What RobustBench 1.1.1 makes of names with `text` anywhere in them: so many characters less at the front."""
    return {name[len(text) :] if text in name else name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_names_survive_the_loader_of_robustbench(tmp_path: Path, scales: int) -> None:
    source, configuration = hand_in.write_deq(tmp_path, scales=scales), hand_in.configured(tmp_path, {})
    folder = export(tmp_path, source, "--configuration", configuration, "--state", 2)
    tensors = torch.load(folder / f"{NAME}.pt", weights_only=True)
    assert type(tensors) is OrderedDict
    assert cut(cut(tensors, "module."), "model.").keys() == tensors.keys()
    assert tensors.keys() == hand_in.exported(folder).state_dict().keys()


@pytest.mark.parametrize("name", ["deq", "resnet", "reproduce"])
def test_what_is_handed_out_imports_nothing_of_ours(name: str) -> None:
    tree = ast.parse((ROOT / "deqpipe" / "robustbench" / "standalone" / f"{name}.py").read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert "torch" in imported
    assert not any(module.startswith(("deqpipe", ".")) or not module for module in imported)


def test_a_name_with_a_hyphen_gets_a_class_without(tmp_path: Path) -> None:
    source, configuration = hand_in.write_deq(tmp_path), hand_in.configured(tmp_path, {})
    options = ("--configuration", configuration, "--state", 2, "--name", "Some-One2026")
    assert tiny.run("export-robustbench", source, tmp_path / "out", *options) == 0
    module, network = reproduce.load(tmp_path / "out", "Some-One2026")
    assert type(network) is module.Some_One2026
    assert not network.training


def test_only_the_solver_of_the_model_is_in_its_file(tmp_path: Path) -> None:
    source = hand_in.write_deq(tmp_path)
    configuration = hand_in.configured(tmp_path, {"solver": SOLVED | SOLVES["anderson"][0]})
    text = (export(tmp_path, source, "--configuration", configuration, "--state", 1) / f"{NAME}.py").read_text()
    classes = {node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    assert "Anderson" in classes
    assert not classes & {"Broyden", "FixedPoint"}
    assert "\n\n\n\n" not in text
