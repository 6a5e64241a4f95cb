"""How long do the tables take on records of the full reproduction, and how much memory?

    python -m benchmarks.reading [FOLDER] [--images N] [--only table2 figure3 ...]

Records of random numbers are made up at the size that config.yaml asks for (10,000 images: 70 million rows, 3 GB; five
minutes), file by file, as a run would leave them: every table takes them for real. Then each of Tables 1 to 8 and
Figure 3 is made in a process of its own. Seconds are those that a user waits, and those that all threads computed;
memory is the most that the process held at once.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deqpipe import config as configuration
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.results import document, records
from deqpipe.workflow import gridpoints, shards, specs, vocabulary
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.stages import StageName

ROOT = Path(__file__).parents[1]
PRODUCTS = (*(f"table{number}" for number in range(1, 9)), "figure3")
SEED, CLASSES = 0, 10
NOWHERE = GridPoint(damping=0.0, state=0, steps=0)
LIBRARY = {"apgd_ce": -0.1, "apgd_t": -0.2, "fab_t": 0.1, "square": 0.4}  # how much weaker than PGD
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as Snakemake runs the rules of tables
_STEP = np.float32(2**-12)  # of made-up numbers: they then take as much space in files as real ones

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """What making one product took."""

    product: str
    seconds: float
    computed: float
    gigabytes: float

    @property
    def row(self) -> str:
        """As a row of a table."""
        return f"| {self.product} | {self.seconds:.1f} | {self.computed:.1f} | {self.gigabytes:.2f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make up records, make the products, print what each took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="of the records; left there, and used again, if given")
    parser.add_argument("--images", type=int, help="how many test images; default: as config.yaml")
    parser.add_argument("--only", nargs="+", choices=PRODUCTS, default=PRODUCTS, metavar="PRODUCT")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "config.yaml").exists():
            # In a process of its own: what it holds would count as held by those that are measured.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(make_up, folder, settings(options.images)).result()
        print("| | seconds | computed | GB |\n| --- | --- | --- | --- |", flush=True)
        for product in options.only:
            print(measured(product, folder).row, flush=True)


def settings(images: int | None = None) -> Config:
    """The paper's experiment, on the first so many test images."""
    changes: dict[str, Any] = {} if images is None else {"evaluation": {"images": images}}
    return configuration.parse(configuration.merge(configuration.read_yaml(ROOT / "config.yaml"), changes))


def measured(product: str, folder: Path) -> Measured:
    """A table or figure, made by the command that a run makes it with."""
    verb, number = product[:-1], product[-1]
    files = ("--config", folder / "config.yaml", "--results", folder, "--output-stem", folder / "made" / product)
    command = [sys.executable, "-m", "deqpipe.cli", verb, number, *map(str, files)]
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | ONE_THREAD)
        _, status, usage = os.wait4(process.pid, 0)  # of this process; getrusage knows the largest of all alone
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed: {said.read().decode()}")
    seconds, computed = time.monotonic() - started, usage.ru_utime + usage.ru_stime
    return Measured(product, seconds, computed, usage.ru_maxrss * 1024 / 1e9)


def make_up(folder: Path, config: Config) -> None:
    """Write everything that Tables 1 to 8 and Figure 3 are made of."""
    tree = Tree(folder, config, SEED)
    for model in vocabulary.EVALUATED:
        _clean_and_pgd(tree, model)
    for model in vocabulary.DEQS:
        _select(tree, model)
        strongest = _grid(tree, model)
        for defence in vocabulary.MODELS[model].defences:
            _autoattack(tree, Decision(model, defence), strongest[model, defence][0])
        if model in vocabulary.TRADES:
            _in_loop(tree, model, strongest[model, "entropy"][: config.attack.in_loop_points])
        if model == vocabulary.SWEEP_MODEL:
            _top(tree, [point for point in strongest[model, "entropy"] if point.damping == gridpoints.FINAL_DAMPING])
            _sweep(tree, strongest[model, "entropy"])
    for model in vocabulary.FEEDFORWARD:
        _autoattack(tree, Decision(model, "plain"), NOWHERE)
    # Last: it says that the records are whole.
    records.write_text(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))


@dataclass(frozen=True)
class Images:
    """Some of the test images: their indices, labels, and how hard each is."""

    index: np.ndarray
    label: np.ndarray
    hardness: np.ndarray


def images(config: Config, first: int, last: int) -> Images:
    """The test images from one to another."""
    count, some = config.evaluation.images, slice(first, last + 1)
    label = np.random.default_rng(1).integers(0, CLASSES, count).astype(np.int16)
    hardness = np.random.default_rng(2).normal(size=count).astype(np.float32)
    return Images(np.arange(count, dtype=np.int32)[some], label[some], hardness[some])


