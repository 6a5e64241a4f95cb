"""`deqpipe plan`: what a run would cost on this machine, per rule, and what of it is left to do."""

import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from deqpipe import config as configuration
from deqpipe.errors import UserError
from deqpipe.machine.hardware import gpus_per_job
from deqpipe.planning import known
from deqpipe.planning.leavers import entering
from deqpipe.planning.printed import CostPlan, Measured, text
from deqpipe.planning.rates import rates
from deqpipe.planning.sources import images_of
from deqpipe.workflow.dry_run import complaint, jobs

_logger = logging.getLogger(__name__)

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
SIDE_BY_SIDE = 2
"""Processes that calibrate at once where jobs run side by side on a CPU: they slow each other as jobs do."""
_REPORT_JOB = (
    "import deqpipe.cli, deqpipe.reporting.figures.figures, deqpipe.reporting.tables.tables, io, matplotlib.figure;"
    "[matplotlib.figure.Figure().subplots(1, 2)[0].figure.savefig(io.BytesIO(), format=f) for f in ('png', 'pdf')]"
)


def plan(
    configfiles: Sequence[Path],
    *,
    targets: Sequence[str] = (),
    cores: int | None,
    device: Device,
    measure_again: bool = False,
) -> int:
    """Print the plan of a run in this folder; returns the exit status.

    Args:
        configfiles: overlays of config.yaml, later ones over earlier ones.
        targets: rules or files that it is to make; none: everything that the workflow makes by default.
        cores: of the run; None: all of this machine.
        device: auto, cpu or cuda, where training and evaluation would run.
        measure_again: also where prices are known.

    Raises:
        UserError: this is no folder of the workflow, or the config or Snakemake refuses.
    """
    files = config_files(configfiles)
    config = configuration.load(files)
    images, rated, cores = images_of(config), rates(), cores or os.cpu_count() or 1
    where: Device = device if device != "auto" else config.device
    everything = jobs(configfiles, targets=targets, cores=cores, everything=True)
    left = jobs(configfiles, targets=targets, cores=cores, everything=False)
    before = None if measure_again else known.read(config, device=where, processes=processes_of(where, cores))
    if before is None:
        _logger.info("measuring how fast this machine is, which takes some minutes once")
    started = time.monotonic()
    measured = measure(files, cores=cores, device=where) if before is None else before.measured
    taken = time.monotonic() - started
    made = CostPlan(config, images, everything, left, measured, cores, entering(config, everything), rated, targets)
    print(text(made))
    if before is None:
        all_jobs = jobs(configfiles, cores=cores, everything=True) if targets else everything
        known.write(config, measured, all_jobs, made.seconds(all_jobs), device=where)
        print(f"Measured in {taken:.0f} s.")
    else:
        print(f"Measured on {before.when}, and nothing has changed since (--measure-again measures again).")
    return 0


def config_files(overlays: Sequence[Path]) -> list[Path]:
    """The files of a configuration, config.yaml first.

    Raises:
        UserError: this is no folder of the workflow.
    """
    for name in ("config.yaml", "Snakefile"):
        if not Path(name).is_file():
            raise UserError(f"there is no {name} in {Path.cwd()}: run this in the folder of the workflow")
    return [Path("config.yaml"), *overlays]


def measure(files: Sequence[Path], *, cores: int, device: Device) -> Measured:
    """What the units of work take here, with as many processes at once as would slow each other.

    Raises:
        UserError: the device is not there, or a process fails for another reason that it can tell.
    """
    reporting = _reporting_seconds()
    processes = processes_of(device, cores)
    facts = _calibrate(files, device=device, processes=processes)
    names = facts[0]["prices"]
    prices = {name: statistics.fmean(measured["prices"][name] for measured in facts) for name in names}
    prices |= {"start": statistics.fmean(measured["start"] for measured in facts), "report": reporting}
    return Measured(prices, facts[0]["device"], facts[0]["kind"] == "cuda", processes)


def processes_of(device: Device, cores: int) -> int:
    """How many measure at once."""
    return 1 if gpus_per_job(device) else min(SIDE_BY_SIDE, cores, os.cpu_count() or 1)


def _reporting_seconds() -> float:
    """What a table or figure takes at least: Python, its imports, a drawing."""
    before = os.times()
    subprocess.run([sys.executable, "-c", _REPORT_JOB], check=True, env=_one_thread())
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def _calibrate(files: Sequence[Path], *, device: str, processes: int) -> list[dict[str, Any]]:
    line = [sys.executable, "-m", "deqpipe.planning.calibration", "--device", device, *map(str, files)]
    children = [
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_one_thread())
        for _ in range(processes)
    ]
    measured = []
    try:
        for child in children:
            printed, complaints = child.communicate()
            if child.returncode:
                raise UserError(complaint(complaints))
            measured.append(json.loads(printed.splitlines()[-1]))
    finally:
        for child in children:  # where one failed, or the user stopped, the others measure for nobody
            child.kill()
    return measured


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
