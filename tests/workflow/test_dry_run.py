"""Which jobs a dry run of Snakemake names."""

import pytest

from deqpipe.workflow import dry_run

PRINTED = """Building DAG of jobs...
Job stats:
job             count    min threads    max threads
------------  -------  -------------  -------------
prepare_data        1              1              1
clean               2              1              1
all                 1              1              1
total               4              1              1


[Sun Nov 22 17:41:08 2026]
localrule prepare_data:
    output: results/data/dataset.safetensors
    jobid: 4
    reason: Forced execution
[Sun Nov 22 17:41:08 2026]
rule clean:
    input: results/data/dataset.safetensors, results/models/a/seed0/best.safetensors
    output: results/attacks/clean/a/seed0.parquet
    jobid: 2
    wildcards: model=a, seed=0
    priority: 40
    resources: tmpdir=/tmp
[Sun Nov 22 17:41:08 2026]
rule clean:
    input: results/data/dataset.safetensors
    output: results/attacks/clean/b/seed0.parquet
    wildcards: model=b, seed=0
[Sun Nov 22 17:41:08 2026]
localrule all:
    input: results/attacks/clean/a/seed0.parquet
Job stats:
job             count
------------  -------
"""


def test_jobs_and_their_counts_are_read_from_a_dry_run() -> None:
    assert dry_run.parse_counts(PRINTED) == {"prepare_data": 1, "clean": 2}
    prepare, first, second = dry_run.parse_jobs(PRINTED)
    assert (prepare.rule, prepare.wildcards, prepare.inputs) == ("prepare_data", {}, ())
    assert first.wildcards == {"model": "a", "seed": "0"}
    assert first.inputs == ("results/data/dataset.safetensors", "results/models/a/seed0/best.safetensors")
    assert [job.priority for job in (prepare, first, second)] == [0, 40, 0]
    assert second.outputs == ("results/attacks/clean/b/seed0.parquet",)


def test_the_jobs_of_a_group_are_jobs_as_well() -> None:
    group = "[Fri Nov 27 03:30:41 2026] Group job evaluations (jobs in lexicogr. order):\n\n"
    alone, inside = PRINTED.partition("[Sun Nov 22 17:41:08 2026]\nrule clean:")[::2]
    indented = "".join(f"    {line}\n" for line in f"[Sun]\nrule clean:{inside}".splitlines())
    assert dry_run.parse_jobs(alone + group + indented) == dry_run.parse_jobs(PRINTED)


def test_nothing_to_be_done_is_no_job() -> None:
    printed = "Building DAG of jobs...\nNothing to be done (all requested files are present and up to date).\n"
    assert dry_run.parse_counts(printed) == {}
    assert dry_run.parse_jobs(printed) == []


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        ("Building\ndeqpipe: config: unknown key a\nSystemExit in file x:\n2\n", "config: unknown key a"),
        ("Building\nMissingInputException in rule x:\n", "Snakemake cannot plan: MissingInputException in rule x:"),
        ("", "Snakemake cannot plan: it says nothing"),
    ],
)
def test_a_refusal_is_one_line(printed: str, line: str) -> None:
    assert dry_run.complaint(printed) == line