def answers(
    config: Config,
    judges: Sequence[tuple[str, str]],
    points: Sequence[GridPoint],
    seen: Images,
    *,
    attack: str = "pgd",
    crafted_on: str = "",
    shift: float = 0.0,
) -> Columns:
    """Rows of attacks, each of them judged by several decisions, on the same images."""
    states = config.solver.steps + 1 if judges[0][0] not in vocabulary.FEEDFORWARD else 1
    shape = len(points), len(judges), len(seen.index)
    generator = np.random.default_rng([len(attack), len(crafted_on), len(judges), int(seen.index[0])])
    strength = np.array([[_strength(config, judge, point) for judge in judges] for point in points], np.float32)
    margin = 0.3 * generator.standard_normal((*shape, states), dtype=np.float32)
    margin += (strength[:, :, None] - seen.hardness)[..., None] + np.float32(shift)
    label = np.broadcast_to(seen.label, shape)
    wrong = (label + 1) % CLASSES
    attacked = attack != "clean"
    facts: dict[str, Any] = {
        "image": seen.index, "label": seen.label, "attack": attack, "crafted_on": crafted_on,
        "model": _along(1, [model for model, _ in judges]), "defence": _along(1, [defence for _, defence in judges]),
        "state": _along(0, [point.state for point in points]), "steps": _along(0, [point.steps for point in points]),
        "damping": _along(0, [point.damping for point in points]), "status": 2,
        "perturbation": config.threat_model.epsilon_255 / 255 if attacked else 0.0,
        "lost_gradient": np.float32(0.1) * (generator.random(shape) < 0.02) if attacked else np.nan,
    }  # fmt: skip
    numbers = {
        "predicted": np.where(margin > 0, label[..., None], wrong[..., None]),
        "margin": _rounded(margin),
        "entropy": _rounded(np.exp(-np.abs(margin))),
        "residual": _rounded(generator.random((*shape, states), np.float32)),
        "deviation": _rounded(generator.random((*shape, states), np.float32)),
    }
    return {name: _spread(name, value, shape) for name, value in facts.items()} | {
        name: value.reshape(-1, states) for name, value in numbers.items()
    }


def _spread(name: str, value: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """A fact as a column: words as references, which take less room than their letters."""
    found = np.asarray(value, dtype=object if records.SCALARS[name] is str else None)
    return np.broadcast_to(found, shape).reshape(-1)


def _along(axis: int, values: Sequence[Any]) -> np.ndarray:
    return np.array(values).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))


