"""Writes tests/golden/first_losses.json anew: python -m tests.record_first_losses."""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.training.test_run import GOLDEN, first_losses


def main() -> None:
    """Train the tiny models and note their first ten losses."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        trained = tiny.train_all(Path(name))
        models = ("deq_pgd_at_base", "deq_trades_random_states")
        losses = {model: first_losses(trained, model, Path(name, "again"), monkeypatch) for model in models}
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()
