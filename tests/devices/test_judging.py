"""On a GPU, a judgement mixes no devices and goes to the host in one copy, which is all that it waits for."""

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe.attack.autoattack import Crafted, LibraryAttacks
from deqpipe.compute.precision import PrecisionName
from deqpipe.dynamics import Dynamics
from deqpipe.evaluation import judge
from deqpipe.evaluation.crafting import Attack
from deqpipe.evaluation.evaluated_model import load_evaluated_model
from deqpipe.evaluation.images import Chunk
from deqpipe.evaluation.judge import CLASSES, CLASSES_ALONG, DEQJudge, NetworkJudge, Wanted, at
from deqpipe.evaluation.resumable import Part
from deqpipe.evaluation.scoring import FreshReferences, StoredReferences, attacks_rows, clean_rows, panel_of
from deqpipe.evaluation.stages import autoattack, selection, timing
from deqpipe.gradient import Unrolled
from deqpipe.results.provenance import PACKAGE
from deqpipe.workflow.gridpoints import GridPoint
from tests.devices.world import BALL, PLAIN, REDUCTIONS, batch, both, deq, job, network
from tests.pretend import HostSynchronisation, Kind, WrongDevice, pretended
from tests.sampling import one_in

DYNAMICS: dict[str, Dynamics] = {
    "plain": PLAIN,
    "Algorithm 1": REDUCTIONS["Algorithm 1, every 2, last update"],
    "authors' code": REDUCTIONS["authors' code, every 2"],
}
WANTED = (Wanted(), CLASSES, CLASSES_ALONG, at(2))
every_dynamics = pytest.mark.parametrize("which", DYNAMICS)


def judge_of(device: torch.device, which: str, wanted: Wanted = WANTED[0]) -> DEQJudge:
    return DEQJudge(deq(device), DYNAMICS[which], which, Unrolled(2, 0.5), wanted=wanted)


@both
@every_dynamics
@pytest.mark.parametrize("wanted", one_in(2, WANTED))
def test_a_judgement_waits_for_one_copy(kind: Kind, which: str, wanted: Wanted) -> None:
    with pretended(kind, reads=1) as device:
        x, y = batch(device)
        judging = judge_of(device, which, wanted)
        seen = judging.see(x, y)
        judged = seen.measured_from(seen.states).on_host()
        assert judged.status.shape == (3,)
        assert {column.shape for column in judged.columns.values()} == {(3, 4)}
        with pytest.raises(HostSynchronisation) as waited:
            judging(x, y)
    ours = [frame for frame in traceback.extract_tb(waited.tb) if frame.filename.startswith(f"{PACKAGE}/")]
    assert ours[-1].name == "to_host"


@both
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_so_does_one_in_another_precision(kind: Kind, precision: PrecisionName) -> None:
    with pretended(kind, reads=1) as device:
        x, y = batch(device)
        DEQJudge(deq(device, precision), DYNAMICS["Algorithm 1"], "entropy", Unrolled(2, 0.5))(x, y)


@both
@every_dynamics
def test_states_alone_wait_for_nothing(kind: Kind, which: str) -> None:
    with pretended(kind) as device:
        x, _ = batch(device)
        assert judge_of(device, which).states(x).device.type == kind


@both
def test_a_judgement_by_a_network_waits_for_one_copy(kind: Kind) -> None:
    with pretended(kind, reads=1) as device:
        x, y = batch(device)
        judged = NetworkJudge(network(device))(x, y)
        assert {column.shape for column in judged.columns.values()} == {(3, 1)}
        with pytest.raises(HostSynchronisation):
            NetworkJudge(network(device))(x, y)


# Jobs. Images and labels lie on the device; the labels are read once per batch.

GRID: dict[str, Any] = {"entropy": {"controls": True, "input_steps": 1}, "solver": {"steps": 2}}
GRID |= {"attack": {"pgd": {"steps": 1}, "transfer": False, "grid": {"states": [1], "steps": [1], "damping": [0.5]}}}
GRID |= {"jacobian": {"length_jitter": [0, 0]}}


def refuse_another(device: torch.device) -> None:
    """The copies that were allowed have been made."""
    with pytest.raises(HostSynchronisation):
        torch.zeros(1, device=device).cpu()


