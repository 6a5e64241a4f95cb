"""`deqpipe predict`: what it writes and refuses, and that images never meet unless the release's solver makes them."""

import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deqpipe
from deqpipe.build import build_termination
from deqpipe.config import EntropyConfig, parse_solver
from deqpipe.defence.entropy import build_entropy_reduction, prediction_entropy
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.errors import UserError
from deqpipe.evaluation.stages import predict as stage
from deqpipe.gradient import Unrolled
from deqpipe.model.architecture import KIND, build, describe_feedforward
from deqpipe.reporting.paper import experiment
from deqpipe.results import checkpoint
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from tests import tiny
from tests.model.test_architecture import dataset
from tests.reference.tiny import CLASSES, architecture, images, tiny_model

Arrays: TypeAlias = dict[str, np.ndarray]
Predict: TypeAlias = Callable[..., Arrays]

MODEL = tiny_model(2)
X = images(6)
Y = torch.arange(6) % CLASSES


def described() -> dict[str, Any]:
    names = [str(number) for number in range(CLASSES)]
    return {"type": "deq", "model": architecture(2).model_dump(mode="json"), "image_shape": [3, 8, 8],
            "classes": names, "dataset": "noise"}  # fmt: skip


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    checkpoint.write(path, MODEL.state_dict(), {"kind": KIND, "architecture": described(), "provenance": {"spec": {}}})
    return path


@pytest.fixture(scope="module")
def predict(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Predict:
    """`deqpipe predict` in float64, on images and labels."""
    folder = tmp_path_factory.mktemp("predict")

    def run(*options: object, x: torch.Tensor = X, y: torch.Tensor = Y) -> Arrays:
        np.savez(folder / "in.npz", x=x.numpy(), y=y.numpy())
        line = ("predict", model_file, folder / "in.npz", folder / "out.npz", "--dtype", "float64", *options)
        assert tiny.run(*line) == 0
        with np.load(folder / "out.npz", allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    return run


def section(name: str, protocol: str) -> Any:
    return experiment.nested(protocol)[name]


def dynamics(defence: str, protocol: str) -> Dynamics:
    solver = parse_solver(section("solver", protocol))
    termination = build_termination(solver)
    if defence == "none":
        return PlainDynamics(Broyden(), termination, solver.returned)
    entropy = EntropyConfig.model_validate(section("entropy", protocol))
    return build_entropy_reduction(
        entropy, solver=Broyden(), termination=termination, ball=LinfBall(8 / 255), returned=solver.returned
    )


@pytest.mark.parametrize("protocol", ["paper", "release"])
@pytest.mark.parametrize("defence", ["none", "entropy"])
def test_arrays_are_what_they_are_called(predict: Predict, protocol: str, defence: str) -> None:
    found = predict("--protocol", protocol, "--defence", defence, "--states", "--surrogate", "3,2,0.5")
    trajectory = dynamics(defence, protocol)(MODEL, X)
    lead, steps = protocol == "release", 9 if protocol == "release" else 5
    expected = {
        "states": trajectory.solution.states,
        "state_logits": torch.stack([MODEL.logits(z) for z in trajectory.solution.states]),
        "final_logits": MODEL.logits(trajectory.final_state(Unrolled(steps, 0.5, lead_step=lead))),
        "relative_residual": trajectory.solution.residuals,
    }
    expected["entropy"] = torch.stack([prediction_entropy(logits) for logits in expected["state_logits"]])
    expected |= slow_surrogate(trajectory.state(3), lead=lead)
    assert set(found) == {*expected, "steps"}
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.detach().numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(found["steps"], 8)


def slow_surrogate(z: torch.Tensor, *, lead: bool) -> dict[str, torch.Tensor]:
    """Eq. (11) with i = 3, K_a = 2, lambda = 0.5 at the images as received, whatever dynamics z is of."""
    x = X.clone().requires_grad_()
    fn = MODEL.bind(x)
    z = fn(z) if lead else z
    for _ in range(2):
        z = 0.5 * z + 0.5 * fn(z)
    logits = MODEL.logits(z)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, Y, reduction="sum"), x)
    return {"surrogate_logits_3_2_0.5": logits, "gradient_3_2_0.5": gradient}


