"""Whether SLURM would take jobs, asked of `sbatch --test-only`: nothing is submitted, and each request is asked once.

What sbatch is asked with is what the executor plugin would submit: its own functions make the line.
"""

import logging
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from deqpipe.cluster.asking import Answer, ask, there
from deqpipe.cluster.check import Check, unknown, wrong
from deqpipe.lazy import named

PLACEHOLDER = "CHANGE_ME"
"""What stands in a profile where everybody has a value of their own."""
_PLUGIN = "snakemake_executor_plugin_slurm"
NOT_ASKED = ("_cores", "_nodes", "tmpdir", "mem", "mem_mib", "disk", "disk_mb", "disk_mib")
"""Resources of which SLURM hears nothing, or not in these words, and that differ from job to job."""
_INSTALL = "install it beside Snakemake: pip install 'snakemake-executor-plugin-slurm>=2.7.1'"
_LISTED = 3
_OPTIONS_ADVICE = "mend resources of this rule in the profile (slurm_extra, gres, gpu_model, nodes)"


@dataclass(frozen=True)
class Request:
    """What a job asks of SLURM, in Snakemake's words.

    Attributes:
        rule: whose job it is.
        resources: such as slurm_account, slurm_partition, mem_mb, runtime, gpu and gres, with their values.
        threads: of the job.
        qos: of the profile (`slurm-qos`).
        reservation: of the profile (`slurm-reservation`).
    """

    rule: str
    resources: Mapping[str, Any] = field(hash=False)
    threads: int = 1
    qos: str | None = None
    reservation: str | None = None

    @classmethod
    def of_job(cls, job: Any, settings: Any = None) -> "Request":
        """The request of one of Snakemake's jobs or groups.

        Args:
            job: whose resources and threads are known.
            settings: `workflow.executor_settings` of the SLURM executor.
        """
        resources = {name: value for name, value in dict(job.resources.items()).items() if name not in NOT_ASKED}
        rule = str(getattr(job, "rule", None) or getattr(job, "groupid", "group"))
        asked = {name: getattr(settings, name, None) for name in ("qos", "reservation")}
        return cls(rule, resources, int(job.threads), **asked)

    def value(self, name: str) -> str:
        """A resource as text; empty: not asked for."""
        found = self.resources.get(name)
        return "" if found is None else str(found)

    @property
    def runtime(self) -> float:
        """Minutes; 0: no limit that is a number."""
        text = self.value("runtime")
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0

    @property
    def gpu(self) -> str:
        """What is asked for of GPUs, as sbatch hears it; empty: none."""
        return str(_plugin("utils:set_gres_string")(_job(self))).strip()

    def line(self) -> list[str]:
        """The command that asks whether it would be taken.

        Raises:
            WorkflowError: the plugin refuses it by itself.
        """
        account, partition = self.value("slurm_account"), self.value("slurm_partition")
        told = {
            "run_uuid": "deqpipe-doctor",
            "slurm_logfile": "/dev/null",
            "comment_str": "asks only",
            "account": f"-A {shlex.quote(account)}" if account else "",
            "partition": f"-p {shlex.quote(partition)}" if partition else "",
            "workdir": None,
        }
        settings = SimpleNamespace(requeue=False, no_requeue=False, qos=self.qos, reservation=self.reservation)
        job = _job(self)
        _plugin("validation:validate_slurm_extra")(job)
        call = _plugin("submit_string:get_submit_command")(job, told, settings=settings)
        return [*shlex.split(f"{call} {self.gpu}"), "--test-only", "--wrap", "true"]


class _Resources(dict[str, Any]):
    """Resources as the plugin reads them: as keys and as attributes."""

    __getattr__ = dict.get


def _job(request: Request) -> SimpleNamespace:
    return SimpleNamespace(resources=_Resources(request.resources), threads=request.threads)


