"""An imported model in place of one that the workflow trains."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deqpipe.config import Config, DeqName
from deqpipe.errors import UserError
from deqpipe.model import adopt, architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import checkpoint
from deqpipe.workflow import specs, vocabulary
from tests import tiny

MODEL: DeqName = "deq_trades_base"


def settings(**model: Any) -> Config:
    return tiny.settings({"imported": {MODEL: "model.safetensors"}, "model": model})


def store(folder: Path, *, name: str | None = MODEL, seed: int | None = 0, **model: Any) -> Path:
    """A model as an import leaves it."""
    described = architecture.describe_deq(settings(**model).model, tiny.dataset())
    built = architecture.build(described, seed=3).double()
    assert isinstance(built, DEQClassifier)
    origin = {"spec": {"stage": "import", "model": name, "seed": seed}}
    facts = {"kind": architecture.KIND, "architecture": described, "provenance": origin, "epoch": None}
    checkpoint.write(folder / "imported.safetensors", built.state_dict(), facts)
    return folder / "imported.safetensors"


def adopted(folder: Path, source: Path) -> Path:
    target = folder / "best.safetensors"
    adopt.adopt(source, target, spec=specs.build_import(settings(), MODEL), dataset=tiny.dataset())
    return target


def test_adopted_model_is_the_imported_one_bit_for_bit_with_its_origin(tmp_path: Path) -> None:
    source = store(tmp_path)
    before, after = checkpoint.read(source), checkpoint.read(adopted(tmp_path, source))
    assert after.metadata == {**before.metadata, "adopted": {"spec": specs.build_import(settings(), MODEL)}}
    assert checkpoint.digest(after.tensors) == checkpoint.digest(before.tensors)
    assert after.tensors["head.fc.weight"].dtype == torch.float64


def test_what_matters_to_training_only_may_differ(tmp_path: Path) -> None:
    assert adopted(tmp_path, store(tmp_path, dropout=0.4, init="normal_all")).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": None, "seed": None},
            "was imported without --model, but stands in the configuration for deq_trades_base",
        ),
        ({"name": "deq_pgd_at_base"}, "was imported as deq_pgd_at_base of seed 0, but stands .* for deq_trades_base"),
        (
            {"seed": 4},
            "was imported as deq_trades_base of seed 4.*: import it again with --model deq_trades_base --seed 0",
        ),
        ({"channels": [8, 8]}, r"has model.channels \[8, 8\], but the configuration has \[4, 8\]"),
        ({"groups": 2}, "has model.groups 2, but the configuration has 4"),
        ({"weight_norm": False}, "has model.weight_norm False, but the configuration has True"),
    ],
)
def test_another_model_is_refused_and_nothing_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = store(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        adopted(tmp_path, source)
    assert not (tmp_path / "best.safetensors").exists()


def test_imported_model_has_a_spec_of_its_own_and_its_evaluations_depend_on_it() -> None:
    trained, imported = tiny.settings(), settings()
    assert vocabulary.trained_here(imported) == tuple(name for name in vocabulary.DEQS if name != MODEL)
    before, after = (specs.build("clean", one, model=MODEL, seed=0) for one in (trained, imported))
    assert before["upstream"] != after["upstream"]
    moved = tiny.settings({"imported": {MODEL: "other.safetensors"}})
    assert specs.build("clean", moved, model=MODEL, seed=0)["upstream"] != after["upstream"]
    others = (specs.build("clean", one, model="deq_pgd_at_base", seed=0) for one in (trained, imported))
    assert len({specs.dumps(other) for other in others}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"imported": {MODEL: "a"}, "seeds": [0, 1]},
            r"seeds is \[0, 1\], but must be one seed where models are imported",
        ),
        (
            {"imported": {"resnet18_trades": "a"}},
            "config: imported.resnet18_trades is 'resnet18_trades': input should be 'deq",
        ),
        (
            {"imported": {MODEL: "results/models/x.safetensors"}},
            "'results/models/x.safetensors', but must not lie where the workflow writes its models",
        ),
        ({"imported": {MODEL: " "}}, f"imported.{MODEL} is ' ', but must name a file"),
    ],
)
def test_imports_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.settings(changes)


def test_evaluation_takes_the_adopted_model(tmp_path: Path) -> None:
    """Stored in double precision, computed with in single."""
    best, data = adopted(tmp_path, store(tmp_path)), tiny.data_file(tmp_path)
    spec = tiny.spec("clean", {"imported": {MODEL: "model.safetensors"}}, model=MODEL)
    files = (
        "--data",
        data,
        "--checkpoint",
        best,
        "--output",
        tmp_path / "clean.parquet",
        "--state",
        tmp_path / "state",
    )
    assert tiny.run("clean", "--spec", spec, *files, "--batch-size", 5) == 0
