"""The job that attacks what the networks of two seeds decide together: its rows, what it resumes, what it refuses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe.config import Config, merge
from deqpipe.data import load
from deqpipe.errors import UserError
from deqpipe.evaluation import resumable
from deqpipe.evaluation.ensemble_target import ensemble_of
from deqpipe.evaluation.evaluated_model import EvaluationJob
from deqpipe.evaluation.stages.ensemble import attack_ensemble
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.results import checkpoint, early_states, records, saved_images
from deqpipe.results.early_states import EarlyState
from deqpipe.workflow import specs
from deqpipe.workflow.stages import role_of_suite
from tests import tiny
from tests.evaluation.test_suite import BASE, RESNET, SMALL, FewPieces, part_of
from tests.tiny import Trained

SEEDS, STATES, IMAGES = (0, 1), (3, 4), range(6)
FOREIGN = (RESNET, 1, "plain")


def settings(changes: Mapping[str, Any] | None = None) -> Config:
    return tiny.settings(merge(merge(SMALL, {"seeds": list(SEEDS)}), changes or {}))


def of_other_seed(trained: Trained, folder: Path, **described: Any) -> Path:
    """A network of seed 1: that of seed 0 with other weights, and another description if one is given."""
    stored = checkpoint.read(trained.file(BASE))
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: one + 0.05 * torch.randn(one.shape, generator=generator) if one.is_floating_point() else one
        for name, one in stored.tensors.items()
    }
    told = dict(stored.metadata)
    told["provenance"] = {**told["provenance"], "spec": {**told["provenance"]["spec"], "seed": 1}}
    told["architecture"] = {**told["architecture"], **described}
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write(folder / "other.safetensors", tensors, told)
    return folder / "other.safetensors"


def job_of(
    trained: Trained, folder: Path, changes: Mapping[str, Any] | None = None
) -> tuple[EvaluationJob, list[Path], list[Path]]:
    """The job, for a spec that names saved images of one decision alone; early states; these images."""
    config = settings(changes)
    other = of_other_seed(trained, folder)
    selected = []
    for seed, state in zip(SEEDS, STATES, strict=True):
        chosen = {name: EarlyState(state, (0.5,) * 4, 0.5, 9) for name in ("plain", "entropy")}
        selected.append(folder / f"select{seed}.json")
        early_states.write(selected[-1], chosen, {"spec": specs.build("select", config, model=BASE, seed=seed)})
    saved = saved_by_others(trained, folder, config)
    spec = specs.loads(specs.dumps(specs.build("attack_ensemble", config, model=BASE)))
    named = {role_of_suite(*FOREIGN), *(f"{role}/seed{seed}" for role in ("model", "select") for seed in SEEDS)}
    spec["upstream"] = {role: made for role, made in spec["upstream"].items() if role in named}
    job = EvaluationJob(
        spec=spec, data=trained.data, checkpoint=trained.file(BASE), further=(other,), output=folder / "out.parquet",
        device=torch.device("cpu"), threads=1, batch_size=5,
    )  # fmt: skip
    return job, selected, [saved]


def saved_by_others(trained: Trained, folder: Path, config: Config) -> Path:
    """Noise at the edge of the ball, as if the suite had made it of another model."""
    model, seed, defence = FOREIGN
    spec = specs.build("attack_suite", config, model=model, seed=seed, defence=defence)
    x = load(trained.data).test.float_images(torch.tensor(IMAGES), torch.device("cpu"))
    noise = torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(2)))
    made = saved_images.saved(IMAGES, x, x + ((x + noise * 19 / 255).clamp(0, 1) - x), torch.zeros(len(x)))
    path = folder / "saved.safetensors"
    saved_images.write(path, {"exact_margin": made}, provenance={"spec": specs.loads(specs.dumps(spec))})
    return path


@pytest.fixture(scope="module")
def attacked(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationJob]:
    """The folder of a whole job."""
    folder = tmp_path_factory.mktemp("attacked")
    job, select, saved = job_of(trained, folder)
    assert attack_ensemble(job, part_of(folder, IMAGES), select, saved) == 0
    return folder, job


def test_every_row_is_the_ensembles_answer_about_an_image_in_the_ball_and_images_leave_once_it_errs(
    trained: Trained, attacked: tuple[Path, EvaluationJob]
) -> None:
    folder, job = attacked
    found = records.read(job.output)
    assert (set(found["model"]), set(found["defence"]), found["predicted"].shape[1]) == ({BASE}, {"ensemble"}, 1)
    assert found["perturbation"].max() <= 20 / 255 + 1e-6
    own = found.where(found["crafted_seed"] == -1)
    clean = own.where(own["attack"] == "clean")
    assert clean["image"].tolist() == list(IMAGES)
    wrong = {row for row, one in zip(clean["image"], clean["predicted"][:, 0] != clean["label"], strict=True) if one}
    for attack in dict.fromkeys(own["attack"][own["attack"] != "clean"].tolist()):
        rows = own.where(own["attack"] == attack)
        assert rows["image"].tolist() == sorted(set(IMAGES) - wrong), attack
        assert (rows["per_step"][rows["taken"] > 0] >= sum(STATES)).all(), "evaluations of all members count"
        errs = rows["predicted"][:, 0] != rows["label"]
        assert ((rows["broken_at"] >= 0) == errs).all()
        wrong |= set(rows["image"][errs].tolist()) if attack != "noise" else set()
    foreign = found.where(found["crafted_seed"] >= 0)
    assert foreign["image"].tolist() == sorted(set(IMAGES) - wrong)
    assert {*zip(foreign["crafted_on"], foreign["crafted_seed"], foreign["crafted_defence"], strict=True)} <= {FOREIGN}
    assert_judged_by_the_ensemble(trained, folder, own)


def assert_judged_by_the_ensemble(trained: Trained, folder: Path, own: records.Records) -> None:
    """Saved images are exact, and their rows are what the ensemble makes of them when it is built anew."""
    job, select, _ = job_of(trained, folder / "again")
    ensemble = ensemble_of(job, IMAGES, select, name="ensemble")
    kept, _ = saved_images.read(saved_images.beside(folder / "out.parquet"))
    assert list(kept) == list(dict.fromkeys(own["attack"][own["attack"] != "clean"].tolist()))
    for attack, made in kept.items():
        rows = own.where(own["attack"] == attack)
        assert made.image.tolist() == rows["image"].tolist()
        x, _ = ensemble.load(made.image.tolist())
        if len(x):
            assert ensemble.victim.logits(made.rebuilt(x)).argmax(1).tolist() == rows["predicted"][:, 0].tolist()


def test_a_job_that_is_stopped_after_some_pieces_ends_with_the_same_rows_and_images(
    trained: Trained, attacked: tuple[Path, EvaluationJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, select, saved = job_of(trained, tmp_path)
    statuses: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(resumable, "StopRequest", FewPieces)
        while not statuses or statuses[-1] == EXIT_UNFINISHED:
            statuses.append(attack_ensemble(job, part_of(tmp_path, IMAGES), select, saved))
    assert len(statuses) > 2
    straight, resumed = records.read(attacked[1].output), records.read(job.output)
    for name in straight.columns:
        np.testing.assert_array_equal(straight[name], resumed[name], err_msg=name)
    assert straight.provenance[0]["evaluations"] == resumed.provenance[0]["evaluations"]
    one, other = (saved_images.read(saved_images.beside(each.output))[0] for each in (attacked[1], job))
    assert all(torch.equal(one[name].delta, other[name].delta) for name in one)


def refused(job: EvaluationJob, folder: Path, select: Sequence[Path], saved: Sequence[Path], match: str) -> None:
    with pytest.raises(UserError, match=match):
        attack_ensemble(job, part_of(folder, IMAGES), select, saved)
    assert not job.output.exists()


def test_networks_that_are_missing_of_another_seed_or_of_another_architecture_are_refused(
    trained: Trained, tmp_path: Path
) -> None:
    job, select, saved = job_of(trained, tmp_path)
    refused(replace(job, further=()), tmp_path, select, saved, r"--checkpoint has 1 files, but .* the seeds \[0, 1\]")
    refused(job, tmp_path, select[:1], saved, r"--select has 1 files")
    swapped = replace(job, checkpoint=job.further[0], further=(job.checkpoint,))
    refused(swapped, tmp_path, select, saved, "is deq_pgd_at_base of seed 1, but the spec is of .* of seed 0")
    refused(job, tmp_path, select[::-1], saved, "were selected by another spec")
    refused(job, tmp_path, select, [], "--saved has 0 of 1 files: those of resnet18_pgd_at/seed1/plain are missing")
    alone = replace(job, spec={**job.spec, "config": {**job.spec["config"], "seeds": [0]}}, further=())
    refused(alone, tmp_path, select[:1], saved, r"the seeds \[0\], but an ensemble needs at least two")
    other = of_other_seed(trained, tmp_path / "named", dataset="others")
    refused(replace(job, further=(other,)), tmp_path, select, saved, "is of another architecture than")