def version() -> str:
    """The plugin's version.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return metadata.version(_PLUGIN.replace("_", "-"))


def _plugin(path: str) -> Any:
    module, _, name = path.partition(":")
    return named(f"{_PLUGIN}.{module}:{name}")


def check_submission(requests: Iterable[Request]) -> list[Check]:
    """What SLURM refuses of some jobs, in plain words; empty: it would take them all.

    One answer per reason, with the rules that it concerns in it. An answer that is unknown may pass, such as a
    controller that is away for a moment.

    Args:
        requests: of all jobs; those that ask for the same are asked about once.
    """
    asked = list(requests)
    if not asked:
        return []
    if not there("sbatch"):
        return [wrong("SLURM", "there is no sbatch on this machine", "run this on a login node of the cluster")]
    if find_spec(_PLUGIN) is None:
        return [wrong("plugin", "Snakemake's executor for SLURM is not there", _INSTALL)]
    try:
        return _accounts_refused(asked) or _refused(asked)
    except (ImportError, AttributeError, OSError) as error:  # while it is imported, or its functions looked for
        return [unknown("plugin", f"its version {version()} is not known here ({error})", _INSTALL)]


def _accounts_refused(requests: Sequence[Request]) -> list[Check]:
    """What is said of accounts before sbatch is asked: here, and by the plugin."""
    accounts = {one for request in requests for one in re.split(r"[,\s]+", request.value("slurm_account")) if one}
    partitions = {request.value("slurm_partition") for request in requests}
    if PLACEHOLDER in accounts | partitions:
        what = " and ".join(
            name for name, values in (("account", accounts), ("partition", partitions)) if PLACEHOLDER in values
        )
        return [wrong("account", f"the {what} of the profile is still {PLACEHOLDER}", _ACCOUNT_ADVICE)]
    return [check for account in sorted(accounts) if (check := _account_refused(account)) is not None]


def _account_refused(account: str) -> Check | None:
    """What the plugin says of an account: it looks into SLURM's lists, and submits for none that is not there."""
    quiet = logging.Logger(__name__)  # that there are no lists to look into is no news
    quiet.addHandler(logging.NullHandler())
    validate = _plugin("accounts:validate_account")
    try:
        validate(account, quiet)
    except (_workflow_error(), OSError) as error:  # OSError: it has none of the tools that it asks
        return wrong("account", f"{account} is not taken: {' '.join(str(error).split())}", _ACCOUNT_ADVICE)
    return None


def _workflow_error() -> Any:
    """What the plugin refuses with."""
    return named("snakemake_interface_common.exceptions:WorkflowError")


_ACCOUNT_ADVICE = (
    "set slurm_account and slurm_partition in the profile; `sacctmgr show associations user=$USER format=account,"
    "partition,qos` lists yours, `sinfo -s` the partitions"
)


def _refused(requests: Sequence[Request]) -> list[Check]:
    found: dict[Check, list[str]] = {}
    heard: dict[tuple[str, ...] | str, Check | None] = {}
    for request in requests:
        line = _line(request)
        if line not in heard:
            heard[line] = (
                _heard(line, ask(line)) if isinstance(line, tuple) else wrong("options", line, _OPTIONS_ADVICE)
            )
        if (check := heard[line]) is not None:
            found.setdefault(check, []).append(request.rule)
    return [_with_rules(check, rules) for check, rules in found.items()]


def _line(request: Request) -> tuple[str, ...] | str:
    """What to ask with; as text, why the plugin would not ask."""
    try:
        return tuple(request.line())
    except _workflow_error() as error:
        return " ".join(str(error).split())


def _with_rules(check: Check, rules: Sequence[str]) -> Check:
    names = list(dict.fromkeys(rules))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return Check(check.name, check.verdict, f"{check.words} ({', '.join(names[:_LISTED])}{more})", check.advice)


