"""Failures of the machine in words, and what is none of its."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from deqpipe.errors import UserError
from deqpipe.machine import faults


def answer(number: int, path: Path) -> str:
    """What is said when a system refuses to write a file."""

    def refuse() -> None:
        with faults.written(path):
            raise OSError(number, "whatever a library says")

    with pytest.raises(UserError) as error:
        refuse()
    return str(error.value)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "No space left on device: free some there"),
        (errno.EDQUOT, "free some of your quota there"),
        (errno.EFBIG, "File too large: .*ulimit -f"),
        (errno.EROFS, "Read-only file system: name another folder"),
        (errno.EMFILE, "Too many open files: .*ulimit -n"),
        (errno.ESTALE, "Stale file handle: its network file system does not answer"),
        (errno.EIO, "Input/output error: the disk fails"),
        (errno.EACCES, "Permission denied: .* is .*'s, with permissions drwx"),
    ],
)
def test_what_a_disk_refuses_is_said_with_what_to_do(tmp_path: Path, number: int, advice: str) -> None:
    told = answer(number, tmp_path / "new" / "a.txt")
    assert told.startswith(f"{tmp_path / 'new' / 'a.txt'} cannot be written: ")
    assert re.search(advice, told), told
    assert faults.is_of_files(OSError(number, ""))


def test_files_that_are_missing_are_no_failure_of_a_disk() -> None:
    for number in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EBADF):
        assert not faults.is_of_files(OSError(number, os.strerror(number)))
    assert faults.as_of_files(FileNotFoundError(errno.ENOENT, "x")) is None
    assert faults.as_of_files(RuntimeError("x")) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40 bytes. Error code 12"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_is_known_by_its_words(error: Exception) -> None:
    assert faults.is_out_of_memory(error)


def test_other_errors_are_not_taken_for_memory() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ImportError("No module"), KeyError("a")):
        assert not faults.is_out_of_memory(error)
    assert faults.is_out_of_threads(RuntimeError("can't start new thread"))
    assert faults.is_out_of_threads(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    assert not faults.is_out_of_threads(RuntimeError("something else"))


def test_where_the_limit_is_reached_libraries_fail_with_any_words(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("could not create a primitive")
    for allowed, reached in ((None, False), (2**60, False), (2**20, True)):
        monkeypatch.setattr(faults, "address_space", lambda allowed=allowed: allowed)
        assert faults.is_out_of_memory(error) == reached
        assert not faults.is_out_of_memory(KeyError("ours"))
    assert faults.limit() == ", of which ulimit -v allows 1,024 kB"


def test_a_folder_of_somebody_else_is_refused_with_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults.refuse_unwritable(tmp_path / "new" / "folder")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=rf"^folder {tmp_path}/new cannot be written: .*{tmp_path} is .*; a group that"):
        faults.refuse_unwritable(tmp_path / "new")
