"""One progress bar over all jobs of a run: `snakemake --logger deqpipe`.

On a terminal a line that moves; elsewhere a line of text at every tenth of the work. Failures, with the logs of failed
jobs, and warnings are printed as Snakemake prints them, but for jobs that left early with what they had saved: to
Snakemake they have failed as well, here they get one line. All else goes to Snakemake's own log file only.
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

from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.workflow import endings

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


@dataclass
class Progress:
    """How far a run has come, from the events that Snakemake reports."""

    started: float = 0.0
    jobs_total: int = 0
    jobs_done: int = 0
    work_total: float = 0.0
    work_done: float = 0.0
    running: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Rule and model of each job in progress."""

    def begin(self, jobs: Mapping[str, int], *, now: float) -> None:
        """A run of so many jobs per rule starts."""
        counts = {rule: count for rule, count in jobs.items() if rule != "total"}
        self.started = now
        self.jobs_total = sum(counts.values())
        self.work_total = sum(WEIGHTS.get(rule, 1) * count for rule, count in counts.items())

    def start(self, job: int, *, rule: str, model: str) -> None:
        """A job starts; again, if it is tried again."""
        self.running[job] = (rule, model)

    def fail(self, job: int) -> None:
        """A job ended without its outputs; it may be tried again."""
        self.running.pop(job, None)

    def finish(self, job: int) -> None:
        """A job is done."""
        rule, _ = self.running.pop(job)
        self.jobs_done += 1
        self.work_done += WEIGHTS.get(rule, 1)

    @property
    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return self.work_done / self.work_total if self.work_total else 0.0

    def text(self, *, now: float) -> str:
        """Percentage, jobs and time; such as ` 48 %   17 of 36 jobs   2:31`."""
        minutes, seconds = divmod(int(now - self.started), 60)
        return f"{int(100 * self.fraction):3d} %   {self.jobs_done} of {self.jobs_total} jobs   {minutes}:{seconds:02d}"

    def line(self, *, now: float, columns: int) -> str:
        """The bar, cut to the terminal's width."""
        filled = round(self.fraction * BAR_WIDTH)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        jobs = ", ".join(" ".join(filter(None, names)) for names in self.running.values())
        return f"[{bar}] {self.text(now=now)}   {jobs}"[: columns - 1]


class LogHandler(LogHandlerBase):
    """Snakemake's events as one bar (Snakemake looks for a class of this name)."""

    def __post_init__(self) -> None:
        """Draw nothing before a run starts."""
        self.stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.moving = self.stream.isatty()
        self.began = time.time()
        self.progress = Progress()
        self.next_tenth = 1
        self.stopped = threading.Event()
        self.stopped.set()

    def emit(self, record: LogRecord) -> None:
        """Take notice of an event. The handler's lock is held, as always in a logging handler."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_ERROR:
            self.progress.fail(getattr(record, "jobid", -1))
        if self.common_settings.dryrun or _must_be_seen(record):
            self._print(_left_early(record, since=self.began) or self.format(record))
        elif event == LogEvent.RUN_INFO:
            self._begin(record.__dict__["stats"])
        elif event == LogEvent.JOB_INFO:
            details = record.__dict__
            model = dict(details["wildcards"].items()).get("model", "")
            self.progress.start(details["jobid"], rule=details["rule_name"], model=model)
        elif event == LogEvent.JOB_FINISHED:
            self.progress.finish(record.__dict__["job_id"])
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
        self.stream.write("\r\x1b[K" + self.progress.line(now=time.monotonic(), columns=columns))
        self.stream.flush()

    def _print(self, text: str) -> None:
        drawn = self.moving and not self.stopped.is_set()
        self.stream.write(("\r\x1b[K" if drawn else "") + text + "\n")
        self.stream.flush()
        if drawn:
            self._draw()

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if not self.stopped.is_set():
            self.stopped.set()
            if self.moving:
                self._draw()
                self.stream.write("\n")
                self.stream.flush()
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
