"""Targets that no rule makes, told with what was probably meant. No torch."""

import difflib
from collections.abc import Collection
from pathlib import PurePath

from deqpipe.config.paths import IN_RESULTS


def refusal(targets: Collection[str], *, rules: Collection[str], results: str) -> str | None:
    """Why a run with these targets would end on "No rule to produce"; None where it would not, as far as can be told.

    Args:
        targets: as they are typed.
        rules: names of all rules.
        results: the folder of results.
    """
    return next(
        filter(None, (_wrong(target, rules, PurePath(results)) for target in targets if target not in rules)), None
    )


def _wrong(target: str, rules: Collection[str], results: PurePath) -> str | None:
    path = PurePath(target)
    if "=" in target:
        return (
            f"{target} is taken for a target, and no rule makes it: settings are written in a file behind --configfile"
        )
    if len(path.parts) == 1 and not path.suffix:
        return f"there is no rule {target} (snakemake --list names all){_close(target, rules)}"
    if results in path.parents:
        below = path.relative_to(results)
        product = below.parts[0] in ("tables", "figures") and below.stem not in rules
        return f"no rule makes {target}: there is no {below.stem}{_close(below.stem, rules)}" if product else None
    at = next((n for n, part in enumerate(path.parts) if n and part in IN_RESULTS), None)
    if at is None:
        return None
    meant = results.joinpath(*path.parts[at:])
    return f"no rule makes {target}: the results of this configuration lie in {results}; did you mean {meant}?"


def _close(name: str, rules: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(rules), n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""
