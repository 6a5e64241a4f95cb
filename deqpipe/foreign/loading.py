"""A model out of somebody's file, and images out of another.

The file that says what the model is runs: it is a program, as everything that is imported. A checkpoint does not: of it
tensors, numbers and text are read, whatever else it holds is refused.
"""

import hashlib
import inspect
import runpy
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deqpipe import data
from deqpipe.errors import UserError
from deqpipe.extending import blame
from deqpipe.foreign.description import SAID, Description
from deqpipe.machine import faults
from deqpipe.model.release import reader
from deqpipe.results import checkpoint as checkpoints
from deqpipe.results.regular import size_of
from deqpipe.shapes import Images, Labels

LOAD = "load"
"""The function of a file that makes the model of a checkpoint's tensors."""
_SEED = 0
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_NOT_ITS = (Path(__file__).resolve().parents[1], Path(sysconfig.get_paths()["stdlib"]))


def read_description(path: Path, checkpoint: Path | None = None) -> Description:
    """What a file says of a model, with the weights of a checkpoint. The file's code runs; a checkpoint's does not.

    The file gives `model` a value, or defines `load(tensors)`, which is handed the checkpoint's tensors by name
    (without a checkpoint, none). Weights that nobody loads are drawn with a fixed seed.

    Raises:
        UserError: one line on what is wrong with the file, the checkpoint, or how they fit.
    """
    if path.suffix != ".py":
        raise UserError(f"{path} must be a Python file that gives `model` a value or defines load(tensors)")
    size_of(path, what="model file")
    tensors = None if checkpoint is None else read_tensors(checkpoint)
    torch.manual_seed(_SEED)
    sys.path.insert(0, str(path.resolve().parent))  # as for a script: modules beside it can be imported
    with _running(path):
        names = runpy.run_path(str(path))
    said = {name: names[name] for name in SAID if name in names}
    if LOAD in names:
        with _running(path):
            said["model"] = names[LOAD](tensors)
    elif "model" not in said:
        raise UserError(f"{path} gives `model` no value and defines no load(tensors)")
    elif tensors is not None:
        _refuse_no_module(said["model"], path)
        checkpoints.load_module(said["model"], _fitting(said["model"], tensors), source=str(checkpoint))
    _refuse_no_module(said["model"], path)
    return Description(**{"name": path.stem, **said, "source": _source(path)})


def _source(path: Path) -> str:
    """What stands for a file and for the modules beside it that it has imported."""
    folder = path.resolve().parent
    files = {Path(getattr(module, "__dict__", {}).get("__file__") or "") for module in list(sys.modules.values())}
    beside = sorted(file for file in files if _is_beside(file, folder))
    texts = [part for file in beside for part in (str(file.relative_to(folder)), file.read_text("utf-8", "replace"))]
    return digest(path.read_text(encoding="utf-8"), *texts)


def _is_beside(file: Path, folder: Path) -> bool:
    """Whether a module lies in a folder or below, and is neither installed there nor of this package."""
    installed = _INSTALLED.intersection(file.parts) or any(map(file.is_relative_to, _NOT_ITS))
    return file.suffix == ".py" and file.is_relative_to(folder) and not installed and file.is_file()


def _refuse_no_module(model: object, path: Path) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"{path}: model is a {type(model).__name__}, but must be a torch.nn.Module")


def _fitting(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the prefix of `nn.DataParallel`, where the model has none."""
    if all(name.startswith("module.") for name in tensors) and not any(
        name.startswith("module.") for name in model.state_dict()
    ):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return dict(tensors)


@contextmanager
def _running(path: Path) -> Iterator[None]:
    """Answer what goes wrong in somebody's file by one line, with the number of the line there."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (Exception, SystemExit) as error:  # somebody else's code may raise anything, and sys.exit(0) is no success
        if faults.is_out_of_memory(error):
            raise
        raise UserError(f"{_place(error, path)}: {blame.words(error)}") from error


def _place(error: BaseException, path: Path) -> str:
    """Where somebody's code went wrong: of a syntax error the file that has it, which may be one that is imported."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{error.filename}, line {error.lineno}"
    number = blame.line_of(error, str(path))
    return f"{path}, line {number}" if number else str(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name: a safetensors file, or one of torch.save that needs no code to be read.

    Raises:
        UserError: it is missing, damaged, or holds something else.
    """
    size_of(path, what="checkpoint")
    if path.suffix != ".safetensors":
        return reader.read(path).state
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} is no safetensors file: {' '.join(str(error).split())}") from None


# Images


def read_images(path: Path, count: int | None = None) -> tuple[Images, Labels]:
    """The first images of a file, in [0, 1], and their classes; of a prepared dataset the test images.

    Args:
        path: of a dataset of deqpipe (.safetensors), or an npz file with x, floats in [0, 1] or bytes, and y.
        count: how many; None: all.

    Raises:
        UserError: the file is missing, damaged, not such a file, or holds fewer.
    """
    if path.suffix == ".safetensors":
        test = data.load(path).test
        x, y = test.float_images(slice(None)), test.labels
    else:
        x, y = _from_npz(path)
    if count is not None and not 1 <= count <= len(x):
        raise UserError(f"--images is {count}, but must be 1 to {len(x)}: so many images has {path}")
    return x[:count], y[:count].to(torch.int64)


def _from_npz(path: Path) -> tuple[Tensor, Tensor]:
    size_of(path, what="images")
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except KeyError as error:
        raise UserError(f"images {path} lack the array {error}") from None
    except Exception as error:  # zip files fail in many ways
        if faults.is_out_of_memory(error):
            raise
        raise UserError(f"images {path} are no npz file of plain arrays ({type(error).__name__})") from None
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"images {path}: y is {y.dtype}, but must be whole numbers")
    scaled = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled)), torch.from_numpy(y.astype(np.int64))


def digest(*parts: Tensor | str) -> str:
    """Sixteen hexadecimal digits that stand for texts and tensors, one after the other."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode())
        else:
            plain = part.detach().cpu().contiguous()
            total.update(f"{tuple(plain.shape)}{plain.dtype}".encode())
            total.update(plain.flatten().view(torch.uint8).numpy().tobytes())
        total.update(b"\0")
    return total.hexdigest()[:16]


def source_of(model: nn.Module) -> str:
    """What stands for the code of a model's own classes, its parts' as well, and not torch's.

    It is "" where nobody knows any of it, as of classes that were typed in a notebook.
    """
    kinds = dict.fromkeys(type(module) for module in model.modules() if not is_torchs(module))
    texts = [code_of(kind) for kind in kinds]
    return digest(*texts) if any(texts) else ""


def is_torchs(module: nn.Module) -> bool:
    """Whether torch brings its class."""
    return type(module).__module__.startswith("torch.")


def code_of(what: Any) -> str:
    """The text of a function or a class; "" where nobody knows it."""
    try:
        return inspect.getsource(what)
    except (OSError, TypeError):
        return ""


def weights_of(model: nn.Module) -> str:
    """What stands for a model's parameters and buffers."""
    parts: list[Any] = []
    for name, tensor in model.state_dict().items():
        parts += [name, tensor] if isinstance(tensor, Tensor) else [name, repr(tensor)]
    return digest(type(model).__qualname__, *parts)
