"""What is wrong with a SLURM cluster's settings, for jobs that Snakemake submits: asked of its commands alone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deqpipe.cluster import submission
from deqpipe.cluster.asking import ask, there
from deqpipe.cluster.check import Check, needed, ok, unknown, wrong
from deqpipe.cluster.profile import FIRST_LOOK, Profile
from deqpipe.cluster.submission import Request

_SECONDS_BETWEEN_LOOKS = 180
"""The plugin looks at its jobs at most so far apart; what a controller has forgotten by then is taken for running."""
_FIRST_LOOK_SECONDS = 40
"""The plugin's own, where a profile does not say."""
_SAVING_SECONDS = 10
"""Within these a command has saved and left after SIGTERM."""
_BY_SQUEUE = "put slurm-status-command: squeue into the profile"
_QOS = "see `sacctmgr show qos format=name,preempt,preemptmode,gracetime`"
_OVERLAP_SINCE = (20, 11)


@dataclass(frozen=True)
class Cluster:
    """What a controller says of itself.

    Attributes:
        settings: of `scontrol show config`, such as MinJobAge.
        partitions: of `scontrol show partition`, by name.
    """

    settings: Mapping[str, str]
    partitions: Mapping[str, Mapping[str, str]]

    def setting(self, name: str) -> str:
        """A setting as it is printed; empty: this version does not say."""
        return self.settings.get(name, "")

    def seconds(self, name: str) -> int | None:
        """A setting that is a time."""
        found = re.match(r"\d+", self.setting(name))
        return None if found is None else int(found[0])

    @property
    def default_partition(self) -> str:
        """The partition of jobs that ask for none; empty: there is none."""
        return next((name for name, facts in self.partitions.items() if facts.get("Default") == "YES"), "")

    def used(self, requests: Sequence[Request]) -> list[str]:
        """The partitions that there are of those that jobs ask for."""
        asked = {
            name for one in requests for name in (one.value("slurm_partition") or self.default_partition).split(",")
        }
        return sorted(asked & self.partitions.keys())


def checks(profile: Profile, requests: Sequence[Request]) -> Iterator[Check]:
    """All that can be found out without submitting anything; no more than one where SLURM is not there."""
    told, cluster = controller()
    yield needed(told)
    if cluster is None:
        return
    if requests:  # there are none where the workflow cannot be planned
        yield from map(needed, submission.check_submission(requests) or [_taken(requests)])
    yield from map(needed, _limits(cluster, requests))
    yield _status(cluster, profile)
    yield _signals(cluster)
    yield _kill_wait(cluster)
    yield from _preemption(cluster, profile, requests)


def controller() -> tuple[Check, Cluster | None]:
    """Whether there is a SLURM that answers, and what it says of itself."""
    missing = [command for command in ("sbatch", "squeue", "sinfo", "scontrol") if not there(command)]
    if missing:
        where = "run this on a login node of the cluster, or load its module"
        return wrong("SLURM", f"{', '.join(missing)} cannot be found", where), None
    answer = ask(["scontrol", "show", "config"])
    if not answer.good:
        said = " ".join(answer.complaint.split()) or f"exit status {answer.status}"
        return wrong("SLURM", f"its controller does not answer: {said}", "try again; ask those who run it"), None
    settings = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", answer.printed, re.MULTILINE))
    printed = ask(["scontrol", "-o", "show", "partition"]).printed
    partitions = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in printed.splitlines()]
    named = {facts["PartitionName"]: facts for facts in partitions if "PartitionName" in facts}
    version = settings.get("SLURM_VERSION", "some version")
    return ok("SLURM", f"version {version}, its controller answers"), Cluster(settings, named)


def _taken(requests: Sequence[Request]) -> Check:
    kinds = {tuple(request.line()) for request in requests}
    gpus = sorted({request.gpu for request in requests})
    asked = " or ".join(gpu or "no GPU" for gpu in gpus)
    accounts = ", ".join(sorted({request.value("slurm_account") or "none" for request in requests}))
    partitions = ", ".join(sorted({request.value("slurm_partition") or "the default" for request in requests}))
    words = (
        f"SLURM would take all {len(requests)} jobs, of {len(kinds)} kinds: account {accounts}, partition {partitions}"
    )
    return ok("submission", f"{words}, {asked}")


def _limits(cluster: Cluster, requests: Sequence[Request]) -> Iterator[Check]:
    """What keeps a job waiting that was taken: a time limit that is too long, or a partition that is closed."""
    for name in cluster.used(requests):
        facts = cluster.partitions[name]
        if facts.get("State", "UP") != "UP":
            yield wrong("partition", f"{name} is {facts['State']}: jobs would wait", "choose another slurm_partition")
        longest = _minutes(facts.get("MaxTime", "UNLIMITED"))
        over = {request.rule for request in requests if request.runtime > longest}
        if over:
            most = max(request.runtime for request in requests)
            words = f"jobs ask for up to {most:g} minutes, but {name} allows {longest:g} ({', '.join(sorted(over))})"
            yield wrong("runtime", f"{words}: they may wait for ever", "lower runtime in the profile")


