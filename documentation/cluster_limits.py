"""The generated part of the profiles of clusters: time limits, memory and tries per rule, at the paper's speeds."""

from functools import cache
from pathlib import Path

from deqpipe import config, extending
from deqpipe.planning import speeds
from deqpipe.planning.cluster.limits import limits, tries_allowed
from deqpipe.planning.cluster.needs import Need, Setting, needs, submitted
from deqpipe.planning.leavers import entering
from deqpipe.planning.rates import FILE, rates
from deqpipe.planning.sources import images_of
from deqpipe.planning.speed_names import SpeedName
from deqpipe.planning.speeds import Speed


@cache
def needs_at(root: Path, name: SpeedName) -> tuple[Speed, tuple[Need, ...]]:
    """What the rules need with config.yaml, and the speed that this was reckoned with.

    Args:
        root: the repository.
        name: of the speed.
    """
    file = root / "config.yaml"
    settings = config.load([file])
    images = images_of(settings)
    speed = (
        speeds.papers(settings, images, told=speeds.papers_config(file))
        if name == "paper"
        else speeds.of_rates(settings, images, rates(root / FILE))
    )
    setting = Setting(settings, images, speed, entering(settings, ()).shares, on_gpu=True)
    return speed, tuple(needs(setting, submitted(settings)))


SEEDS = 3
"""With which rules are reckoned that there are with several seeds alone."""
EXAMPLES = ("model", "attack")
"""The files of docs/extending.md with which rules are reckoned that there are with pieces of users' files alone."""


@cache
def needs_of_others(root: Path, name: SpeedName) -> tuple[Need, ...]:
    """What the rules need that config.yaml has no jobs of: those of several seeds, and of users' files.

    Args:
        root: the repository.
        name: of the speed.
    """
    speed, one = needs_at(root, name)
    files = tuple(str(root / "tests" / "extending" / f"{example}.py") for example in EXAMPLES)
    extending.activate(files)
    more = {"seeds": tuple(range(SEEDS)), "extensions": files}
    settings = config.load([root / "config.yaml"]).model_copy(update=more)
    setting = Setting(settings, images_of(settings), speed, entering(settings, ()).shares, on_gpu=True)
    known = {need.rule for need in one}
    return tuple(needs(setting, [job for job in submitted(settings) if job.rule not in known]))


def block(root: Path) -> str:
    """Retries, and what each rule asks for.

    Args:
        root: the repository.
    """
    found = (*needs_at(root, "paper")[1], *needs_of_others(root, "paper"))
    tries = {need.rule: limits(need.longest).needed or 1 for need in found}
    most = max(tries, key=lambda rule: tries[rule])
    rows = (f"  {need.rule}: {{runtime: {limits(need.longest).runtime}, mem_mb: {need.mem_mb}}}\n" for need in found)
    retries = f"retries: {tries_allowed(tries[most]) - 1}"
    why = f"{most} needs {tries[most]} tries at the paper's speed; half as many again, and some to spare"
    return (
        f"{retries:<29}# {why}\n{'set-resources:':<29}# minutes and MB, by the formulas of docs/cluster_times.md\n"
        f"{''.join(rows)}# "
    )
