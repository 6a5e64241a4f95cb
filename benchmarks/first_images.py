"""A part of an image folder: the first images of every class, by name.

python -m benchmarks.first_images SOURCE TARGET --train 800 --test 200

SOURCE and TARGET hold train/<class>/* and test/<class>/* (data.source: folder). What is in TARGET already is kept.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy, and say how many there are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--train", type=int, required=True, help="images of each class")
    parser.add_argument("--test", type=int, required=True, help="images of each class")
    options = parser.parse_args(arguments)
    for split, count in (("train", options.train), ("test", options.test)):
        print(f"{copy(options.source / split, options.target / split, count)} images in {options.target / split}")
    return 0


def copy(source: Path, target: Path, count: int) -> int:
    """Copy the first `count` images of each class of a split; how many that were."""
    copied = 0
    for folder in sorted(entry for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        (target / folder.name).mkdir(parents=True, exist_ok=True)
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))[:count]
        for file in files:
            shutil.copyfile(file, target / folder.name / file.name)
        copied += len(files)
    return copied


if __name__ == "__main__":
    raise SystemExit(main())
