import os
import signal
import time

import pytest
import torch
from torch import Tensor

from deqpipe.compute.evaluations import Counter
from deqpipe.errors import UserError
from deqpipe.machine import stopping
from deqpipe.machine.stopping import EXIT_UNFINISHED, Interrupted, StopRequest
from tests.processes import python

WORK = """
import sys, time
from deqpipe.machine.stopping import EXIT_UNFINISHED, StopRequest
with StopRequest(budget_minutes=float(sys.argv[1])) as stop:
    print("working", flush=True)
    while not stop.should_stop():
        time.sleep(0.01)
print(stop.reason, flush=True)
sys.exit(EXIT_UNFINISHED)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_lets_the_process_finish_its_step_and_leave(number: signal.Signals) -> None:
    with python(WORK, 60) as process:
        process.send_signal(number)
        output, error = process.communicate(timeout=10)
    assert (output, error, process.returncode) == (f"{number.name}\n", "", EXIT_UNFINISHED)


def test_used_up_budget_is_a_reason_to_stop() -> None:
    with python(WORK, 0.001) as process:
        output, error = process.communicate(timeout=10)
    assert (output, error, process.returncode) == ("time budget of 0.001 minutes\n", "", 75)


def test_handlers_of_before_are_given_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with StopRequest() as stop:
        assert not stop.should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # a second signal changes nothing
        assert stop.should_stop()
    assert {number: signal.getsignal(number) for number in before} == before
    with pytest.raises(RuntimeError, match="inside"), StopRequest():
        raise RuntimeError("inside")
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_hangup_that_somebody_ignores_is_ignored() -> None:
    """As for what `nohup` has started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.should_stop()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_budget_runs_from_construction_and_must_be_positive() -> None:
    stop = StopRequest(budget_minutes=0.2 / 60)
    assert not stop.should_stop()
    time.sleep(0.25)
    with stop:
        assert stop.should_stop()
    for budget in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=r"time budget is .* minutes, but must be positive"):
            StopRequest(budget_minutes=budget)


def test_work_is_left_where_it_asks_and_only_within_the_block_that_says_so() -> None:
    done: list[int] = []
    with StopRequest() as stop:
        stopping.check()
        with pytest.raises(Interrupted, match="SIGTERM"), stop.interruptible():  # noqa: PT012
            for number in range(5):
                stopping.check()
                done.append(number)
                if number == 2:
                    signal.raise_signal(signal.SIGTERM)
        stopping.check()  # what is done behind the block, such as saving, is not left
    assert done == [0, 1, 2]


def test_a_budget_that_ends_within_work_is_a_reason_to_leave_it() -> None:
    with StopRequest(budget_minutes=0.05 / 60) as stop, stop.interruptible():
        stopping.check()
        time.sleep(0.06)
        with pytest.raises(Interrupted, match="time budget of"):
            stopping.check()


@pytest.mark.parametrize("backward", [False, True])
def test_an_evaluation_of_f_is_where_work_is_left_forward_and_backward(backward: bool) -> None:
    counter, z = Counter(), torch.ones(3, 2, requires_grad=True)

    def f() -> Tensor:
        value = 2 * z
        counter.count(value)
        return value

    with StopRequest() as stop, stop.interruptible():
        value = f() if backward else z
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Interrupted, match="SIGHUP"):
            value.sum().backward() if backward else f()
    assert z.grad is None
    assert counter.counted.backward_input == 0


def test_nobody_takes_leaving_for_a_failure() -> None:
    """What tries again after an error, such as with fewer images, must not go on."""
    assert not issubclass(Interrupted, Exception)


def test_short_work_keeps_nothing_and_gives_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"), stopping.keeping_nothing():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        stopping.check()
    assert signal.getsignal(signal.SIGTERM) == before
