"""Images read and split."""

import argparse
from pathlib import Path
from typing import Any

from deqpipe.cli.arguments import add, add_job, add_paths


def register(commands: Any) -> None:
    """Add prepare-data."""
    parser = add(commands, "prepare-data", _prepare_data, "Read the images and split them.")
    add_job(parser, "data")
    add_paths(parser, "output")
    parser.add_argument("--root", type=Path, help="folder of the images; needed by all sources but digits")


def _prepare_data(options: argparse.Namespace) -> int:
    from deqpipe import data
    from deqpipe.results.provenance import provenance
    from deqpipe.settings import Settings

    settings = Settings(options.spec["config"])
    dataset = data.prepare(settings["data.source"], options.root, validation=settings["data.validation"])
    # No seconds: images prepared again must be the same file, or everything after them would run again.
    data.save(options.output, dataset, provenance=provenance(options.spec, device="CPU", inputs={}, seconds=0.0))
    return 0
