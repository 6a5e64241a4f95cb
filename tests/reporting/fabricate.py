"""A small, plausible results tree: what a finished run leaves behind, without the run."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from deqpipe import config as configuration
from deqpipe.config import AttackSuiteConfig, Config
from deqpipe.results import document, header, records
from deqpipe.results import example as example_file
from deqpipe.results.example import Example
from deqpipe.results.history import digest
from deqpipe.workflow import defences, gridpoints, specs, stages, suite_attacks, vocabulary
from deqpipe.workflow.defences import DefenceName
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.shards import (
    autoattack_ranges,
    image_ranges,
    radius_images,
    shard_names,
    state_ranges,
    suite_ranges,
)
from deqpipe.workflow.suite_attacks import Kind

ROOT = Path(__file__).parents[2]
CLASSES = 10
# Robustness at the middle states: the higher, the fewer images an attack turns.
STRENGTH = {
    "deq_pretrain": -1.5, "resnet18_pgd_at": 0.1, "resnet18_trades": 0.2, "deq_pgd_at_base": -0.4,
    "deq_pgd_at_random_states": -0.3, "deq_trades_base": -0.2, "deq_trades_random_states": 0.1,
    "deq_pgd_at_jac_low": -0.6, "deq_trades_jac_high": -0.25, "deq_pgd_at_awp": -0.35,
    "deq_pgd_at_awp_random_states": -0.1, "deq_trades_awp": 0.0, "deq_trades_awp_random_states": 0.4,
    "resnet18_pgd_at_awp": 0.3, "resnet18_trades_awp": 0.5,
}  # fmt: skip
# How much a test-time defence adds; controls differ from each other, and one is better than any method.
DEFENDED: Mapping[DefenceName, float] = {
    "plain": 0.0, "entropy": 0.15, "entropy_zero_steps": -0.3, "entropy_restart_only": 0.6, "entropy_one_round": -0.9,
    "longer_solve": 0.05, "ensemble": 0.1,
}  # fmt: skip
HISTORY = (
    "epoch", "step", "phase", "learning_rate", "loss", "train_accuracy", "clean_accuracy", "robust_accuracy", "seconds",
    "f_forward", "f_backward_input", "f_backward_weights",
)  # fmt: skip

_SMALL: dict[str, Any] = {
    "solver": {"steps": 4},
    "attack": {"grid": {"states": [1, 2, 3, 4], "steps": [1, 3], "damping": [0.5, 1.0]}, "images_per_job": 7,
               "states_per_job": 3},
    "autoattack": {"square_images": 12, "images_per_job": 11, "top_points": 3},
    "entropy_sweep": {"solver_steps": [1, 2, 4], "input_steps": [1, 5], "points": 2},
    "evaluation": {"images": 20},
    "statistics": {"resamples": 100},
    "suite": {"static": True}, "figures": {"jacobian": True},  # which the demo leaves out
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
        for model in vocabulary.present(config, vocabulary.EVERY_EVALUATED):
            history(root, config, model, seed)
            weights(root, config, model, seed, epoch=kept(root, model, seed))
            if vocabulary.MODELS[model].is_deq:
                select(root, config, model, seed)
                for name, rows in grid_shards(config, model, seed).items():
                    write(root / "attacks/grid" / model / f"seed{seed}" / f"{name}.parquet", rows, config,
                          "attack_grid", model, seed)  # fmt: skip
            else:
                write(root / "attacks/pgd" / model / f"seed{seed}.parquet", pgd(config, model, seed), config,
                      "attack_pgd", model, seed)  # fmt: skip
            write(root / "attacks/clean" / model / f"seed{seed}.parquet", clean(config, model, seed), config,
                  "clean", model, seed)  # fmt: skip
        for model in vocabulary.OTHER_JACOBIAN:
            history(root, config, model, seed)
            weights(root, config, model, seed, epoch=kept(root, model, seed))
        for model in vocabulary.present(config, vocabulary.EVERY_DEQ):
            strongest(root, config, model, seed)
        library(root, config, seed)
        table3(root, config, seed)
        suite(root, config, seed)
        if seed == config.seeds[-1]:
            ensembles(root, config)
        sweep(root, config, seed)
        timings(root, config, seed)
        example(root, config, seed)
    return root


def provenance(config: Config, stage: stages.StageName, model: str, seed: int | None, *, code: str = "0" * 64,
               defence: DefenceName | None = None) -> dict[str, Any]:  # fmt: skip
    return {
        "spec": specs.build(stage, config, model=model or None, seed=seed, defence=defence),
        "seed": seed,
        "code": code,
        "versions": {"python": "3.11.2", "torch": "2.15.0", "cuda": None},
        "device": "cpu",
        "seconds": 1.5,
        "evaluations": {"forward": 1000, "backward_input": 100, "backward_weights": 10},
        "inputs": {"model": "f" * 64},
    }


def write(path: Path, rows: Mapping[str, np.ndarray], config: Config, stage: stages.StageName, model: str,
          seed: int | None, *, code: str = "0" * 64, defence: DefenceName | None = None,
          flags: Sequence[str] = ()) -> None:  # fmt: skip
    origin = provenance(config, stage, model, seed, code=code, defence=defence) | {"flags": list(flags)}
    records.write(path, rows, provenance=origin)


def decisions(config: Config, model: str) -> tuple[DefenceName, ...]:
    """What a model's images are scored on."""
    kind = vocabulary.MODELS[model]
    return (*kind.defences, *kind.controls(config.entropy))


