"""The workflow as a module of another one."""

import pytest

from tests.sampling import one_in
from tests.workflow.conftest import DEMO, Workspace, job_counts

OTHER = """\
configfile: "config.yaml"


module deqpipe:
    snakefile:
        "Snakefile"
    config:
        config
{more}

use rule * from deqpipe{names}
"""


def other(workspace: Workspace, *, more: str = "", names: str = "") -> tuple[str, ...]:
    (workspace.folder / "other.smk").write_text(OTHER.format(more=more, names=names), encoding="utf-8")
    return ("--snakefile", "other.smk", "--dry-run", "results/demo/tables/table2.csv", *DEMO)


@pytest.mark.parametrize("names", one_in(2, ["", " as deqpipe_*"], first=1))
def test_a_module_runs_the_jobs_of_the_workflow(workspace: Workspace, names: str) -> None:
    alone = workspace.plan("results/demo/tables/table2.csv", *DEMO)
    found = workspace.run(*other(workspace, names=names))
    assert found.returncode == 0, found.stderr
    start = names.removeprefix(" as ").removesuffix("*")
    assert job_counts(found.stdout) == {f"{start}{rule}": count for rule, count in alone.items()}


@pytest.mark.parametrize(
    ("more", "named"),
    one_in(
        2,
        [
            ('    prefix:\n        "sub"\n', "pathvars: {results: sub/results, logs: sub/logs, state: sub/state}"),
            ('    replace_prefix:\n        {"results/": "sub/"}\n', "pathvars: {results: FOLDER/results,"),
        ],
    ),
)
def test_a_prefix_which_commands_would_not_know_is_refused(workspace: Workspace, more: str, named: str) -> None:
    found = workspace.run(*other(workspace, more=more))
    assert found.returncode == 2
    (told,) = [line for line in found.stderr.splitlines() if line.startswith("deqpipe: ")]
    assert told.startswith("deqpipe: a module of this workflow takes no prefix; write")
    assert named in told
    assert not (workspace.folder / "results").exists()
