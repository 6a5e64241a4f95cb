"""When jobs run, and which chain of them bounds the run."""

import random

import pytest

from deqpipe.planning import schedule
from deqpipe.workflow import dry_run


def job(rule: str, output: str, *inputs: str) -> dry_run.PlannedJob:
    return dry_run.PlannedJob(rule, {}, inputs, (output,))


JOBS = [
    job("prepare_data", "data"), job("clean", "a", "data"), job("clean", "b", "data"),
    job("time_training", "t", "data"), job("table1", "table", "a", "b"),
]  # fmt: skip
SECONDS = [1.0, 10.0, 10.0, 5.0, 2.0]


def machine(cores: int, *, one_device: bool = False) -> schedule.Machine:
    return schedule.Machine(cores, one_device)


def test_jobs_wait_for_files_cores_and_a_machine_of_their_own() -> None:
    for cores, one_device, seconds in ((1, False, 28), (4, False, 18), (4, True, 28)):
        assert schedule.run(JOBS, SECONDS, machine(cores, one_device=one_device)).seconds == seconds
    assert schedule.run([], [], machine(4)).seconds == 0
    assert schedule.run([], [], machine(4)).critical == ()


def test_the_chain_that_bounds_a_run_goes_by_files_and_by_room() -> None:
    assert schedule.run(JOBS, SECONDS, machine(1)).critical == (0, 1, 2, 3, 4)
    wide = schedule.run(JOBS, [1.0, 10.0, 12.0, 5.0, 2.0], machine(4))
    assert wide.critical == (0, 2, 3, 4), (
        "the second clean is the longer one; timing waits for it, the table for timing"
    )
    assert [wide.slots[number].start for number in wide.critical] == [0, 1, 13, 18]


def test_of_the_jobs_that_could_start_the_most_urgent_does() -> None:
    late, urgent = dry_run.PlannedJob("clean", {}, (), ("a",), 10), dry_run.PlannedJob("clean", {}, (), ("b",), 90)
    second = dry_run.PlannedJob("clean", {}, (), ("c",), 90)
    found = schedule.run([late, urgent, second], [1.0, 2.0, 4.0], machine(1))
    assert [found.slots[number].start for number in range(3)] == [6, 0, 2]
    assert found.critical == (1, 2, 0)


def test_files_alone_bound_a_run_on_any_machine() -> None:
    found = schedule.unbounded(JOBS, [1.0, 10.0, 12.0, 5.0, 2.0])
    assert found.critical == (0, 2, 4)
    assert found.seconds == 15
    assert schedule.unbounded([], []).critical == ()


@pytest.mark.parametrize("seed", range(20))
def test_the_jobs_of_the_chain_follow_each_other_without_a_gap(seed: int) -> None:
    draw = random.Random(seed)
    rules = ("clean", "table1", "time_training", "train_deq")
    jobs = [
        job(draw.choice(rules), str(number), *(str(draw.randrange(number)) for _ in range(min(number, 2))))
        for number in range(25)
    ]
    seconds = [draw.randint(1, 9) for _ in jobs]
    free = schedule.unbounded(jobs, seconds)
    for cores, one_device in ((1, False), (3, False), (3, True)):
        found = schedule.run(jobs, seconds, machine(cores, one_device=one_device))
        assert sum(seconds[number] for number in found.critical) == found.seconds >= free.seconds
    assert sum(seconds[number] for number in free.critical) == free.seconds
