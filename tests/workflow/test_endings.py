"""Jobs that end too early: which of them are started again, and what the run says of them at its end."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deqpipe.workflow import endings
from deqpipe.workflow.endings import Kind
from tests import tiny
from tests.workflow.conftest import DEMO, Workspace

TARGETS = [
    f"results/demo/models/{model}/seed0/best.safetensors"
    for model in ("deq_pretrain", "resnet18_pgd_at", "resnet18_trades")
]
# The trunk leaves early each time, one ResNet diverges, the other one is killed.
FATES = """
case "$*" in
  pretrain*) echo "12:00:00 time budget of 55 minutes: saved at step 22 of 63; start again to go on"; exit 75 ;;
  *resnet18_pgd_at/*) echo "deqpipe: loss is nan at step 4 of 6: lower the rate"; exit 1 ;;
  *resnet18_trades/*) echo "12:00:00 epoch 1/6"; kill -KILL $$ ;;
esac
"""


def test_only_what_may_come_further_is_retried_and_the_end_tells_all_three_apart(workspace: Workspace) -> None:
    (workspace.folder / "fate.sh").write_text(FATES)
    result = workspace.run(*DEMO, "--cores", "4", "--keep-going", "--retries", "2", *TARGETS)
    assert result.returncode == 1
    starts = [call for call in workspace.calls() if "--history" in call]
    assert [sum(f"/{model}/" in call for call in starts) for model in models()] == [3, 1, 3]
    log = "logs/demo/train_feedforward/resnet18_{}/seed0.log"
    assert (
        f"1 job {Kind.EARLY.value}\n"
        "    pretrain: time budget of 55 minutes: saved at step 22 of 63 (logs/demo/pretrain/deq_pretrain/seed0.log)\n"
        f"1 job {Kind.REFUSED.value}\n"
        f"    train_feedforward: loss is nan at step 4 of 6: lower the rate ({log.format('pgd_at')})\n"
        f"1 job {Kind.BROKEN.value}\n"
        f"    train_feedforward: 12:00:00 epoch 1/6 ({log.format('trades')})\n"
    ) in result.stderr


def models() -> Iterator[str]:
    return (target.split("/")[3] for target in TARGETS)
