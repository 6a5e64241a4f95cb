"""The progress bar: what it says of a run."""

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake_interface_logger_plugins.common import LogEvent

from deqpipe.workflow.expected import EXPECTED
from snakemake_logger_plugin_deqpipe import WEIGHTS, LogHandler, Progress, _left_words
from snakemake_logger_plugin_deqpipe.dry_run import NOTHING, OTHER_SPEC, UPSTREAM, why


def run_of(jobs: dict[str, int]) -> Progress:
    """A run that starts at time 100."""
    progress = Progress()
    progress.begin({**jobs, "total": sum(jobs.values())}, now=100.0)
    return progress


@given(st.dictionaries(st.sampled_from([*WEIGHTS, "table1", "all"]), st.integers(1, 5), min_size=1))
def test_the_share_of_the_work_rises_from_nothing_to_all_of_it(jobs: dict[str, int]) -> None:
    progress = run_of(jobs)
    shares = [progress.fraction]
    for job, rule in enumerate(rule for rule, count in jobs.items() for _ in range(count)):
        progress.start(job, rule=rule, model="")
        progress.finish(job)
        shares.append(progress.fraction)
    assert shares == sorted(set(shares))
    assert shares[0] == 0
    assert abs(shares[-1] - 1) < 1e-9
    assert progress.running == {}


def test_a_long_job_moves_the_bar_further_than_a_short_one() -> None:
    progress = run_of({"train_deq": 1, "table1": 1})
    progress.start(1, rule="train_deq", model="deq_trades_base")
    progress.finish(1)
    assert progress.fraction > 0.9


def test_the_line_names_jobs_time_and_what_is_running() -> None:
    progress = run_of({"train_deq": 2, "clean": 1})
    progress.start(7, rule="train_deq", model="deq_trades_base")
    progress.start(8, rule="clean", model="")
    line = progress.line(now=251.0, columns=120)
    assert line.endswith("0 %   0 of 3 jobs   2:31   train_deq deq_trades_base, clean")
    assert len(progress.line(now=251.0, columns=60)) == 59


def minutes(progress: Progress, *, done: int, of: str, each: float, begin: int = 0) -> float:
    """The clock after some jobs of a rule, one after the other."""
    now = 100.0 + begin
    for job in range(done):
        progress.start(job, rule=of, model="", now=now)
        now += each
        progress.finish(job, now=now)
    return now


def test_what_is_left_takes_as_long_as_jobs_of_its_rule_took() -> None:
    progress = run_of({"train_deq": 6, "all": 1})
    now = minutes(progress, done=2, of="train_deq", each=90.0)
    assert progress.left(now=now) == pytest.approx(4 * 90)
    assert progress.text(now=now).endswith("2 of 7 jobs   3:00, about 6 min left")


def test_a_rule_that_has_not_run_yet_is_reckoned_in_the_scale_of_those_that_have() -> None:
    progress = run_of({"train_deq": 1, "attack_grid": 2})
    now = minutes(progress, done=1, of="train_deq", each=2 * WEIGHTS["train_deq"])
    assert progress.left(now=now) == pytest.approx(2 * 2 * WEIGHTS["attack_grid"])


def test_what_a_running_job_has_behind_it_is_not_left_and_one_that_overruns_owes_nothing() -> None:
    progress = run_of({"train_deq": 2})
    now = minutes(progress, done=1, of="train_deq", each=100.0)
    progress.start(7, rule="train_deq", model="", now=now)
    assert progress.left(now=now + 40) == pytest.approx(60)
    assert progress.left(now=now + 140) == 0


def test_jobs_that_ran_side_by_side_will_do_so_again() -> None:
    progress = run_of({"train_deq": 4})
    for job in (0, 1):
        progress.start(job, rule="train_deq", model="", now=100.0)
    for job in (0, 1):
        progress.finish(job, now=200.0)
    assert progress.left(now=200.0) == pytest.approx(100)


def test_nothing_is_said_of_what_is_left_before_it_means_something() -> None:
    progress = run_of({"prepare_data": 1, "train_deq": 6})
    now = minutes(progress, done=1, of="prepare_data", each=20.0)
    assert progress.left(now=now) is None  # hardly anything is done
    progress.expect({"prepare_data": 20.0, "train_deq": 60.0})
    assert progress.left(now=now) == pytest.approx(360)  # but of this, it was measured before
    assert progress.left(now=105.0) is None


def test_a_run_at_its_end_has_nothing_left() -> None:
    progress = run_of({"train_deq": 2})
    now = minutes(progress, done=2, of="train_deq", each=90.0)
    assert progress.text(now=now).endswith("2 of 2 jobs   3:00")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (20, ", less than a minute left"), (350, ", about 6 min left"), (9000, ", about 2.5 h left"),
     (90000, ", about 25 h left")],
)  # fmt: skip
def test_what_is_left_is_said_no_finer_than_anybody_could_know(seconds: float | None, words: str) -> None:
    assert _left_words(seconds) == words


