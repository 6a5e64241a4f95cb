"""The suite's jobs on tiny trained models: which rows and images there are, who leaves when, what a kill changes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe.attack import suite as attacks
from deqpipe.config import merge
from deqpipe.data import load
from deqpipe.errors import UserError
from deqpipe.evaluation import resumable
from deqpipe.evaluation.evaluated_model import EvaluationJob
from deqpipe.evaluation.resumable import Part
from deqpipe.evaluation.stages.suite import attack_radius, attack_suite
from deqpipe.evaluation.stages.transferred import attack_transferred
from deqpipe.machine.stopping import EXIT_UNFINISHED, StopRequest
from deqpipe.results import early_states, records, saved_images
from deqpipe.results.early_states import EarlyState
from deqpipe.results.records import Records
from deqpipe.workflow import specs
from tests import tiny
from tests.sampling import one_in
from tests.tiny import Trained

BASE, RESNET = "deq_pgd_at_base", "resnet18_pgd_at"
EARLY = {"plain": 3, "entropy": 4}
SMALL: dict[str, Any] = {
    "suite": {
        "images": 12, "iterations": 1, "restarts": 1, "targets": 1, "long": [2], "queries": 3, "decision_queries": 3,
        "radii": [0, 1, 6], "radius_images": 12,
    },
}  # fmt: skip
INDIVIDUAL: dict[str, Any] = {"suite": {"mode": "individual"}}


def early(trained: Trained, folder: Path, config: Any) -> Path:
    """The states that decide, as `select` writes them."""
    chosen = {name: EarlyState(state, (0.5,) * 4, 0.5, 9) for name, state in EARLY.items()}
    spec = specs.build("select", config, model=BASE, seed=0)
    early_states.write(folder / "select.json", chosen, {"spec": spec})
    return folder / "select.json"


def job_of(
    trained: Trained, folder: Path, model: str = BASE, defence: Any = "plain", *, stage: Any = "attack_suite",
    changes: Mapping[str, Any] | None = None, batch_size: int = 5,
) -> tuple[EvaluationJob, Path | None]:  # fmt: skip
    config = tiny.settings(merge(SMALL, changes or {}))
    spec = specs.build(stage, config, model=model, seed=0, defence=defence)
    folder.mkdir(parents=True, exist_ok=True)
    job = EvaluationJob(
        spec=specs.loads(specs.dumps(spec)), data=trained.data, checkpoint=trained.file(model),
        output=folder / "out.parquet", device=torch.device("cpu"), threads=1, batch_size=batch_size,
    )  # fmt: skip
    return job, None if model == RESNET else early(trained, folder, config)


def part_of(folder: Path, images: range = range(12)) -> Part:
    return Part(images, folder / "state", 1e9)


def found_by(trained: Trained, folder: Path, *given: Any, images: range = range(12), **more: Any) -> Records:
    job, select = job_of(trained, folder, *given, **more)
    assert attack_suite(job, part_of(folder, images), select) == 0
    return records.read(job.output)


def errs(found: Records, state: int) -> np.ndarray:
    return np.asarray(found["predicted"][:, state - 1] != found["label"])


@pytest.mark.parametrize(("defence", "state"), one_in(2, [("plain", 3), ("entropy", 4)]))
def test_in_standard_mode_an_image_leaves_once_the_decision_errs_and_its_images_are_kept_exactly(
    trained: Trained, tmp_path: Path, defence: str, state: int
) -> None:
    found = found_by(trained, tmp_path, BASE, defence)
    clean = found.where(found["attack"] == "clean")
    assert clean["image"].tolist() == list(range(12))
    fallen = set(clean["image"][errs(clean, state)].tolist())
    for attack in dict.fromkeys(found["attack"]):
        rows = found.where(found["attack"] == attack)
        if attack == "clean":
            continue
        assert rows["image"].tolist() == sorted(set(range(12)) - fallen)
        wrong = errs(rows, state)
        assert ((rows["broken_at"] >= 0) == wrong).all()
        assert (rows["broken_at"] <= rows["taken"]).all()
        assert ((rows["margin"][:, state - 1] <= 0) | ~wrong).all()
        assert (rows["per_step"][rows["taken"] > 0] > 0).all()
        if attack != "noise":
            fallen |= set(rows["image"][wrong].tolist())
    assert fallen
    assert np.isnan(found["margin"][:, 0]).all(), "states that do not decide are not looked at"
    assert found["perturbation"].max() <= 20 / 255 + 1e-6
    kept, told = saved_images.read(saved_images.beside(tmp_path / "out.parquet"))
    assert told["spec"] == found.provenance[0]["spec"]
    for attack, saved in kept.items():
        rows = found.where(found["attack"] == attack)
        assert saved.image.tolist() == rows["image"].tolist()
        x = load(trained.data).test.float_images(saved.image.long(), torch.device("cpu"))
        change = (saved.rebuilt(x) - x).abs().flatten(1).amax(1).numpy()
        np.testing.assert_array_equal(change, rows["perturbation"])
    assert not list((tmp_path / "state").rglob("*batch*.safetensors")), "a published job's pieces need no images"


@pytest.mark.slow
@pytest.mark.parametrize("model", [BASE, pytest.param(RESNET, marks=pytest.mark.slow)])
def test_parts_of_the_images_give_what_the_whole_gives(trained: Trained, tmp_path: Path, model: str) -> None:
    whole = found_by(trained, tmp_path / "whole", model, changes=INDIVIDUAL, images=range(8))
    for images in (range(4), range(4, 8)):
        folder = tmp_path / str(images.start)
        half = found_by(trained, folder, model, changes=INDIVIDUAL, images=images, batch_size=3)
        same = whole.where(np.isin(whole["image"], list(images)))
        for name in ("image", "attack", "taken", "broken_at"):
            assert half[name].tolist() == same[name].tolist(), name
        for name in ("margin", "perturbation"):
            np.testing.assert_allclose(half[name], same[name], atol=1e-4, err_msg=name)


class FewPieces(StopRequest):
    """A time budget that is over after four pieces."""

    asked = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked > 4


def test_a_job_that_is_stopped_after_some_pieces_ends_with_the_same_bits(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = found_by(trained, tmp_path / "a", images=range(5))
    job, select = job_of(trained, tmp_path / "b")
    statuses: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(resumable, "StopRequest", FewPieces)
        while not statuses or statuses[-1] == EXIT_UNFINISHED:
            statuses.append(attack_suite(job, part_of(tmp_path / "b", range(5)), select))
    assert len(statuses) > 2
    resumed = records.read(job.output)
    for name in straight.columns:
        np.testing.assert_array_equal(straight[name], resumed[name], err_msg=name)
    one, other = (saved_images.read(saved_images.beside(tmp_path / side / "out.parquet"))[0] for side in "ab")
    assert list(one) == list(other)
    assert all(torch.equal(one[name].delta, other[name].delta) for name in one)
    assert straight.provenance[0]["evaluations"] == resumed.provenance[0]["evaluations"]


@pytest.mark.slow
def test_damaged_images_of_a_piece_are_set_aside_and_made_again(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, select = job_of(trained, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(resumable, "StopRequest", FewPieces)
        assert attack_suite(job, part_of(tmp_path), select) == EXIT_UNFINISHED
    (kept,) = (tmp_path / "state").rglob("exact_margin_batch0*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert attack_suite(job, part_of(tmp_path), select) == 0
    assert list((tmp_path / "state").rglob("exact_margin_batch0*.parquet.damaged"))


def test_a_decision_that_differs_when_it_is_asked_again_is_told(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = attacks.Victim.logits
    monkeypatch.setattr(attacks.Victim, "logits", lambda self, x: plain(self, x) + 1e-3 * torch.rand(1))
    found = found_by(trained, tmp_path, RESNET)
    (flag,) = found.provenance[0]["flags"]
    assert flag == "decision is not deterministic: 12 of 12 images have other logits when they are judged again"


def test_within_a_radius_of_zero_nothing_changes_and_every_radius_attacks_all_images_that_are_right(
    trained: Trained, tmp_path: Path
) -> None:
    job, select = job_of(trained, tmp_path, stage="attack_radius")
    assert attack_radius(job, part_of(tmp_path), select) == 0
    found = records.read(job.output)
    clean = found.where(found["attack"] == "clean")
    right = clean["image"][~errs(clean, 3)].tolist()
    for times in (0, 1, 6):
        for attack in ("exact_margin", "noise"):
            rows = found.where((found["attack"] == attack) & (found["radius"] == np.float32(times * 20 / 255)))
            assert rows["image"].tolist() == right
            assert rows["perturbation"].max() <= times * 20 / 255 + 1e-6
            assert times or not errs(rows, 3).any()
    assert not saved_images.beside(job.output).exists()


def transferred(trained: Trained, folder: Path, changes: Mapping[str, Any]) -> tuple[EvaluationJob, Path, list[Path]]:
    """A job on the ResNet's images and the DEQ's, for a spec that names these alone, and the files."""
    saved, upstream = [], {}
    for model, defence in ((BASE, "plain"), (BASE, "entropy"), (RESNET, "plain")):
        at = folder / f"{model}_{defence}"
        found = found_by(trained, at, model, defence, changes=changes, images=range(8))
        upstream[f"{model}/seed0/{defence}"] = specs.fingerprint(found.provenance[0]["spec"])
        saved.append(saved_images.beside(at / "out.parquet"))
    job, select = job_of(trained, folder, BASE, None, stage="attack_transferred", changes=changes)
    assert select is not None
    own = {name: job.spec["upstream"][name] for name in ("model", "select")}
    spec = {**job.spec, "upstream": own | upstream, "decisions": ["plain", "entropy"]}
    return replace(job, spec=spec), select, saved


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["standard", "individual"])
def test_saved_images_meet_every_decision_but_the_one_that_they_were_made_against(
    trained: Trained, tmp_path: Path, mode: str
) -> None:
    job, select, saved = transferred(trained, tmp_path, {"suite": {"mode": mode}})
    own = [path.with_suffix(".parquet") for path in saved[:2]]
    assert attack_transferred(job, part_of(tmp_path, range(8)), select, saved, own) == 0
    found = records.read(job.output)
    met = set(zip(found["defence"], found["crafted_on"], found["crafted_defence"], strict=True))
    assert met <= {
        ("plain", BASE, "entropy"), ("entropy", BASE, "plain"),
        ("plain", RESNET, "plain"), ("entropy", RESNET, "plain"),
    }  # fmt: skip
    assert met
    for number, defence in enumerate(("plain", "entropy")):
        before, rows = records.read(own[number]), found.where(found["defence"] == defence)
        counts = before["attack"] == "clean" if mode == "individual" else before["attack"] != "noise"
        lost = set(before["image"][errs(before, EARLY[defence]) & counts].tolist())
        assert lost.isdisjoint(rows["image"].tolist())
    assert "noise" not in set(found["attack"])
    assert set(found["taken"]) == {1}
    assert ((found["broken_at"] == 1) == (np.array(
        [row[EARLY[name] - 1] for row, name in zip(found["predicted"], found["defence"], strict=True)]
    ) != found["label"])).all()  # fmt: skip


@pytest.mark.slow
def test_images_of_another_suite_are_refused(trained: Trained, tmp_path: Path) -> None:
    found_by(trained, tmp_path / "one", RESNET)
    saved = saved_images.beside(tmp_path / "one" / "out.parquet")
    job, _ = job_of(trained, tmp_path, RESNET, None, stage="attack_transferred", changes=INDIVIDUAL)
    with pytest.raises(UserError, match="made by another spec"):
        attack_transferred(job, part_of(tmp_path), None, [saved], [saved.with_suffix(".parquet")])


def test_a_model_with_states_needs_those_that_decide(trained: Trained, tmp_path: Path) -> None:
    job, select = job_of(trained, tmp_path)
    with pytest.raises(UserError, match="--select is missing"):
        attack_suite(job, part_of(tmp_path), None)
    resnet, _ = job_of(trained, tmp_path, RESNET)
    with pytest.raises(UserError, match="has no states"):
        attack_suite(resnet, part_of(tmp_path), select)


@pytest.mark.slow
def test_where_images_influence_each_other_batches_stay_whole(trained: Trained, tmp_path: Path) -> None:
    changes = {"protocol": "release", "solver": {"tolerance": 0.01, "scope": "batch"}}
    whole = found_by(trained, tmp_path / "whole", changes=changes, images=range(10))
    clean = whole.where(whole["attack"] == "clean")
    right = clean["image"][~errs(clean, 3)].tolist()
    assert whole["image"][whole["attack"] == "exact_margin"].tolist() == right
    for images in (range(5), range(5, 10)):
        half = found_by(trained, tmp_path / str(images.start), changes=changes, images=images)
        same = whole.where(np.isin(whole["image"], list(images)))
        for name in ("image", "attack", "taken", "margin"):
            np.testing.assert_array_equal(half[name], same[name], err_msg=name)
    with pytest.raises(UserError, match="no batch may be cut short"):
        found_by(trained, tmp_path / "cut", changes=changes, images=range(7))
