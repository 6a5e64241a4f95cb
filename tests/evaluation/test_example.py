"""The image of Figure 2 (c)."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.results import records
from deqpipe.results.records import Records
from tests import tiny
from tests.evaluation.commands import BASE, call, grid
from tests.tiny import Trained

CHANGES: dict[str, Any] = {"attack": {"grid": {"states": [3], "steps": [1], "damping": [1.0]}}}


@dataclass(frozen=True)
class Made:
    """What the job reads."""

    trained: Trained
    folder: Path

    def line(self, output: Path, *, grid: Path | None = None, **options: Any) -> list[str]:
        """Its command line."""
        files = {name: options.pop(name, self.folder / name) for name in ("select", "clean")}
        more = [part for name, path in files.items() for part in (f"--{name}", path)]
        return call(
            self.trained, "attack-example", output, *more, "--grid", grid or self.folder / "grid", **CHANGES, **options
        )

    def records(self, name: str) -> Records:
        """The undefended decision, under the ready-made attack or clean, in the order of images."""
        parts = [self.folder / name] if name == "clean" else sorted((self.folder / "grid").glob("*.parquet"))
        found = records.merge([records.read(part) for part in parts])
        found = found.where((found["defence"] == "plain") & np.isin(found["state"], (0, 4)))
        return found.where(np.argsort(found["image"]))


@pytest.fixture(scope="module")
def made(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("example")
    assert tiny.run(*call(trained, "clean", folder / "clean", **CHANGES)) == 0
    assert tiny.run(*call(trained, "select-early-state", folder / "select", **CHANGES)) == 0
    for images in ("0-6", "7-11"):
        name = f"grid/states1-4_images{images}"
        assert tiny.run(*grid(trained, folder, images=images, name=name, **CHANGES)) == 0
    return Made(trained, folder)


def read(path: Path) -> Mapping[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_the_image_is_the_first_that_the_attack_turns(made: Made, tmp_path: Path) -> None:
    assert tiny.run(*made.line(tmp_path / "x.npz")) == 0
    found, early = read(tmp_path / "x.npz"), json.loads((made.folder / "select").read_text())["plain"]["state"]
    clean, attacked = made.records("clean"), made.records("grid")
    turned = [
        before[early - 1] == label != after[early - 1]
        for before, label, after in zip(clean["predicted"], clean["label"], attacked["predicted"], strict=True)
    ]
    assert any(turned)
    image = turned.index(True)
    assert [int(found[name]) for name in ("image", "fooled", "early_state")] == [image, True, early]
    split = tiny.dataset().test
    assert found["label"] == split.labels[image]
    np.testing.assert_array_equal(found["clean"], split.float_images(slice(image, image + 1))[0].numpy())
    change = np.abs(found["attacked"] - found["clean"]).max()
    assert change == pytest.approx(attacked["perturbation"][image], abs=1e-6)
    assert found["clean"].dtype == found["attacked"].dtype == np.float32
    assert found["classes"].tolist() == list(tiny.CLASSES)
    origin = json.loads(str(found["provenance"]))
    assert origin["spec"] == json.loads(tiny.spec("attack_example", CHANGES, model=BASE))
    assert origin["inputs"].keys() == {"data", "checkpoint", "select", "clean"}


def test_where_no_image_is_turned_the_first_right_one_is_shown(made: Made, tmp_path: Path) -> None:
    """The records say that the attack turns none: every image that is right when clean stays right."""
    clean, folder, origin = made.records("clean"), tmp_path / "grid", None
    folder.mkdir()
    wrong = tmp_path / "clean"
    columns = dict(clean.columns)
    columns["predicted"] = np.where((clean["image"] < 3)[:, None], columns["label"][:, None] + 1, columns["predicted"])
    attacked = made.records("grid")
    columns["predicted"] = np.where(
        attacked["predicted"] == attacked["label"][:, None], columns["predicted"], columns["label"][:, None] + 1
    )
    (origin,) = clean.provenance
    records.write(wrong, columns, provenance=origin)
    assert tiny.run(*made.line(tmp_path / "x.npz", clean=wrong)) == 0
    found, early = read(tmp_path / "x.npz"), json.loads((made.folder / "select").read_text())["plain"]["state"]
    right = columns["predicted"][:, early - 1] == columns["label"]
    assert not found["fooled"]
    assert found["image"] == (int(np.argmax(right)) if right.any() else 0)


def test_shards_of_another_configuration_are_passed_over(made: Made, trained: Trained, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made.folder / "grid", tmp_path / "grid"))
    other: dict[str, Any] = {"attack": {"grid": {"states": [1], "steps": [1], "damping": [1.0]}}}
    assert tiny.run(*grid(trained, tmp_path, name="grid/states1-4_images0-11", **other)) == 0
    assert tiny.run(*made.line(tmp_path / "x.npz", grid=folder)) == 0
    assert tiny.run(*made.line(tmp_path / "y.npz")) == 0
    assert (read(tmp_path / "x.npz")["attacked"] == read(tmp_path / "y.npz")["attacked"]).all()


@pytest.mark.slow
def test_shards_that_were_cut_otherwise_and_go_further_change_nothing(
    made: Made, trained: Trained, tmp_path: Path
) -> None:
    """As when fewer images are evaluated than before, or jobs have other sizes."""
    folder = Path(shutil.copytree(made.folder / "grid", tmp_path / "grid"))
    for images in ("0-11", "4-11", "0-3"):
        assert tiny.run(*grid(trained, tmp_path, images=images, name=f"grid/states1-4_images{images}", **CHANGES)) == 0
    assert tiny.run(*made.line(tmp_path / "x.npz", grid=folder)) == 0
    assert tiny.run(*made.line(tmp_path / "y.npz")) == 0
    one, other = read(tmp_path / "x.npz"), read(tmp_path / "y.npz")
    assert (one["image"], one["fooled"]) == (other["image"], other["fooled"])
    np.testing.assert_allclose(one["attacked"], other["attacked"], atol=1e-6)
    for path in folder.iterdir():
        path.unlink()
    assert tiny.run(*grid(trained, tmp_path, images="0-11", name="grid/states1-4_images0-11", **CHANGES)) == 0
    fewer: dict[str, Any] = {**CHANGES, "evaluation": {"images": 10}}
    assert tiny.run(*call(trained, "clean", tmp_path / "clean", **fewer)) == 0
    assert (
        tiny.run(*made.line(tmp_path / "z.npz", grid=folder, clean=tmp_path / "clean", evaluation=fewer["evaluation"]))
        == 0
    )
    assert read(tmp_path / "z.npz")["image"] == other["image"]


def test_records_that_are_missing_foreign_or_not_of_this_attack_are_refused(
    made: Made, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    half.mkdir()
    first = made.folder / "grid" / "states1-4_images0-6.parquet"
    shutil.copy(first, half)
    assert tiny.run(*made.line(tmp_path / "x.npz", grid=half)) == 2
    assert "lacks the ready-made attack on 5 of 12 images" in capsys.readouterr().err
    stored = records.read(first)
    moved = dict(stored.columns) | {"margin": stored["margin"] + 1}
    shutil.copy(made.folder / "grid" / "states1-4_images7-11.parquet", half)
    records.write(half / first.name, moved, provenance=stored.provenance[0])
    assert tiny.run(*made.line(tmp_path / "x.npz", grid=half)) == 2
    assert "crafted again, is classified as" in capsys.readouterr().err
    assert tiny.run(*call(trained, "clean", tmp_path / "clean", evaluation={"images": 5})) == 0
    assert tiny.run(*made.line(tmp_path / "x.npz", clean=tmp_path / "clean")) == 2
    assert "of another configuration, model or seed than the spec" in capsys.readouterr().err
    (tmp_path / "select").write_text("{}")
    assert tiny.run(*made.line(tmp_path / "x.npz", select=tmp_path / "select")) == 2
    assert "carries no provenance: not written by deqpipe" in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()
