"""What this machine has for a run on it: Python, torch, GPUs, cores, memory, disk, and what limits them."""

import json
import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from deqpipe import config as configuration
from deqpipe.cluster.asking import ask
from deqpipe.cluster.check import Check, ok, unknown, wrong
from deqpipe.machine import devices

_TORCH = """
import json, torch
numbers = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
cards = [torch.cuda.get_device_properties(number) for number in numbers]
print(json.dumps([torch.__version__, torch.version.cuda, [[card.name, card.total_memory] for card in cards]]))
"""
_TORCH_SECONDS = 120.0
_LEAST_DISK, _LEAST_MEMORY, _LEAST_FILES = 5 * 10**9, 2 * 10**9, 256
_CGROUPS = Path("/sys/fs/cgroup")


def checks(configfiles: Sequence[Path]) -> Iterator[Check]:
    """What there is, one after the other.

    Args:
        configfiles: overlays of config.yaml, for where results and state will lie.

    Raises:
        UserError: the configuration is wrong.
    """
    config = configuration.load([Path("config.yaml"), *configfiles]) if Path("config.yaml").is_file() else None
    yield ok("Python", f"{platform.python_version()}, {sys.executable}")
    yield from _torch(None if config is None else config.device)
    yield _cores()
    yield _memory()
    if config is None:
        yield unknown("disk", f"there is no config.yaml in {Path.cwd()}", "run this in the folder of the workflow")
    else:
        yield from (_disk(name, Path(getattr(config.pathvars, name))) for name in ("results", "state"))
    yield _files()


def _torch(device: str | None) -> Iterator[Check]:
    """torch, in a process of its own, and the GPUs that it finds."""
    answer = ask([sys.executable, "-c", _TORCH], seconds=_TORCH_SECONDS)
    if not answer.good:
        last = (answer.complaint.strip().splitlines() or [f"exit status {answer.status}"])[-1]
        yield wrong(
            "torch", f"it cannot be imported: {last}", "install what requirements.txt lists into this environment"
        )
        return
    version, cuda, cards = json.loads(answer.printed.splitlines()[-1])
    yield ok("torch", f"{version}, {f'built for CUDA {cuda}' if cuda else 'built for the CPU alone'}")
    shown = devices.visible()
    if cards:
        listed = ", ".join(f"{name} ({size / 2**30:.0f} GiB)" for name, size in cards)
        share = f"; --resources gpu={len(cards)} gives each job one" if len(cards) > 1 else ""
        yield ok("GPUs", f"{listed}{share}")
    elif shown:
        why = "its driver may be older than torch's CUDA" if cuda else "torch is built for the CPU alone"
        yield wrong("GPUs", f"this machine has {len(shown)}, but torch finds none: {why}", "install a torch that fits")
    elif device == "cuda":
        yield wrong("GPUs", "none, but the configuration says device: cuda", "set device: auto")
    else:
        yield ok("GPUs", "none: jobs compute on the CPU")


def _cores() -> Check:
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    quota = _quota()
    words = f"{usable} of {there}" if usable < there else f"{there}"
    if quota is not None and quota < usable:
        advice = f"snakemake --cores {max(1, int(quota))}: it would start as many jobs as there are cores"
        return wrong("cores", f"{words}, but this group of processes may use {quota:g} (cgroup)", advice)
    return ok("cores", words)


def _quota() -> float | None:
    """Cores that a cgroup allows; None: all."""
    for name in ("cpu.max", "cpu/cpu.cfs_quota_us"):
        text = _read(_CGROUPS / name)
        period = text[1] if len(text) > 1 else (_read(_CGROUPS / "cpu/cpu.cfs_period_us") or ["0"])[0]
        if text and text[0].isdigit() and int(period):
            return int(text[0]) / int(period)
    return None


def _memory() -> Check:
    has = re.search(r"MemTotal:\s+(\d+) kB", "\n".join(Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()))
    total = 1024 * int(has[1]) if has else 0
    limits = [int(text[0]) for name in ("memory.max", "memory/memory.limit_in_bytes")
              if (text := _read(_CGROUPS / name)) and text[0].isdigit()]  # fmt: skip
    allowed = min([total, *limits])
    words = f"{total / 2**30:.1f} GiB{f', of which a cgroup allows {allowed / 2**30:.1f}' if allowed < total else ''}"
    if allowed < _LEAST_MEMORY:
        return wrong("memory", words, "a job takes about 1 GiB: run one at a time (--cores 1), or elsewhere")
    return ok("memory", words)


def _read(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8").split()
    return []


def _disk(name: str, folder: Path) -> Check:
    """Space where a folder is, or will be made."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    words = f"{folder}: {free / 1e9:.0f} GB free"
    if not os.access(there, os.W_OK):
        return wrong(name, f"{words}, but {there} cannot be written to", f"name another folder as pathvars.{name}")
    if free < _LEAST_DISK:
        return wrong(name, f"{words}, which is little", f"free some, or name another folder as pathvars.{name}")
    return ok(name, words)


def _files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        return wrong("files", f"a process may open {soft} (ulimit -n)", "raise it: ulimit -n 1024")
    return ok("files", f"a process may open {'any number' if soft == resource.RLIM_INFINITY else soft} (ulimit -n)")
