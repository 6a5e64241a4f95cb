"""`deqpipe doctor`: what is wrong with a cluster's settings, or what this machine has, in one screen."""

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from deqpipe.cluster import generic, groups, profile, slurm, trial_job
from deqpipe.cluster.check import Check, Verdict, ok, unknown, wrong
from deqpipe.cluster.profile import Profile
from deqpipe.cluster.submission import Request
from deqpipe.errors import UserError
from deqpipe.workflow import dry_run

_NO_JOB_ASKED = "whether nodes see this folder, this Python and CUDA was not asked"


def of_profile(name: str, configfiles: Sequence[Path], *, submit: bool, wait_minutes: float) -> Iterator[Check]:
    """What there is to say of a profile and of the cluster that it is for.

    Args:
        name: of the profile, as Snakemake takes it.
        configfiles: overlays of config.yaml.
        submit: whether one small job may be submitted, to ask on a node.
        wait_minutes: for that job.

    Raises:
        UserError: there is no such profile.
    """
    read = profile.read(name)
    told = _plugin(read)
    yield told
    asked: list[Request] = []
    if told.verdict is Verdict.OK:
        try:
            jobs = profile.requests(read, configfiles)
            asked = groups.submitted(read, jobs)
            rules = len({one.rule for one in jobs})
            share = f" in {len(asked)} submissions" if len(asked) < len(jobs) else ""
            yield ok("workflow", f"{len(jobs)} jobs of {rules} rules{share}")
            yield from _misspelt(read, jobs)
        except UserError as error:
            yield wrong("workflow", str(error), "mend that first: what jobs ask for is not known")
    if read.value("executor") == "slurm":
        yield from _of_slurm(read, asked, submit=submit, wait_minutes=wait_minutes)
    else:
        yield from generic.checks(read)


def _misspelt(read: Profile, jobs: Sequence[Request]) -> Iterator[Check]:
    """What a profile asks for rules that do not exist."""
    if set(read.rules) <= {one.rule for one in jobs}:
        return
    rules = dry_run.rules()  # those, too, of which this run has no jobs
    try:
        profile.refuse_unknown(read, rules)
    except UserError as error:
        yield wrong("profile", str(error), "mend its name: Snakemake passes over it without a word")


def _plugin(read: Profile) -> Check:
    """The executor of a profile, and whether Snakemake has it."""
    executor = read.value("executor")
    if not executor or executor == "local":
        return wrong(
            "executor", f"{read.path} names none: jobs would run where Snakemake does", "put executor: slurm there"
        )
    package = f"snakemake-executor-plugin-{executor}"
    try:
        return ok("executor", f"{executor}, version {metadata.version(package)} of its plugin ({read.path})")
    except metadata.PackageNotFoundError:
        return wrong("executor", f"{package} is not installed", f"install it beside Snakemake: pip install {package}")


def _of_slurm(read: Profile, asked: Sequence[Request], *, submit: bool, wait_minutes: float) -> Iterator[Check]:
    refused = False
    for check in slurm.checks(read, asked):
        refused |= check.needed and check.verdict is not Verdict.OK
        yield check
    if not submit:
        yield unknown("node", _NO_JOB_ASKED, "--submit asks, by one small job")
    elif refused or not asked:
        yield unknown("node", f"{_NO_JOB_ASKED}, as SLURM would not take a job", "mend the above first")
    else:
        request = next((one for one in asked if one.gpu), asked[0])
        yield trial_job.check(request, cuda=bool(request.gpu), wait_minutes=wait_minutes)