def test_surrogates_are_named_as_they_were_asked_for(predict: Predict) -> None:
    found = predict("--surrogate", "1,9,1", "--surrogate", "8,1,0.5", "--surrogate", "2,3,1.0")
    names = {name for name in found if name.startswith(("surrogate", "gradient"))}
    points = ("1_9_1", "8_1_0.5", "2_3_1.0")
    assert names == {f"{kind}_{point}" for kind in ("surrogate_logits", "gradient") for point in points}


@pytest.mark.parametrize("defence", ["none", "entropy"])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(6)), number=st.integers(1, 6), size=st.integers(1, 7))
def test_in_the_papers_protocol_an_image_is_the_same_in_any_batch(
    predict: Predict, defence: str, order: list[int], number: int, size: int
) -> None:
    options = ("--defence", defence, "--states", "--surrogate", "2,3,0.5")
    picked = order[:number]
    whole = predict(*options)
    part = predict(*options, "--batch-size", size, x=X[picked], y=Y[picked])
    for name, array in whole.items():
        expected = (
            array[:, picked] if name in ("states", "state_logits", "relative_residual", "entropy") else array[picked]
        )
        np.testing.assert_allclose(part[name], expected, rtol=1e-10, atol=1e-10, err_msg=name)


def test_in_the_releases_protocol_images_of_a_batch_meet(predict: Predict) -> None:
    """The lowest residual is the batch's: alone, an image is read off another state than among others."""
    together = predict("--protocol", "release")
    alone = [predict("--protocol", "release", x=X[n : n + 1], y=Y[n : n + 1]) for n in range(6)]
    np.testing.assert_allclose(together["state_logits"][:, :1], alone[0]["state_logits"], rtol=1e-9)
    final = np.concatenate([one["final_logits"] for one in alone])
    assert not np.allclose(together["final_logits"], final, rtol=1e-6)
    apart = predict("--protocol", "release", "--batch-size", 1)
    np.testing.assert_allclose(apart["final_logits"], final, rtol=1e-9)


def overlay(folder: Path, values: Mapping[str, Any]) -> tuple[object, ...]:
    """--config of the full configuration with an overlay."""
    file = folder / "overlay.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    return ("--config", tiny.ROOT / "config.yaml", "--config", file)


def loose(predict: Predict) -> float:
    """A tolerance that batches of two reach after different numbers of steps."""
    solutions = [PlainDynamics(Broyden(), Termination(8))(MODEL, X[n : n + 2]).solution for n in (0, 2, 4)]
    lowest = torch.stack([solution.batch_residuals.cummin(0).values for solution in solutions])
    for rtol in sorted(lowest.flatten().tolist()):
        reached = (lowest < rtol).int().argmax(1)
        if (lowest < rtol).any(1).all() and len(set(reached.tolist())) > 1:
            return float(rtol)
    raise AssertionError("all batches stop alike")