def rows(config: Config, model: str, seed: int, *, attack: str, point: GridPoint, defence: DefenceName,
         images: Sequence[int]) -> dict[str, np.ndarray]:  # fmt: skip
    """Rows of one attack and one decision. Images differ in how hard they are, and attacks agree on which."""
    deq = model not in vocabulary.EVERY_FEEDFORWARD and defence != "ensemble"
    states = config.solver.steps + 1 if deq else 1
    index = np.asarray(images, dtype=int)
    hardness = np.random.default_rng(7).normal(size=config.evaluation.images)[index]
    labels = np.random.default_rng(8).integers(0, CLASSES, size=config.evaluation.images)[index]
    key = [seed, list(vocabulary.MODELS).index(model), round(point.damping * 10), point.state, point.steps]
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
        "deviation": np.full((n, states), np.nan if defence in defences.CONTROLS else 0.2),
    }  # fmt: skip


def _robustness(
    config: Config, model: str, defence: DefenceName, attack: str, point: GridPoint, states: int
) -> np.ndarray:
    ripening = np.linspace(-0.5, 0, states)
    if attack == "clean":
        return 1.6 + ripening - 0.6 * DEFENDED[defence]
    middle = abs(point.state - config.solver.steps * 0.45) / config.solver.steps if point.state else 0
    weak = 2 * middle + 0.04 * abs(point.steps - 5) + (0.35 * point.steps**0.3 if point.damping > 0.9 else 0)
    return STRENGTH[model] + DEFENDED[defence] + ripening + weak


def stack(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in records.COLUMNS}


def spared(found: Mapping[str, np.ndarray], *, only: int | None = None) -> dict[str, np.ndarray]:
    """The same without what nobody computes: the final state, or all states but one; residuals and deviations."""
    number = np.arange(1, found["predicted"].shape[1] + 1)
    there = number < len(number) if only is None else number == only
    read = {name: np.where(there, found[name], np.nan) for name in ("margin", "entropy")}
    nothing = {name: np.full_like(found[name], np.nan) for name in ("residual", "deviation")}
    return {**found, **read, **nothing, "predicted": np.where(there, found["predicted"], records.NOT_COMPUTED)}


def clean(config: Config, model: str, seed: int) -> dict[str, np.ndarray]:
    point, images = GridPoint(damping=0.0, state=0, steps=0), range(config.evaluation.images)
    return stack([
        rows(config, model, seed, attack="clean", point=point, defence=defence, images=images)
        for defence in decisions(config, model)
    ])  # fmt: skip