def _minutes(time: str) -> float:
    """A time limit of SLURM, such as 1-00:00:00, in minutes."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", time)
    if found is None:
        return float("inf")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 24 * 60 * days + 60 * hours + minutes + seconds / 60


def _status(cluster: Cluster, profile: Profile) -> Check:
    """By which command Snakemake follows its jobs, and whether that will tell it of their end."""
    chosen = profile.value("slurm-status-command") or ("sacct" if there("sacct") else "squeue")
    init = profile.number(FIRST_LOOK)
    init = _FIRST_LOOK_SECONDS if init is None else init
    if chosen == "sacct":
        return _by_sacct(cluster)
    if there("sacct") and (cluster.seconds("MinJobAge") or 0) < 3 * init:  # the plugin's own rule
        return _by_sacct(cluster, f" (MinJobAge is below {3 * init} s: Snakemake does not take squeue)")
    return _by_squeue(cluster, init)


def _remembers(cluster: Cluster) -> bool:
    """Whether the controller remembers a job for longer than Snakemake may look away."""
    return (cluster.seconds("MinJobAge") or 0) > _SECONDS_BETWEEN_LOOKS


def _by_sacct(cluster: Cluster, why: str = "") -> Check:
    answer = ask(["sacct", "-X", "-n", "--starttime", "now"])
    if not answer.good or cluster.setting("AccountingStorageType").endswith("none"):
        said = " ".join(answer.complaint.split()) or "there is no accounting"
        words = f"sacct{why}, which does not work here ({said}): Snakemake would wait for ever, without a word"
        return wrong("status", words, "ask for a longer MinJobAge" if why else _BY_SQUEUE)
    words = f"sacct{why}, which answers; but a job that is cancelled by scancel is waited for without end"
    return ok(
        "status", words, f"better {_BY_SQUEUE}" if _remembers(cluster) else "then stop Snakemake, and start it again"
    )


def _by_squeue(cluster: Cluster, init: int) -> Check:
    age = cluster.seconds("MinJobAge")
    if age is None:
        return unknown("status", "squeue; how long the controller remembers jobs (MinJobAge) is not told")
    looks = max(init, _SECONDS_BETWEEN_LOOKS)
    words = f"squeue; the controller remembers a job for {age} s, and Snakemake looks at most {looks} s apart"
    if age > looks:
        return ok("status", words)
    advice = "ask for a longer MinJobAge, or put slurm-status-command: sacct into the profile where there is accounting"
    return wrong("status", f"{words}: one that ended in between is waited for without end", advice)


def _signals(cluster: Cluster) -> Check:
    kind = cluster.setting("ProctrackType").removeprefix("proctrack/")
    if kind != "cgroup":
        return ok("signals", f"processes are tracked by {kind or 'what is not told'}: SIGTERM reaches all of a job")
    version = tuple(map(int, re.findall(r"\d+", cluster.setting("SLURM_VERSION"))[:2]))
    words = (
        "processes are tracked by cgroup: SIGTERM reaches a command because it is a step of its own (srun --overlap)"
    )
    if version and version < _OVERLAP_SINCE:
        advice = "what was computed since the last save, up to five minutes, is lost when a job is ended from outside"
        return wrong("signals", f"{words}, which SLURM knows since version 20.11", advice)
    return ok("signals", words)


def _kill_wait(cluster: Cluster) -> Check:
    seconds = cluster.seconds("KillWait")
    if seconds is None:
        return unknown("KillWait", "how long a job has to save once it is told to end is not told")
    lost = "" if seconds >= _SAVING_SECONDS else ": too short for some, which lose up to five minutes of work"
    return ok("KillWait", f"a job that is told to end has {seconds} s to save{lost}")


def _preemption(cluster: Cluster, profile: Profile, requests: Sequence[Request]) -> Iterator[Check]:
    if cluster.setting("PreemptType") in ("", "preempt/none"):
        yield ok("preemption", "no job is preempted for another")
        return
    for name in cluster.used(requests):
        facts = cluster.partitions[name]
        if cluster.setting("PreemptType") == "preempt/qos":
            yield unknown("preemption", f"partition {name}: which jobs are preempted, and how, their qos says", _QOS)
            continue
        mode = facts.get("PreemptMode") or cluster.setting("PreemptMode")
        yield _preempted(f"partition {name}: PreemptMode {mode}", mode, facts, profile)


def _preempted(words: str, mode: str, facts: Mapping[str, str], profile: Profile) -> Check:
    grace = int(facts.get("GraceTime", 0)) if facts.get("GraceTime", "0").isdigit() else 0
    if mode == "OFF":
        return ok("preemption", f"{words}: no job is preempted there")
    if "CANCEL" in mode and grace < _SAVING_SECONDS:
        why = f"a job is ended within {grace} s (GraceTime), and Snakemake waits for it without end"
        return wrong("preemption", f"{words}: {why}", "choose a partition or qos whose jobs are not preempted")
    if "CANCEL" in mode:
        return ok(
            "preemption", f"{words}, after {grace} s (GraceTime), in which commands save and leave, to be retried"
        )
    if "REQUEUE" in mode and not profile.is_set("slurm-requeue"):
        return wrong("preemption", f"{words}, but jobs do not ask for it", "put slurm-requeue: true into the profile")
    return ok("preemption", f"{words}: a job that is preempted goes on later")
