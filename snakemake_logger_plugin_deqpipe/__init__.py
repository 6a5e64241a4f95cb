"""One progress bar over all jobs of a run: `snakemake --logger deqpipe`.

On a terminal a line that moves; elsewhere a line of text at every tenth of the work. Failures, with the logs of failed
jobs, and warnings are printed as Snakemake prints them, but for jobs that left early with what they had saved: to
Snakemake they have failed as well, here they get one line. All else goes to Snakemake's own log file only. A dry run
ends with one screen: what would run, and why (`dry_run`).
"""

import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import WARNING, LogRecord

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from deqpipe.machine import faults, streams
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.workflow import command_line, endings
from deqpipe.workflow.dry_run import TARGETS
from deqpipe.workflow.expected import EXPECTED
from snakemake_logger_plugin_deqpipe.dry_run import NOTHING, DryRun

# Of this workflow Snakemake imports this first, and nothing else before it reads config files.
command_line.refuse(sys.argv)

# How long a job takes, roughly and relative to the others; rules that are not named here take 1.
WEIGHTS: Mapping[str, float] = {
    "prepare_data": 2,
    "pretrain": 8,
    "train_deq": 50,
    "train_feedforward": 30,
    "select_early_state": 4,
    "clean": 3,
    "attack_grid": 22,
    "attack_pgd": 3,
    "autoattack": 6,
    "attack_top": 10,
    "attack_in_loop": 9,
    "attack_sweep": 9,
    "attack_example": 3,
    "time_training": 15,
    "time_inference": 8,
}
BAR_WIDTH = 30
MEANINGFUL_SECONDS, MEANINGFUL_SHARE = 10.0, 0.1
"""Of a run, before which what is left would be a guess: time, and where nobody has measured, work that is done."""


@dataclass(frozen=True)
class Running:
    """A job in progress."""

    rule: str
    model: str
    since: float


@dataclass
class Progress:
    """How far a run has come, from the events that Snakemake reports. Times in seconds of any clock."""

    started: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    """Jobs per rule."""
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    """How long jobs take, relative to each other; seconds, if they are `measured`."""
    measured: bool = False
    running: dict[int, Running] = field(default_factory=dict)
    taken: dict[str, list[float]] = field(default_factory=dict)
    """Per rule, how long its finished jobs took."""

    def begin(self, jobs: Mapping[str, int], *, now: float) -> None:
        """A run of so many jobs per rule starts."""
        self.counts = {rule: count for rule, count in jobs.items() if rule != "total"}
        self.started = now

    def expect(self, seconds: Mapping[str, float]) -> None:
        """How long a job of each rule takes on this machine was measured before."""
        self.weights, self.measured = seconds, True

    def start(self, job: int, *, rule: str, model: str, now: float = 0.0) -> None:
        """A job starts; again, if it is tried again."""
        self.running[job] = Running(rule, model, now)

    def fail(self, job: int) -> None:
        """A job ended without its outputs; it may be tried again."""
        self.running.pop(job, None)

    def finish(self, job: int, *, now: float = 0.0) -> None:
        """A job is done."""
        one = self.running.pop(job)
        self.taken.setdefault(one.rule, []).append(now - one.since)

    @property
    def jobs_total(self) -> int:
        """Jobs of the run."""
        return sum(self.counts.values())

    @property
    def jobs_done(self) -> int:
        """Those of them that are finished."""
        return sum(map(len, self.taken.values()))

    @property
    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        total = sum(self._weight(rule) * count for rule, count in self.counts.items())
        return self._work_done / total if total else 0.0

    @property
    def _work_done(self) -> float:
        return sum(self._weight(rule) * len(times) for rule, times in self.taken.items())

    def _weight(self, rule: str) -> float:
        return self.weights.get(rule, 1)

    def left(self, *, now: float) -> float | None:
        """Seconds that the rest will take, if it goes on as it went so far; None: nobody could say yet.

        Jobs of a rule take what its finished jobs took; of a rule that has none yet, what its weight says, in the
        scale of all that are finished. As many run at once as did so far.
        """
        elapsed, spent = now - self.started, sum(map(sum, self.taken.values()))
        begun = [(one.rule, now - one.since) for one in self.running.values()]
        busy = spent + sum(seconds for _, seconds in begun)
        if elapsed < MEANINGFUL_SECONDS or not busy:
            return None
        rest = sum(self._each(rule) * (count - len(self.taken.get(rule, ()))) for rule, count in self.counts.items())
        rest -= sum(min(seconds, self._each(rule)) for rule, seconds in begun)
        known = self.measured or spent >= MEANINGFUL_SHARE * (busy + rest)
        return max(0.0, rest) * elapsed / busy if known and spent else None

    def _each(self, rule: str) -> float:
        """Seconds that a job of a rule takes."""
        if times := self.taken.get(rule):
            return sum(times) / len(times)
        if rule in TARGETS:
            return 0.0
        done = self._work_done
        return self._weight(rule) * (sum(map(sum, self.taken.values())) / done if done else 1.0)

    def text(self, *, now: float) -> str:
        """Percentage, jobs and time; such as ` 48 %   17 of 36 jobs   2:31, about 3 min left`."""
        minutes, seconds = divmod(int(now - self.started), 60)
        clock = f"{minutes}:{seconds:02d}{_left_words(self.left(now=now)) if self.jobs_done < self.jobs_total else ''}"
        return f"{int(100 * self.fraction):3d} %   {self.jobs_done} of {self.jobs_total} jobs   {clock}"

    def line(self, *, now: float, columns: int) -> str:
        """The bar, cut to the terminal's width."""
        filled = round(self.fraction * BAR_WIDTH)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        jobs = ", ".join(" ".join(filter(None, (one.rule, one.model))) for one in self.running.values())
        return f"[{bar}] {self.text(now=now)}   {jobs}"[: columns - 1]