def pgd(config: Config, model: str, seed: int) -> dict[str, np.ndarray]:
    deq = model not in vocabulary.EVERY_FEEDFORWARD
    point = gridpoints.ready_made(config) if deq else GridPoint(damping=0.0, state=0, steps=0)
    images = range(config.evaluation.images)
    return rows(config, model, seed, attack="pgd", point=point, defence="plain", images=images)


def grid_shards(config: Config, model: str, seed: int) -> dict[str, dict[str, np.ndarray]]:
    shards = {}
    ranges = [(states, images) for states in state_ranges(config) for images in image_ranges(config)]
    for name, (states, images) in zip(shard_names(config), ranges, strict=True):
        points = [point for point in gridpoints.grid_points(config) if states[0] <= point.state <= states[1]]
        covered = range(images[0], images[1] + 1)
        shards[name] = stack([
            rows(config, model, seed, attack="pgd", point=point, defence=defence, images=covered)
            for point in points for defence in decisions(config, model)
        ] + transferred(config, model, seed, points, covered))  # fmt: skip
    return shards


def transferred(config: Config, model: str, seed: int, points: Sequence[GridPoint], images: Sequence[int],
                attack: str = "pgd", shift: float = 0.8) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """The same images, judged by the other TRADES model: weaker there by `shift`."""
    other = vocabulary.other_trades(model) if attack == "pgd_in_loop" else vocabulary.transfers_to(config, model)
    if other is None:
        return []
    return [
        moved(rows(config, other, seed, attack=attack, point=point, defence=defence, images=images), shift, model)
        for point in points for defence in defences.DECIDING
    ]  # fmt: skip


def moved(found: dict[str, np.ndarray], shift: float, crafted_on: str) -> dict[str, np.ndarray]:
    """Rows with every margin larger by `shift`."""
    margin, labels = found["margin"] + shift, found["label"][:, None]
    predicted = np.where(margin > 0, labels, (labels + 1) % CLASSES)
    crafted = np.full(len(margin), crafted_on)
    unknown = np.full(margin.shape, np.nan)
    return found | {"margin": margin, "predicted": predicted, "crafted_on": crafted, "deviation": unknown}


LIBRARY = {"apgd_ce": -0.1, "apgd_t": -0.25, "fab_t": 0.2, "square": 0.5}  # how much weaker than PGD: margins move


def library(root: Path, config: Config, seed: int) -> None:
    """AutoAttack on every decision, and two of its attacks at the top points."""
    for model in vocabulary.present(config, (*vocabulary.EVERY_DEQ, *vocabulary.EVERY_FEEDFORWARD)):
        for defence in vocabulary.MODELS[model].defences:
            for first, last in autoattack_ranges(config):
                found = autoattack(config, model, seed, defence, range(first, last + 1))
                path = root / "attacks/autoattack" / model / f"seed{seed}" / f"{defence}_images{first}-{last}.parquet"
                write(path, found, config, "autoattack", model, seed, defence=defence, flags=FLAGS[defence])
    points = [
        point
        for point in ranked(config, vocabulary.SWEEP_MODEL, seed, "entropy")
        if point.damping == gridpoints.FINAL_DAMPING
    ]
    for first, last in autoattack_ranges(config):
        images = range(first, last + 1)
        squared = range(first, min(last + 1, config.autoattack.square_images))
        top = stack([
            moved(
                rows(config, vocabulary.SWEEP_MODEL, seed, attack=attack, point=point, defence="entropy", images=part),
                LIBRARY[attack], vocabulary.SWEEP_MODEL,
            )
            for point in points[:config.autoattack.top_points]
            for attack, part in (("apgd_ce", images), ("square", squared)) if len(part)
        ])  # fmt: skip
        path = root / "attacks/top" / vocabulary.SWEEP_MODEL / f"seed{seed}" / f"images{first}-{last}.parquet"
        write(path, spared(top, only=early(config, "entropy")), config, "attack_top", vocabulary.SWEEP_MODEL, seed)


FLAGS: Mapping[DefenceName, tuple[str, ...]] = {"plain": (), "entropy": ("it seems to be a dynamic defense!",)}


