"""metrics.jsonl as TensorBoard shows it. The writer is TensorBoard's own: `pip install deqpipe[tensorboard]`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from deqpipe.errors import UserError
from deqpipe.results.metrics import Interval

_TAGS: Mapping[str, str] = {
    "loss": "train/loss",
    "clean_accuracy": "train/clean_accuracy",
    "robust_accuracy": "train/robust_accuracy",
    "learning_rate": "train/learning_rate",
    "validation_clean_accuracy": "validation/clean_accuracy",
    "validation_robust_accuracy": "validation/robust_accuracy",
    "images_per_second": "device/images_per_second",
    "peak_share": "device/peak_share",
    "memory_mib": "device/memory_mib",
    "epoch": "train/epoch",
}
"""Which values are drawn, and under which names."""


@runtime_checkable
class Writer(Protocol):
    """What we use of `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, walltime: float) -> Any:
        """One point of a curve."""

    def close(self) -> Any:
        """All of it on the disk."""


def export(runs: Mapping[str, Iterable[Interval]], folder: Path) -> None:
    """Write event files, a folder of them for each run; those of an earlier export are replaced.

    Args:
        runs: the lines of trainings, by name.
        folder: for `tensorboard --logdir`.

    Raises:
        UserError: TensorBoard is not installed.
    """
    for name, intervals in runs.items():
        place = folder / name
        writer = _writer(place)
        for one in intervals:
            draw(writer, one)
        writer.close()


def draw(writer: Writer, interval: Interval) -> None:
    """The points of one line; time is that of training, so that stops leave no gaps."""
    for name, value in asdict(interval).items():
        if name in _TAGS and value is not None:
            writer.add_scalar(_TAGS[name], value, interval.step, interval.elapsed)


def _writer(place: Path) -> Writer:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: pip install 'deqpipe[tensorboard]'") from None
    for old in place.glob("events.out.tfevents.*"):
        old.unlink()
    writer: Writer = SummaryWriter(str(place))
    return writer
