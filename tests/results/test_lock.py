import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deqpipe.errors import UserError
from deqpipe.results.lock import hold, locked
from tests.processes import python

HOLD = """
import sys, time
from pathlib import Path
from deqpipe.results.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def entry(directory: Path) -> str:
    return (directory / "lock").read_text()


def test_lock_names_its_holder_and_is_empty_afterwards(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    with locked(state):
        assert json.loads(entry(state)) == {"host": socket.gethostname(), "pid": os.getpid()}
    assert entry(state) == ""
    with pytest.raises(RuntimeError, match="inside"), locked(state):
        raise RuntimeError("inside")
    assert entry(state) == ""


def test_second_process_waits_and_says_once_for_whom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with python(HOLD, tmp_path, 0.4) as holder, locked(tmp_path):
        # the holder emptied its entry and let go; ours stands there now
        assert json.loads(entry(tmp_path))["pid"] == os.getpid()
    message = f"waiting for process {holder.pid} on {socket.gethostname()}, which works in {tmp_path}"
    assert caplog.messages == [message]


def test_lock_of_a_killed_process_is_free_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with python(HOLD, tmp_path, 60) as holder:
        holder.kill()
        holder.wait()
        assert json.loads(entry(tmp_path))["pid"] == holder.pid
        with locked(tmp_path):
            assert json.loads(entry(tmp_path))["pid"] == os.getpid()
    assert caplog.messages == []


def test_holder_is_alone_as_long_as_its_block_lasts(tmp_path: Path) -> None:
    with locked(tmp_path):
        command = [sys.executable, "-c", HOLD, str(tmp_path), "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(0.5)
            second.kill()


def test_silent_entry_of_another_host_counts_for_three_heartbeats_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lock").write_text('{"host": "elsewhere", "pid": 7}')
    start = time.monotonic()
    with locked(tmp_path, heartbeat_seconds=0.1):
        assert 0.3 <= time.monotonic() - start < 3
    assert caplog.messages == [f"waiting for process 7 on elsewhere, which works in {tmp_path}"]


def test_living_holder_on_another_host_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text('{"host": "elsewhere", "pid": 7}')

    def live() -> None:
        for _ in range(20):
            time.sleep(0.05)
            os.utime(lock)
        lock.write_text("")

    elsewhere = threading.Thread(target=live)
    elsewhere.start()
    with locked(tmp_path, heartbeat_seconds=0.2):
        assert not elsewhere.is_alive() or entry(tmp_path)
        elsewhere.join(0.2)
        assert not elsewhere.is_alive()


def test_holder_touches_the_lock_again_and_again(tmp_path: Path) -> None:
    with locked(tmp_path, heartbeat_seconds=0.02):
        before = (tmp_path / "lock").stat().st_mtime_ns
        deadline = time.monotonic() + 5
        while (tmp_path / "lock").stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "lock").stat().st_mtime_ns > before


def test_half_written_entry_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in (b'{"host": "else', b"[1]", b"{}", b"\xff\xfe\0", b"[" * 100_000, b"1" * 5001):
        (tmp_path / "lock").write_bytes(content)
        with locked(tmp_path):
            pass
    assert caplog.messages == []


def test_folder_that_cannot_be_locked_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"folder .*file.* cannot be locked: "), locked(tmp_path / "file"):
        pass


def test_a_lock_that_waits_for_nobody_says_who_has_it(tmp_path: Path) -> None:
    with python(HOLD, tmp_path, 60) as holder:
        said = rf"^folder {tmp_path} is in use: process {holder.pid} on .* works there; wait for its end, or name"
        with pytest.raises(UserError, match=said), locked(tmp_path, waits=False):
            raise AssertionError
        holder.kill()
        holder.wait()
        with locked(tmp_path, waits=False):
            assert json.loads(entry(tmp_path))["pid"] == os.getpid()


def test_a_lock_of_another_host_that_lives_is_not_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text('{"host": "elsewhere", "pid": 7}')
    touching = threading.Timer(0.1, os.utime, [lock])
    touching.start()
    said = "is in use: process 7 on elsewhere"
    with pytest.raises(UserError, match=said), locked(tmp_path, waits=False, heartbeat_seconds=0.3):
        raise AssertionError
    touching.join()
    with locked(tmp_path, waits=False, heartbeat_seconds=0.05):
        pass


def test_what_is_held_is_held_until_the_process_ends(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from deqpipe.results import lock; lock.hold(Path(sys.argv[1]))"
    code += "; print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        with pytest.raises(UserError, match=f"in use: process {process.pid}"):
            hold(tmp_path)
        process.communicate()
    assert entry(tmp_path) == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO])
def test_an_entry_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", refuse)
        said = f"^folder {tmp_path} cannot be locked: {os.strerror(number)}: "
        with pytest.raises(UserError, match=said), locked(tmp_path):
            raise AssertionError
    with locked(tmp_path):
        pass


def test_a_network_that_is_away_does_not_end_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = threading.Semaphore(0)

    def away(*_: object) -> None:
        touched.release()
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "utime", away)
    with locked(tmp_path, heartbeat_seconds=0.01):
        assert all(touched.acquire(timeout=5) for _ in range(3))


def test_the_umask_says_who_may_lock(tmp_path: Path) -> None:
    """Everybody of a group whose folder it is."""
    before = os.umask(0o002)
    try:
        with locked(tmp_path / "state"):
            pass
    finally:
        os.umask(before)
    assert [oct(path.stat().st_mode & 0o777) for path in (tmp_path / "state", tmp_path / "state" / "lock")] == [
        "0o775",
        "0o664",
    ]


def test_lock_module_needs_no_torch() -> None:
    code = "import sys, deqpipe.results.lock; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
