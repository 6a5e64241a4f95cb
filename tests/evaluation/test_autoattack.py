"""AutoAttack's jobs on tiny trained models: which rows there are, who leaves when, and what a kill changes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deqpipe.attack.autoattack import Crafted, LibraryAttacks
from deqpipe.config import AttackName, merge
from deqpipe.errors import UserError
from deqpipe.evaluation import resumable
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.judge import NetworkJudge, Wanted
from deqpipe.evaluation.resumable import Part
from deqpipe.evaluation.stages import autoattack
from deqpipe.evaluation.stages.autoattack import attack_top
from deqpipe.machine.stopping import EXIT_UNFINISHED, StopRequest
from deqpipe.results import records
from deqpipe.results.records import Records
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import specs
from tests import tiny
from tests.evaluation.commands import until_done
from tests.results.edits import write_json
from tests.sampling import one_in
from tests.tiny import Trained

pyautoattack: Any = pytest.importorskip("pyautoattack")
BASE, RANDOM, RESNET = "deq_pgd_at_base", "deq_trades_random_states", "resnet18_pgd_at"
BUDGETS: dict[str, Any] = {
    "autoattack": {
        "iterations": 2, "targets": 2, "queries": 3, "batch_size": 6, "images_per_job": 12, "square_images": 9,
        "restarts": 1, "top_points": 2,
    },
}  # fmt: skip
ABLE: tuple[AttackName, ...] = ("apgd_ce", "fab_t", "square")  # three classes are too few for APGD-T
EARLY = {"plain": 3, "entropy": 4}
POINTS = {
    "plain": [(3, 1, 0.5), (1, 3, 1.0)],
    "entropy": [(3, 2, 1.0), (2, 1, 0.5), (4, 3, 0.5), (1, 1, 0.5)],
}


def strongest(folder: Path, model: str, **changes: Any) -> Path:
    ranked = {
        defence: [
            {"state": state, "steps": steps, "damping": damping, "correct": 3, "n": 12}
            for state, steps, damping in points
        ]
        for defence, points in POINTS.items()
    }
    spec = {"stage": "strongest", "model": model, "seed": 0}
    told = {"early": EARLY, **ranked, "provenance": {"spec": spec}} | changes
    write_json(folder / "strongest.json", told)
    return folder / "strongest.json"


def job_of(
    trained: Trained,
    folder: Path,
    model: str = BASE,
    defence: Any = "plain",
    *,
    stage: Any = "autoattack",
    **changes: Any,
) -> EvaluationJob:
    config = tiny.settings(merge(BUDGETS, changes))
    spec = specs.build(stage, config, model=model, seed=0, defence=defence)
    folder.mkdir(parents=True, exist_ok=True)
    return EvaluationJob(
        spec=specs.loads(specs.dumps(spec)), data=trained.data, checkpoint=trained.file(model),
        output=folder / "out.parquet", device=torch.device("cpu"), threads=1, batch_size=5,
        strongest=None if model == RESNET else strongest(folder, model),
    )  # fmt: skip


def part_of(folder: Path, images: range = range(12)) -> Part:
    return Part(images, folder / "state", 1e9)


def found_by(job: EvaluationJob, images: range = range(12)) -> Records:
    assert autoattack.autoattack(job, part_of(job.output.parent, images)) == 0
    return records.read(job.output)


def individual(**more: Any) -> dict[str, Any]:
    return {"autoattack": {"mode": "individual", **more}}


def errs(found: Records, state: int) -> np.ndarray:
    return np.asarray(found["predicted"][:, state - 1] != found["label"])


CASES = [(BASE, "plain", 3), (BASE, "entropy", 4), (RESNET, "plain", 1)]


@pytest.mark.parametrize(("model", "defence", "early"), one_in(3, CASES))
def test_in_standard_mode_images_leave_after_the_attack_that_the_decision_erred_under(
    trained: Trained, tmp_path: Path, model: str, defence: str, early: int
) -> None:
    found = found_by(job_of(trained, tmp_path, model, defence))
    clean = found.where(found["attack"] == "clean")
    assert clean["image"].tolist() == list(range(12))
    assert set(found["attack"]) <= {"clean", *ABLE}
    fallen = set(clean["image"][errs(clean, early)].tolist())
    for attack in ABLE:
        rows = found.where(found["attack"] == attack)
        open_to_it = set(range(9 if attack == "square" else 12)) - fallen
        assert rows["image"].tolist() == sorted(open_to_it)
        fallen |= set(rows["image"][errs(rows, early)].tolist())
    assert len(fallen) > 0, "some image fell"
    state, steps, damping = POINTS[defence][0] if model == BASE else (0, 0, 0.0)
    attacked = found.where(found["attack"] != "clean")
    assert set(zip(attacked["state"], attacked["steps"], attacked["damping"], strict=True)) <= {(state, steps, damping)}
    assert set(found["model"]) == {model}
    assert set(found["defence"]) == {defence}
    assert set(attacked["crafted_on"]) <= {model}
    assert set(clean["crafted_on"]) == {""}
    assert found["perturbation"].max() <= 20 / 255 + 1e-6
    assert np.isnan(found["lost_gradient"]).all()
    assert np.isnan(found["deviation"]).all()
    assert found["predicted"].shape[1] == (1 if model == RESNET else 5)


@pytest.mark.parametrize(("model", "defence", "early"), one_in(2, CASES))
def test_deciding_state_has_the_class_that_it_has_among_all_and_others_are_not_computed(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, defence: str, early: int
) -> None:
    changes = individual()
    found = found_by(job_of(trained, tmp_path / "one", model, defence, **changes))
    with monkeypatch.context() as patched:
        patched.setattr(autoattack, "at", lambda state: Wanted())
        whole = found_by(job_of(trained, tmp_path / "all", model, defence, **changes))
    for name in ("image", "label", "attack", "perturbation"):
        np.testing.assert_array_equal(found[name], whole[name], err_msg=name)
    np.testing.assert_array_equal(found["predicted"][:, early - 1], whole["predicted"][:, early - 1])
    for name in ("margin", "entropy"):  # the head rounds by how many states it reads at once
        np.testing.assert_allclose(found[name][:, early - 1], whole[name][:, early - 1], rtol=1e-4, err_msg=name)
    others = np.delete(found["predicted"], early - 1, axis=1)
    assert (others == records.NOT_COMPUTED).all()
    assert (whole["predicted"] >= 0).all()
    assert np.isnan(found["residual"]).all()
    spent, all_states = (sum(entry["evaluations"]["forward"] for entry in one.provenance) for one in (found, whole))
    assert (spent < all_states) == (model != RESNET)


@pytest.mark.parametrize(("model", "defence", "early"), one_in(3, CASES, first=1))
def test_in_individual_mode_every_attack_has_a_row_of_every_image(
    trained: Trained, tmp_path: Path, model: str, defence: str, early: int
) -> None:
    found = found_by(job_of(trained, tmp_path, model, defence, **individual()))
    for attack in ("clean", *ABLE):
        rows = found.where(found["attack"] == attack)
        assert rows["image"].tolist() == list(range(9 if attack == "square" else 12))
    fab = found.where(found["attack"] == "fab_t")
    assert (fab["perturbation"] == 0).any()
    others = found.where(np.isin(found["attack"], ["apgd_ce", "square"]))
    as_it_was = others["perturbation"] == 0
    assert errs(others, early)[as_it_was].all(), "shown only where it errs, and the image of highest loss does not"
    assert as_it_was.sum() <= 5


def test_success_shows_the_clean_image_where_the_surrogate_withstood(trained: Trained, tmp_path: Path) -> None:
    found = found_by(job_of(trained, tmp_path, **individual(keep="success")))
    clean = found.where((found["attack"] == "clean") & (found["image"] < 12))
    rows = found.where(found["attack"] == "apgd_ce")
    still = rows["perturbation"] == 0
    assert 0 < still.sum() < 12
    np.testing.assert_allclose(rows["margin"][still], clean["margin"][still], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_best_loss_is_at_least_as_strong_as_success(trained: Trained, tmp_path: Path) -> None:
    both = [
        found_by(job_of(trained, tmp_path / keep, defence="entropy", **individual(keep=keep, attacks=["apgd_ce"])))
        for keep in ("best_loss", "success")
    ]
    best, success = (errs(found.where(found["attack"] == "apgd_ce"), 4) for found in both)
    assert (best | ~success).all(), "what fools is shown as well"


def test_flags_of_the_library_travel_with_the_records(trained: Trained, tmp_path: Path) -> None:
    """z^[3] of Sec. 3.2 with T_f = 2 takes gradients; the undefended one does not."""
    few: dict[str, Any] = {"autoattack": {"attacks": ["apgd_t"]}}
    plain, entropy = (found_by(job_of(trained, tmp_path / name, defence=name, **few)) for name in ("plain", "entropy"))
    for found, dynamic in ((plain, False), (entropy, True)):
        flags = "\n".join(found.provenance[0]["flags"])
        assert "APGD-T is left out: it needs 4 classes, and there are 3" in flags
        assert ("dynamic defense" in flags) == dynamic


@pytest.mark.parametrize(
    ("model", "attack", "checks"),
    one_in(
        3,
        [
            (BASE, "apgd_ce", 30),
            (BASE, "fab_t", 40),
            (BASE, "square", 30),
            (RESNET, "apgd_ce", 3),
            (RESNET, "square", 4),
        ],
    ),
)
def test_an_attack_that_is_left_again_and_again_goes_on_and_ends_with_the_same_rows(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, attack: str, checks: int
) -> None:
    """Each try comes to a few evaluations of f, in the middle of a batch's attack; none is made, or told, twice."""
    changes = individual(attacks=[attack], square_images=12, queries=6)
    images = range(6)
    whole = found_by(job_of(trained, tmp_path / "whole", model, **changes), images)
    job = job_of(trained, tmp_path / "parts", model, **changes)
    part = part_of(tmp_path / "parts", images)
    tries = until_done(lambda: autoattack.autoattack(job, part), checks, monkeypatch)
    assert tries > 3
    resumed = records.read(job.output)
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(resumed[name], column, err_msg=name)
    for told in ("evaluations", "flags"):
        assert resumed.provenance[0][told] == whole.provenance[0][told]
    assert not list(tmp_path.rglob("*.unfinished.*"))