def test_the_snakefile_tells_the_bar_what_was_measured(tmp_path: Path) -> None:
    handler = LogHandler(SimpleNamespace(stdout=False, dryrun=False), None)  # type: ignore[arg-type]
    handler.stream = io.StringIO()
    logger = logging.Logger("of a run")
    logger.addHandler(handler)
    logger.info("Times are known", extra={EXPECTED: {"train_deq": 60.0}})
    assert (handler.progress.measured, handler.progress.weights) == (True, {"train_deq": 60.0})
    assert handler.stream.getvalue() == ""


def test_a_job_that_is_tried_again_counts_once() -> None:
    progress = run_of({"train_deq": 1})
    for _ in range(2):
        progress.start(1, rule="train_deq", model="deq_trades_base")
    progress.finish(1)
    assert (progress.jobs_done, progress.fraction) == (1, 1.0)


def test_a_job_that_failed_is_not_running_any_more() -> None:
    progress = run_of({"train_deq": 1})
    progress.start(1, rule="train_deq", model="deq_trades_base")
    progress.fail(1)
    progress.fail(1)
    assert (progress.running, progress.jobs_done) == ({}, 0)


@pytest.mark.parametrize(
    ("last", "status", "printed"),
    [
        (
            "12:00:00 SIGTERM: saved at step 2 of 3; start again to go on",
            75,
            "train_deq: SIGTERM: saved at step 2 of 3\n",
        ),
        ("deqpipe: data x is gone", 2, "command returned non-zero exit status 2.\nError in rule train_deq\n"),
    ],
)
def test_a_job_that_left_early_gets_a_line_and_one_that_failed_what_snakemake_says(
    last: str, status: int, printed: str, tmp_path: Path
) -> None:
    handler = LogHandler(SimpleNamespace(stdout=False, dryrun=False), None)  # type: ignore[arg-type]
    handler.stream, log = io.StringIO(), tmp_path / "job.log"
    log.write_text(f"{last}\n")
    logger = logging.Logger("of a run")
    logger.addHandler(handler)
    logger.error("command returned non-zero exit status %d.", status)
    of_job = {"event": LogEvent.JOB_ERROR, "jobid": 1, "rule_name": "train_deq", "log": [str(log)]}
    logger.error("Error in rule train_deq", extra=of_job)
    assert handler.stream.getvalue() == printed


def test_the_bar_is_full_only_when_all_is_done() -> None:
    progress = run_of({"train_deq": 5, "all": 1})
    for job in range(5):
        progress.start(job, rule="train_deq", model="")
        progress.finish(job)
    assert " 99 %" in progress.text(now=100.0)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Missing output files: a; Input files updated by another job: b", "not there yet"),
        ("Updated input files: state/demo/made-by-another-spec", OTHER_SPEC),
        ("Input files updated by another job: a", UPSTREAM),
        ("Forced execution", "asked for with --force"),
        ("Software environment definition has changed since last execution", "Software environment definition has "
         "changed since last execution"),
    ],
)  # fmt: skip
def test_snakemakes_reasons_are_told_in_the_words_of_this_workflow(reason: str, told: str) -> None:
    assert why(reason) == told


def test_a_dry_run_ends_with_one_screen_of_what_runs_and_why() -> None:
    handler = LogHandler(SimpleNamespace(stdout=True, dryrun=True), None)  # type: ignore[arg-type]
    handler.stream = io.StringIO()
    logger = logging.Logger("of a dry run", level=logging.INFO)
    logger.addHandler(handler)
    logger.info("Building DAG of jobs...")
    tables = [(f"table{number}", "Input files updated by another job: x") for number in (2, 10, 8, 9)]
    rules = [*[("train_deq", "Missing output files: x")] * 6, *tables, ("all", "Missing output files: x")]
    for rule, reason in rules:
        logger.info("rule", extra={"event": LogEvent.JOB_INFO, "rule_name": rule, "reason": reason})
    handler.close()
    first, *lines = handler.stream.getvalue().splitlines()
    assert first == "10 jobs would run:"
    assert lines[:2] == ["- not there yet: 6 train_deq", "- made of what runs before them: tables 2, 8 to 10"]
    assert lines[2].startswith("This was a dry run")


@pytest.mark.parametrize(
    ("planned", "said", "printed"),
    [(True, "", NOTHING), (True, "MissingRuleException", "MissingRuleException"), (False, "", "")],
)
def test_a_dry_run_of_nothing_says_so_unless_something_else_was_said_or_it_was_refused(
    planned: bool, said: str, printed: str
) -> None:
    handler = LogHandler(SimpleNamespace(stdout=True, dryrun=True), None)  # type: ignore[arg-type]
    handler.stream = io.StringIO()
    if planned:
        target = {"event": LogEvent.JOB_INFO, "rule_name": "all", "reason": ""}
        handler.emit(logging.makeLogRecord({"msg": "rule", "levelno": logging.INFO, **target}))
    if said:
        handler.emit(logging.makeLogRecord({"msg": said, "levelno": logging.ERROR}))
    handler.close()
    handler.close()
    assert handler.stream.getvalue().strip() == printed
