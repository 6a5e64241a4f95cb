"""A small, plausible results tree: what a finished run leaves behind, without the run."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from deqpipe import config as configuration
from deqpipe import records, specs
from deqpipe.config import Config
from deqpipe.specs import Defence, GridPoint

ROOT = Path(__file__).parents[2]
CLASSES = 10
# Robustness at the middle states: the higher, the fewer images an attack turns.
STRENGTH = {
    "deq_pretrain": -1.5, "resnet18_pgd_at": 0.1, "resnet18_trades": 0.2, "deq_pgd_at_base": -0.4,
    "deq_pgd_at_random_states": -0.3, "deq_trades_base": -0.2, "deq_trades_random_states": 0.1,
}  # fmt: skip
# How much a test-time defence adds; controls differ from each other, and one is better than any method.
DEFENDED: Mapping[Defence, float] = {
    "plain": 0.0, "entropy": 0.15, "entropy_zero_steps": -0.3, "entropy_restart_only": 0.6, "entropy_one_round": -0.9,
}  # fmt: skip
HISTORY = (
    "epoch", "step", "phase", "learning_rate", "loss", "train_accuracy", "clean_accuracy", "robust_accuracy", "seconds",
    "f_evaluations",
)  # fmt: skip

_SMALL: dict[str, Any] = {
    "solver": {"steps": 4},
    "early_state": {"index": 3},
    "attack": {"grid": {"states": [1, 2, 3, 4], "steps": [1, 3], "damping": [0.5, 1.0]}, "images_per_job": 7,
               "states_per_job": 3},
    "evaluation": {"images": 20},
    "statistics": {"resamples": 100},
}  # fmt: skip


def config(*overlays: Mapping[str, Any], base: Sequence[str] = ("config.yaml", "config/demo.yaml")) -> Config:
    """The demo's configuration with overlays."""
    merged: dict[str, Any] = {}
    for name in base:
        merged = configuration.merge(merged, configuration.read_yaml(ROOT / name))
    for overlay in overlays:
        merged = configuration.merge(merged, overlay)
    return configuration.parse(merged)


def small(*overlays: Mapping[str, Any]) -> Config:
    """A configuration whose tree is made in a moment: 4 states, 17 attacks, 20 images."""
    return config(_SMALL, *overlays)


def tree(root: Path, config: Config, *, seeds: Sequence[int] | None = None) -> Path:
    """Write the whole tree below `root`."""
    for seed in config.seeds if seeds is None else seeds:
        for model in specs.MODELS:
            history(root, config, model, seed)
            weights(root, config, model, seed, epoch=kept(root, model, seed))
            if model in specs.DEQS:
                select(root, config, model, seed)
                for name, rows in grid_shards(config, model, seed).items():
                    write(root / "attacks/grid" / model / f"seed{seed}" / f"{name}.parquet", rows, config,
                          "attack_grid", model, seed)  # fmt: skip
            else:
                write(root / "attacks/pgd" / model / f"seed{seed}.parquet", pgd(config, model, seed), config,
                      "attack_pgd", model, seed)  # fmt: skip
            write(root / "attacks/clean" / model / f"seed{seed}.parquet", clean(config, model, seed), config,
                  "clean", model, seed)  # fmt: skip
    return root


def provenance(config: Config, stage: specs.Stage, model: str, seed: int, *, code: str = "0" * 64) -> dict[str, Any]:
    return {
        "spec": specs.build(stage, config, model=model or None, seed=seed),
        "seed": seed,
        "code": code,
        "versions": {"python": "3.11.2", "torch": "2.15.0", "cuda": None},
        "device": "cpu",
        "seconds": 1.5,
        "f_evaluations": 1000,
        "inputs": {"model": "f" * 64},
    }


def write(path: Path, rows: Mapping[str, np.ndarray], config: Config, stage: specs.Stage, model: str, seed: int,
          *, code: str = "0" * 64) -> None:  # fmt: skip
    records.write(path, rows, provenance=provenance(config, stage, model, seed, code=code))


def decisions(config: Config, model: str) -> tuple[Defence, ...]:
    """What a model's images are scored on."""
    kind = specs.MODELS[model]
    return (*kind.defences, *kind.controls(config.entropy))


def rows(config: Config, model: str, seed: int, *, attack: str, point: GridPoint, defence: Defence,
         images: Sequence[int]) -> dict[str, np.ndarray]:  # fmt: skip
    """Rows of one attack and one decision. Images differ in how hard they are, and attacks agree on which."""
    deq = model not in specs.RESNETS
    states = config.solver.steps + 1 if deq else 1
    index = np.asarray(images)
    hardness = np.random.default_rng(7).normal(size=config.evaluation.images)[index]
    labels = np.random.default_rng(8).integers(0, CLASSES, size=config.evaluation.images)[index]
    key = [seed, list(specs.MODELS).index(model), round(point.damping * 10), point.state, point.steps]
    noise = np.random.default_rng(key).normal(size=(config.evaluation.images, states))[index]
    margin = _robustness(config, model, defence, attack, point, states) - hardness[:, None] + 0.35 * noise
    predicted = np.where(margin > 0, labels[:, None], (labels[:, None] + 1) % CLASSES)
    n = len(index)
    return {
        "image": index, "label": labels,
        "model": np.full(n, model), "defence": np.full(n, defence), "attack": np.full(n, attack),
        "crafted_on": np.full(n, "" if attack == "clean" else model),
        "state": np.full(n, point.state), "steps": np.full(n, point.steps), "damping": np.full(n, point.damping),
        "perturbation": np.full(n, 0.0 if attack == "clean" else config.threat_model.epsilon_255 / 255),
        "lost_gradient": np.zeros(n),
        "status": np.full(n, 2),
        "predicted": predicted, "margin": margin, "entropy": np.exp(-np.abs(margin)),
        "residual": np.full((n, states), 0.1),
        "deviation": np.full((n, states), np.nan if defence in specs.CONTROLS else 0.2),
    }  # fmt: skip