@both
def test_rows_of_attacks_wait_for_a_copy_per_judgement_and_attack(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deqpipe.evaluation.scoring.has_room", lambda device, size: True)
    attacks = [Attack(GridPoint(0.5, 1, 1)), Attack(GridPoint(1.0, 2, 1))]
    with pretended(kind, reads=16) as device:
        evaluated = load_evaluated_model(job(tmp_path, device, monkeypatch, changes=GRID))
        chunk, panel = Chunk(evaluated.dataset.test, range(0, 8)), panel_of(evaluated)
        judges = len(panel.compared) + len(panel.others)
        assert 2 * (1 + judges + len(attacks)) == 16, "two batches: labels, judgements, attacks"
        references = StoredReferences(evaluated, chunk)
        found = attacks_rows(evaluated, attacks, chunk, panel=panel, references=references, purpose="start")
        assert [len(columns["image"]) for columns in found] == [8 * judges] * 2
        refuse_another(device)


@both
def test_clean_rows_and_references_wait_for_the_copies_of_judgements(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretended(kind, reads=2 * (1 + 2)) as device:
        changes = {**GRID, "entropy": {"controls": False, "input_steps": 1}}
        evaluated = load_evaluated_model(job(tmp_path, device, monkeypatch, changes=changes))
        chunk = Chunk(evaluated.dataset.test, range(0, 8))
        states = FreshReferences(evaluated, chunk)(evaluated.judges[1], range(0, 5))
        assert states is not None
        assert states.device.type == kind
        assert len(clean_rows(evaluated, chunk)["image"]) == 16
        refuse_another(device)


@both
def test_early_states_wait_for_the_copies_of_judgements(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretended(kind, reads=2 * (2 + 2)) as device:
        changes = {**GRID, "selection": {"attack": {"steps": 1}}}
        evaluated = load_evaluated_model(job(tmp_path, device, monkeypatch, stage="select", changes=changes))
        rows = selection._attacked_rows(evaluated, Chunk(evaluated.dataset.validation, range(9)))
        assert len(rows["image"]) == 2 * 9
        refuse_another(device)


@both
def test_a_timed_decision_waits_for_its_classes(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = "deq_trades_random_states"
    changes = {**GRID, "entropy_sweep": {"solver_steps": [1], "input_steps": [1]}}
    with pretended(kind, reads=2) as device:
        evaluated = load_evaluated_model(
            job(tmp_path, device, monkeypatch, stage="time_inference", model=model, changes=changes)
        )
        x = timing._images(evaluated, 20)
        decisions = [timing._decision(evaluated, one, x) for one in timing._dynamics(evaluated.settings).values()]
        assert [decide() for decide in decisions] == [20, 20]
        refuse_another(device)


class Untouched(LibraryAttacks):
    """Hands every image back; the library itself reads numbers wherever it likes."""

    def __call__(self, name: str, logits_of: Any, x: Tensor, y: Tensor, **more: Any) -> Crafted:
        assert logits_of(x).device == x.device
        return Crafted(x, x)


@both
def test_scoring_autoattack_waits_for_labels_judgements_and_distances(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**GRID, "autoattack": {"batch_size": 6}}
    with pretended(kind, reads=4) as device:
        evaluated = load_evaluated_model(job(tmp_path, device, monkeypatch, stage="autoattack", changes=changes))
        defended = evaluated.judges[1].restricted(at(2))
        target = autoattack.Target(evaluated, defended, GridPoint(0.5, 1, 1), 2)
        part = Part(range(12), tmp_path / "state", 1.0)
        sequence = autoattack.AttackSequence(
            target, part, ("apgd_ce",), Untouched(BALL, iterations=1), sequential=False
        )
        found = sequence._attacked("apgd_ce", 1)
        assert len(found.columns["image"]) == 6
        refuse_another(device)


# What these tests are there for is noticed.


@both
def test_labels_of_the_host_in_a_judgement_are_noticed(kind: Kind) -> None:
    with pretended(kind, reads=1) as device:
        x, _ = batch(device)
        with pytest.raises(WrongDevice):
            judge_of(device, "plain")(x, torch.arange(3))


@both
def test_a_column_of_the_host_is_noticed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    before = judge.readings

    def readings(logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        return before(logits, y) | {"entropy": torch.zeros(len(logits), len(y))}

    monkeypatch.setattr(judge, "readings", readings)
    with pretended(kind, reads=1) as device:
        x, y = batch(device)
        with pytest.raises(WrongDevice):
            NetworkJudge(network(device))(x, y)


@both
def test_a_number_read_beside_the_copy_is_noticed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    before = judge.readings

    def readings(logits: Tensor, y: Tensor) -> dict[str, Tensor]:
        found = before(logits, y)
        assert found["entropy"].min().item() >= 0
        return found

    monkeypatch.setattr(judge, "readings", readings)
    with pretended(kind, reads=1) as device:
        x, y = batch(device)
        with pytest.raises(HostSynchronisation):
            NetworkJudge(network(device))(x, y)
