"""The code of every stage, and of `deqpipe evaluate`, as one number each, in tests/golden/revisions.json.

Snakemake compares specs, not code: without a raised revision (deqpipe/workflow/stages.py) a change of code runs nothing
again, and a half-done evaluation would go on from pieces of the older code.
tests/test_revisions.py therefore fails when a stage's code is not the recorded one. Then either

    raise the stage's revision, if results can change, and record with `make revisions`; or
    only record, if results cannot change (a renamed variable, a faster way to the same bits).

Comments, docstrings and formatting are not part of the number.
"""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deqpipe.foreign import evaluation
from deqpipe.results import records
from deqpipe.workflow.stages import PRODUCTS, STAGES, Product, Stage

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Coded:
    """What has a revision and is no stage; attributes as of one."""

    name: str
    revision: int
    code: tuple[str, ...]


EVALUATE = Coded(
    "evaluate", evaluation.REVISION,
    (
        "attack", "build", "compute", "data", "defence", "dynamics", "evaluation.judge", "foreign", "gradient", "lazy",
        "model", "seeding", "solver", "threat_model", "workflow.defences", "workflow.gridpoints",
        "workflow.library_attacks", "workflow.suite_attacks",
    ),
)  # fmt: skip
"""The pieces of an evaluation, which are kept and gone on from; its card is made anew of them every time."""
REVISED_IN: Mapping[str, str] = {EVALUATE.name: "deqpipe/foreign/evaluation.py"}
"""Where the revision stands of what is no stage."""
VALUES: Mapping[str, Stage | Product | Coded] = {**STAGES, **PRODUCTS, EVALUATE.name: EVALUATE}
REVISIONS: Mapping[str, int] = {name: value.revision for name, value in VALUES.items()}
RECORDED = ROOT / "tests" / "golden" / "revisions.json"

Recorded = dict[str, dict[str, int | str]]


def modules(package: Path, name: str) -> list[Path]:
    """The files of a module, or of all modules of a package, in order.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = package.joinpath(*name.split("."))
    if path.is_dir():
        return sorted(path.rglob("*.py"))
    if path.with_suffix(".py").is_file():
        return [path.with_suffix(".py")]
    raise FileNotFoundError(f"a stage's code names {name}, but there is neither {path}.py nor {path}/")


def code(node: object) -> Iterator[str]:
    """Syntax in words, without positions, strings that stand alone (docstrings), and what Python versions differ in."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if value not in (None, []) and name not in ("type_comment", "kind"):
                yield name
                yield from code(value)
        yield ";"
    elif isinstance(node, list):
        for item in node:
            yield from code(item)
    else:
        yield repr(node)


@cache
def normalised(text: str) -> str:
    """The code of a module without what cannot change results."""
    return " ".join(code(ast.parse(text)))


def fingerprint(package: Path, sources: tuple[str, ...]) -> str:
    """Sixteen hexadecimal digits that stand for the code of some modules."""
    digest = hashlib.sha256()
    for name in sources:
        for path in modules(package, name):
            words = normalised(path.read_text(encoding="utf-8"))
            digest.update(f"{path.relative_to(package).as_posix()}\n{words}\n".encode())
    return digest.hexdigest()[:16]


def current(package: Path, revisions: Mapping[str, int]) -> Recorded:
    """Revision and code of every stage as they are now."""
    return {
        stage: {"revision": revisions[stage], "code": fingerprint(package, value.code)}
        for stage, value in VALUES.items()
    }


def complaints(recorded: Recorded, now: Recorded) -> list[str]:
    """What has to be done, for every stage that is not as it was recorded."""
    found = []
    for stage in sorted({*recorded, *now}):
        before, after = recorded.get(stage), now.get(stage)
        if before == after:
            continue
        if before is None or after is None or before["revision"] != after["revision"]:
            found.append(f"{stage}: the revision is new: record it with `make revisions`")
        else:
            found.append(
                f"{stage}: the code changed and the revision is still {after['revision']}: raise it in "
                f"{REVISED_IN.get(stage, 'deqpipe/workflow/stages.py')} if results can change, then record with "
                "`make revisions`; "
                "only record if they cannot"
            )
    return found


if __name__ == "__main__":
    records.write_text(RECORDED, json.dumps(current(ROOT / "deqpipe", REVISIONS), indent=2) + "\n")
