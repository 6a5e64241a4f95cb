"""What this machine has, found without importing torch (Snakemake reads the workflow again for every job)."""

import shutil
import subprocess
from pathlib import Path
from typing import Literal

NVIDIA_DEVICE = Path("/dev/nvidia0")


def gpus_per_job(device: Literal["auto", "cpu", "cuda"], request: Literal["auto", 0, 1] = "auto") -> int:
    """How many GPUs a job that computes asks for: 0 or 1.

    Args:
        device: where it computes; auto: on a GPU where there is one.
        request: what the user asks for instead; auto: one for a job that computes on it.
    """
    if request != "auto":
        return request
    if device == "auto":
        return int(NVIDIA_DEVICE.exists() or _nvidia_smi_lists_one())
    return int(device == "cuda")


def _nvidia_smi_lists_one() -> bool:
    # The tool alone proves nothing: it is often installed where no driver runs.
    command = shutil.which("nvidia-smi")
    return command is not None and subprocess.run([command, "-L"], capture_output=True, check=False).returncode == 0
