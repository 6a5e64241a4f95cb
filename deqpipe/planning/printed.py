"""The plan in words and two tables: what jobs take here, and what one H100 would need."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from deqpipe.config import Config
from deqpipe.counts import Number, sum_of
from deqpipe.planning import arithmetic, cost, rates
from deqpipe.planning.leavers import Entering
from deqpipe.planning.rates import PRECISIONS, Precision, Rates
from deqpipe.planning.schedule import Machine, Run, run, unbounded
from deqpipe.workflow.dry_run import PlannedJob

WIDTH = 100
NAME = 26
NOTABLE = 0.05
"""Share of a run below which a rule is not worth a word."""
OTHERS = "tables, figures, report"
"""The row of the rules that only read results."""
_TABLES = {"attack_grid": "2", "attack_in_loop": "3", "attack_top": "4", "attack_sweep": "5", "autoattack": "1",
           "time_training": "9", "time_inference": "10"}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What this machine takes.

    Attributes:
        prices: seconds per unit of every part.
        device: in words.
        cuda: whether jobs share one GPU.
        processes: how many measured at once.
    """

    prices: Mapping[cost.Part, Number]
    device: str
    cuda: bool
    processes: int


@dataclass(frozen=True)
class CostPlan:
    """All that the printed plan says.

    Attributes:
        config: the experiment.
        images: of its source.
        everything: all jobs of the run.
        left: those that are to be done still.
        measured: what this machine takes.
        cores: of the run.
        entering: how many images leave AutoAttack early.
        rates: what an H100 computes.
        targets: rules or files that it is to make; none: everything.
    """

    config: Config
    images: cost.Images
    everything: Sequence[PlannedJob]
    left: Sequence[PlannedJob]
    measured: Measured
    cores: int
    entering: Entering
    rates: Rates
    targets: Sequence[str] = ()

    def work_of(self, job: PlannedJob, *, leaving: bool = False) -> cost.Work:
        """What a job computes; `leaving`: images leave AutoAttack early."""
        entering = self.entering.shares if leaving else {}
        return cost.job(job.rule, job.wildcards, self.config, self.images, entering=entering)

    def seconds(self, jobs: Iterable[PlannedJob], *, leaving: bool = False) -> list[Number]:
        """How long each job takes on one core or GPU."""
        return [self.work_of(job, leaving=leaving).seconds(self.measured.prices) for job in jobs]

    def run(self, jobs: Sequence[PlannedJob]) -> Run:
        """A run of these jobs."""
        return run(jobs, self.seconds(jobs), Machine(self.cores, one_device=self.measured.cuda))

    def on_h100(self, jobs: Iterable[PlannedJob], *, leaving: bool = False) -> dict[Precision, Number]:
        """Seconds of arithmetic on one H100."""
        total: dict[Precision, Number] = dict.fromkeys(PRECISIONS, 0)
        for job in jobs:
            amount = self._operations_of(self.work_of(job, leaving=leaving))
            for precision in PRECISIONS:
                rate = self.rates[precision, "training" if cost.trains(job.rule) else "evaluation"]
                total[precision] += amount / (1e12 * rate.teraflops)
        return total

    def _operations_of(self, work: cost.Work) -> Number:
        return arithmetic.operations(self.config, self.images, work)


def text(plan: CostPlan) -> str:
    """The plan as it is printed."""
    sections = (_measured(plan), _here(plan), _gpu(plan), _remarks(plan), _times(plan))
    return "\n\n".join("\n".join(section) for section in sections)


def _measured(plan: CostPlan) -> list[str]:
    together = f", {plan.measured.processes} processes side by side" if plan.measured.processes > 1 else ""
    wanted = [f"Only what it takes to make {', '.join(plan.targets)}."] if plan.targets else []
    return [f"Measured on {plan.measured.device}{together}; {plan.cores} core(s) to plan for.", *wanted]


def _here(plan: CostPlan) -> list[str]:
    """What jobs take on this machine, rule by rule."""
    title = f"{'rule':<{NAME}}{'jobs':>6}{'left':>6}{'images':>10}{_unit(plan):>12}{'left':>12}"
    left = _by_row(plan.left)
    rows = [_here_row(plan, row, jobs, left.get(row, [])) for row, jobs in _by_row(plan.everything).items()]
    total = _here_row(plan, "all", plan.everything, plan.left)
    return [title, "-" * len(title), *rows, "-" * len(title), total]


def _unit(plan: CostPlan) -> str:
    return "one GPU" if plan.measured.cuda else "one core"


def _here_row(plan: CostPlan, name: str, everything: Sequence[PlannedJob], left: Sequence[PlannedJob]) -> str:
    images = sum(cost.taken(job.rule, job.wildcards, plan.config, plan.images) for job in everything)
    total, rest = (duration(sum(plan.seconds(jobs))) for jobs in (everything, left))
    return f"{name:<{NAME}}{len(everything):>6}{len(left):>6}{count(images):>10}{total:>12}{rest:>12}"


def _gpu(plan: CostPlan) -> list[str]:
    """What one H100 would need by the counts, rule by rule."""
    columns = "".join(f"{precision:>11}" for precision in PRECISIONS)
    title = f"{'one H100, by the counts':<{NAME}}{'forward':>10}{'to inputs':>11}{'to weights':>12}{columns}"
    jobs = [job for job in plan.everything if cost.uses_device(job.rule)]
    rows = [_gpu_row(plan, row, of_row) for row, of_row in _by_row(jobs).items()]
    lines = [title, "-" * len(title), *rows, "-" * len(title), _gpu_row(plan, "all", jobs)]
    attacks = [job for job in jobs if job.rule == "autoattack"]
    if not attacks or plan.entering.everybody:
        return lines
    return [
        *lines,
        _gpu_row(plan, "autoattack, leavers out", attacks, leaving=True),
        _gpu_row(plan, "all, leavers out", jobs, leaving=True),
    ]