class OnePiece(StopRequest):
    """A time budget that is over after one piece."""

    asked = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked > 1


@pytest.mark.slow
@pytest.mark.parametrize(("model", "mode"), [(BASE, "standard"), (RESNET, "individual")])
def test_a_job_stopped_after_every_piece_ends_with_the_same_rows(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, mode: str
) -> None:
    changes = {"autoattack": {"mode": mode}}
    whole = found_by(job_of(trained, tmp_path / "whole", model, **changes))
    job = job_of(trained, tmp_path / "parts", model, **changes)
    with monkeypatch.context() as patched:
        patched.setattr(resumable, "StopRequest", OnePiece)
        statuses = [autoattack.autoattack(job, part_of(tmp_path / "parts")) for _ in range(8)]
    assert statuses == [*[EXIT_UNFINISHED] * 7, 0], "clean, 2 + 2 + 2 batches, checks"
    resumed = records.read(job.output)
    assert len(resumed) == len(whole)
    for name in records.COLUMNS:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    assert resumed.provenance[0]["flags"] == whole.provenance[0]["flags"]


class BlackImages(LibraryAttacks):
    """Claims to fool no logits, and shows black images with APGD-CE: what is judged is known."""

    def __call__(self, name: str, logits_of: Any, x: torch.Tensor, y: torch.Tensor, **more: Any) -> Crafted:
        return Crafted(x.clone(), torch.zeros_like(x) if name == "apgd_ce" else x.clone())


