"""Prices that were measured before: kept in the state folder, and believed while nothing they depend on has changed."""

import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deqpipe.config import Config
from deqpipe.counts import Number
from deqpipe.errors import UserError
from deqpipe.planning.printed import Measured
from deqpipe.results import records
from deqpipe.results.provenance import code_hash, versions
from deqpipe.workflow import expected
from deqpipe.workflow.dry_run import PlannedJob


@dataclass(frozen=True)
class Known:
    """What was measured.

    Attributes:
        measured: the prices.
        when: the day and the time.
    """

    measured: Measured
    when: str


def read(config: Config, *, device: str, processes: int) -> Known | None:
    """The prices of this configuration on this machine, by this code; None: they must be measured."""
    told = expected.kept(config)
    if told.get("circumstances") != _circumstances(device, processes):
        return None
    with suppress(ValidationError, KeyError):
        return Known(TypeAdapter(Measured).validate_python(told["measured"]), str(told["when"]))
    return None


def write(
    config: Config, measured: Measured, jobs: Sequence[PlannedJob], seconds: Sequence[Number], *, device: str
) -> None:
    """Keep prices, and what they make of a job of each rule; where nothing can be written, nothing is kept."""
    content = {
        "config": expected.key(config),
        "circumstances": _circumstances(device, measured.processes),
        "measured": asdict(measured),
        "rules": _by_rule(jobs, seconds),
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }
    with suppress(OSError, UserError):
        records.write_text(expected.path(config), json.dumps(content, indent=1, sort_keys=True) + "\n")


def _by_rule(jobs: Sequence[PlannedJob], seconds: Sequence[Number]) -> Mapping[str, float]:
    taken = defaultdict[str, list[float]](list)
    for job, one in zip(jobs, seconds, strict=True):
        taken[job.rule].append(float(one))
    return {rule: round(fmean(several), 3) for rule, several in taken.items()}


def _circumstances(device: str, processes: int) -> dict[str, Any]:
    """What prices depend on beside the configuration."""
    machine = f"{platform.node()} {platform.machine()}, {os.cpu_count()} cores"
    return {"device": device, "processes": processes, "machine": machine, "code": code_hash(), "versions": versions()}
