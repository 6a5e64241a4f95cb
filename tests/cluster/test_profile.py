"""What a profile asks for, and what is no profile."""

from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_config

from deqpipe.cluster import profile
from deqpipe.errors import UserError
from deqpipe.planning.cluster import judged
from deqpipe.planning.cluster.judged import Asked
from deqpipe.workflow import dry_run
from tests import tiny


def written(folder: Path, text: str, name: str = "profile.yaml") -> Path:
    (folder / name).write_text(text)
    return folder


def test_a_profile_is_a_folder_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = written(tmp_path, "jobs: 8\nretries: 10\nset-resources:\n  clean: {runtime: 4h}\n", name="config.yaml")
    read = profile.read(folder)
    assert read == profile.read(folder / "config.yaml")
    assert (read.jobs, read.tries, read.configfiles, read.rules) == (8, 11, (), ("clean",))
    written(tmp_path, "jobs: 3\nconfigfile: [a.yaml, b.yaml]\n")
    read = profile.read(folder)  # of both files, as Snakemake does
    assert (read.path, read.jobs, read.tries) == (folder / "profile.yaml", 3, 1)
    assert (read.configfiles, read.rules) == ((Path("a.yaml"), Path("b.yaml")), ())


def test_the_workflows_own_profile_is_believed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profiles" / "default").mkdir(parents=True)
    written(tmp_path / "profiles" / "default", "retries: 2\n")
    read = profile.read(written(tmp_path, "retries: 10\njobs: unlimited\n"))
    assert (read.tries, read.jobs) == (3, None)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("jobs: [\n", r"profile .*profile\.yaml: .*while parsing a flow node"),
        ("- a\n", r"profile .*profile\.yaml: .*mapping"),
        ("retries: often\n", r"profile .*profile\.yaml: retries is 'often', but must be a whole number"),
        (
            "slurm-init-seconds-before-status-checks: x\n",
            r"profile .*: slurm-init-seconds-before-status-checks is 'x', but must be a whole number",
        ),
        ("jobs: many\n", r"profile .*profile\.yaml: jobs is 'many', but must be a whole number"),
        ("set-resources:\n  clean: 3\n", r"profile .*profile\.yaml: Invalid set-resources format"),
    ],
)
def test_a_mistake_in_a_profile_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line) as refused:
        profile.read(written(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_profile_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"there is no profile .*: a folder with profile\.yaml is meant"):
            profile.read(path)


def test_what_a_profile_sets_in_the_configuration_is_read_as_snakemake_reads_it(tmp_path: Path) -> None:
    text = "config:\n  device: cuda\n  gpu_request: 1\n  training: {batch_size: 8}\n"
    assert profile.read(written(tmp_path, text)).config == parse_config(
        ["device=cuda", "gpu_request=1", "training={'batch_size': 8}"]
    )
    assert profile.read(written(tmp_path, "jobs: 1\n")).config == {}
    with pytest.raises(UserError, match=r"profile .*: Invalid config definition"):
        _ = profile.read(written(tmp_path, "config: [device]\n")).config


def test_a_rule_that_does_not_exist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "set-resources:\n  clean: {runtime: 20}\n  attack_gird: {runtime: 20}\nset-threads: {clean: 4}\n"
    read = profile.read(written(tmp_path, text))
    assert read.rules == ("clean", "attack_gird")
    with pytest.raises(UserError, match=r"rule attack_gird, which does not exist; did you mean attack_grid\?"):
        profile.refuse_unknown(read, ("clean", "attack_grid"))
    profile.refuse_unknown(read, ("clean", "attack_gird"))


def job(resources: str) -> dry_run.PlannedJob:
    (found,) = dry_run.parse_jobs(f"rule clean:\n    output: a\n    wildcards: model=b\n    resources: {resources}\n")
    return found


def test_what_a_job_asks_for_is_read_from_a_dry_run() -> None:
    assert judged.asked(job("tmpdir=/tmp, mem_mb=16000, mem=16 GB, runtime=240, gpu=1")) == Asked(240, 16000)
    assert judged.asked(job("tmpdir=/tmp, mem_mb=<TBD>")) == Asked(None, None)
    with pytest.raises(UserError, match="rule clean: runtime is 'long', but must be a number"):
        judged.asked(job("runtime=long"))


def test_a_resource_that_snakemake_cannot_parse_is_one_line() -> None:
    printed = (
        'Building DAG of jobs...\nInputFunctionException in rule clean in file "rules/attack.smk", line 4:\nError:\n'
        "  WorkflowError:\n    Resource 'runtime' with value 'abc' could not be parsed as minutes\nWildcards:\n"
    )
    said = "Snakemake cannot plan: rule clean: Resource 'runtime' with value 'abc' could not be parsed as minutes"
    assert dry_run.complaint(printed) == said


def test_every_submitted_rule_has_its_limits_in_the_slurm_profile_and_no_other_one() -> None:
    """Which rules run where Snakemake runs, the rules say themselves."""
    rules = "\n".join(path.read_text() for path in sorted((tiny.ROOT / "rules").glob("*.smk")))
    named = {line.split()[1].rstrip(":") for line in rules.splitlines() if line.startswith("rule ")}
    snakefile = (tiny.ROOT / "Snakefile").read_text()
    local = {line.strip(" ,") for line in snakefile.partition("localrules:\n")[2].partition("\n\n")[0].splitlines()}
    targets = {"tables", "figures", "train_all", "select_all", "attack_all", "suite_all", "all"}
    asked = yaml.safe_load((tiny.ROOT / "profiles" / "slurm" / "profile.yaml").read_text())["set-resources"]
    assert asked.keys() == named - local - targets
    assert all(values.keys() >= {"runtime", "mem_mb"} for values in asked.values())
