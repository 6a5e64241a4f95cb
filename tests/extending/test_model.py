"""A model of one's own: what is refused of what its file builds."""

from pathlib import Path

import pytest

from deqpipe import extending
from deqpipe.errors import UserError
from deqpipe.model import architecture


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
