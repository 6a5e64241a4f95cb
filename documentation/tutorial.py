"""docs/tutorial.png: what the tutorial's own lines draw of the demo's model.

Run after `make demo` (`make pictures` does): python -m documentation.tutorial
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from documentation.blocks import blocks

PAGE, PICTURE = Path("docs/tutorial.md"), Path("docs/tutorial.png")


def run(root: Path, folder: Path) -> dict[str, object]:
    """Run the Python of the tutorial; returns the names that it defined.

    Args:
        root: the repository.
        folder: where it runs: holds results/demo, and gets its picture.
    """
    matplotlib.use("Agg")
    names: dict[str, object] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for block in blocks(root / PAGE):
            if block.language == "python":
                exec(compile(block.code, str(block), "exec"), names)
    finally:
        os.chdir(before)
        plt.close("all")
    return names


def main() -> int:
    """Draw the picture anew; returns the exit status."""
    root = Path().resolve()
    with tempfile.TemporaryDirectory() as name:
        Path(name, "results").symlink_to(root / "results")
        run(root, Path(name))
        shutil.copy(Path(name, "along.png"), root / PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
