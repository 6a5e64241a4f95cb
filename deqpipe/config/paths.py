"""Where the workflow writes."""

import os

from deqpipe.config.base import Section
from deqpipe.errors import UserError


class PathVars(Section):
    """Where the workflow writes (Snakemake's path variables)."""

    results: str
    """Folder of everything that is kept: models, records, tables, figures, report."""
    logs: str
    """Folder of one log and one benchmark file per job."""
    state: str
    """Folder of what makes jobs resumable: training states and finished attack points."""


def check_folders(folders: PathVars) -> None:
    """Refuse folders that Snakemake cannot use, or that are one.

    Raises:
        UserError: names the key and its value.
    """
    for name, folder in folders.model_dump().items():
        if not folder.strip() or set(folder) & set("{}<>"):
            raise UserError(f"config: pathvars.{name} is {folder!r}, but must name a folder, without any of {{}}<>")
        if os.path.abspath(folder) == os.getcwd():  # results/config.yaml would be config.yaml itself
            raise UserError(f"config: pathvars.{name} is {folder!r}, but must not be the folder of the workflow itself")
    if len({os.path.abspath(folder) for folder in folders.model_dump().values()}) < 3:
        raise UserError("config: pathvars.results, pathvars.logs and pathvars.state must be three different folders")