def _rounded(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.round(values / _STEP) * _STEP
    return found


def _strength(config: Config, judge: tuple[str, str], point: GridPoint) -> float:
    """How many images stay right: more with a defence, fewer under attacks of the middle states."""
    (model, defence), states = judge, config.solver.steps
    weak = abs(point.state - 0.45 * states) / states + 0.05 * abs(point.steps - 4) * point.damping
    return weak + 0.1 * (len(defence) % 7) + 0.02 * len(model) - 0.4


def _write(tree: Tree, path: Path, rows: Columns, stage: StageName, model: str, **more: Any) -> None:
    spec = specs.build(stage, tree.config, model=model, seed=tree.seed, **more)
    nothing = {"forward": 0, "backward_input": 0, "backward_weights": 0}
    records.write(path, rows, provenance={"spec": spec, "evaluations": nothing, "weights": model})


def _judges(tree: Tree, model: str) -> list[tuple[str, str]]:
    kind = vocabulary.MODELS[model]
    return [(model, defence) for defence in (*kind.defences, *kind.controls(tree.config.entropy))]


def _clean_and_pgd(tree: Tree, model: str) -> None:
    everything = images(tree.config, 0, tree.config.evaluation.images - 1)
    clean = answers(tree.config, _judges(tree, model), [NOWHERE], everything, attack="clean", shift=1.0)
    _write(tree, tree.clean(model), clean, "clean", model)
    if model not in vocabulary.DEQS:
        pgd = answers(tree.config, _judges(tree, model), [NOWHERE], everything, crafted_on=model)
        (path,) = tree.attacked(model)
        _write(tree, path, pgd, "attack_pgd", model)


def _select(tree: Tree, model: str) -> None:
    states, n = tree.config.solver.steps, tree.config.data.validation
    chosen = {"accuracy": [0.5] * states, "final": 0.5, "n": n}
    made: dict[str, Any] = {
        defence: chosen | {"state": _early(tree, defence)} for defence in vocabulary.MODELS[model].defences
    }
    made["provenance"] = {
        "spec": specs.build("select", tree.config, model=model, seed=tree.seed),
        "evaluations": {"forward": 0, "backward_input": 0, "backward_weights": 0},
    }
    records.write_text(tree.select(model), document.sealed_text(made))


def _early(tree: Tree, defence: str) -> int:
    """The state that decides."""
    return max(1, tree.config.solver.steps - (0 if defence == "plain" else 1))


def _grid(tree: Tree, model: str) -> dict[tuple[str, str], list[GridPoint]]:
    """Write the grid of a model; its points for each decision, from the strongest."""
    config, judges = tree.config, _judges(tree, model)
    other = vocabulary.transfers_to(config, model)
    own = len(judges)
    judges += [] if other is None else [(other, defence) for defence in vocabulary.MODELS[other].defences]
    points = gridpoints.grid_points(config)
    right = np.zeros((len(points), own), np.int64)
    names = iter(tree.attacked(model))
    for states in shards.state_ranges(config):
        chosen = [number for number, point in enumerate(points) if states[0] <= point.state <= states[1]]
        for ends in shards.image_ranges(config):
            seen = images(config, *ends)
            rows = answers(config, judges, [points[number] for number in chosen], seen, crafted_on=model)
            _write(tree, next(names), rows, "attack_grid", model)
            right[chosen] += _right(tree, rows, (len(chosen), len(judges)))[:, :own]
    ranked = {judge: sorted(zip(right[:, k], points, strict=True)) for k, judge in enumerate(judges[:own])}
    return {judge: [point for _, point in pairs] for judge, pairs in ranked.items()}


def _right(tree: Tree, rows: Columns, shape: tuple[int, int]) -> np.ndarray:
    """How many images are right at the state that decides: (attacks, decisions)."""
    plain = rows["defence"] == "plain"
    states = [_early(tree, "plain") - 1, _early(tree, "entropy") - 1]
    classes = np.where(plain, rows["predicted"][:, states[0]], rows["predicted"][:, states[1]])
    counted: np.ndarray = (classes == rows["label"]).reshape(*shape, -1).sum(axis=2)
    return counted


def _spared(rows: Columns, state: int | None) -> Columns:
    """The same without what nobody computes: all states but one, or the final one; residuals and deviations."""
    number = np.arange(1, rows["predicted"].shape[1] + 1)
    there = number < len(number) if state is None else number == state
    nothing = {name: np.full_like(rows[name], np.nan) for name in ("residual", "deviation")}
    few = {name: np.where(there, rows[name], np.float32(np.nan)) for name in ("margin", "entropy")}
    return {**rows, **few, **nothing, "predicted": np.where(there, rows["predicted"], np.int16(records.NOT_COMPUTED))}


def _autoattack(tree: Tree, decision: Decision, point: GridPoint) -> None:
    """Clean images, then one attack after the other on those that are still right."""
    config, deq = tree.config, decision.model in vocabulary.DEQS
    state = _early(tree, decision.defence) if deq else 0
    for (first, last), path in zip(shards.autoattack_ranges(config), tree.autoattack(decision), strict=True):
        seen = images(config, first, last)
        parts = [answers(config, [decision.judge], [NOWHERE], seen, attack="clean", shift=1.0)]
        alive = parts[0]["predicted"][:, state - 1] == parts[0]["label"]
        for attack in config.autoattack.attacks:
            met = alive & (seen.index < config.autoattack.square_images) if attack == "square" else alive
            if not met.any():
                continue
            some = Images(seen.index[met], seen.label[met], seen.hardness[met])
            parts.append(
                answers(config, [decision.judge], [point], some, attack=attack, crafted_on=decision.model,
                        shift=LIBRARY[attack])
            )  # fmt: skip
            alive = alive.copy()
            alive[met] = parts[-1]["predicted"][:, state - 1] == parts[-1]["label"]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in records.COLUMNS}
        rows = _spared(rows, state) if deq else rows
        _write(tree, path, rows, "autoattack", decision.model, defence=decision.defence)


def _in_loop(tree: Tree, model: str, points: Sequence[GridPoint]) -> None:
    judges = [(judge, defence) for judge in vocabulary.TRADES for defence in vocabulary.MODELS[judge].defences]
    for ends, path in zip(shards.image_ranges(tree.config), tree.in_loop(model), strict=True):
        rows = answers(tree.config, judges, points, images(tree.config, *ends), attack="pgd_in_loop", crafted_on=model)
        _write(tree, path, _spared(rows, None), "attack_in_loop", model)


def _top(tree: Tree, ranked: Sequence[GridPoint]) -> None:
    config, model = tree.config, vocabulary.SWEEP_MODEL
    points, few = ranked[: config.autoattack.top_points], config.autoattack.square_images
    for (first, last), path in zip(shards.autoattack_ranges(config), tree.top(model), strict=True):
        parts = [
            answers(config, [(model, "entropy")], points, images(config, first, end), attack=attack, crafted_on=model)
            for attack, end in (("apgd_ce", last), ("square", min(last, few - 1)))
            if end >= first
        ]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in records.COLUMNS}
        _write(tree, path, _spared(rows, _early(tree, "entropy")), "attack_top", model)


def _sweep(tree: Tree, ranked: Sequence[GridPoint]) -> None:
    config, model = tree.config, vocabulary.SWEEP_MODEL
    most = config.entropy_sweep.points
    points = gridpoints.grid_points(config) if most == "all" else ranked[:most]
    judges = [(model, setting.defence) for setting in gridpoints.entropy_settings(config)]
    for ends, path in zip(shards.image_ranges(config), tree.sweep(model), strict=True):
        rows = answers(config, judges, points, images(tree.config, *ends), crafted_on=model)
        _write(tree, path, _spared(rows, None), "attack_sweep", model)


if __name__ == "__main__":
    main()