def autoattack(config: Config, model: str, seed: int, defence: DefenceName, images: range) -> dict[str, np.ndarray]:
    """Clean rows, then one row per image and attack that was run: in standard mode until the decision errs."""
    deq = vocabulary.MODELS[model].is_deq
    point = ranked(config, model, seed, defence)[0] if deq else GridPoint(damping=0.0, state=0, steps=0)
    state = early(config, defence) if deq else 0
    nowhere = GridPoint(damping=0.0, state=0, steps=0)
    parts = [rows(config, model, seed, attack="clean", point=nowhere, defence=defence, images=images)]
    alive = np.array(images)
    if config.autoattack.mode == "standard":
        alive = alive[parts[0]["predicted"][:, state - 1] == parts[0]["label"]]
    for attack in config.autoattack.attacks:
        part = alive[alive < config.autoattack.square_images] if attack == "square" else alive
        if not len(part):
            continue
        found = rows(config, model, seed, attack=attack, point=point, defence=defence, images=part.tolist())
        found = moved(found, LIBRARY[attack], model)
        right = found["predicted"][:, state - 1] == found["label"]
        if attack == "fab_t":
            found["perturbation"] = np.where(right, 0.0, found["perturbation"])
        if config.autoattack.mode == "standard":
            alive = np.setdiff1d(alive, part[~right])
        parts.append(found)
    return spared(stack(parts), only=state) if deq else stack(parts)


def early(config: Config, defence: DefenceName) -> int:
    """The state that `select` says of a defence."""
    return config.solver.steps - (0 if defence == "plain" else 1)


def ranked(config: Config, model: str, seed: int, defence: DefenceName) -> list[GridPoint]:
    """The grid's points from the strongest, by brute force."""
    state = early(config, defence)

    def key(point: GridPoint) -> tuple[int, GridPoint]:
        found = rows(config, model, seed, attack="pgd", point=point, defence=defence,
                     images=range(config.evaluation.images))  # fmt: skip
        return int((found["predicted"][:, state - 1] == found["label"]).sum()), point

    return sorted(gridpoints.grid_points(config), key=key)


def strongest(root: Path, config: Config, model: str, seed: int) -> None:
    """What `deqpipe strongest` writes, without the counts."""
    entries: dict[str, Any] = {"early": {}, "provenance": provenance(config, "strongest", model, seed)}
    for defence in vocabulary.MODELS[model].defences:
        entries["early"][defence] = early(config, defence)
        entries[defence] = [
            {"state": point.state, "steps": point.steps, "damping": point.damping}
            for point in ranked(config, model, seed, defence)
        ]
    records.write_text(root / "strongest" / model / f"seed{seed}.json", document.sealed_text(entries, sort_keys=False))


def table3(root: Path, config: Config, seed: int) -> None:
    """Points crafted through Sec. 3.2: stronger than blind ones on the defended decisions."""
    for model in vocabulary.TRADES:
        points = ranked(config, model, seed, "entropy")[: config.attack.in_loop_points]
        for first, last in image_ranges(config):
            images = range(first, last + 1)
            own = [
                moved(rows(config, model, seed, attack="pgd_in_loop", point=point, defence=defence, images=images),
                      0.3 if defence == "plain" else -0.2, model)
                for point in points for defence in vocabulary.MODELS[model].defences
            ]  # fmt: skip
            found = stack(own + transferred(config, model, seed, points, images, attack="pgd_in_loop", shift=0.7))
            path = root / "attacks/in_loop" / model / f"seed{seed}" / f"images{first}-{last}.parquet"
            write(path, spared(found), config, "attack_in_loop", model, seed)


def sweep(root: Path, config: Config, seed: int) -> None:
    """Every T_f and R: more descent helps a little, seldom descent less."""
    points: Sequence[GridPoint] = gridpoints.grid_points(config)
    if config.entropy_sweep.points != "all":
        points = ranked(config, vocabulary.SWEEP_MODEL, seed, "entropy")[: config.entropy_sweep.points]
    for first, last in image_ranges(config):
        parts = []
        for setting in gridpoints.entropy_settings(config):
            gain = 0.02 * setting.input_steps - 0.03 * setting.solver_steps + (0.1 if setting.restart_only else 0)
            for point in points:
                found = rows(config, vocabulary.SWEEP_MODEL, seed, attack="pgd", point=point, defence="entropy",
                             images=range(first, last + 1))  # fmt: skip
                found = moved(found, gain, vocabulary.SWEEP_MODEL)
                parts.append(found | {"defence": np.full(len(found["image"]), setting.defence)})
        path = root / "attacks/sweep" / vocabulary.SWEEP_MODEL / f"seed{seed}" / f"images{first}-{last}.parquet"
        write(path, spared(stack(parts)), config, "attack_sweep", vocabulary.SWEEP_MODEL, seed)


