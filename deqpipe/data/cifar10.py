"""CIFAR-10 from its archive, which is believed only if it is the one whose checksum torchvision knows.

So is every file unpacked from it, before it is unpickled: pickles of somebody else, which may run code, are not read.
"""

from http.client import HTTPException
from pathlib import Path

import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from deqpipe.data.dataset import Split
from deqpipe.errors import UserError
from deqpipe.machine import faults
from deqpipe.results import records
from deqpipe.results.lock import locked
from deqpipe.results.regular import size_of

_BYTES = 170_498_071
"""Of the archive."""
_ADVICE = "delete it, and it is downloaded again"


def read(root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training images, test images and names of the classes, in the order of the files.

    Args:
        root: folder of the archive or of what it held; what is missing there is downloaded or unpacked.

    Raises:
        UserError: an archive lies there that is damaged; or none does, and it cannot be downloaded; or the folder
            cannot be read or written.
    """
    raw = _unpacked(root)
    if raw is None:
        with locked(root):  # one process at a time: it would unpack over what another one reads
            raw = _unpacked(root) or _fetched(root)
    train, test = raw
    return _split(train), _split(test), tuple(train.classes)


def _unpacked(root: Path) -> tuple[CIFAR10, CIFAR10] | None:
    """What lies in a folder; None where a file is missing, cut short or another one."""
    try:
        return CIFAR10(str(root), train=True), CIFAR10(str(root), train=False)
    except RuntimeError as error:
        if "not found or corrupted" not in str(error):
            raise
        return None
    except OSError as error:
        raise UserError(f"CIFAR-10 in {root} cannot be read: {faults.words(error, root)}") from None


def _fetched(root: Path) -> tuple[CIFAR10, CIFAR10]:
    archive = root / CIFAR10.filename
    size = size_of(archive, what="archive")
    if size is None:
        _download(archive)
    elif not check_integrity(archive, CIFAR10.tgz_md5):
        raise UserError(
            f"archive {archive} is damaged, or is not CIFAR-10's: it has {size:,} of {_BYTES:,} bytes"
            f"{_beginning(archive)}, and another checksum; {_ADVICE}"
        )
    with faults.written(root / CIFAR10.base_folder):
        extract_archive(archive, root)
    raw = _unpacked(root)
    if raw is None:
        raise UserError(f"what was unpacked into {root} is not what {archive} holds: somebody else writes there")
    return raw


def _beginning(archive: Path) -> str:
    with archive.open("rb") as file:
        start = file.read(20)
    return "" if start.startswith(b"\x1f\x8b") else f", begins with {start!r} as no archive does"


def _download(archive: Path) -> None:
    """Download the archive, whole or not at all."""
    with records.atomic(archive) as temporary:
        try:
            download_url(CIFAR10.url, str(temporary.parent), temporary.name, CIFAR10.tgz_md5)
        except (OSError, HTTPException, RuntimeError) as error:
            if _of_the_disk(error):
                raise
            raise UserError(
                f"CIFAR-10 is not in {archive.parent} and cannot be downloaded ({_reason(error, temporary)}); "
                f"put {archive.name} into {archive.parent}, or use data.source: folder; {faults.MAY_PASS}"
            ) from None


def _of_the_disk(error: Exception) -> bool:
    """Whether it is no matter of the network."""
    of_network = (ConnectionError, TimeoutError)
    return isinstance(error, OSError) and not isinstance(error, of_network) and faults.is_of_files(error)


def _reason(error: Exception, downloaded: Path) -> str:
    if isinstance(error, RuntimeError) and downloaded.exists():  # of torchvision, on another checksum
        return f"what {CIFAR10.url} sends is not the archive: {downloaded.stat().st_size:,} of {_BYTES:,} bytes"
    return " ".join(str(error).split())


def _split(raw: CIFAR10) -> Split:
    images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(raw.targets, dtype=torch.int64))
