"""`deqpipe plan --profile`: what is said, and the exit status."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from deqpipe import cli, config
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.planning import cost, estimate, printed, sources
from deqpipe.planning.cluster import judged, memory, needs
from deqpipe.planning.cluster.judged import Asked
from deqpipe.planning.cluster.limits import Longest
from deqpipe.planning.cluster.needs import Need
from deqpipe.workflow import dry_run
from deqpipe.workflow.dry_run import PlannedJob
from tests import tiny

NEED = Need("attack_grid", 44, Longest(1000.0, 10.0, 1.0), 40_000.0, "one point x 960 images", 9000)


def verdict(
    need: Need = NEED, *, runtime: float | None = 240, mem_mb: float | None = 9000, tries: int = 11
) -> list[str]:
    (found,) = judged.judged([need], {need.rule: Asked(runtime, mem_mb)}, tries=tries)
    return [*found.objections(), *found.remarks()]


def test_what_is_asked_for_in_time_and_tries_is_no_objection() -> None:
    assert verdict() == []
    assert verdict(runtime=None, mem_mb=None, tries=1) == []


def test_too_few_tries_are_an_objection() -> None:
    assert verdict(tries=4) == [
        "attack_grid: its longest job needs 5 tries of 240 minutes, but has 4: set retries to 12"
    ]


def test_a_unit_above_a_quarter_of_the_runtime_is_an_objection() -> None:
    assert verdict(runtime=39, tries=1000) == [
        "attack_grid: one point x 960 images takes 10 minutes and is kept whole or not at all, but may take 10, a "
        "quarter of the runtime: ask for 40 minutes, or lower attack.images_per_job"
    ]
    never = verdict(runtime=15, tries=1000)
    assert never[1] == "attack_grid: no try of 15 minutes comes to keep anything"


def test_too_little_memory_is_a_remark() -> None:
    assert verdict(mem_mb=8000) == [
        "attack_grid: asks for 8,000 MB of memory, but may need up to 9,000 (an upper estimate)"
    ]


@cache
def jobs() -> tuple[PlannedJob, ...]:
    """A job of some rules, and what stands around them."""
    first = {job.rule: job for job in reversed(needs.submitted(full()))}
    return (*(first[rule] for rule in RULES), PlannedJob("report", {}, (), ("report",)))


@cache
def full() -> Config:
    return config.load([tiny.ROOT / "config.yaml"])


def planned(
    monkeypatch: pytest.MonkeyPatch, folder: Path, text: str, resources: Mapping[str, str], *options: str
) -> int:
    """The exit status of a plan whose dry run asks for these resources."""
    made = [PlannedJob(job.rule, job.wildcards, (), (job.rule,), resources=resources) for job in jobs()]
    monkeypatch.chdir(tiny.ROOT)
    monkeypatch.setattr(dry_run, "jobs", lambda *given, **named: made)
    monkeypatch.setattr(dry_run, "rules", lambda: ("clean",))
    (folder / "profile.yaml").write_text(text)
    return cli.main(["plan", "--profile", str(folder), *options])


RULES = ("pretrain", "train_deq", "clean", "attack_in_loop", "attack_example")
ASKED = {"runtime": "240", "mem_mb": "32000", "gpu": "1"}


def test_a_profile_that_carries_all_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(monkeypatch, tmp_path, "jobs: 8\nretries: 400\n", ASKED, "--speeds", "paper") == 0
    said = capsys.readouterr().out
    assert "at the paper's speeds (an RTX 3090, Tables 9 and 10): 8 jobs at once, 401 tries" in " ".join(said.split())
    assert said.endswith("Every job comes to its end.\n")
    rows = {line.split()[0]: line for line in said.splitlines() if " min " in line and line[0].isalpha()}
    assert rows.keys() == set(RULES)
    heads = [(line.find("longest"), line.find("in sum")) for line in said.splitlines() if "longest  " in line]
    below = next(line for line in said.splitlines() if line.startswith("rule "))
    assert below.split()[2:4] == ["bound", "expected"]
    assert [below.index(word) + len(word) for word in ("bound", "expected")] == [heads[0][0] + 7, heads[0][1] + 6]
    assert re.search(r"^train_deq +1 +\S+ \w+ +\S+ \w+ +240 min +32 GB +\d+ +401 +\S+ min$", said, re.MULTILINE)


def test_a_profile_that_does_not_carry_all_says_which_and_why_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(monkeypatch, tmp_path, "jobs: 1\nretries: 2\n", ASKED, "--speeds", "paper") == 1
    said = capsys.readouterr().out
    assert "Would not come to its end:" in said
    assert "train_deq: its longest job needs" in said
    assert "clean:" not in said.partition("Would not")[2]


def test_speeds_are_those_of_one_gpu_unless_others_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned(monkeypatch, tmp_path, "retries: 20\n", ASKED)
    said = " ".join(capsys.readouterr().out.split())
    assert "one H100's speed: fp32" in said
    assert "any number of jobs at once" in said


def test_what_is_submitted_together_is_told_with_the_sum_of_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "retries: 20\ngroups: {clean: few, attack_example: few}\ngroup-components: {few: 3}\n"
    planned(monkeypatch, tmp_path, text, ASKED)
    said = " ".join(capsys.readouterr().out.split())
    assert "clean and attack_example: up to 2 share a submission of up to 480 minutes, if they run one after" in said


def test_what_a_profile_sets_in_the_configuration_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned(monkeypatch, tmp_path, "retries: 20\nconfig: {precision: tf32}\n", ASKED)
    assert "one H100's speed: tf32" in " ".join(capsys.readouterr().out.split())
    assert planned(monkeypatch, tmp_path, "config: {precision: tf23}\n", ASKED) == 2
    assert "precision is 'tf23'" in capsys.readouterr().err


@pytest.mark.parametrize("named", [True, False])
def test_overlays_take_the_place_of_those_that_a_profile_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, named: bool
) -> None:
    (tmp_path / "other.yaml").write_text("precision: tf32\n")
    (tmp_path / "mine.yaml").write_text("evaluation: {batch_size: 100}\n")
    options = ["--configfile", str(tmp_path / "mine.yaml")] if named else []
    planned(monkeypatch, tmp_path, "retries: 20\nconfigfile: other.yaml\n", ASKED, *options)
    assert ("speed: fp32" if named else "speed: tf32") in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_this_machine_is_measured_as_the_profile_has_it_though_it_has_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    seen: list[tuple[str, str]] = []

    def measure(files: Sequence[Path], *, cores: int, device: str) -> printed.Measured:
        seen.append((config.load(files).precision, device))
        raise UserError("measured")

    monkeypatch.setattr(estimate, "measure", measure)
    text = f"config: {{precision: tf32, device: {device}}}\n"
    assert planned(monkeypatch, tmp_path, text, ASKED, "--speeds", "here") == 2
    assert seen == [("tf32", "auto" if device == "cuda" else "cpu")]
    assert capsys.readouterr().err == "deqpipe: measured\n"


@pytest.mark.parametrize(
    ("text", "resources", "line"),
    [
        ("set-resources: {claen: {runtime: 3}}\n", ASKED, "rule claen, which does not exist; did you mean clean?"),
        ("retries: 3\n", {"runtime": "soon"}, "runtime is 'soon', but must be a number"),
        ("retries: x\n", ASKED, "retries is 'x'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    resources: Mapping[str, str],
    line: str,
) -> None:
    assert planned(monkeypatch, tmp_path, text, resources) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_speeds_belong_to_a_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--speeds", "paper"]) == 2
    assert capsys.readouterr().err == "deqpipe: --speeds is for --profile; without one, speeds are measured here\n"


def test_submitted_jobs_are_those_of_the_workflow() -> None:
    from tests.workflow.test_plan import FULL

    found: dict[str, int] = {}
    for job in needs.submitted(full()):
        found[job.rule] = found.get(job.rule, 0) + 1
    assert found == {rule: count for rule, count in FULL.items() if cost.uses_device(rule)} | {"attack_point": 1}


def test_memory_grows_with_what_a_job_holds() -> None:
    settings, images = full(), sources.images_of(full())
    grid = {"model": "deq_trades_base", "seed": "0"}

    def held(shard: str, *, on_gpu: bool = True) -> dict[str, float]:
        return memory.parts_mb("attack_grid", grid | {"shard": shard}, settings, images, on_gpu=on_gpu)

    small, large = held("states1-8_images0-95"), held("states1-8_images0-959")
    assert large["clean states"] == pytest.approx(2 * 960 * 9 * 61_440 * 4 / 1e6)  # of both defences
    assert large["clean states"] == pytest.approx(10 * small["clean states"])
    assert large["records"] == pytest.approx(10 * small["records"])
    assert held("states1-8_images0-959", on_gpu=False)["images at once"] == pytest.approx(
        40 * cost.batch_size(settings)
    )
    assert held("states1-8_images0-959")["images at once"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("speed", ["paper", "rates"])
def test_the_slurm_profile_carries_the_whole_reproduction(speed: str) -> None:
    """In a process of its own: there the many small sums are not watched by the tests' checks of types."""
    line = [sys.executable, "-m", "deqpipe.cli", "plan", "--profile", "profiles/slurm", "--speeds", speed]
    done = subprocess.run(line, cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Every job comes to its end.\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("executor: slurm\njobs: 2\nset-resources: {clean: {runtime: abc}}\n", "Resource 'runtime' with value 'abc'"),
        ("executor: slurm\njobs: 2\nset-resources: {claen: {runtime: 20}}\n", "claen, which does not exist"),
        ("executor: slrum\n", "argument --executor/-e: invalid choice: 'slrum'"),
    ],
)
def test_what_snakemake_refuses_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, line: str
) -> None:
    monkeypatch.chdir(tiny.ROOT)
    (tmp_path / "profile.yaml").write_text(text)
    assert cli.main(["plan", "--profile", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
