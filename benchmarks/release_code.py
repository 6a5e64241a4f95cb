"""The authors' code, run as it stands beside ours.

A work tree of github.com/minicheshire/DEQ-Regulating-Neural-Dynamics at commit 862034f is imported and never written
to. What it lacks (termcolor, tqdm, a GPU) gets a stand-in; other T_f and R, constants in its source, are put in as it
is compiled. The random numbers that it asks for are dealt to it, so that both sides compute from the same ones.
"""

import ast
import contextlib
import functools
import importlib
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

PAPERS = (2, 10)
"""T_f and R as they stand in the release's source."""
TREES = {"evaluation": "input-entropy-reduction", "training": "random-intermediate-states"}
CPU = torch.device("cpu")


@contextlib.contextmanager
def without_progress() -> Iterator[None]:
    """No reports of progress: the authors' code makes one at every step, and ours would stand between the figures.

    What was silent before is silent afterwards, and nothing else: others in this process may report theirs.
    """
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


@dataclass(frozen=True)
class Shape:
    """What the release's settings say of a model; the rest is as for CIFAR-10, but without dropout.

    Attributes:
        channels: per scale.
        head: bottleneck channels of the head, per scale.
        final: channels before global average pooling.
        groups: of the GroupNorms in f.
        expansion: of the residual blocks.
        weight_norm: of f.
        classes: how many.
        steps: N.
    """

    channels: tuple[int, ...]
    head: tuple[int, ...]
    final: int
    groups: int
    expansion: int
    weight_norm: bool = True
    classes: int = 10
    steps: int = 8


@dataclass(frozen=True)
class Release:
    """A work tree of the authors' code.

    Attributes:
        folder: its root.
        dtype: of the models that it makes.
        device: where they are.
    """

    folder: Path
    dtype: torch.dtype = torch.float64
    device: torch.device = CPU

    @property
    def missing(self) -> str:
        """What the folder lacks to be such a work tree, in words; empty if nothing."""
        whole = all((self.folder / tree).is_dir() for tree in TREES.values())
        return "" if whole else f"{self.folder} holds no {' and '.join(TREES.values())}"

    def network(self, shape: Shape, tree: str, numbers: tuple[int, int] = PAPERS) -> Any:
        """A model of one of the two trees; `numbers` are T_f and R."""
        module = _imported(self.folder / TREES[tree], "mdeq", numbers)
        with self.stand_ins():
            return module.get_cls_net(self.settings(shape, tree)).to(self.device, self.dtype)

    def loop(self, tree: str) -> Any:
        """Its module of training and attack loops."""
        return _imported(self.folder / TREES[tree], "core.cls_function", PAPERS)

    def solvers(self) -> Any:
        """Its module of fixed-point solvers."""
        return _imported(self.folder / TREES["evaluation"], "lib.solvers", PAPERS)

    def settings(self, shape: Shape, tree: str) -> dict[str, Any]:
        """The release's settings for CIFAR-10, changed to those of a model."""
        path = min((self.folder / TREES[tree]).glob("MDEQ-Vision/experiments/cifar/*.yaml"))
        settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["MODEL"] |= {
            "NUM_GROUPS": shape.groups, "EXPANSION_FACTOR": shape.expansion, "WNORM": shape.weight_norm, "DROPOUT": 0.0,
            "NUM_CLASSES": shape.classes, "BLOCK_GN_AFFINE": True, "FUSE_GN_AFFINE": True,
        }  # fmt: skip
        scales = len(shape.channels)
        settings["MODEL"]["EXTRA"]["FULL_STAGE"] |= {
            "NUM_BRANCHES": scales, "NUM_CHANNELS": shape.channels, "HEAD_CHANNELS": shape.head,
            "FINAL_CHANSIZE": shape.final, "NUM_BLOCKS": [1] * scales, "BIG_KERNELS": [0] * scales,
        }  # fmt: skip
        settings["DEQ"]["F_THRES"] = shape.steps
        return settings

    def stand_ins(self) -> contextlib.AbstractContextManager[None]:
        """What its models need around whatever they do."""
        return stand_ins(self.device, self.dtype)


