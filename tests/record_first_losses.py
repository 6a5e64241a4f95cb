"""Writes tests/golden/first_losses.json anew: python -m tests.record_first_losses."""

import json
import tempfile
from pathlib import Path

import torch

from tests.training.test_run import GOLDEN, first_losses


def main() -> None:
    """Train the tiny models and note their first ten losses."""
    torch.set_num_threads(1)
    losses = {}
    for model in ("deq_pgd_at_base", "deq_trades_random_states"):
        with tempfile.TemporaryDirectory() as folder:
            losses[model] = first_losses(model, Path(folder))
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    main()
