"""The revision of the code that runs: of the checkout that it lies in, or of the one that its wheel was built from."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""What holds the package: a checkout, or the folder that it was installed into."""
BUILT = Path(__file__).parents[1] / "REVISION"
"""What a wheel says; setup.py writes it, and no checkout holds it."""
_SECONDS = 5.0


def revision() -> str | None:
    """Such as 05120fb6a1, with -dirty where files were changed since; None where nobody knows.

    Git is started only where the package lies in a checkout of its own, and is not waited for longer than some seconds.
    """
    if (ROOT / ".git").exists():
        return described(ROOT)
    return BUILT.read_text(encoding="utf-8").strip() or None if BUILT.is_file() else None


def described(root: Path) -> str | None:
    """What git says of a checkout; None where it cannot be asked."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
