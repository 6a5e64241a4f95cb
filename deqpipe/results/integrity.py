"""What keeps a decayed file from being believed: digests that files carry of their own content, and refusals. No torch.

A digest is SHA-256, of the algorithms in hashlib the fastest on processors that have instructions for it (45 MB in
35 ms; BLAKE2b takes 63), and it stands among the metadata of each format.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deqpipe.errors import DamagedFileError, UserError
from deqpipe.machine import faults

KEY = "digest"
"""Under which a file's metadata hold its digest."""
ADVICE = "delete it, and it is computed again"
_logger = logging.getLogger(__name__)


def sealed(content: Mapping[str, Any], *, beside: object = None) -> dict[str, Any]:
    """JSON values with their digest among them.

    Args:
        content: keys and values, in their own order.
        beside: what else the digest is of.
    """
    assert KEY not in content
    return {**content, KEY: _digest(json.loads(json.dumps(content)), beside)}


def unsealed(content: Mapping[str, Any], where: str, *, beside: object = None) -> dict[str, Any]:
    """The values that `sealed` was given.

    Args:
        content: as it was read.
        where: the file, in words that a message can begin with.
        beside: as in `sealed`.

    Raises:
        DamagedFileError: they are not those values.
        UserError: they carry no digest.
    """
    values = dict(content)
    told = values.pop(KEY, None)
    if told is None:
        raise without_digest(where)
    if told != _digest(values, beside):
        raise damaged(where)
    return values


def _digest(values: object, beside: object) -> str:
    return hashlib.sha256(json.dumps([values, beside], sort_keys=True).encode()).hexdigest()


def parsed(text: str | bytes, where: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        DamagedFileError: it is no JSON, no text at all, or nested too deep to be ours.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise DamagedFileError(f"{where} is not JSON: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise DamagedFileError(f"{where} is not JSON of deqpipe: it is nested too deep") from None


def damaged(where: str) -> DamagedFileError:
    """The refusal of a file whose content is not what its digest says."""
    return DamagedFileError(f"{where} is damaged: its content is not what its digest says; {ADVICE}")


def without_digest(where: str) -> UserError:
    """The refusal of a file that says nothing of its content: believed, it would be believed when decayed, too."""
    return UserError(f"{where} carries no digest, so an older version of deqpipe wrote it; {ADVICE}")


def set_aside(path: Path, why: object) -> None:
    """Give a file of a job's own state another name, so that what it held is computed again; say so in the log.

    Args:
        path: of the file.
        why: the refusal.

    Raises:
        UserError: its folder cannot be written to.
    """
    aside = path.with_name(f"{path.name}.damaged")
    with faults.written(path, done="set aside"):
        path.replace(aside)
    _logger.warning("%s; it is now called %s, and what it held is computed again", why, aside.name)