def test_images_leave_by_the_true_decision_and_not_by_the_surrogate(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack claims to fool no image; a black one is judged, and who errs on it is gone."""
    monkeypatch.setattr(autoattack, "_strength", lambda evaluated, targets: BlackImages(LinfBall(1.0), iterations=1))
    found = found_by(job_of(trained, tmp_path, threat_model={"epsilon_255": 255.0}))
    clean, first, second = (found.where(found["attack"] == name) for name in ("clean", "apgd_ce", "fab_t"))
    assert first["image"].tolist() == clean["image"][~errs(clean, 3)].tolist()
    survivors = first["image"][~errs(first, 3)]
    assert 0 < len(survivors) < len(first)
    assert second["image"].tolist() == survivors.tolist()


def nearest_mean() -> nn.Module:
    """A linear network that takes an image for the class whose mean is the nearest."""
    split = tiny.dataset().train
    x = split.float_images(slice(None)).flatten(1)
    means = torch.stack([x[split.labels == label].mean(0) for label in range(3)])
    linear = nn.Linear(64, 3)
    with torch.no_grad():
        linear.weight.copy_(means)
        linear.bias.copy_(-means.square().sum(1) / 2)
    return nn.Sequential(nn.Flatten(), linear).eval().requires_grad_(False)


def test_standard_mode_on_a_network_is_the_librarys_own_evaluation(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed for all batches, as the library has it; robust set and images are its own."""
    model, pixels = nearest_mean(), 55.0

    def loaded(job: EvaluationJob) -> EvaluatedModel:
        evaluated = load_evaluated_model(job)
        found = replace(evaluated.loaded, model=model)
        return replace(evaluated, loaded=found, judges=(NetworkJudge(model, RESNET),))

    monkeypatch.setattr(autoattack.AttackSequence, "_seed", lambda sequence, attack, number: 7)
    monkeypatch.setattr(autoattack, "load_evaluated_model", loaded)
    keep: dict[str, Any] = {"autoattack": {"keep": "success", "square_images": 12}}
    found = found_by(job_of(trained, tmp_path, RESNET, threat_model={"epsilon_255": pixels}, **keep))
    split = tiny.dataset().test
    x, y = split.float_images(slice(None)), split.labels
    suite = pyautoattack.AutoAttack(
        model, attacks=["apgd-ce", "fab-t", "square"], eps=pixels / 255, seed=7, version="custom", device="cpu"
    )
    suite.apgd.__init__(model, n_iter=2, n_restarts=1, eps=pixels / 255, seed=7, device="cpu", logger=suite.logger)
    suite.fab.n_iter, suite.fab.n_target_classes, suite.square.n_queries = 2, 2, 3
    made, _ = suite.run_standard_evaluation(x, y, batch_size=6)
    fallen = set(found["image"][errs(found, 1)].tolist())
    assert fallen == set((model(made).argmax(1) != y).nonzero().flatten().tolist())
    attacked = found.where((found["attack"] != "clean") & errs(found, 1))
    assert 0 < len(attacked) < 12, "all or none would say little"
    change = (made - x).abs().flatten(1).amax(1)[attacked["image"]]
    np.testing.assert_allclose(attacked["perturbation"], change, atol=1e-6)


def test_parts_have_random_numbers_of_their_own_whatever_the_order(trained: Trained, tmp_path: Path) -> None:
    first = found_by(job_of(trained, tmp_path / "a", RESNET, **individual()), range(0, 6))
    again = found_by(job_of(trained, tmp_path / "b", RESNET, **individual()), range(0, 6))
    np.testing.assert_array_equal(first["margin"], again["margin"])
    assert first["image"].max() == 5
    assert (first["attack"] == "square").sum() == 6
    last = found_by(job_of(trained, tmp_path / "c", RESNET, **individual()), range(6, 12))
    assert last["image"][last["attack"] == "square"].tolist() == [6, 7, 8], "Square tests the first nine"


def test_a_part_behind_squares_images_has_no_row_of_square(trained: Trained, tmp_path: Path) -> None:
    found = found_by(job_of(trained, tmp_path, RESNET), range(9, 12))
    assert "square" not in found["attack"]


@pytest.mark.slow
def test_points_of_table_4_are_the_strongest_of_damping_one_half(trained: Trained, tmp_path: Path) -> None:
    job = job_of(trained, tmp_path, RANDOM, None, stage="attack_top")
    assert attack_top(job, part_of(tmp_path)) == 0
    found = records.read(job.output)
    keys = set(zip(found["attack"], found["state"], found["steps"], found["damping"], strict=True))
    assert keys == {(attack, *point) for attack in ("apgd_ce", "square") for point in POINTS["entropy"][1:3]}
    assert len(found) == 2 * (12 + 9)
    assert set(found["defence"]) == {"entropy"}


def test_attack_top_needs_a_point_of_damping_one_half(trained: Trained, tmp_path: Path) -> None:
    job = job_of(trained, tmp_path, RANDOM, None, stage="attack_top")
    entries = [{"state": 1, "steps": 1, "damping": 1.0, "correct": 3, "n": 12}]
    path = strongest(tmp_path, RANDOM, entropy=entries)
    with pytest.raises(UserError, match=r"ranks no point of damping 0\.5"):
        attack_top(replace(job, strongest=path), part_of(tmp_path))


FOREIGN: Mapping[str, tuple[Any, str]] = {
    "no JSON": ("{", "is not JSON"),
    "a list": ("[]", "holds a list, but must hold keys and values"),
    "no early state": ({"early": {"plain": 3}}, "lacks 'entropy', so it is no ranking of points"),
    "no points": ({"plain": []}, "ranks no point: its grid is empty"),
    "another model": (
        {"provenance": {"spec": {"stage": "strongest", "model": RANDOM, "seed": 0}}},
        f"is of stage strongest, {RANDOM} of seed 0, but must be of stage strongest, {BASE} of seed 0",
    ),
    "another seed": (
        {"provenance": {"spec": {"stage": "strongest", "model": BASE, "seed": 4}}},
        "of seed 4, but must be of",
    ),
    "too many states": ({"early": {"plain": 9, "entropy": 2}}, "states 1 to 9, but the solver has states 1 to 4"),
}


@pytest.mark.parametrize("which", sorted(FOREIGN))
def test_strongest_points_that_are_none_are_refused(trained: Trained, tmp_path: Path, which: str) -> None:
    content, message = FOREIGN[which]
    job = job_of(trained, tmp_path)
    if isinstance(content, str):
        (tmp_path / "strongest.json").write_text(content)
    else:
        strongest(tmp_path, BASE, **content)
    with pytest.raises(UserError) as refused:
        autoattack.autoattack(job, part_of(tmp_path))
    assert message in str(refused.value)
    assert not job.output.exists()
    assert not (tmp_path / "state").exists()


def refused(job: EvaluationJob, images: range = range(12)) -> str:
    with pytest.raises(UserError) as error:
        autoattack.autoattack(job, part_of(job.output.parent, images))
    return str(error.value)


def test_what_is_not_there_is_refused(trained: Trained, tmp_path: Path) -> None:
    job = job_of(trained, tmp_path)
    assert "--strongest is missing, but deq_pgd_at_base is attacked" in refused(replace(job, strongest=None))
    assert "none.json does not exist" in refused(replace(job, strongest=tmp_path / "none.json"))
    assert "stripes has images 0 to 11" in refused(job, range(5, 13))
    spec = {key: value for key, value in job.spec.items() if key != "defence"}
    assert "spec has defence None, but must have one of plain, entropy" in refused(replace(job, spec=spec))


@pytest.mark.slow
def test_coupled_batches_are_those_of_the_library(trained: Trained, tmp_path: Path) -> None:
    """With the authors' solver; parts need not be multiples of evaluation.batch_size."""
    sequence: Sequence[str] = ("clean", *ABLE)
    job = job_of(trained, tmp_path, defence="entropy", protocol="release")
    found = found_by(job, range(0, 11))
    for attack in sequence:
        assert (found["attack"] == attack).sum() == (9 if attack == "square" else 11)


def test_attacks_have_the_threat_model_and_budgets_of_the_spec(trained: Trained, tmp_path: Path) -> None:
    job = job_of(trained, tmp_path, RESNET)
    evaluated = load_evaluated_model(job)
    strength = autoattack._strength(evaluated, targets=2)
    assert strength == LibraryAttacks(evaluated.ball, iterations=2, restarts=1, targets=2, queries=3)


def test_seeds_differ_by_attack_part_batch_and_job_and_by_nothing_else(trained: Trained, tmp_path: Path) -> None:
    def seeds(job: EvaluationJob, first: int = 0) -> list[int]:
        evaluated = load_evaluated_model(job)
        target = autoattack._target(evaluated, "plain")
        sequence = autoattack.AttackSequence(
            target,
            part_of(tmp_path, range(first, 12)),
            ABLE,
            autoattack._strength(evaluated, targets=2),
            sequential=False,
        )
        return [sequence._seed(attack, batch) for attack in (ABLE[0], ABLE[2]) for batch in (0, 1)]

    here = seeds(job_of(trained, tmp_path, RESNET))
    assert here == seeds(job_of(trained, tmp_path, RESNET, **individual()))
    assert len({*here, *seeds(job_of(trained, tmp_path, RESNET), first=6)}) == 8