@contextlib.contextmanager
def stand_ins(device: torch.device = CPU, dtype: torch.dtype = torch.float64) -> Iterator[None]:
    """For the length of a block: no moves to a GPU that is not wanted, and tensors are made in a type."""
    before = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(mock.patch.object(nn.Module, "cuda", lambda module, *_, **__: module))
            stack.enter_context(mock.patch.object(Tensor, "cuda", lambda tensor, *_, **__: tensor))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # about what PyTorch has deprecated since
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class _Numbers(ast.NodeTransformer):
    """Puts other numbers in the places of T_f (twice) and R."""

    def __init__(self, solver_steps: int, input_steps: int) -> None:
        self.solver_steps, self.input_steps = solver_steps, input_steps
        self.found: list[str] = []

    def _number(self, place: str, value: int) -> ast.Constant:
        self.found.append(place)
        return ast.Constant(value)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """The number of rounds, N // T_f."""
        self.generic_visit(node)
        if isinstance(node.op, ast.FloorDiv) and isinstance(node.left, ast.Name) and node.left.id == "f_thres":
            node.right = self._number("rounds", self.solver_steps)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The length of a round, and the loop over input steps."""
        self.generic_visit(node)
        for keyword in node.keywords:
            if keyword.arg == "threshold" and isinstance(keyword.value, ast.Constant):
                keyword.value = self._number("length", self.solver_steps)
        if ast.unparse(node) == f"range({PAPERS[1]})":
            node.args = [self._number("input steps", self.input_steps)]
        return node


@functools.cache
def _imported(tree: Path, name: str, numbers: tuple[int, int]) -> Any:
    """A module of a tree. The other one has modules of the same names: all, and stand-ins, are forgotten afterwards."""
    roots = [tree, tree / "MDEQ-Vision/lib", tree / "MDEQ-Vision/lib/models"]
    stubs = {
        "termcolor": types.SimpleNamespace(colored=lambda text, *_: text),
        "tqdm": types.SimpleNamespace(tqdm=lambda items, *_: items),
    }
    names = ("lib", "utils", "core", "mdeq", "mdeq_core")
    assert not any(key.split(".")[0] in names for key in sys.modules)
    path = [*map(str, roots), *sys.path]
    with mock.patch.object(sys, "path", path), mock.patch.object(sys, "dont_write_bytecode", True):
        present = {key: sys.modules[key] for key in stubs if key in sys.modules}
        sys.modules |= stubs | present  # type: ignore[arg-type]
        try:
            if numbers != PAPERS:
                sys.modules["mdeq_core"] = _compiled(roots[-1] / "mdeq_core.py", numbers)
            return importlib.import_module(name)
        finally:
            ours = {key for key in sys.modules if key.split(".")[0] in names} | stubs.keys() - present.keys()
            for key in ours:
                del sys.modules[key]


def _compiled(path: Path, numbers: tuple[int, int]) -> types.ModuleType:
    change = _Numbers(*numbers)
    tree = ast.fix_missing_locations(change.visit(ast.parse(path.read_bytes())))
    if sorted(change.found) != ["input steps", "length", "rounds"]:
        raise SystemExit(f"{path} is another version: T_f and R were looked for, and found were {change.found}")
    module = types.ModuleType(path.stem)
    exec(compile(tree, str(path), "exec"), module.__dict__)
    return module


@dataclass(frozen=True)
class Dice:
    """Random numbers that are dealt to the release, in the order in which it asks for them.

    Attributes:
        lengths: what `torch.randint` gives.
        normals: what `torch.randn` gives.
        uniforms: what `numpy.random.uniform` gives.
    """

    lengths: Sequence[int] = ()
    normals: Sequence[Tensor] = ()
    uniforms: Sequence[Tensor] = ()

    @contextlib.contextmanager
    def thrown(self) -> Iterator[None]:
        """For the length of the block."""
        with (
            mock.patch.object(torch, "randint", side_effect=[torch.tensor([length]) for length in self.lengths]),
            mock.patch.object(torch, "randn", side_effect=self.normals),
            mock.patch.object(np.random, "uniform", side_effect=[each.cpu().numpy() for each in self.uniforms]),
        ):
            yield


def surrogate_name(state: int, steps: int, damping: float) -> str:
    """How the release calls the surrogate of z^[state] (counted from 1) with these K_a and lambda."""
    return f"{'F' if damping == 1 else 'M'}unroll-{state - 1}-{steps}"


@dataclass(frozen=True)
class TradesStep:
    """One step of TRADES by the release's own loop.

    Attributes:
        release: the code.
        shape: of the model.
        epsilon, step_size: of the attack, in units of the pixel range.
        attack_steps: of the attack.
        jacobian: weight of the Jacobian term; 0: none.
    """

    release: Release
    shape: Shape
    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    attack_steps: int = 10
    jacobian: float = 0.0

    def __call__(
        self,
        network: Any,
        images: tuple[Tensor, Tensor],
        *,
        criterion: Callable[[Tensor, Tensor], Tensor],
        optimizer: Optimizer,
        dice: Dice,
    ) -> None:
        """Attack, loss, gradient and update on images and their labels."""
        loop, sections = self.release.loop("training"), self._sections
        step = sections["TRAIN"].PRETRAIN_STEPS + 1
        with self.release.stand_ins(), dice.thrown():
            loop.train(
                types.SimpleNamespace(**sections, PERCENT=1.0, PRINT_FREQ=100), [images], network, criterion, optimizer,
                types.SimpleNamespace(_step_count=step + 1, step=lambda: None), 0, "", "",
                {"writer": None, "train_global_steps": step}, (1,),
                epsilon=self.epsilon, step_size=self.step_size, num_steps=self.attack_steps,
            )  # fmt: skip

    @functools.cached_property
    def _sections(self) -> dict[str, Any]:
        """The settings that the loop reads; a file has to be read for them, which takes no part in a step."""
        settings = self.release.settings(self.shape, "training")
        settings["LOSS"] |= {"JAC_LOSS_FREQ": 2.0, "JAC_INCREMENTAL": 10**8, "JAC_LOSS_WEIGHT": self.jacobian}
        settings["TRAIN"]["CLIP"] = -1
        return {name: types.SimpleNamespace(**settings[name]) for name in ("LOSS", "TRAIN", "DEQ")}