def speed(median: float) -> dict[str, Any]:
    return {"images_per_second": [0.9 * median, median, 1.2 * median], "median": median, "low": 0.9 * median,
            "high": 1.2 * median}  # fmt: skip


def timings(root: Path, config: Config, seed: int) -> None:
    """What the timing jobs write."""
    shared = {"batch_size": config.timing.batch_size, "warmup": config.timing.warmup, "repeats": 3,
              "precision": config.precision, "device": "a processor", "threads": 1,
              "load": {"before": [0.5, 0.4, 0.3], "after": [1.1, 0.6, 0.4]}}  # fmt: skip
    methods = {model: speed(10.0 + 3 * number) for number, model in enumerate(vocabulary.DEQS)}
    training = shared | {"methods": methods, "steps_per_repeat": 8,
                         "provenance": provenance(config, "time_training", "", seed)}  # fmt: skip
    records.write_text(root / "timing/training" / f"seed{seed}.json", document.sealed_text(training))
    settings = {"plain": speed(95.0)} | {
        setting.defence: speed(95.0 * setting.solver_steps / (setting.solver_steps + setting.input_steps))
        for setting in gridpoints.entropy_settings(config) if setting.input_steps
    }  # fmt: skip
    inference = shared | {
        "settings": settings,
        "provenance": provenance(config, "time_inference", vocabulary.SWEEP_MODEL, seed),
    }
    records.write_text(
        root / "timing/inference" / vocabulary.SWEEP_MODEL / f"seed{seed}.json", document.sealed_text(inference)
    )


def example(root: Path, config: Config, seed: int) -> None:
    """The images of Figure 2 (c)."""
    path = root / "attacks/example" / vocabulary.FIGURE2_MODEL / f"seed{seed}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    found, label, fooled = shown(config, seed)
    image = np.random.default_rng(5).random((1, 8, 8), dtype=np.float32)
    names = tuple(str(number) for number in range(CLASSES))
    attacked = np.clip(image + np.float32(0.1), 0, 1)
    made = Example(image, attacked, found, label, fooled, early(config, "plain"), names)
    example_file.write(path, made, provenance(config, "attack_example", vocabulary.FIGURE2_MODEL, seed))


def shown(config: Config, seed: int) -> tuple[int, int, bool]:
    """Index and label of the first image that ready-made PGD turns, and that there is one; else of the first image."""
    images, state, nowhere = range(config.evaluation.images), early(config, "plain"), GridPoint(0.0, 0, 0)
    parts = [
        rows(config, vocabulary.FIGURE2_MODEL, seed, attack=attack, point=point, defence="plain", images=images)
        for attack, point in (("clean", nowhere), ("pgd", gridpoints.ready_made(config)))
    ]
    before, after = ((part["predicted"][:, state - 1] == part["label"]) for part in parts)
    turned = np.flatnonzero(before & ~after)
    first = int(turned[0]) if len(turned) else 0
    return first, int(parts[0]["label"][first]), bool(len(turned))


def select(root: Path, config: Config, model: str, seed: int) -> None:
    n = config.data.validation
    states = config.solver.steps
    entries: dict[str, Any] = {}
    for shift, defence in enumerate(vocabulary.MODELS[model].defences):
        accuracy = [round((0.35 + 0.02 * state + 0.03 * shift) * n) / n for state in range(1, states + 1)]
        entries[defence] = {"state": states - shift, "accuracy": accuracy, "final": accuracy[-1], "n": n}
    path = root / "select" / model / f"seed{seed}.json"
    text = document.sealed_text({**entries, "provenance": provenance(config, "select", model, seed)})
    records.write_text(path, text)


