"""The file of the image of Figure 2 (c)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.errors import UserError
from deqpipe.results import example
from deqpipe.results.example import Example
from tests.results.edits import edit_arrays

IMAGE = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 2, 2)
EXAMPLE = Example(IMAGE, IMAGE[::-1], image=7, label=2, fooled=True, early_state=4, classes=("ant", "bee", "cow"))
ORIGIN = {"spec": {"stage": "attack_example"}, "seed": 0}


def test_an_example_is_read_as_it_was_written(tmp_path: Path) -> None:
    example.write(tmp_path / "x.npz", EXAMPLE, ORIGIN)
    again, origin = example.read(tmp_path / "x.npz")
    for name in ("image", "label", "fooled", "early_state", "classes"):
        assert getattr(again, name) == getattr(EXAMPLE, name)
    np.testing.assert_array_equal(again.clean, EXAMPLE.clean)
    np.testing.assert_array_equal(again.attacked, EXAMPLE.attacked)
    assert origin == ORIGIN


def test_arrays_have_the_kinds_that_they_ever_had(tmp_path: Path) -> None:
    example.write(tmp_path / "x.npz", EXAMPLE, ORIGIN)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        kinds = {name: (file[name].dtype.kind, file[name].ndim) for name in file.files}
        assert str(file["provenance"]) == '{"seed": 0, "spec": {"stage": "attack_example"}}'
    assert kinds == {
        "clean": ("f", 3), "attacked": ("f", 3), "image": ("i", 0), "label": ("i", 0), "fooled": ("b", 0),
        "early_state": ("i", 0), "classes": ("U", 1), "provenance": ("U", 0), "digest": ("U", 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"provenance": "{}"}, "carries no provenance: not written by deqpipe"),
        ({"provenance": "{"}, "carries no provenance: not written by deqpipe"),
        ({"clean": None, "classes": None}, "lacks clean, classes: not written by deqpipe"),
        ({"label": np.array([{}], dtype=object)}, r"is no npz file of plain arrays, or damaged \(ValueError\)"),
        ({"label": np.array([1, 2])}, "is no example: "),
        ({"clean": np.zeros(3)}, r"is no example: an image of shape \(3,\) has no channels, height and width"),
        ({"clean": np.zeros((1, 2, 2))}, r"is of shape \(1, 2, 2\) clean, but of \(3, 2, 2\) attacked"),
    ],
)
def test_what_is_no_example_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.npz"
    example.write(path, EXAMPLE, ORIGIN)
    edit_arrays(path, changed)
    with pytest.raises(UserError, match=message) as refused:
        example.read(path)
    assert "\n" not in str(refused.value)


def test_an_array_in_place_of_another_and_a_file_of_an_older_version_are_refused(tmp_path: Path) -> None:
    """The archive's own checksums are of what stands there."""
    path = tmp_path / "x.npz"
    example.write(path, EXAMPLE, ORIGIN)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **(arrays | {"label": np.array(3)}))
    with pytest.raises(UserError, match=r"x\.npz is damaged: its content is not what its digest says"):
        example.read(path)
    np.savez(path, **{name: array for name, array in arrays.items() if name != "digest"})
    with pytest.raises(UserError, match=r"x\.npz carries no digest, so an older version of deqpipe wrote it"):
        example.read(path)


def test_missing_damaged_and_single_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.npz does not exist"):
        example.read(tmp_path / "x.npz")
    for content in (b"", b"PK\x03\x04 cut"):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(UserError, match="is no npz file of plain arrays, or damaged"):
            example.read(tmp_path / "x.npz")
    np.save(tmp_path / "one.npy", IMAGE)
    with pytest.raises(UserError, match="is no npz file of plain arrays, or damaged"):
        example.read(tmp_path / "one.npy")
