"""What a model makes of images in a file: every state, what the head reads off it, and gradients of surrogates."""

import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deqpipe import build
from deqpipe.compute.precision import Precision
from deqpipe.defence.entropy import prediction_entropy
from deqpipe.dynamics import Trajectory
from deqpipe.errors import UserError
from deqpipe.evaluation.batching import Batching
from deqpipe.gradient import Unrolled
from deqpipe.machine.device import set_up
from deqpipe.model.architecture import load_deq
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import records
from deqpipe.results.regular import size_of
from deqpipe.settings import Settings
from deqpipe.shapes import Images, Labels
from deqpipe.solver.solve import Status
from deqpipe.workflow.defences import DefenceName
from deqpipe.workflow.gridpoints import GridPoint

Arrays: TypeAlias = dict[str, np.ndarray]
_ALONG_STATES = ("state_logits", "relative_residual", "entropy", "states")
"""Arrays whose first axis is the states, the second the images; the others have the images first."""


_LARGEST = 8 * 2**30
"""Bytes of the arrays of a file, unpacked: those of 14,000 images of 224x224 pixels. A small file may pack far more."""
_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
# What numpy raises on files that are damaged, made up, or too large.
_UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, AttributeError, KeyError, RuntimeError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What is to be computed.

    Attributes:
        settings: solver, entropy, threat_model, attack.unroll, evaluation.final_unroll_steps, precision.
        defence: dynamics that the states are of.
        surrogates: grid points by the name of their arrays, such as 3_5_0.5.
        keep_states: whether the states themselves are kept.
        batching: images at once; an influence on results only where the solver couples them.
        dtype: what is computed in.
        device: where.
        threads: of the CPU.
    """

    settings: Settings
    defence: DefenceName
    surrogates: Mapping[str, GridPoint]
    keep_states: bool
    batching: Batching
    dtype: torch.dtype
    device: torch.device
    threads: int


def predict(request: Request, *, checkpoint: Path, images: Path, output: Path) -> None:
    """Write what the model makes of the images as an npz file.

    It holds state_logits (N, B, classes), final_logits (B, classes), relative_residual and entropy (N, B), steps (B,),
    on request states (N, B, D), and per surrogate its logits (B, classes) and the gradient of their summed
    cross-entropy with respect to the images (B, channels, height, width).

    A surrogate starts at the state z^[i] of the (defended) dynamics, held constant, and unrolls f(.; x) with the images
    as they are in the file. Where the solver stops whole batches, N is how many states there were.

    Raises:
        UserError: the checkpoint holds no DEQ, the images are not what it takes, or a surrogate's state does not exist.
    """
    _check_surrogates(request)
    _check_output(output, checkpoint, images)
    set_up(precision=request.settings["precision"], threads=request.threads)
    model = load_deq(checkpoint, request.device, request.dtype, taker="predict").model
    assert isinstance(model, DEQClassifier)
    model.compute_with(Precision(request.settings["precision"]))
    x, y = read_images(images, model, labelled=bool(request.surrogates))
    parts = _parts(request, model, x, y)
    with records.atomic(output) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **_joined(parts))


def _parts(request: Request, model: DEQClassifier, x: Images, y: Labels) -> list[Arrays]:
    """The arrays of one batch after the other."""
    parts: list[Arrays] = []
    done, batching = 0, request.batching
    if build.plain_dynamics(request.settings).couples_images:  # with fewer at once, results would be others
        batching = replace(batching, fixed=True)
    while done < len(x):

        def compute(start: int = done) -> Arrays:
            batch = slice(start, start + batching.size)
            return _batch(request, model, x[batch].to(request.device, request.dtype), y[batch].to(request.device))

        parts.append(batching.backing_off(compute))
        done += batching.size
    return parts


def _check_output(output: Path, *inputs: Path) -> None:
    if output.is_dir():
        raise UserError(f"{output} is a folder, but must be a file to write")
    if output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        raise UserError(f"{output} is a file that is read: give another name")


def _check_surrogates(request: Request) -> None:
    last = build.plain_dynamics(request.settings).termination.max_steps
    for name, point in request.surrogates.items():
        if not (1 <= point.state <= last and point.steps >= 1 and 0 < point.damping <= 1):
            raise UserError(
                f"surrogate is {name.replace('_', ',')}, but i must be 1 to {last}, K_a at least 1, lambda in (0, 1]"
            )


def read_images(path: Path, model: DEQClassifier, *, labelled: bool) -> tuple[Images, Labels]:
    """The arrays x and y of an npz file, on the CPU; nothing in it is unpickled. Without `labelled`, y may be missing.

    Raises:
        UserError: one line that says what is wrong with the file.
    """
    arrays = _read_npz(path)
    x = _checked_images(arrays, path, model)
    if "y" not in arrays and not labelled:
        return x, torch.zeros(len(x), dtype=torch.int64)
    return x, _checked_labels(arrays, path, images=len(x), classes=model.classes)


def _read_npz(path: Path) -> Arrays:
    size_of(path, what="images")
    try:
        with path.open("rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise UserError(f"images {path} holds a single array, but must be an npz file with x (and y)")
            whole = sum(member.file_size for member in file.zip.infolist())
            if whole > _LARGEST:
                raise UserError(f"images {path} takes {whole:,} bytes unpacked, but may take at most {_LARGEST:,}")
            arrays = {name: file[name] for name in ("x", "y") if name in file.files}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("a member is no array")
            return arrays
    except UserError:  # a ValueError itself
        raise
    except FileNotFoundError:
        raise UserError(f"images {path} does not exist") from None
    except MemoryError as error:
        raise UserError(f"images {path} do not fit into memory: {' '.join(str(error).split())}") from None
    except _UNREADABLE as error:  # its text is left out: numpy's advises to read the file in a way that runs its code
        raise UserError(f"images {path} is no npz file of plain arrays ({type(error).__name__})") from None


def _checked_images(arrays: Arrays, path: Path, model: DEQClassifier) -> Tensor:
    if "x" not in arrays:
        raise UserError(f"images {path} lacks the array x")
    x, wanted = arrays["x"], f"(images, {', '.join(map(str, model.image_shape))})"
    if x.ndim != 4 or x.shape[1:] != model.image_shape or not len(x):
        raise UserError(f"images {path}: x has shape {x.shape}, but the model takes {wanted}")
    if x.dtype.newbyteorder("=") not in _FLOATS:
        raise UserError(f"images {path}: x is {x.dtype}, but must be one of {', '.join(map(str, _FLOATS))}, in [0, 1]")
    if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise UserError(f"images {path}: x holds {_extreme(x)}, but must be within [0, 1]")
    return torch.from_numpy(np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("=")))


def _extreme(x: np.ndarray) -> str:
    """A number that is not within [0, 1], as text."""
    return str(x[~((x >= 0) & (x <= 1))].flat[0])


def _checked_labels(arrays: Arrays, path: Path, *, images: int, classes: int) -> Tensor:
    if "y" not in arrays:
        raise UserError(f"images {path} lacks the array y, which gradients need")
    y = arrays["y"]
    if y.shape != (images,) or not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"images {path}: y is {y.dtype} of shape {y.shape}, but must be {images} whole numbers")
    if y.min() < 0 or y.max() >= classes:
        wrong = y[(y < 0) | (y >= classes)][0]
        raise UserError(f"images {path}: y holds class {wrong}, but the model has classes 0 to {classes - 1}")
    return torch.from_numpy(y.astype(np.int64))


def _batch(request: Request, model: DEQClassifier, x: Images, y: Labels) -> Arrays:
    trajectory = build.dynamics(request.settings, request.defence)(model, x)
    there = _recorded(request, trajectory)
    states = trajectory.solution.states[there]
    with torch.no_grad():
        logits = model.trajectory_logits(states)
        final = model.logits(trajectory.final_state(build.final_unroll(request.settings)))
    arrays = {
        "state_logits": logits,
        "final_logits": final,
        "relative_residual": trajectory.solution.residuals[there],
        "entropy": torch.stack([prediction_entropy(of_state) for of_state in logits]),
        "steps": trajectory.solution.steps,
    }
    arrays |= {"states": torch.stack([model.in_channel_order(z) for z in states])} if request.keep_states else {}
    for name, point in request.surrogates.items():
        z = _start(trajectory, states, name, point)
        surrogate, gradient = _surrogate(request, model, x, y, z, point)
        arrays |= {f"surrogate_logits_{name}": surrogate, f"gradient_{name}": gradient}
    return {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}


def _recorded(request: Request, trajectory: Trajectory) -> Tensor:
    """Which steps were taken: where whole batches stop, the states after that are none."""
    moved = trajectory.solution.moved
    return (
        moved.any(1)
        if build.plain_dynamics(request.settings).termination.scope == "batch"
        else torch.ones_like(moved[:, 0])
    )


def _start(trajectory: Trajectory, states: Tensor, name: str, point: GridPoint) -> Tensor:
    """z^[i] of a surrogate."""
    if point.state > len(states):
        exploded = (trajectory.solution.status == Status.DIVERGED).any()
        why = "exploded" if exploded else "was below solver.tolerance"
        raise UserError(
            f"surrogate is {name.replace('_', ',')}, but the solve ended at state {len(states)}, "
            f"as the residual of the batch {why}"
        )
    z: Tensor = states[point.state - 1]
    return z


def _surrogate(
    request: Request, model: DEQClassifier, x: Images, y: Labels, z: Tensor, point: GridPoint
) -> tuple[Tensor, Tensor]:
    """Logits behind z, and the gradient of their summed cross-entropy with respect to the images."""
    lead_step = request.settings["attack.unroll"]["lead_step"]
    unroll = Unrolled(steps=point.steps, damping=point.damping, lead_step=lead_step)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model.logits(unroll(model.bind(x), z))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    return logits, gradient


def _joined(parts: Sequence[Arrays]) -> Arrays:
    """The arrays of all images. Batches that ended earlier than others keep their last state."""
    longest = max(len(part["entropy"]) for part in parts)
    return {name: _concatenated(name, [part[name] for part in parts], longest) for name in parts[0]}


def _concatenated(name: str, arrays: Sequence[np.ndarray], longest: int) -> np.ndarray:
    if name not in _ALONG_STATES:
        return np.concatenate(arrays)
    padding: list[Any] = [[(0, longest - len(array)), *[(0, 0)] * (array.ndim - 1)] for array in arrays]
    padded = [np.pad(array, pad, mode="edge") for array, pad in zip(arrays, padding, strict=True)]
    return np.concatenate(padded, axis=1)
