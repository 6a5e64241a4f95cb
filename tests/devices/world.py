"""A tiny DEQ and a few images on a device that is not there, and what its jobs would load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deqpipe.compute.precision import Precision, PrecisionName
from deqpipe.compute.ways import Way
from deqpipe.config import merge
from deqpipe.defence.entropy import InputDescent, InputEntropyReduction, RestartedEntropyReduction, Schedule
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.evaluation import evaluated_model
from deqpipe.evaluation.evaluated_model import EvaluationJob
from deqpipe.model import architecture
from deqpipe.model.architecture import Loaded
from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import specs, stages
from tests import tiny
from tests.pretend import Kind, put
from tests.reference.tiny import CLASSES, tiny_model

N = 3
BALL = LinfBall(0.1)
KINDS: tuple[Kind, ...] = ("meta", "cuda")
both = pytest.mark.parametrize("kind", KINDS)

SOLVERS: dict[str, Solver[Any]] = {
    "Broyden": Broyden(),
    "Broyden that makes its tensors anew": Broyden(in_place=False),
    "Broyden with little room": Broyden(room=1),
    "Anderson": Anderson(3),
    "fixed point": FixedPointIteration(),
}
TERMINATIONS: dict[str, Termination] = {"all steps": Termination(N), "tolerance": Termination(N, rtol=0.1)}

_DESCENT = InputDescent(BALL, steps=1, step_size=0.03)
_SCHEDULES: dict[str, tuple[Any, Schedule]] = {
    f"{name}, every {every}{', last update' * last}{', lowest' * lowest}": (kind, Schedule(every, last, lowest))
    for name, kind in (("Algorithm 1", InputEntropyReduction), ("authors' code", RestartedEntropyReduction))
    for every in (2, 3)
    for last in (True, False)
    for lowest in (True, False)
}
REDUCTIONS: dict[str, Dynamics] = {
    name: kind(Broyden(), Termination(N), _DESCENT, schedule) for name, (kind, schedule) in _SCHEDULES.items()
}
PLAIN = PlainDynamics(Broyden(), Termination(N))


def deq(
    device: torch.device, precision: PrecisionName = "fp32", way: Way | None = None, *, scales: int = 1
) -> DEQClassifier:
    """A small MDEQ in float32, frozen as evaluation has it; of one scale, as every operation takes long here."""
    model = tiny_model(scales).float().requires_grad_(False)
    put(model, device)
    model.compute_with(Precision(precision), way or Way())
    return model


def batch(device: torch.device, count: int = 3) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return put(x, device), put(torch.arange(count) % CLASSES, device)


def network(device: torch.device) -> nn.Module:
    """An ordinary network for such images."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    return put(layers.eval().requires_grad_(False), device)


def _with_opinions(model: nn.Module) -> nn.Module:
    """The model with parameters so large that its classes differ from image to image."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def job(
    folder: Path,
    device: torch.device,
    patch: pytest.MonkeyPatch,
    *,
    stage: stages.StageName = "attack_grid",
    model: str = "deq_pgd_at_base",
    changes: Mapping[str, Any] | None = None,
) -> EvaluationJob:
    """An evaluation job on the tiny data set, whose model was never trained."""
    config = tiny.settings(merge({"model": {"channels": [4], "head_channels": [2]}}, changes or {}))
    spec = specs.loads(specs.dumps(specs.build(stage, config, model=model, seed=0, defence="entropy")))

    def loaded(path: Path, where: torch.device, dtype: torch.dtype = torch.float32) -> Loaded:
        described = architecture.describe_deq(config.model, tiny.dataset())
        made = architecture.build(described, seed=0).eval().requires_grad_(False)
        return Loaded(put(_with_opinions(made), where), described, {"spec": {"model": path.stem, "seed": 0}}, "weights")

    patch.setattr(evaluated_model, "load_model", loaded)
    (folder / model).touch()  # read by nobody, but named in provenance
    size = spec["config"].get("evaluation.batch_size", 5)
    return EvaluationJob(
        spec=spec, data=tiny.data_file(folder), checkpoint=folder / model, output=folder / "out.parquet",
        device=device, threads=1, batch_size=size,
    )  # fmt: skip
