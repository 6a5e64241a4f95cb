"""Is our AutoAttack the library's? Robust accuracy of a ResNet by our job and by the library's own standard evaluation.

    python benchmarks/autoattack_vs_library.py results/demo

Reads a finished results folder (config.yaml, models, data). Images, budgets, batches and attacks are the same. The
library takes one seed for all batches, ours are keyed by attack and batch: single images may differ, accuracies hardly.
Ours by both values of `autoattack.keep`: on a network, whose decision is what is attacked, `success` is what the
library does.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pyautoattack
import torch

from deqpipe import config
from deqpipe.attack.autoattack import runnable
from deqpipe.config import Config
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.resumable import Part
from deqpipe.evaluation.stages.autoattack import autoattack
from deqpipe.results import records
from deqpipe.workflow import specs, vocabulary


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", choices=vocabulary.FEEDFORWARD, default=vocabulary.FEEDFORWARD[0])
    parser.add_argument("--images", type=int, default=96, help="the first so many test images")
    text = "of the configuration, or the library's own: 100 steps, 9 classes, 5,000 queries"
    parser.add_argument("--budget", choices=("configured", "standard"), default="standard", help=text)
    options = parser.parse_args()
    loaded = config.load([options.results / "config.yaml"])
    if options.budget == "standard":
        standard = {"iterations": 100, "restarts": 1, "targets": 9, "queries": 5000, "batch_size": 250}
        loaded = config.parse(config.merge(loaded.model_dump(mode="json"), {"autoattack": standard}))
    epsilon, budget = loaded.threat_model.epsilon_255, options.budget
    print(f"{options.model}, {options.images} images, epsilon {epsilon:g}/255, {budget} budget\n")
    print("| | clean | robust | seconds |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for keep in ("success", "best_loss"):
            job = _job(loaded, options, keep, Path(folder) / keep)
            print(f"| ours, {keep} | {_ours(job, options.images)} |", flush=True)
        print(f"| the library | {_theirs(load_evaluated_model(job), options.images)} |")


def _job(loaded: Config, options: argparse.Namespace, keep: str, folder: Path) -> EvaluationJob:
    changes = {"autoattack": {"mode": "standard", "keep": keep, "square_images": options.images}}
    changed, seed = config.parse(config.merge(loaded.model_dump(mode="json"), changes)), loaded.seeds[0]
    return EvaluationJob(
        spec=specs.build("autoattack", changed, model=options.model, seed=seed, defence="plain"),
        data=options.results / "data" / "dataset.safetensors",
        checkpoint=options.results / "models" / options.model / f"seed{seed}" / "best.safetensors",
        output=folder / "rows.parquet",
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        threads=1,
        batch_size=loaded.evaluation.expected_batch_size,
    )


def _ours(job: EvaluationJob, count: int) -> str:
    started = time.monotonic()
    status = autoattack(job, Part(range(count), job.output.parent / "state", float("inf")))
    assert status == 0
    found = records.read(job.output)
    wrong = found["predicted"][:, 0] != found["label"]
    clean = set(found["image"][wrong & (found["attack"] == "clean")].tolist())
    return _cells(count, clean=len(clean), fallen=len(set(found["image"][wrong].tolist())), started=started)


def _theirs(evaluated: EvaluatedModel, count: int) -> str:
    started, settings, device = time.monotonic(), evaluated.settings, evaluated.job.device
    x, y = evaluated.dataset.test.float_images(slice(count), device), evaluated.dataset.test.labels[:count].to(device)
    network, epsilon = evaluated.loaded.model, evaluated.ball.epsilon
    asked = runnable(settings["autoattack.attacks"], classes=len(evaluated.dataset.classes))
    suite = pyautoattack.AutoAttack(
        network,
        attacks=[name.replace("_", "-") for name in asked],
        eps=epsilon,
        seed=0,
        version="custom",
        device=device,
    )
    iterations, targets = settings["autoattack.iterations"], settings["autoattack.targets"]
    for attack in (suite.apgd, suite.apgd_targeted):  # checkpoints of the step size follow from n_iter when it is made
        attack.__init__(network, n_iter=iterations, eps=epsilon, device=device, logger=suite.logger)
    suite.apgd.n_restarts, suite.fab.n_iter = settings["autoattack.restarts"], iterations
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(targets, len(evaluated.dataset.classes) - 1)
    suite.square.n_queries = settings["autoattack.queries"]
    made, _ = suite.run_standard_evaluation(x, y, batch_size=settings["autoattack.batch_size"])
    with torch.no_grad():
        clean, fallen = ((network(images).argmax(1) != y).sum().item() for images in (x, made))
    return _cells(count, clean=int(clean), fallen=int(fallen), started=started)


def _cells(count: int, *, clean: int, fallen: int, started: float) -> str:
    return f"{1 - clean / count:.2%} | {1 - fallen / count:.2%} | {time.monotonic() - started:.1f}"


if __name__ == "__main__":
    main()
