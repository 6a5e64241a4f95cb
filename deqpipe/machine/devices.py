"""Several GPUs on one machine: each job takes the one with fewest jobs, by a lock that ends with it. No torch.

Snakemake counts GPUs but hands out no numbers, and CUDA takes the first one that it sees. So a command takes its device
before CUDA looks for any, by a lock on a byte of a file in the folder for temporary files: the file is the device's,
the byte one of the places on it. The system lets go of such a lock however its process ends, and no child inherits it.
Processes choose one after the other, so that no device gets a second job while another has none.

A device's file is named by its UUID, whatever CUDA_VISIBLE_DEVICES calls it. Its numbers count in the order of the
driver's tool for sure only with CUDA_DEVICE_ORDER=PCI_BUS_ID; by default CUDA counts the fastest first, and we take it
that cards of one model stay in that order. Where cards differ or are divided (MIG), and where there is no such tool,
we do not know which card a number is: such a file is named by the number, unknown to jobs that call the card otherwise.

A job that its user gives one device takes a place there, so that others avoid it, and computes if there is none. Where
a scheduler gives it one, or the machine has no other, nothing is locked.
"""

import fcntl
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from deqpipe.errors import UserError
from deqpipe.machine import faults

VARIABLE = "CUDA_VISIBLE_DEVICES"
"""The devices that CUDA shows a process, by numbers or names."""
PLACES = 64
"""Jobs on one device at most."""
_ORDER = "CUDA_DEVICE_ORDER"
_DEVICE_FILES = Path("/dev")
_ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
"""Where schedulers say which job of theirs this is; a second one may mean other devices by the same numbers."""
_PREFIX = "deqpipe-gpu-"
_LISTING_SECONDS = 30.0
_CHOOSING_SECONDS = 60.0
_TAKEN = (BlockingIOError, PermissionError)  # EAGAIN or EACCES, as the system likes
_logger = logging.getLogger(__name__)


def take(name: Literal["auto", "cpu", "cuda"]) -> str | None:
    """Take a device for the rest of this process, where there are several, and show CUDA no other.

    Args:
        name: of the configuration. Before CUDA has looked for devices: later it does not look again.

    Returns:
        Its number or name, as CUDA_VISIBLE_DEVICES or the driver's tool has it; None: there was nothing to choose.

    Raises:
        UserError: the folder for temporary files cannot be used for locks, or all places are taken.
    """
    devices = () if name == "cpu" else visible()
    if len(devices) < 2:
        if devices and VARIABLE in os.environ and not _allocation():
            with suppress(UserError):  # it is no choice of ours: others avoid it if they can
                _first_free(devices)
        return None
    chosen = _first_free(devices)
    os.environ[VARIABLE] = chosen
    _logger.info("computing on GPU %s, one of %d here (%s)", chosen, len(devices), VARIABLE)
    return chosen


def visible() -> tuple[str, ...]:
    """The devices that CUDA would show this process, each by what CUDA_VISIBLE_DEVICES calls it alone."""
    shown = os.environ.get(VARIABLE)
    if shown is not None:
        return _named(shown)
    return _listed() or tuple(map(str, range(len(_device_files()))))


def _named(shown: str) -> tuple[str, ...]:
    """The entries of CUDA_VISIBLE_DEVICES: like CUDA, up to the first that names none."""
    found: list[str] = []
    for entry in map(str.strip, shown.split(",")):
        if not entry or entry.startswith("-") or entry in found:
            break
        found.append(entry)
    return tuple(found)


@dataclass(frozen=True)
class _Card:
    """A card as the driver's tool lists it.

    Attributes:
        model: its name.
        uuid: of the card.
        parts: UUIDs of what it is divided into (MIG).
    """

    model: str
    uuid: str
    parts: tuple[str, ...] = ()


def _listed() -> tuple[str, ...]:
    """The devices by their UUIDs; of a card that is divided, its parts."""
    return tuple(uuid for card in _cards() for uuid in (card.parts or (card.uuid,)))


