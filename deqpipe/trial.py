"""`deqpipe trial`: the workflow for at most so many seconds, and the tables that its results allow."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from deqpipe import config as configuration
from deqpipe.errors import UserError
from deqpipe.machine.stopping import terminable

INTERRUPTED = 130
"""Exit status after SIGINT or SIGTERM."""
SAVING_SECONDS = 60.0
"""How long jobs that were told to stop may take to save."""
REAPING_SECONDS = 5.0
"""How long killed processes may take to go."""


def trial(configfiles: Sequence[Path], *, seconds: float, gpu_jobs: int) -> int:
    """Run the workflow in this folder; returns the exit status, 0 also where time was over.

    Args:
        configfiles: overlays of config.yaml, later ones over earlier ones.
        seconds: after which it is stopped; the same command goes on where it stopped.
        gpu_jobs: jobs that share the GPU.

    Raises:
        UserError: this is no folder of the workflow, or the config is wrong.
    """
    if not Path("Snakefile").is_file():
        raise UserError(f"there is no Snakefile in {Path.cwd()}: run this in the folder of the workflow")
    config = configuration.load([Path("config.yaml"), *configfiles])
    configuration.check_image_folder(config)
    results = Path(config.pathvars.results)
    try:
        status = run_within(seconds, _snakemake(configfiles, gpu_jobs))
    except KeyboardInterrupt:
        return INTERRUPTED
    if status == 0:
        print(f"Report: {results / 'report.html'}")
        return 0
    what = f"Stopped after {seconds:g} seconds" if status is None else f"Snakemake ended with status {status}"
    print(f"{what}: the same command goes on. Of what there is:")
    print(*_made(config, results), sep="\n")
    return status or 0


def _snakemake(configfiles: Sequence[Path], gpu_jobs: int) -> list[str]:
    resources = ["--resources", f"gpu={gpu_jobs}"]
    line = [sys.executable, "-m", "snakemake", "--logger", "deqpipe", "--keep-going", *resources]
    return [*line, "--configfile", *map(str, configfiles)]


def _made(config: configuration.Config, results: Path) -> Iterator[str]:
    from deqpipe.reporting import available

    for product in available.write(config, results):
        yield f"{product.name}: {'written' if product.lacking is None else f'not yet: {product.lacking}'}"


def run_within(seconds: float, line: Sequence[str]) -> int | None:
    """The exit status of a command, or None where its time was over and it was told to stop.

    It gets a process group of its own: SIGINT reaches it and all that it started, as from a terminal. An interruption
    of this process is passed on.
    """
    with terminable(), subprocess.Popen(line, stdin=subprocess.DEVNULL, process_group=0) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process group that is not at its end, and wait until all in it have saved.

    Not for ever: killed processes whose parent is gone stay in the group as zombies where nobody reaps them, as in
    containers without an init process.
    """
    signals = {0.0: signal.SIGINT, SAVING_SECONDS: signal.SIGKILL}
    started = time.monotonic()
    while _alive(process) and time.monotonic() - started < SAVING_SECONDS + REAPING_SECONDS:
        for due in [due for due in signals if time.monotonic() - started >= due]:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.killpg(process.pid, signals.pop(due))
        time.sleep(0.1)


def _alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # of a child that ended, nothing else would tell
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
