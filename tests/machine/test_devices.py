"""Several GPUs on one machine, shared out among jobs. The GPUs are pretended: an `nvidia-smi` that lists them."""

import fcntl
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deqpipe.cli import main
from deqpipe.errors import UserError
from deqpipe.machine import devices

JOB = "from deqpipe.machine import devices; print(devices.take('auto'), flush=True); input()"
PARENT = """
import os, subprocess, sys
from deqpipe.machine import devices
print(devices.take('auto'), flush=True)
if os.fork() == 0:
    os.execvp('sleep', ['sleep', '5']) if sys.argv[1] == 'exec' else os.read(0, 1)
input()
"""
Starter = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two GPUs, a and b, and a folder for temporary files of its own."""
    put_gpus(tmp_path, "GPU 0: H (UUID: GPU-a)", "GPU 1: H (UUID: GPU-b)")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(devices.VARIABLE, "")  # so that what `take` sets is undone
    for name in (devices.VARIABLE, "CUDA_DEVICE_ORDER", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def put_gpus(folder: Path, *lines: str) -> None:
    (folder / "nvidia-smi").write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    (folder / "nvidia-smi").chmod(0o755)


@pytest.fixture
def start() -> Iterator[Starter]:
    """Starts a job, which keeps its device until it is told to end."""
    with ExitStack() as jobs:

        def job(code: str = JOB, *arguments: str) -> subprocess.Popen[str]:
            line = [sys.executable, "-c", code, *arguments]
            process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            jobs.enter_context(process)
            jobs.callback(process.kill)
            return process

        yield job


def device_of(job: subprocess.Popen[str]) -> str:
    assert job.stdout is not None
    return job.stdout.readline().strip()


@pytest.mark.usefixtures("machine")
def test_four_jobs_at_once_on_two_gpus_are_two_on_each(start: Starter) -> None:
    jobs = [start() for _ in range(4)]  # they choose at the same time
    assert sorted(map(device_of, jobs)) == ["GPU-a", "GPU-a", "GPU-b", "GPU-b"]


def test_jobs_choose_one_after_the_other(machine: Path, start: Starter) -> None:
    with (machine / "deqpipe-gpu-choosing").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        job = start()
        assert job.stdout is not None
        assert select.select([job.stdout], [], [], 0.5) == ([], [], [])
    assert device_of(job) == "GPU-a"


@pytest.mark.usefixtures("machine")
def test_two_jobs_at_a_time_never_share_a_gpu_while_one_is_free(start: Starter) -> None:
    first, second = start(), start()
    held = {device_of(first): first, device_of(second): second}
    for ending in ("GPU-b", "GPU-a", "GPU-a", "GPU-b"):
        held[ending].communicate("\n")
        held[ending] = start()
        assert device_of(held[ending]) == ending


@pytest.mark.usefixtures("machine")
def test_a_gpu_without_jobs_is_taken_before_one_whose_first_job_has_ended(start: Starter) -> None:
    jobs = []
    for _ in range(3):  # one by one: a, b, a
        jobs.append(start())
        device_of(jobs[-1])
    for ended in jobs[:2]:
        ended.communicate("\n")
    assert device_of(start()) == "GPU-b"  # the third job is still on a


@pytest.mark.usefixtures("machine")
def test_a_job_that_is_killed_frees_its_gpu_at_once(start: Starter) -> None:
    killed, other = start(), start()
    freed = device_of(killed)
    device_of(other)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert device_of(start()) == freed


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("kind", ["fork", "exec"])
def test_a_child_that_outlives_its_job_keeps_no_gpu(start: Starter, kind: str) -> None:
    parent = start(PARENT, kind)
    freed = device_of(parent)
    device_of(start())
    parent.kill()
    parent.wait()
    assert device_of(start()) == freed


@pytest.mark.parametrize("shown", ["0", "GPU-b", "3,", "2,-1,0", "", "-1", "NoDevFiles"])
def test_where_a_scheduler_shows_one_device_or_none_nothing_is_touched(
    machine: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    monkeypatch.setenv(devices.VARIABLE, shown)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert devices.take("auto") is None
    assert os.environ[devices.VARIABLE] == shown
    assert not list(machine.glob("deqpipe-*"))


def test_on_the_cpu_and_with_one_gpu_there_is_nothing_to_choose(machine: Path) -> None:
    assert devices.take("cpu") is None
    put_gpus(machine, "GPU 0: H (UUID: GPU-a)")
    assert devices.take("cuda") is None
    assert devices.VARIABLE not in os.environ


@pytest.mark.usefixtures("machine")
def test_within_an_allocation_of_several_devices_jobs_share_out_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.VARIABLE, "2,5")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert devices.take("auto") == "2"
    assert os.environ[devices.VARIABLE] == "2"


@pytest.mark.parametrize("shown", ["0,1", "GPU-a,GPU-b"])
@pytest.mark.usefixtures("machine")
def test_a_gpu_is_the_same_whatever_it_is_called(start: Starter, monkeypatch: pytest.MonkeyPatch, shown: str) -> None:
    assert device_of(start()) == "GPU-a"
    monkeypatch.setenv(devices.VARIABLE, shown)
    assert device_of(start()) in ("1", "GPU-b")
    monkeypatch.delenv(devices.VARIABLE)
    third, fourth = start(), start()  # one on each is left
    assert sorted(map(device_of, (third, fourth))) == ["GPU-a", "GPU-b"]


@pytest.mark.parametrize("shown", ["0", "GPU-"])
def test_a_gpu_that_a_user_gave_to_a_job_is_avoided_by_others(
    machine: Path, start: Starter, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    put_gpus(machine, "GPU 0: H (UUID: GPU-a)", "GPU 1: H (UUID: OTHER-b)")
    monkeypatch.setenv(devices.VARIABLE, shown)
    given = [start() for _ in range(2)]
    assert [device_of(job) for job in given] == ["None", "None"]
    monkeypatch.delenv(devices.VARIABLE)
    assert [device_of(start()) for _ in range(2)] == ["OTHER-b", "OTHER-b"]


@pytest.mark.parametrize("wrong", ["full", "folder"])
def test_a_job_to_which_its_user_gave_a_gpu_computes_without_a_place(
    machine: Path, start: Starter, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv(devices.VARIABLE, "1")
    if wrong == "full":
        device_of(start())
        monkeypatch.setattr(devices, "PLACES", 1)
    else:
        (machine / "deqpipe-gpu-GPU-b").mkdir()
    assert devices.take("auto") is None
    assert os.environ[devices.VARIABLE] == "1"


@pytest.mark.parametrize(("order", "avoided"), [("PCI_BUS_ID", True), ("FASTEST_FIRST", False)])
def test_numbers_of_different_cards_are_known_in_the_order_of_the_bus_alone(
    machine: Path, start: Starter, monkeypatch: pytest.MonkeyPatch, order: str, avoided: bool
) -> None:
    put_gpus(machine, "GPU 0: slow (UUID: GPU-a)", "GPU 1: fast (UUID: GPU-b)")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    monkeypatch.setenv(devices.VARIABLE, "0")
    assert device_of(start()) == "None"
    monkeypatch.delenv(devices.VARIABLE)
    assert device_of(start()) == ("GPU-b" if avoided else "GPU-a")


def test_numbers_of_another_allocation_are_other_devices(
    machine: Path, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_gpus(machine)  # so that nobody knows which
    monkeypatch.setenv(devices.VARIABLE, "0,1")
    for allocation in ("7", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", allocation)
        assert device_of(start()) == "0"


def test_a_card_that_is_divided_counts_by_its_parts(machine: Path) -> None:
    put_gpus(machine, "GPU 0: A (UUID: GPU-a)", "  MIG 1g.5gb Device 0: (UUID: MIG-1)",
             "  MIG 1g.5gb Device 1: (UUID: MIG-2)", "GPU 1: A (UUID: GPU-b)")  # fmt: skip
    assert devices.visible() == ("MIG-1", "MIG-2", "GPU-b")


def test_without_the_drivers_tool_device_files_are_counted(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n")
    for name in ("nvidia3", "nvidia5", "nvidiactl", "nvidia-uvm"):  # as in a container with two of eight
        (machine / name).touch()
    monkeypatch.setattr(devices, "_DEVICE_FILES", machine)
    assert devices.visible() == ("0", "1")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_lock_files_are_open_to_every_user(machine: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        devices.take("auto")
    finally:
        os.umask(before)
    made = list(machine.glob("deqpipe-gpu-*"))
    assert len(made) == 3  # one per device, and one to choose by
    assert {stat.S_IMODE(file.stat().st_mode) for file in made} == {0o666}


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_else_lies_under_the_name_of_a_lock_is_refused_in_a_line(machine: Path, kind: str) -> None:
    path = machine / "deqpipe-gpu-GPU-b"
    target = machine / "target"
    if kind == "link":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(UserError, match=r"deqpipe-gpu-GPU-b .*: remove it, set TMPDIR"):
        devices.take("auto")
    assert not target.exists()  # nothing is made behind a link


@pytest.mark.usefixtures("machine")
def test_more_jobs_than_there_are_places_for_are_refused(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        device_of(start())
    monkeypatch.setattr(devices, "PLACES", 1)
    with pytest.raises(UserError, match="all 1 places on each of 2 GPUs are taken: start fewer jobs at once"):
        devices.take("auto")


def test_a_command_takes_its_device_before_it_begins(
    machine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "deqpipe-gpu-GPU-a").mkdir()
    assert main(["predict", "none.safetensors", "none.npz", "out.npz", "--device", "auto"]) == 2
    assert "deqpipe-gpu-GPU-a" in capsys.readouterr().err
    assert main(["predict", "none.safetensors", "none.npz", "out.npz", "--device", "cpu"]) == 2
    assert "deqpipe-gpu" not in capsys.readouterr().err