@dataclass(frozen=True)
class _Reason:
    """What sbatch may say, and what it means.

    Attributes:
        says: a regular expression.
        name: of the check.
        options: of the line, which are what is refused.
        words: what it means.
        advice: what to do.
        passes: whether it may be otherwise a moment later.
    """

    says: str
    name: str
    options: tuple[str, ...]
    words: str
    advice: str
    passes: bool = False


_GPU, _PART, _ACCOUNT = ("--gpus", "--gres"), ("-p",), ("-A",)
_REASONS = (
    _Reason("invalid account", "account", (*_ACCOUNT, *_PART), "SLURM does not take this account there",
            _ACCOUNT_ADVICE),
    _Reason("invalid partition", "partition", _PART, "there is no such partition",
            "set slurm_partition in the profile; `sinfo -s` lists the partitions"),
    _Reason("invalid qos", "qos", ("--qos", *_ACCOUNT), "SLURM does not take this quality of service",
            "mend qos or slurm-qos in the profile; `sacctmgr show associations user=$USER format=qos` lists yours"),
    _Reason("accounting/QOS policy|SubmitJob|temporarily unable|nodes are busy", "queue", (),
            "it does not take such a job at the moment",
            "wait until other jobs have ended; `sacctmgr show qos` lists limits that may be too low for it",
            passes=True),
    _Reason("time limit is invalid|requested time limit", "runtime", ("-t", *_PART),
            "the time limit is longer than SLURM allows there",
            "lower runtime in the profile (minutes); `sinfo -o '%R %l'` lists the limits"),
    _Reason("generic resource|invalid gres|invalid tres|gpus?=", "GPU", _GPU,
            "SLURM does not take this request for a GPU",
            "`sinfo -o '%R %G'` says what the nodes have; where --gpus is refused, ask by gres (docs/cluster.md)"),
    _Reason("node configuration is not available|more processors requested|memory required", "node",
            (*_GPU, "--mem", "--cpus-per-task", *_PART), "no node of the partition has as much",
            "see `sinfo -o '%R %c %m %G'` (cores, MB, GPUs of the nodes); where --gpus is refused, gres may be wanted"),
    _Reason("invalid feature|constraint", "constraint", ("-C",), "no node has this feature",
            "see `sinfo -o '%R %f'`, and mend constraint in the profile"),
    _Reason("reservation", "reservation", ("--reservation",), "there is no such reservation for you",
            "see `scontrol show reservation`, and mend slurm-reservation in the profile"),
    _Reason("unrecognized option|invalid option", "options", (), "sbatch does not know an option",
            _OPTIONS_ADVICE),
    _Reason("contact slurm controller|timed out|connection refused|configuration source|no answer", "SLURM", (),
            "its controller does not answer", "try again; `scontrol ping` says whether it is up", passes=True),
)  # fmt: skip


def _heard(line: Sequence[str], answer: Answer) -> Check | None:
    """What an answer of sbatch means; None: it would take the job."""
    if answer.good:
        return None
    said = _said(answer)
    for reason in _REASONS:
        if re.search(reason.says, said, re.IGNORECASE):
            asked = " ".join(_options(line, reason.options))
            words = f"{reason.words}{f' ({asked})' if asked else ''}: {said}"
            return (unknown if reason.passes else wrong)(reason.name, words, reason.advice)
    return wrong("submission", f"sbatch refuses it: {said}", "ask those who run the cluster what it means")


def _said(answer: Answer) -> str:
    """The complaint without its beginnings, in one line."""
    lines = [
        re.sub(r"^(sbatch: )?(error: |allocation failure: )?", "", one.strip()) for one in answer.complaint.splitlines()
    ]
    return ". ".join(dict.fromkeys(one for one in lines if one)) or f"exit status {answer.status}"


def _options(line: Sequence[str], names: Sequence[str]) -> list[str]:
    """The options of these names with their values, as they stand in a line."""
    found = []
    for at, word in enumerate(line):
        name, equals, _ = word.partition("=")
        if name in names:
            found.append(word if equals else " ".join(line[at : at + 2]))
    return found