def _left_words(seconds: float | None) -> str:
    """How long is left, no finer than anybody could know."""
    if seconds is None:
        return ""
    if seconds < 60:
        return ", less than a minute left"
    if seconds < 100 * 60:
        return f", about {seconds / 60:.0f} min left"
    return f", about {seconds / 3600:.{0 if seconds >= 36000 else 1}f} h left"


class LogHandler(LogHandlerBase):
    """Snakemake's events as one bar (Snakemake looks for a class of this name)."""

    def __post_init__(self) -> None:
        """Draw nothing before a run starts."""
        streams.degrade()
        self.stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.moving = self.stream.isatty()
        self.began = time.time()
        self.progress, self.dry_run = Progress(), DryRun()
        self.said = self.planned = self.closed = False
        self.next_tenth = 1
        self.stopped = threading.Event()
        self.stopped.set()

    def emit(self, record: LogRecord) -> None:
        """Take notice of an event. The handler's lock is held, as always in a logging handler."""
        event = getattr(record, "event", None)
        if expected := getattr(record, EXPECTED, None):  # the Snakefile says so once
            self.progress.expect(expected)
            return
        if self.common_settings.dryrun and event == LogEvent.JOB_INFO:
            self.planned = True
            self.dry_run.add(record.__dict__["rule_name"], record.__dict__["reason"] or "")
            return
        if event == LogEvent.JOB_ERROR:
            self.progress.fail(getattr(record, "jobid", -1))
        if _must_be_seen(record) or (self.common_settings.dryrun and event == LogEvent.SHELLCMD):
            self._print(_left_early(record, since=self.began) or self.format(record))
        elif self.common_settings.dryrun:
            return
        elif event == LogEvent.RUN_INFO:
            self._begin(record.__dict__["stats"])
        elif event == LogEvent.JOB_INFO:
            details = record.__dict__
            model = dict(details["wildcards"].items()).get("model", "")
            rule = details["rule_name"]
            self.progress.start(details["jobid"], rule=rule, model=model, now=time.monotonic())
        elif event == LogEvent.JOB_FINISHED:
            self.progress.finish(record.__dict__["job_id"], now=time.monotonic())
            self._report()

    def _begin(self, jobs: Mapping[str, int]) -> None:
        self.progress.begin(jobs, now=time.monotonic())
        self.stopped.clear()
        if self.moving:
            threading.Thread(target=self._tick, daemon=True).start()
        else:
            self._print(f"{self.progress.jobs_total} jobs to run")

    def _tick(self) -> None:
        while not self.stopped.wait(1.0):
            self.acquire()
            try:
                if not self.stopped.is_set():
                    self._draw()
            finally:
                self.release()

    def _report(self) -> None:
        if self.moving:
            self._draw()
        elif self.progress.fraction * 10 >= self.next_tenth:
            self.next_tenth = int(self.progress.fraction * 10) + 1
            self._print(self.progress.text(now=time.monotonic()))

    def _draw(self) -> None:
        columns = shutil.get_terminal_size().columns
        self._write("\r\x1b[K" + self.progress.line(now=time.monotonic(), columns=columns))

    def _print(self, text: str) -> None:
        self.said = True
        drawn = self.moving and not self.stopped.is_set()
        self._write(("\r\x1b[K" if drawn else "") + text + "\n")
        if drawn:
            self._draw()

    def _write(self, text: str) -> None:
        """Print, if it can be printed: who looked at a run may leave, or their disk be full; the run goes on."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            faults.silence(self.stream)

    def close(self) -> None:
        """Leave the last state of the bar on the screen; of a dry run, what it would do."""
        if self.common_settings.dryrun and not self.closed:
            told = self.dry_run.text(columns=shutil.get_terminal_size((100, 40)).columns)
            if told or (self.planned and not self.said):  # a configuration that was refused has planned nothing
                self._print(told or NOTHING)
        self.closed = True
        if not self.stopped.is_set():
            self.stopped.set()
            if self.moving:
                self._draw()
                self._write("\n")
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """Takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Leaves Snakemake's log file alone."""
        return False

    @property
    def has_filter(self) -> bool:
        """Snakemake's own filter is right: it knows --quiet and its kin."""
        return False

    @property
    def has_formatter(self) -> bool:
        """Snakemake's own words for a failure are right; they hold the failed job's log."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """Nothing here draws the graph of rules."""
        return False


def _must_be_seen(record: LogRecord) -> bool:
    if record.getMessage().endswith(f"returned non-zero exit status {EXIT_UNFINISHED}."):
        return False  # what Snakemake has to say of a job that left early, before it says which one
    return record.levelno >= WARNING or record.getMessage() == NOTHING_TO_BE_DONE_MSG


def _left_early(record: LogRecord, *, since: float) -> str | None:
    """The line of a job that left early with what it had saved; None for every other record."""
    if getattr(record, "event", None) != LogEvent.JOB_ERROR:
        return None
    ending = endings.read(getattr(record, "log", ()), since=since)
    return f"{getattr(record, 'rule_name', 'a job')}: {ending.words}" if ending.kind is endings.Kind.EARLY else None
