"""Mistakes on Snakemake's command line, told before Snakemake ends on them with words that name no file.

It reads the files behind --configfile, and the settings behind --config, before any line of a workflow. What it makes
of a broken one is a traceback, or a line that does not say which file. Our logger plugin is the first of us that it
imports, at every start, and calls `refuse` then. No torch.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml

from deqpipe.config import Config, read_yaml
from deqpipe.errors import UserError, line
from deqpipe.workflow.endings import PROGRAM

_SNAKEFILES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")
_CONFIGFILE = ("--configfile", "--configfiles")
_OWN_OPTIONS = ("--mode", "--target-jobs")
"""With which Snakemake starts itself, for a job."""
_TOP_LEVEL_KEY = re.compile(r"[a-zA-Z_][\w-]*\w")
"""What Snakemake takes for the name of a setting."""
_AS_FILE = "in a file, such as my.yaml, and add it behind --configfile"


def refuse(command: Sequence[str]) -> None:
    """End with one line and exit status 2 if a command that starts this workflow cannot be meant as it stands.

    Args:
        command: of the process, its program first.
    """
    program, *arguments = command
    if not _starts_snakemake(program):
        return
    try:
        check(arguments)
    except UserError as error:
        print(f"{PROGRAM}: {line(error)}", file=sys.stderr)
        sys.exit(2)


def check(arguments: Sequence[str]) -> None:
    """Refuse config files that are not there or cannot be read, and settings that are none.

    Only what ends every Snakemake is refused, and only where it would read this workflow.

    Args:
        arguments: of Snakemake.

    Raises:
        UserError: names the file or the word.
    """
    if any(word.split("=")[0] in _OWN_OPTIONS for word in arguments) or not _is_ours(arguments):
        return
    files = _values(arguments, *_CONFIGFILE)
    for file in files:
        if not os.path.exists(file):
            raise UserError(_not_there(file, [other for other in files if os.path.exists(other)]))
        _check_folders(file, read_yaml(Path(file)).get("pathvars"))
    if sum(word.split("=")[0] in _CONFIGFILE for word in arguments) > 1:
        raise UserError(
            "--configfile is given more than once, of which Snakemake takes the last: "
            f"write --configfile {' '.join(files)}"
        )
    for entry in _values(arguments, "--config", "-C"):
        name, equals, value = entry.partition("=")
        if not equals:
            raise UserError(f"--config has {entry}, but takes name=value; a target stands before it")
        if not _TOP_LEVEL_KEY.fullmatch(name):
            raise UserError(
                f"--config has {entry}, but sets keys of the top level only: write {_nested(name, value)} {_AS_FILE}"
            )


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings of --config that Snakemake cannot hand on: in lists and sections, numbers become text.

    Args:
        settings: as Snakemake has read them.

    Raises:
        UserError: says how the setting is written in a file.
    """
    for name, value in settings.items():
        field = Config.model_fields.get(name)
        single = field is not None and get_origin(field.annotation) is tuple and not isinstance(value, list)
        meant = _retyped(value)
        if single or meant != value:
            written = _flow({name: [meant] if single else meant})
            raise UserError(f"--config makes text of numbers in lists and sections: write {written} {_AS_FILE}")


def targets(command: Sequence[str]) -> list[str]:
    """What a command asks Snakemake for; nothing where it asks for all, or is no Snakemake that a user started.

    Args:
        command: of the process, its program first.
    """
    program, *arguments = command
    if not _starts_snakemake(program) or any(word.split("=")[0] in _OWN_OPTIONS for word in arguments):
        return []
    from snakemake.cli import get_argument_parser  # a workflow that is read does not know its targets yet

    end = arguments.index("--") if "--" in arguments else len(arguments)
    asked: list[str] = get_argument_parser().parse_args(arguments[:end]).targets
    return [*asked, *arguments[end + 1 :]]


def _starts_snakemake(program: str) -> bool:
    return "snakemake" in (Path(program).name, Path(program).parent.name)  # or python -m snakemake


def _check_folders(file: str, folders: object) -> None:
    """Refuse names of folders that Snakemake, which reads them itself, would not take."""
    for name, folder in folders.items() if isinstance(folders, Mapping) else ():
        if not isinstance(folder, str):
            raise UserError(f"config file {file}: pathvars.{name} is {folder!r}, but must be text, such as 'results/x'")


def _is_ours(arguments: Sequence[str]) -> bool:
    """Whether the Snakefile is that of this workflow, wherever it was copied to."""
    named = _values(arguments, "--snakefile", "-s")
    there = [path for path in map(Path, named or _SNAKEFILES) if path.is_file()]
    common = there[0].resolve().parent / "rules" / "common.smk" if there else None
    return common is not None and common.is_file() and "from deqpipe" in common.read_text(encoding="utf-8")


def _values(arguments: Sequence[str], *options: str) -> list[str]:
    """The words behind an option, up to the next one; an option with `=` has the text behind that and no more."""
    values, within = list[str](), False
    for word in arguments:
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            within = name in options and not equals
            values += [value] if name in options and equals else []
        elif within:
            values.append(word)
    return values


def _not_there(file: str, others: Sequence[str]) -> str:
    """What to say of a word behind --configfile that is no file."""
    if "=" in file:
        name, _, value = file.partition("=")
        return f"{file} stands behind --configfile, but is no file: write {_nested(name, value)} {_AS_FILE}"
    if Path(file).suffix in (".yaml", ".yml", ".json"):
        return f"config file {file} does not exist"
    command = " ".join(["snakemake", file, *(["--configfile", *others] if others else [])])
    return f"{file} stands behind --configfile, but is no file: a target stands before it, as in {command}"


def _nested(name: str, value: str) -> str:
    """A setting as it is written in a file; dots divide sections."""
    *sections, last = name.split(".")
    field = None if sections else Config.model_fields.get(last)
    meant = _retyped(value)
    setting: Any = {last: [meant] if field is not None and get_origin(field.annotation) is tuple else meant}
    for section in reversed(sections):
        setting = {section: setting}
    return _flow(setting)


def _flow(setting: Mapping[str, Any]) -> str:
    """A setting in one line of YAML, without the braces around it."""
    text: str = yaml.safe_dump(setting, default_flow_style=True, width=10_000)
    return text.strip().removeprefix("{").removesuffix("}")


def _retyped(value: Any) -> Any:
    """Text that is a number or a switch as such, in lists and sections too."""
    if isinstance(value, Mapping):
        return {key: _retyped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_retyped(one) for one in value]
    if not isinstance(value, str):
        return value
    try:
        meant = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return meant if isinstance(meant, int | float | list) else value
