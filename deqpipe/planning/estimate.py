"""`deqpipe plan`: what a run would cost on this machine, per rule, and what of it is left to do."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from deqpipe import config as configuration
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.hardware import gpus_per_job
from deqpipe.planning import work
from deqpipe.planning.schedule import Machine, wall_seconds
from deqpipe.planning.sources import images_of
from deqpipe.planning.workflow import Job, complaint, jobs

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
SIDE_BY_SIDE = 2
"""Processes that calibrate at once where jobs run side by side on a CPU: they slow each other as jobs do."""
_REPORT_JOB = (
    "import deqpipe.cli, deqpipe.reporting.figures, deqpipe.reporting.tables, io, matplotlib.figure;"
    "[matplotlib.figure.Figure().subplots(1, 2)[0].figure.savefig(io.BytesIO(), format=f) for f in ('png', 'pdf')]"
)


@dataclass(frozen=True)
class Measured:
    """What this machine takes.

    Attributes:
        prices: seconds per unit of every part.
        device: in words.
        cuda: whether jobs share one GPU.
        processes: how many measured at once.
    """

    prices: Mapping[work.Part, work.Number]
    device: str
    cuda: bool
    processes: int


def plan(configfiles: Sequence[Path], *, cores: int | None, device: Device) -> int:
    """Print the plan of a run in this folder; returns the exit status.

    Args:
        configfiles: overlays of config.yaml, later ones over earlier ones.
        cores: of the run; None: all of this machine.
        device: auto, cpu or cuda, where training and evaluation would run.

    Raises:
        UserError: this is no folder of the workflow, or the config or Snakemake refuses.
    """
    files = _config_files(configfiles)
    config = configuration.load(files)
    images, cores = images_of(config), cores or os.cpu_count() or 1
    everything = jobs(configfiles, cores=cores, everything=True)
    left = jobs(configfiles, cores=cores, everything=False)
    started = time.monotonic()
    measured = measure(files, cores=cores, device=device if device != "auto" else config.device)
    print(text(Plan(config, images, everything, left, measured, cores)))
    print(f"Measured in {time.monotonic() - started:.0f} s.")
    return 0


def _config_files(overlays: Sequence[Path]) -> list[Path]:
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
    processes = 1 if gpus_per_job(device) else min(SIDE_BY_SIDE, cores, os.cpu_count() or 1)
    facts = _calibrate(files, device=device, processes=processes)
    names = facts[0]["prices"]
    prices = {name: statistics.fmean(found["prices"][name] for found in facts) for name in names}
    prices |= {"start": statistics.fmean(found["start"] for found in facts), "report": reporting}
    return Measured(prices, facts[0]["device"], facts[0]["kind"] == "cuda", processes)


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
    found = []
    for child in children:
        printed, complaints = child.communicate()
        if child.returncode:
            raise UserError(complaint(complaints))
        found.append(json.loads(printed.splitlines()[-1]))
    return found


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Plan:
    """All that the printed plan says.

    Attributes:
        config: the experiment.
        images: of its source.
        everything: all jobs of the run.
        left: those that are to be done still.
        measured: what this machine takes.
        cores: of the run.
    """

    config: Config
    images: work.Images
    everything: Sequence[Job]
    left: Sequence[Job]
    measured: Measured
    cores: int

    def works(self, jobs: Sequence[Job]) -> list[work.Work]:
        """What each job computes."""
        return [work.job(job.rule, job.wildcards, self.config, self.images) for job in jobs]

    def seconds(self, jobs: Sequence[Job]) -> list[work.Number]:
        """How long each job takes on one core or GPU."""
        return [of_job.seconds(self.measured.prices) for of_job in self.works(jobs)]

    def wall(self, jobs: Sequence[Job]) -> work.Number:
        """Seconds of a run of these jobs."""
        return wall_seconds(jobs, self.seconds(jobs), Machine(self.cores, one_device=self.measured.cuda))


def text(plan: Plan) -> str:
    """The plan as it is printed."""
    unit = "one GPU" if plan.measured.cuda else "one core"
    title = f"{'rule':<20}{'jobs':>6}{'left':>6}{'images':>10}{'f-evaluations':>15}{unit:>12}{'left':>12}"
    together = f", {plan.measured.processes} processes side by side" if plan.measured.processes > 1 else ""
    lines = [f"Measured on {plan.measured.device}{together}; {plan.cores} core(s) to plan for.", "", title]
    lines += ["-" * len(title), *(_row(plan, rule) for rule in dict.fromkeys(job.rule for job in plan.everything))]
    lines += ["-" * len(title), _line("all", plan, plan.everything, plan.left), ""]
    lines += [f"Assumed: {assumption}." for assumption in work.ASSUMED]
    total, left = (duration(plan.wall(jobs)) for jobs in (plan.everything, plan.left))
    lines += ["Assumed: nothing else computes on this machine."]
    lines += ["", f"Estimated time of the whole run: {total}; of what is left to do: {left}."]
    return "\n".join(lines)


def _row(plan: Plan, rule: str) -> str:
    of_rule = [[job for job in jobs if job.rule == rule] for jobs in (plan.everything, plan.left)]
    return _line(rule, plan, *of_rule)


def _line(name: str, plan: Plan, everything: Sequence[Job], left: Sequence[Job]) -> str:
    evaluations = sum(of_job.f_evaluations for of_job in plan.works(everything))
    images = sum(work.taken(job.rule, job.wildcards, plan.config, plan.images) for job in everything)
    total, rest = (duration(sum(plan.seconds(jobs))) for jobs in (everything, left))
    counts = f"{len(everything):>6}{len(left):>6}{count(images):>10}{count(evaluations):>15}"
    return f"{name:<20}{counts}{total:>12}{rest:>12}"


def count(number: work.Number) -> str:
    """A large number in three digits, such as 1.27 M."""
    for size, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:#.3g}{suffix}".replace(". ", " ")
    return f"{number:.0f}" if number else "-"


def duration(seconds: work.Number) -> str:
    """A duration in two or three digits, such as 4.2 min."""
    for size, suffix in ((2 * 86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            per = 86400 if suffix == "days" else size
            return f"{seconds / per:,.3g} {suffix}" if seconds / per < 1000 else f"{seconds / per:,.0f} {suffix}"
    return f"{seconds:.0f} s"