def _gpu_row(plan: CostPlan, name: str, jobs: Sequence[PlannedJob], *, leaving: bool = False) -> str:
    evaluations = sum_of(plan.work_of(job, leaving=leaving).evaluations for job in jobs)
    ways = (evaluations.forward, evaluations.backward_input, evaluations.backward_weights)
    counts = "".join(f"{count(number):>{width}}" for number, width in zip(ways, (10, 11, 12), strict=True))
    seconds = plan.on_h100(jobs, leaving=leaving)
    return f"{name:<{NAME}}{counts}" + "".join(f"{_on_gpu(seconds[precision]):>11}" for precision in PRECISIONS)


def _on_gpu(seconds: Number) -> str:
    return duration(seconds) if seconds >= 1 else "< 1 s"


def _remarks(plan: CostPlan) -> list[str]:
    """What the tables rest on."""
    of_f = arithmetic.operations_of_f(plan.config, plan.images)
    remarks = [
        f"f takes {count(of_f)}FLOP an image, a gradient to inputs or to weights as much again. Stem, head and "
        f"solver are left out. Rates: {rates.words(plan.rates)}.",
        *_leavers(plan),
        f"Assumed: {'; '.join((*cost.ASSUMED, 'nothing else computes on this machine'))}.",
    ]
    return [line for remark in remarks for line in _wrapped(remark)]


def _leavers(plan: CostPlan) -> list[str]:
    """What images that leave AutoAttack early save here."""
    attacks = [job for job in plan.everything if job.rule == "autoattack"]
    if not attacks or plan.entering.everybody:
        return []
    whole, rest = (sum(plan.seconds(attacks, leaving=leaving)) for leaving in (False, True))
    return [
        f"Images that leave AutoAttack early save {duration(whole - rest)} of {duration(whole)} on {_unit(plan)} "
        f"({plan.entering.words})."
    ]


def _times(plan: CostPlan) -> list[str]:
    """What bounds the run, and how long it takes."""
    seconds = plan.seconds(plan.everything)
    files = unbounded(plan.everything, seconds)
    whole, left = (plan.run(jobs) for jobs in (plan.everything, plan.left))
    lines = [f"Critical path, {duration(files.seconds)} on any machine: {chain(plan.everything, files)}."]
    if whole.seconds > files.seconds:
        spent = _spent_by_rule(plan.everything, whole)
        lines += [f"On {_room(plan)} jobs wait for room, too, one after the other: {spent}."]
    times = (duration(one.seconds) for one in (whole, left))
    whole_of = "all that this takes" if plan.targets else "the whole run"
    estimate = "Estimated time of {}: {}; of what is left to do: {}.".format(whole_of, *times)
    return [*(row for line in lines for row in _wrapped(line)), estimate]


def _room(plan: CostPlan) -> str:
    return "one GPU" if plan.measured.cuda else f"{plan.cores} core(s)"


def chain(jobs: Sequence[PlannedJob], scheduled: Run) -> str:
    """The jobs of a critical path with their seconds."""
    return ", ".join(
        f"{_called(jobs[number])} {duration(scheduled.slots[number].seconds)}" for number in scheduled.critical
    )


def _called(job: PlannedJob) -> str:
    model = job.wildcards.get("model")
    return f"{job.rule} ({model})" if model else job.rule


def _spent_by_rule(jobs: Sequence[PlannedJob], scheduled: Run) -> str:
    """The rules of the jobs that bound a run, the longest first, without those of little influence."""
    spent = Counter[str]()
    for number in scheduled.critical:
        spent[jobs[number].rule] += scheduled.slots[number].seconds  # type: ignore[assignment]  # seconds need not be whole
    counts = Counter(jobs[number].rule for number in scheduled.critical)
    return ", ".join(
        f"{counts[rule]} {rule} {duration(seconds)}"
        for rule, seconds in spent.most_common()
        if seconds >= NOTABLE * scheduled.seconds
    )


def _by_row(jobs: Iterable[PlannedJob]) -> dict[str, list[PlannedJob]]:
    """Jobs by the row of the tables that they are part of, in order."""
    rows: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        rows.setdefault(_row(job.rule), []).append(job)
    return rows


def _row(rule: str) -> str:
    if not (cost.uses_device(rule) or rule in ("prepare_data", "use_imported")):
        return OTHERS
    return f"{rule} (Table {_TABLES[rule]})" if rule in _TABLES else rule


def _wrapped(text: str) -> list[str]:
    return wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def count(number: Number) -> str:
    """A large number in three digits, such as 1.27 M."""
    for size, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * size:  # 999.6 k is 1.00 M in three digits
            return f"{number / size:#.3g}{suffix}".replace(". ", " ")
    return f"{number:.0f}" if number else "-"


def duration(seconds: Number) -> str:
    """A duration in two or three digits, such as 4.2 min."""
    for size, suffix in ((2 * 86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            per = 86400 if suffix == "days" else size
            return f"{seconds / per:,.3g} {suffix}" if seconds / per < 999.5 else f"{seconds / per:,.0f} {suffix}"
    return f"{seconds:.0f} s"