def kept(root: Path, model: str, seed: int) -> int:
    """The most robust epoch of a fabricated history, the trunk's last."""
    with (root / "models" / model / f"seed{seed}" / "history.csv").open(newline="", encoding="utf-8") as file:
        accuracies = {int(row["epoch"]): float(row["robust_accuracy"] or 0) for row in csv.DictReader(file)}
    return max(accuracies, key=lambda epoch: (accuracies[epoch], epoch if model == vocabulary.TRUNK else -epoch))


def weights(root: Path, config: Config, model: str, seed: int, *, epoch: int) -> None:
    """Kept weights: three numbers, and a header that says after which epoch."""
    stage = stages.training_stage(model)
    origin = provenance(config, stage, "" if stage == "pretrain" else model, seed)
    path = root / "models" / model / f"seed{seed}" / "best.safetensors"
    write_weights(path, {"weight": np.zeros(3)}, {"provenance": origin, "epoch": epoch})


def write_weights(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """A weights file with the history that lies beside it; nobody reads its tensors, so their digest is none."""
    told = metadata | {"history": digest((path.parent / "history.csv").read_bytes())}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    save_file(tensors, path, metadata=header.written(told, tensors="none", shapes=shapes))


def history(root: Path, config: Config, model: str, seed: int) -> None:
    resnet, trunk = model in vocabulary.EVERY_FEEDFORWARD, model == vocabulary.TRUNK
    first = 1 if resnet or trunk else 6
    last = config.resnet.training.epochs if resnet else first - 1 + (5 if trunk else max(config.training.epochs - 5, 2))
    path = root / "models" / model / f"seed{seed}" / "history.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, list(vocabulary.MODELS).index(model)])
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


# --- the suite ---

WEAKER = {"noise": 1.6, "square": 0.5, "rays": 0.9}
"""How much less than the others some attacks of the suite do: margins move."""


def suite(root: Path, config: Config, seed: int) -> None:
    """The suite on every decision, images of others on every decision, and balls of several radii."""
    for model in vocabulary.faces_suite(config):
        named = vocabulary.suite_decisions(config, model)
        for first, last in suite_ranges(config):
            images = range(first, last + 1)
            for defence in named:
                path = root / "attacks/suite" / model / f"seed{seed}" / f"{defence}_images{first}-{last}.parquet"
                write(path, suite_rows(config, model, seed, defence, images), config, "attack_suite", model, seed,
                      defence=defence)  # fmt: skip
            path = root / "attacks/transferred" / model / f"seed{seed}" / f"images{first}-{last}.parquet"
            found = joined([from_another(config, model, seed, defence, images) for defence in named])
            write(path, found, config, "attack_transferred", model, seed)
        for defence in vocabulary.MODELS[model].defences if named else ():
            path = root / "attacks/radius" / model / f"seed{seed}" / f"{defence}.parquet"
            write(path, radius_rows(config, model, seed, defence), config, "attack_radius", model, seed,
                  defence=defence)  # fmt: skip


def ensembles(root: Path, config: Config) -> None:
    """What the networks of all seeds decide together: attacked, and shown the images of others."""
    for model in vocabulary.DEQS:
        for name in vocabulary.ensembles(config, model):
            for first, last in suite_ranges(config):
                images = range(first, last + 1)
                own = suite_rows(config, model, config.seeds[0], name, images)
                nobody = {
                    "crafted_seed": np.full(len(own["image"]), -1),
                    "crafted_defence": np.full(len(own["image"]), ""),
                }
                found = joined([own | nobody, from_another(config, model, config.seeds[0], name, images)])
                path = root / "attacks/ensemble" / model / f"images{first}-{last}.parquet"
                write(path, found, config, "attack_ensemble", model, None)


def asked(config: Config) -> AttackSuiteConfig:
    """What the suite may spend."""
    assert isinstance(config.suite, AttackSuiteConfig)
    return config.suite


def deciding(config: Config, model: str, defence: DefenceName) -> int:
    """The state of a decision, from 1; the final one of a network without states."""
    if model in vocabulary.EVERY_FEEDFORWARD or defence == "ensemble":
        return 1
    if defence == "longer_solve":
        return config.solver.steps
    return early(config, "plain" if defence == "plain" else "entropy")


def suite_rows(
    config: Config, model: str, seed: int, defence: DefenceName, images: Sequence[int]
) -> dict[str, np.ndarray]:
    """Clean rows, then those of each attack on the images that it faces."""
    place = deciding(config, model, defence) - 1
    parts = [suite_part(config, model, seed, "clean", defence, images)]
    alive = np.array(images)[parts[0]["predicted"][:, place] == parts[0]["label"]]
    kinds: Mapping[str, Kind] = {"entropy": "defended", "ensemble": "ensemble"}
    kind: Kind = "network" if model in vocabulary.EVERY_FEEDFORWARD else kinds.get(defence, "plain")
    for number, attack in enumerate(suite_attacks.against(asked(config), kind)):
        if not len(alive):
            break
        part = suite_part(config, model, seed, attack.name, defence, alive.tolist(), number=number)
        parts.append(part)
        if asked(config).mode == "standard" and attack.name not in suite_attacks.CONTROLS:
            alive = alive[part["predicted"][:, place] == part["label"]]
    return joined(parts)


def suite_part(
    config: Config, model: str, seed: int, attack: str, defence: DefenceName, images: Sequence[int], *, number: int = 0,
    shift: float | None = None, radius: float | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Rows of one attack, at the deciding state alone, with the suite's further columns."""
    state, clean = deciding(config, model, defence), attack == "clean"
    point = GridPoint(damping=0.0, state=0, steps=0 if clean else number + 1)
    found = rows(config, model, seed, attack=attack, point=point, defence=defence, images=images)
    if not clean:
        found = moved(found, WEAKER.get(attack, -0.2) if shift is None else shift, model)
    found = spared(found, only=state)
    n, wrong = len(images), found["predicted"][:, state - 1] != found["label"]
    steps = 0 if clean else asked(config).queries if attack == "square" else asked(config).iterations
    broken = np.where(wrong, np.arange(n) % max(steps, 1), -1)
    return found | {
        "steps": np.zeros(n), "broken_at": broken, "taken": np.where(wrong, np.maximum(broken, 0), steps),
        "per_step": np.full(n, np.nan if clean or model in vocabulary.EVERY_FEEDFORWARD else 14.0 + number),
        "spread": np.full(n, np.nan if clean else 0.25),
        "radius": np.full(n, 0.0 if clean else config.threat_model.epsilon_255 / 255 if radius is None else radius),
    }  # fmt: skip


def from_another(
    config: Config, model: str, seed: int, defence: DefenceName, images: Sequence[int]
) -> dict[str, np.ndarray]:
    """Images that were made against the other models' undefended decisions."""
    others = [name for name in vocabulary.faces_suite(config) if name != model]
    parts = []
    for number, other in enumerate(others):
        part = suite_part(config, model, seed, "exact_margin", defence, images, number=40 + number, shift=0.7)
        n = len(images)
        parts.append(part | {
            "crafted_on": np.full(n, other), "crafted_seed": np.full(n, seed), "crafted_defence": np.full(n, "plain"),
        })  # fmt: skip
    return joined(parts)


def radius_rows(config: Config, model: str, seed: int, defence: DefenceName) -> dict[str, np.ndarray]:
    """Clean rows, then the attack and noise in every ball: the larger, the fewer it leaves."""
    images = range(radius_images(config))
    parts = [suite_part(config, model, seed, "clean", defence, images)]
    place = deciding(config, model, defence) - 1
    right = np.array(images)[parts[0]["predicted"][:, place] == parts[0]["label"]].tolist()
    for times in asked(config).radii:
        radius = times * config.threat_model.epsilon_255 / 255
        parts += [
            suite_part(config, model, seed, attack, defence, right, shift=most - slope * times, radius=radius)
            for attack, most, slope in (("exact_margin", 1.0, 1.2), ("noise", 1.9, 0.3))
        ]
    return joined(parts)


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows with all columns that they have."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