def _robustness(config: Config, model: str, defence: Defence, attack: str, point: GridPoint, states: int) -> np.ndarray:
    ripening = np.linspace(-0.5, 0, states)
    if attack == "clean":
        return 1.6 + ripening - 0.6 * DEFENDED[defence]
    middle = abs(point.state - config.solver.steps * 0.45) / config.solver.steps if point.state else 0
    weak = 2 * middle + 0.04 * abs(point.steps - 5) + (0.35 * point.steps**0.3 if point.damping > 0.9 else 0)
    return STRENGTH[model] + DEFENDED[defence] + ripening + weak


def stack(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in records.COLUMNS}


def clean(config: Config, model: str, seed: int) -> dict[str, np.ndarray]:
    point, images = GridPoint(damping=0.0, state=0, steps=0), range(config.evaluation.images)
    return stack([
        rows(config, model, seed, attack="clean", point=point, defence=defence, images=images)
        for defence in decisions(config, model)
    ])  # fmt: skip


def pgd(config: Config, model: str, seed: int) -> dict[str, np.ndarray]:
    deq = model not in specs.RESNETS
    point = specs.ready_made(config) if deq else GridPoint(damping=0.0, state=0, steps=0)
    images = range(config.evaluation.images)
    return rows(config, model, seed, attack="pgd", point=point, defence="plain", images=images)


def grid_shards(config: Config, model: str, seed: int) -> dict[str, dict[str, np.ndarray]]:
    shards = {}
    ranges = [(states, images) for states in specs.state_ranges(config) for images in specs.image_ranges(config)]
    for name, (states, images) in zip(specs.shard_names(config), ranges, strict=True):
        shards[name] = stack([
            rows(config, model, seed, attack="pgd", point=point, defence=defence,
                 images=range(images[0], images[1] + 1))
            for point in specs.grid_points(config) if states[0] <= point.state <= states[1]
            for defence in decisions(config, model)
        ])  # fmt: skip
    return shards


def select(root: Path, config: Config, model: str, seed: int) -> None:
    n = config.data.validation
    states = config.solver.steps
    entries = {}
    for shift, defence in enumerate(specs.MODELS[model].defences):
        accuracy = [round((0.35 + 0.02 * state + 0.03 * shift) * n) / n for state in range(1, states + 1)]
        entries[defence] = {"state": states - shift, "accuracy": accuracy, "final": accuracy[-1], "n": n}
    path = root / "select" / model / f"seed{seed}.json"
    text = json.dumps({**entries, "provenance": provenance(config, "select", model, seed)})
    records.write_text(path, text)


def kept(root: Path, model: str, seed: int) -> int:
    """The most robust epoch of a fabricated history, the trunk's last."""
    with (root / "models" / model / f"seed{seed}" / "history.csv").open(newline="", encoding="utf-8") as file:
        accuracies = {int(row["epoch"]): float(row["robust_accuracy"] or 0) for row in csv.DictReader(file)}
    return max(accuracies, key=lambda epoch: (accuracies[epoch], epoch if model == specs.TRUNK else -epoch))


def weights(root: Path, config: Config, model: str, seed: int, *, epoch: int) -> None:
    """Kept weights: three numbers, and a header that says after which epoch."""
    stage = specs.training_stage(model)
    origin = provenance(config, stage, "" if stage == "pretrain" else model, seed)
    path = root / "models" / model / f"seed{seed}" / "best.safetensors"
    save_file({"weight": np.zeros(3)}, path, metadata={"deqpipe": json.dumps({"provenance": origin, "epoch": epoch})})


def history(root: Path, config: Config, model: str, seed: int) -> None:
    resnet, trunk = model in specs.RESNETS, model == specs.TRUNK
    first = 1 if resnet or trunk else 6
    last = config.resnet.training.epochs if resnet else first - 1 + (5 if trunk else max(config.training.epochs - 5, 2))
    path = root / "models" / model / f"seed{seed}" / "history.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, list(specs.MODELS).index(model)])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HISTORY)
        for epoch in range(first, last + 1):
            grown = 1 - np.exp(-(epoch - first + 1) / 3)
            robust = "" if trunk else round((0.35 + 0.2 * STRENGTH[model]) * grown + 0.03 * generator.random(), 2)
            phase = "pretrain" if trunk else "adversarial"
            seconds = 12.5 * (epoch - first + 1)
            accuracies = (0.9 * grown, 0.95 * grown, robust)
            writer.writerow([epoch, epoch * 20, phase, 0.004, 2 - grown, *accuracies, seconds, 40_000])
