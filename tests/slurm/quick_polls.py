"""Snakemake, but that it asks SLURM every two seconds: its plugin waits longer each time, up to three minutes."""

import signal
import sys

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

SECONDS = 2


def _ask_often() -> None:
    """Let the plugin's own wishes for the time to its next question pass."""
    interval = property(lambda executor: SECONDS, lambda executor, wish: None)
    Executor.next_seconds_between_status_checks = interval


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's `&` has had ignored
    _ask_often()
    sys.exit(main())
