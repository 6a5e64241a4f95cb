"""A model of one's own: what is refused of what its file builds."""

from pathlib import Path

import pytest
import torch

from deqpipe import extending
from deqpipe.errors import UserError
from deqpipe.evaluation import own_pieces
from deqpipe.model import architecture
from deqpipe.model.architecture import Loaded
from deqpipe.settings import Settings
from deqpipe.workflow import specs
from tests import tiny
from tests.extending import model


def test_what_is_no_model_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from deqpipe.extending import Model\n\nM = Model('mine', 'M', build=lambda shape, classes: shape)\n"
    )
    extending.activate([str(path)])
    described = {"type": "mine", "image_shape": [1, 4, 4], "classes": ["a", "b"]}
    with pytest.raises(UserError) as refused:
        architecture.build(described, seed=0)
    assert str(refused.value) == (
        f"extension {path}, line 3: model mine: build gave a tuple, but must give a torch.nn.Module with bind, "
        "initial_state and logits"
    )


def tried(tmp_path: Path, logits: str) -> None:
    """Try the example's model, its logits changed, on some images."""
    path = tmp_path / "mine.py"
    read = "out: Tensor = self.head(z)"
    path.write_text(Path(model.__file__).read_text().replace(read, f"out: Tensor = {logits}"))
    extending.activate([str(path)])
    described = {"type": "dense", "image_shape": [1, 4, 4], "classes": ["a", "b", "c"]}
    loaded = Loaded(architecture.build(described, seed=0).eval(), described, {}, "")
    settings = Settings(specs.pick(tiny.settings().model_dump(mode="json"), "solver"))
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    own_pieces.check(loaded, settings, "dense_trades", x)


@pytest.mark.parametrize(
    ("logits", "told"),
    [
        ("self.head(z - z.mean(0))", "model dense: images influence each other: alone"),
        ("self.head(nn.functional.dropout(z))", "model dense: the same images have other logits when asked again"),
    ],
)
def test_a_model_that_couples_images_or_draws_is_refused(tmp_path: Path, logits: str, told: str) -> None:
    with pytest.raises(UserError, match=rf"^extension {tmp_path}/mine\.py, line \d+: {told}"):
        tried(tmp_path, logits)


def test_a_model_that_does_neither_passes(tmp_path: Path) -> None:
    tried(tmp_path, "self.head(z)")
