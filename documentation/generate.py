"""Writes the generated files: schemas/config.schema.json, the paper's settings, and what docs/ is made of.

Run from the root of the repository:

    python -m documentation.generate            write them
    python -m documentation.generate --check    exit 1, naming the file, where one is not what would be written
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from deqpipe import config
from deqpipe.results import numbers, records
from documentation import (
    architecture,
    cluster_limits,
    cluster_times,
    columns_page,
    command_line,
    configuration_page,
    differences_page,
    paper_settings,
    readme,
    rules,
    versions_page,
)

SCHEMA = Path("schemas/config.schema.json")
RESULTS_SCHEMA = Path("schemas/results.schema.json")
CONFIGURATION = Path("docs/configuration.md")
DIFFERENCES = Path("docs/differences.md")
README = Path("README.md")
SETTINGS = Path("deqpipe/reporting/paper/settings.py")
ARCHITECTURE = Path("docs/architecture.md")
PROFILES = tuple(Path(f"profiles/{name}/profile.yaml") for name in ("slurm", "pbs", "lsf", "sge"))
RECORDS = Path("docs/records.md")
TRAINING = Path("docs/training.md")
RESULTS = Path("docs/results.md")
TIMES = Path("docs/cluster_times.md")
VERSIONS = Path("docs/versions.md")
COMMANDS = Path("docs/reference/command-line.md")
PICTURES = Path("docs")


def generate(root: Path) -> dict[Path, str]:
    """The generated files and what they should hold.

    Args:
        root: the repository.
    """
    pictures = {**rules.pictures(rules.rule_graph(root)), "rooms.svg": architecture.rooms_picture()}
    return {
        SETTINGS: paper_settings.module(root),
        SCHEMA: json.dumps(config.json_schema(), indent=2) + "\n",
        RESULTS_SCHEMA: json.dumps(numbers.json_schema(), indent=2) + "\n",
        CONFIGURATION: configuration_page.page(root),
        DIFFERENCES: differences_page.page(root),
        README: filled(_text(root / README), readme.blocks(root)),
        ARCHITECTURE: filled(_text(root / ARCHITECTURE), architecture.blocks(root)),
        **{profile: filled(_text(root / profile), {"limits": cluster_limits.block(root)}) for profile in PROFILES},
        RECORDS: filled(_text(root / RECORDS), columns_page.records_blocks()),
        TRAINING: filled(_text(root / TRAINING), columns_page.metrics_blocks()),
        RESULTS: filled(_text(root / RESULTS), columns_page.results_blocks()),
        TIMES: cluster_times.page(root),
        VERSIONS: versions_page.page(root),
        COMMANDS: command_line.page(),
        **{PICTURES / name: text for name, text in pictures.items()},
    }


def filled(page: str, blocks: Mapping[str, str]) -> str:
    """A page written by hand, with its generated blocks.

    Args:
        page: holds `<!-- name -->` and `<!-- /name -->`, each on a line of its own, around every block.
        blocks: what belongs between them, by name.

    Raises:
        ValueError: the page does not hold a block exactly once.
    """
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        parts = re.split(rf"{start}.*?{end}", page, flags=re.DOTALL)
        if len(parts) != 2:
            raise ValueError(f"the page has {len(parts) - 1} blocks {name}, but must have one")
        page = f"{start}{block}{end}".join(parts)
    return page


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the generated files, or only compare them; returns the exit status."""
    stale = {path: text for path, text in generate(Path()).items() if not path.exists() or _text(path) != text}
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path} is not current: run `make generate`", file=sys.stderr)
        return int(bool(stale))
    for path, text in stale.items():
        records.write_text(path, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