def test_batches_that_end_early_keep_their_last_state(predict: Predict, tmp_path: Path) -> None:
    rtol = loose(predict)
    config = overlay(tmp_path, {"protocol": "release", "solver": {"tolerance": rtol}})
    whole = predict(*config, "--batch-size", 2, "--states")
    taken = []
    for first in (0, 2, 4):
        part = predict(*config, "--states", x=X[first : first + 2], y=Y[first : first + 2])
        steps = len(part["states"])
        taken.append(steps)
        found = whole["states"][:, first : first + 2]
        np.testing.assert_array_equal(part["steps"], steps)
        np.testing.assert_allclose(found[:steps], part["states"], rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(found[steps:], np.broadcast_to(found[steps - 1], found[steps:].shape))
    assert len(set(taken)) > 1
    assert len(whole["states"]) == max(taken) < 8


def test_surrogate_behind_the_end_of_the_solve_is_refused(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", x=X.numpy(), y=Y.numpy())
    config = overlay(tmp_path, {"protocol": "release", "solver": {"tolerance": 1e6}})
    line = ("predict", model_file, tmp_path / "in.npz", tmp_path / "out.npz", *config, "--surrogate", "2,1,1")
    assert tiny.run(*line) == 2
    assert "surrogate is 2,1,1, but the solve ended at state 1" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_settings_come_from_the_configuration_and_the_protocol_from_the_command(
    predict: Predict, tmp_path: Path
) -> None:
    values = {"solver": {"steps": 3}, "attack": {"grid": {"states": [1]}}}
    config = overlay(tmp_path, values)
    found = predict(*config)
    assert found["state_logits"].shape == (3, 6, CLASSES)
    np.testing.assert_allclose(found["state_logits"], predict()["state_logits"][:3], rtol=1e-9)
    released = predict(*config, "--protocol", "release")
    assert not np.allclose(released["final_logits"], found["final_logits"])


def test_single_precision_is_the_default_and_close(model_file: Path, predict: Predict, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=X.numpy().astype(np.float32), y=Y.numpy().astype(np.int32))
    assert tiny.run("predict", model_file, tmp_path / "in.npz", tmp_path / "out.npz", "--states") == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["states"].dtype == np.float32
        np.testing.assert_allclose(file["state_logits"][0], predict()["state_logits"][0], rtol=1e-3, atol=1e-3)


def test_labels_are_needed_for_gradients_alone(model_file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=X.numpy())
    assert tiny.run("predict", model_file, tmp_path / "in.npz", tmp_path / "out.npz") == 0
    assert (tmp_path / "out.npz").exists()


def array(shape: tuple[int, ...] = (2, 3, 8, 8), value: float = 0.5, dtype: Any = np.float64) -> np.ndarray:
    return np.full(shape, value, dtype=dtype)


Y2 = np.array([0, 1])
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no x": ({"y": Y2}, "lacks the array x"),
    "no y": ({"x": array()}, "lacks the array y, which gradients need"),
    "size": ({"x": array((2, 3, 16, 16)), "y": Y2}, r"shape \(2, 3, 16, 16\), but the model takes \(images, 3, 8, 8\)"),
    "axes": ({"x": array((3, 8, 8)), "y": Y2}, r"x has shape \(3, 8, 8\)"),
    "none": ({"x": array((0, 3, 8, 8)), "y": Y2[:0]}, r"x has shape \(0, 3, 8, 8\)"),
    "bytes": ({"x": array(dtype=np.uint8), "y": Y2}, "x is uint8, but must be one of float16, float32, float64, in"),
    "long": ({"x": array(dtype=np.longdouble), "y": Y2}, "x is float128, but must be one of float16, float32"),
    "range": ({"x": array(value=255.0), "y": Y2}, r"x holds 255.0, but must be within \[0, 1\]"),
    "nan": ({"x": array(value=np.nan), "y": Y2}, r"x holds nan, but must be within \[0, 1\]"),
    "labels": ({"x": array(), "y": np.array([0.0, 1.0])}, "y is float64 of shape .*, but must be 2 whole numbers"),
    "length": ({"x": array(), "y": np.array([1])}, r"y is int64 of shape \(1,\), but must be 2 whole numbers"),
    "class": ({"x": array(), "y": np.array([0, 5])}, "y holds class 5, but the model has classes 0 to 4"),
    "negative": ({"x": array(), "y": np.array([0, -1])}, "y holds class -1, but the model has classes 0 to 4"),
    "pickle": ({"x": np.array([{"a": 1}], dtype=object), "y": Y2}, "is no npz file of plain arrays"),
}  # fmt: skip


def refuse(capsys: pytest.CaptureFixture[str], *line: object) -> str:
    """The one line that a refused command prints."""
    assert tiny.run(*line) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


@pytest.mark.parametrize("case", WRONG)
def test_images_that_cannot_be_used_are_refused_in_one_line(
    model_file: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, message = WRONG[case]
    np.savez(tmp_path / "in.npz", **arrays)
    files = (model_file, tmp_path / "in.npz", tmp_path / "out.npz")
    printed = refuse(capsys, "predict", *files, "--surrogate", "1,1,1")
    assert re.search(message, printed), printed
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text", None])
def test_files_that_are_no_npz_are_refused(
    model_file: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.npz"
    if content is not None:
        path.write_bytes(content)
    printed = refuse(capsys, "predict", model_file, path, tmp_path / "out.npz")
    assert ("does not exist" if content is None else "is no npz file of plain arrays") in printed


def test_a_pipe_is_refused_and_not_waited_for(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "in.npz")
    printed = refuse(capsys, "predict", model_file, tmp_path / "in.npz", tmp_path / "out.npz")
    assert "in.npz cannot be read: it is a named pipe, but must be a file" in printed


def test_a_small_file_of_many_images_is_refused_before_it_is_unpacked(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "_LARGEST", 10_000)
    np.savez_compressed(tmp_path / "in.npz", x=np.zeros((10_000, 1)), y=np.zeros(1, dtype=np.int64))
    assert (tmp_path / "in.npz").stat().st_size < 1_000
    printed = refuse(capsys, "predict", model_file, tmp_path / "in.npz", tmp_path / "out.npz")
    assert "takes 80,264 bytes unpacked, but may take at most 10,000" in printed


def npz(path: Path, member: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (%s,3,8,8), }"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no array", "is no npz file of plain arrays"),
        (HEADER.ljust(127) % b"10000000000" + b"\n", "do not fit into memory: Unable to allocate"),
        (HEADER.replace(b"{", b"{((").ljust(127) + b"\n", "is no npz file of plain arrays"),
    ],
    ids=["no array", "too large", "damaged header"],
)
def test_arrays_that_cannot_be_read_are_refused(
    model_file: Path, tmp_path: Path, content: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "in.npz", "x.npy", content)
    printed = refuse(capsys, "predict", model_file, path, tmp_path / "out.npz")
    assert told in printed
    assert "allow_pickle" not in printed


