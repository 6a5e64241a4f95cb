"""How a job's command is started within a scheduler's allocation. No torch."""

import shutil
from collections.abc import Mapping

from deqpipe.workflow.budgets import budget_minutes

_CPUS = "${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}"
STEP = f'srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="{_CPUS}" --cpu-bind=quiet --mem=0 --input=none --quiet'
"""A step of its own, with the cores, the memory and the GPUs of the one that it is started in."""


def launcher(environment: Mapping[str, str], *, submitted: bool) -> str:
    """What stands before a job's command, in a shell; empty where SLURM's signals reach it without.

    SLURM signals the process that it started for a step, and with `proctrack/cgroup` no other one. That is Snakemake
    here, which ends at the next moment and takes the command with it. A command that is a step of its own hears SIGTERM
    itself (`scancel`, time limits, pre-emption) and has the time until `KillWait` to save.

    Args:
        environment: of the process that reads the workflow: of the node, where a job runs on one.
        submitted: whether this Snakemake runs one job for another Snakemake, and not a whole workflow in an allocation,
            which tells its jobs itself what a terminal tells it.
    """
    within_a_step = submitted and "SLURM_STEP_ID" in environment and shutil.which("srun") is not None
    return STEP if within_a_step else ""


def budget_options(runtime: object) -> list[object]:
    """The options that have a command stop before the scheduler ends it; none without a time limit.

    Args:
        runtime: of the job, in minutes, as Snakemake has it.
    """
    if not isinstance(runtime, int | float) or isinstance(runtime, bool) or runtime <= 0:
        return []
    return ["--time-budget-minutes", f"{budget_minutes(runtime):g}"]