def _cards() -> list[_Card]:
    """What the driver's tool lists, in the order of the bus; none: it is not there, or fails."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        told = subprocess.run([command, "-L"], capture_output=True, text=True, check=False, timeout=_LISTING_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    cards: list[_Card] = []
    lines = re.findall(r"^( *)(?:GPU \d+: )?(\S.*?) *\(UUID: ([\w./-]+)\)", told.stdout, re.MULTILINE)
    for part, model, uuid in lines:
        if part and cards:
            cards[-1] = replace(cards[-1], parts=(*cards[-1].parts, uuid))
        else:
            cards.append(_Card(model, uuid))
    return cards


def _identities(devices: Sequence[str]) -> list[str]:
    """What the files of devices are named by: UUIDs, where it is sure which ones are meant."""
    if VARIABLE not in os.environ:
        return list(devices)
    cards = _cards()
    if all(map(str.isdecimal, devices)):
        numbers = [int(device) for device in devices]
        if max(numbers) < len(cards) and _counted_as_listed(cards):
            return [cards[number].uuid for number in numbers]
        return [_allocation() + device for device in devices]
    uuids = [uuid for card in cards for uuid in (card.parts or (card.uuid,))]
    return [_whole(device, uuids) for device in devices]


def _counted_as_listed(cards: Sequence[_Card]) -> bool:
    """Whether the numbers of CUDA_VISIBLE_DEVICES count these cards in their order."""
    alike = os.environ.get(_ORDER) == "PCI_BUS_ID" or len({card.model for card in cards}) == 1
    return alike and not any(card.parts for card in cards)


def _whole(begun: str, uuids: Sequence[str]) -> str:
    """The UUID that begins so, as CUDA takes it where only one does."""
    meant = [uuid for uuid in uuids if uuid.startswith(begun)]
    return meant[0] if len(meant) == 1 else begun


def _device_files() -> list[Path]:
    return [path for path in _DEVICE_FILES.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdecimal()]


def _first_free(devices: Sequence[str]) -> str:
    """Lock a place on the device that has fewest taken, until this process ends; of several such, on the first."""
    folder = _folder()
    with faults.written(folder, what="folder", done="locked"):
        choosing = _opened(folder, "choosing")
        try:
            _wait(choosing, folder)
            files = [_opened(folder, quote(identity, safe="")) for identity in _identities(devices)]
            free = [[place for place in range(PLACES) if _lock(file, place, keep=False)] for file in files]
            at = max(range(len(devices)), key=lambda i: (len(free[i]), -i))
            if not free[at]:
                raise UserError(
                    f"all {PLACES} places on each of {len(devices)} GPUs are taken: start fewer jobs at once"
                )
            _lock(files[at], free[at][0], keep=True)
            for other in files[:at] + files[at + 1 :]:
                os.close(other)
        finally:
            os.close(choosing)
    return devices[at]


def _folder() -> Path:
    """The folder for temporary files, the same for all jobs of a machine unless TMPDIR says otherwise."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(f"{error.strerror}: set TMPDIR to a folder, or {VARIABLE} to the device to use") from None


def _allocation() -> str:
    """What the numbers of CUDA_VISIBLE_DEVICES are numbers of: a scheduler's job, or this machine (empty)."""
    jobs = [os.environ[name] for name in _ALLOCATIONS if os.environ.get(name)]
    return "".join(f"{job}-" for job in jobs[:1])


def _opened(folder: Path, name: str) -> int:
    """A file that every user of this machine may lock, made if it is missing; what else has its name is refused.

    An existing one is opened without O_CREAT, which Linux refuses for files of others in such a folder.
    """
    path = folder / f"{_PREFIX}{name}"
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        file = os.open(path, flags)
    except FileNotFoundError:
        file = _made(path, flags)
    except OSError as error:
        raise _unusable(path, error.strerror or "cannot be opened") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise _unusable(path, "is no regular file")
    with suppress(OSError):
        os.utime(file)  # what nobody touches for days is cleared away from such a folder
    return file


def _made(path: Path, flags: int) -> int:
    before = os.umask(0)  # open to all at once, whatever this user's files usually are
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # another job made it just now
        return os.open(path, flags)
    finally:
        os.umask(before)


def _unusable(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} {why}, but jobs share GPUs out by a lock on it: remove it, set TMPDIR to another folder, or "
        f"{VARIABLE} to the device to use"
    )


def _wait(choosing: int, folder: Path) -> None:
    """Be the only one that chooses, until the file is closed."""
    ends = time.monotonic() + _CHOOSING_SECONDS
    while not _lock(choosing, 0, keep=True):
        if time.monotonic() > ends:
            raise _unusable(folder / f"{_PREFIX}choosing", f"was locked by another process for {_CHOOSING_SECONDS:g} s")
        time.sleep(0.02)


def _lock(file: int, place: int, *, keep: bool) -> bool:
    """Whether a place is free; with `keep` it is ours then."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except _TAKEN:
        return False
    if not keep:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)
    return True