@pytest.mark.parametrize("dtype", [">f8", "<f8", ">f4", "<f2"])
def test_byte_order_and_layout_of_the_file_do_not_matter(model_file: Path, tmp_path: Path, dtype: str) -> None:
    x = np.asfortranarray(X.numpy().astype(dtype))
    found = []
    for name, array in (("odd", x), ("plain", np.ascontiguousarray(x.astype(np.dtype(dtype).newbyteorder("="))))):
        np.savez(tmp_path / "in.npz", x=array)
        out = tmp_path / f"{name}.npz"
        assert tiny.run("predict", model_file, tmp_path / "in.npz", out, "--dtype", "float64") == 0
        with np.load(out, allow_pickle=False) as file:
            found.append(file["final_logits"])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("output", ["in.npz", "model.safetensors", "folder"])
def test_inputs_and_folders_are_not_written_over(
    model_file: Path, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", x=X.numpy())
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.safetensors").write_bytes(model_file.read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    refuse(capsys, "predict", tmp_path / "model.safetensors", tmp_path / "in.npz", tmp_path / output)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_single_array_is_refused(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "in.npy", X.numpy())
    printed = refuse(capsys, "predict", model_file, tmp_path / "in.npy", tmp_path / "out.npz")
    assert "holds a single array" in printed


@pytest.mark.parametrize("point", ["9,1,1", "0,1,1", "1,0,1", "1,1,0", "1,1,1.5", "1,1", "a,b,c", "1,1,-1"])
def test_surrogates_that_do_not_exist_are_refused(
    model_file: Path, tmp_path: Path, point: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", x=X.numpy(), y=Y.numpy())
    printed = refuse(capsys, "predict", model_file, tmp_path / "in.npz", tmp_path / "out.npz", "--surrogate", point)
    assert point in printed


def test_a_network_without_states_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = describe_feedforward("resnet", tiny.settings().resnet, dataset())
    path = tmp_path / "resnet.safetensors"
    metadata = {"kind": KIND, "architecture": described, "provenance": {"spec": {}}}
    checkpoint.write(path, build(described, seed=0).state_dict(), metadata)
    np.savez(tmp_path / "in.npz", x=X.numpy())
    said = refuse(capsys, "predict", path, tmp_path / "in.npz", tmp_path / "out.npz")
    assert "holds a network without states (resnet), but predict takes a DEQ" in said


def test_a_model_of_a_users_file_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.safetensors"
    described = {"type": "mine", "image_shape": [1, 2, 2], "classes": ["a", "b"], "dataset": "digits"}
    checkpoint.write(path, {"w": torch.ones(2)}, {"kind": KIND, "architecture": described, "provenance": {"spec": {}}})
    np.savez(tmp_path / "in.npz", x=X.numpy())
    line = refuse(capsys, "predict", path, tmp_path / "in.npz", tmp_path / "out.npz")
    assert "holds 'mine', a model of a user's file, but predict takes a DEQ of deqpipe's own architecture" in line
    with pytest.raises(UserError, match=r"'mine', a model of a user's file, but deqpipe\.load takes a DEQ"):
        deqpipe.load(path)
