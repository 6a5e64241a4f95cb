"""How many threads of the CPU a command computes with. No torch.

Left to themselves, the libraries take every core. Images here are small and models are, too: threads then wait for each
other far longer than they compute, and longer still where several commands share the cores.
"""

import os

VARIABLE = "OMP_NUM_THREADS"
"""What torch and the libraries for linear algebra read, once: when they are loaded."""


def settle(asked: int | None) -> None:
    """Tell the libraries that this process and its children will load; what the user has set stands.

    Args:
        asked: threads of the command; None: it computes nothing that several would be any faster with.
    """
    os.environ.setdefault(VARIABLE, str(asked or 1))


def usual() -> int:
    """Threads of a command that is not told how many: what the user has set for all, otherwise one."""
    told = os.environ.get(VARIABLE, "").partition(",")[0].strip()  # further numbers are for threads of threads
    return int(told) if told.isdecimal() and int(told) > 0 else 1
