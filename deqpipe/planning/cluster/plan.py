"""`deqpipe plan --profile P`: what a profile carries to its end, and what not."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deqpipe import config as configuration
from deqpipe.cluster import profile
from deqpipe.config import Config
from deqpipe.counts import Number
from deqpipe.planning import cost, estimate, speeds
from deqpipe.planning.cluster import groups, judged, printed
from deqpipe.planning.cluster.needs import Setting, needs
from deqpipe.planning.cluster.printed import ProfilePlan
from deqpipe.planning.leavers import entering
from deqpipe.planning.printed import Measured, chain
from deqpipe.planning.rates import rates
from deqpipe.planning.schedule import Machine, Run, run, unbounded
from deqpipe.planning.sources import images_of
from deqpipe.planning.speed_names import SpeedName
from deqpipe.planning.speeds import Speed
from deqpipe.workflow import dry_run
from deqpipe.workflow.dry_run import PlannedJob

ASSUMED = (
    "a bound for the longest job (nobody leaves AutoAttack early, the strongest points are the deepest ones), what is "
    "expected for sums; jobs start within a minute; nobody else's job waits before them"
)


def plan_profile(path: Path, configfiles: Sequence[Path], *, speed: SpeedName) -> int:
    """Print what a profile carries to its end in this folder; returns the exit status, 1 where something would not.

    Args:
        path: the profile, a file or a folder.
        configfiles: overlays of config.yaml in place of those that the profile names, as Snakemake has it. What the
            profile sets itself (`config`) is laid over all of them.
        speed: of jobs.

    Raises:
        UserError: there is a mistake in the profile, or the config or Snakemake refuses.
    """
    read = profile.read(path)
    overlays = [*configfiles] or [*read.configfiles]
    files = estimate.config_files(overlays)
    config = configuration.parse(configuration.read(files, over=read.config))
    jobs = dry_run.jobs(overlays, cores=1, everything=True, profile=read.path)
    if set(read.rules) - {job.rule for job in jobs}:
        profile.refuse_unknown(read, dry_run.rules())
    plan = planned(config, jobs, read, speed=speed_of(speed, config, files, over=read.config))
    print(printed.text(plan))
    return int(bool(plan.objections))


def speed_of(name: SpeedName, config: Config, files: Sequence[Path], *, over: Mapping[str, Any]) -> Speed:
    """One of the speeds that a plan may be made with.

    Args:
        name: which.
        config: of the run.
        files: of the configuration, config.yaml first.
        over: what is laid over them.
    """
    images = images_of(config)
    match name:
        case "paper":
            return speeds.papers(config, images, told=speeds.papers_config(files[0]))
        case "rates":
            return speeds.of_rates(config, images, rates())
        case "here":
            measured = _measured(config, files, over)
            return Speed("here", f"this machine's speed ({measured.device})", measured.prices)


def _measured(config: Config, files: Sequence[Path], over: Mapping[str, Any]) -> Measured:
    """This machine's speed; it may have no GPU, though its profile has jobs compute on one elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder, "config_of_profile.yaml")
        last.write_text(json.dumps(over), encoding="utf-8")
        device: estimate.Device = "cpu" if config.device == "cpu" else "auto"
        return estimate.measure([*files, last], cores=os.cpu_count() or 1, device=device)


def planned(config: Config, jobs: Sequence[PlannedJob], read: profile.Profile, *, speed: Speed) -> ProfilePlan:
    """What is said of a profile.

    Args:
        config: of the run.
        jobs: of its dry run.
        read: the profile.
        speed: of jobs.
    """
    setting = Setting(config, images_of(config), speed, entering(config, jobs).shares, on_gpu=_on_gpu(jobs))
    asked = {job.rule: judged.asked(job) for job in jobs if cost.uses_device(job.rule)}
    seconds = [60 * setting.minutes(job) for job in jobs]
    anywhere = unbounded(jobs, seconds)
    return ProfilePlan(
        read,
        speed.words,
        judged.judged(needs(setting, jobs), asked, tries=read.tries),
        groups.shared(read, jobs, [judged.asked(job).minutes for job in jobs]),
        ASSUMED,
        at_once=_at_once(jobs, seconds, read.jobs),
        unbounded=anywhere,
        chain=chain(jobs, anywhere),
    )


def _on_gpu(jobs: Sequence[PlannedJob]) -> bool:
    """Whether a job asks for a GPU, in whichever way."""
    return any(_asks_for_gpu(job.resources) for job in jobs)


def _asks_for_gpu(resources: Mapping[str, str]) -> bool:
    return resources.get("gpu", "0") != "0" or "gpu" in resources.get("gres", "")


def _at_once(jobs: Sequence[PlannedJob], seconds: Sequence[Number], most: int | None) -> Run:
    return run(jobs, seconds, Machine(most or len(jobs), one_device=False, one_machine=False))
