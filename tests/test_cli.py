"""The command line: what it prints, and how it answers what is wrong."""

import errno
import inspect
import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deqpipe import cli, config
from deqpipe.cli import answers
from deqpipe.cli.evaluation import EVALUATIONS, EvaluationCommand
from deqpipe.machine import faults
from deqpipe.results import header, records
from deqpipe.workflow import specs
from deqpipe.workflow.stages import STAGES
from tests import tiny
from tests.tiny import Trained

CONFIG = str(tiny.ROOT / "config.yaml")
DEMO = str(tiny.ROOT / "config" / "demo.yaml")
COMMANDS = (
    "check-config", "write-config", "spec", "prepare-data", "pretrain", "train-deq", "train-feedforward", "train-own",
    "time-training",
    "import-checkpoint", "export-checkpoint", "use-imported", "export-robustbench", "select-early-state", "clean",
    "attack-pgd", "attack-grid", "attack-point", "autoattack", "attack-top", "attack-in-loop", "attack-sweep",
    "attack-suite", "attack-transferred", "attack-radius", "attack-ensemble", "attack-own", "time-inference",
    "attack-example", "strongest", "race", "table", "figure", "report", "show-table", "compare", "predict", "plan",
    "status", "doctor", "trial", "watch", "evaluate",
)  # fmt: skip


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake is answered with, without the program's name."""
    capsys.readouterr()
    status = tiny.run(*arguments)
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert err.startswith("deqpipe")
    return err.split(": ", 1)[1]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\x1b[2Jb", r"a\r\x1b[2Jb"),
        ("a\u2028b\u202eb", r"a\u2028b\u202eb"),
        (os.fsdecode(b"a\xffb"), r"a\udcffb"),
        ("ä b", "ä b"),
    ],
)
def test_a_message_is_one_line_whatever_a_file_is_called(
    capsys: pytest.CaptureFixture[str], name: str, shown: str
) -> None:
    assert answer(capsys, "check-config", name) == f"config file {shown} does not exist\n"


def test_of_a_long_message_the_middle_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "check-config", "x/" * 50_000 + "end")
    assert told.startswith("config file x/x/x/")
    assert re.search(r"\[\d+,\d{3} characters left out\] ", told)
    assert told.endswith("x/end'\n")
    assert len(told) < 2_100


def test_specs_that_no_parser_comes_to_the_end_of_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for spec in ("[" * 100_000, '{"a": ' + "9" * 5_000 + "}"):
        told = answer(capsys, "write-config", "--spec", spec, "--output", "unused")
        assert "argument --spec: not JSON: " in told
        assert len(told) < 2_100


def training(trained: Trained, folder: Path, **changes: object) -> list[str]:
    """A `train-deq` that would work; `changes` replace the values of its options."""
    line = tiny.replace_folder(trained.trainings["deq_pgd_at_base"], folder).arguments
    for option, value in changes.items():
        line[line.index(f"--{option}") + 1] = str(value)
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run(command, "--help") == 0
    assert f"deqpipe {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", EVALUATIONS, ids=lambda command: command.name)
def test_an_evaluation_calls_a_function_that_takes_what_it_gives(command: EvaluationCommand) -> None:
    assert command.stage in STAGES
    job, *others = inspect.signature(command.function()).parameters
    assert job == "job"
    assert set(others) == set(command.gives)


def test_help_names_every_command_and_version_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run("--help") == 0
    text = capsys.readouterr().out
    assert re.findall(r"^    ([a-z-]+)\b", text, re.MULTILINE) == list(COMMANDS)
    assert tiny.run("--version") == 0
    assert capsys.readouterr().out.startswith("deqpipe ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("clean",), "the following arguments are required: --spec"),
        (("clean", "--spec", "{"), "argument --spec: not JSON"),
        (("clean", "--spec", "[]"), "argument --spec: holds a list, but must hold keys and values"),
        (("clean", "--spec", "{}"), "argument --spec: not a spec of stage clean; `deqpipe spec` prints one"),
        (("clean", "--spec", '{"stage": "clean"}'), "lacks config, model, seed, upstream"),
        (("attack-point", "--point", "state1"), "point is 'state1', but must look like state3_steps5_damping0.5"),
        (("attack-grid", "--states", "3-1"), "argument --states: '3-1' is not FIRST-LAST, such as 1-8"),
        (("attack-grid", "--images", "5"), "argument --images: '5' is not FIRST-LAST, such as 1-8"),
        (("attack-grid", "--time-budget-minutes", "0"), "'0' is not a positive number"),
        (("pretrain", "--time-budget-minutes", "nan"), "'nan' is not a number of at least 0"),
        (("pretrain", "--save-interval", "-1"), "'-1' is not a number of at least 0"),
        (("clean", "--batch-size", "0"), "'0' is not a positive whole number"),
        (("clean", "--threads", "two"), "'two' is not a positive whole number"),
        (("clean", "--device", "abacus"), "invalid choice: 'abacus'"),
        (("write-config", "--spec", "[1]"), "argument --spec: holds a list"),
        (("write-config", "--spec", "no"), "argument --spec: not JSON"),
    ],
)
def test_wrong_arguments_are_answered_with_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in answer(capsys, *arguments)


def test_a_spec_of_another_stage_or_revision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    spec = tiny.spec("clean", model="deq_trades_base")
    assert "not a spec of stage pretrain" in answer(capsys, "pretrain", "--spec", spec)
    older = specs.dumps({**json.loads(spec), "revision": 0})
    assert "spec has revision 0, but this is" in answer(capsys, "clean", "--spec", older)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"trainin": {}}, "config: unknown key trainin; did you mean training?"),
        ({"training": {"epochs": "many"}}, "config: training.epochs is 'many': input should be a valid integer"),
        ({"solver": {"steps": 0}}, "config: solver.steps is 0: input should be greater than or equal to 1"),
        ({"attack": {"grid": {"states": [9]}}}, "config: attack.grid.states has 9, but the solver has states 1 to 8"),
    ],
)
def test_a_wrong_config_is_answered_with_one_line(
    overlay: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    for command in (("check-config",), ("spec", "data")):
        assert message in answer(capsys, *command, CONFIG, tmp_path / "mine.yaml")


def test_a_missing_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.yaml does not exist" in answer(capsys, "check-config", tmp_path / "none.yaml")


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"seeds: [0] # caf\xe9")
    (tmp_path / "twice.yaml").write_text("seeds: [0]\nseeds: [1]")
    for wrong, message in (
        (tmp_path, "cannot be read"),
        (tmp_path / "latin.yaml", "latin.yaml is no text in UTF-8"),
        (tmp_path / "latin.yaml" / "mine.yaml", "mine.yaml cannot be read"),
        (tmp_path / "twice.yaml", "key seeds stands twice"),
    ):
        for command in (("check-config",), ("spec", "data")):
            assert message in answer(capsys, *command, CONFIG, wrong)


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = config.load([Path(CONFIG)]).model_dump_json()
    assert "cannot be written" in answer(capsys, "write-config", "--spec", text, "--output", tmp_path)


def test_the_configs_of_the_repository_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run("check-config", CONFIG) == 0
    assert tiny.run("check-config", CONFIG, DEMO) == 0
    assert capsys.readouterr().out.endswith("demo.yaml: valid\n")


def test_a_printed_spec_is_the_built_one(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = config.load([Path(CONFIG), Path(DEMO)])
    assert tiny.run("spec", "train_deq", CONFIG, DEMO, "--model", "deq_trades_base", "--seed", "3") == 0
    text = capsys.readouterr().out
    built = specs.build("train_deq", loaded, model="deq_trades_base", seed=3)
    assert text == specs.dumps(built) + "\n"
    assert specs.loads(text) == built


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train_deq", "--seed", "0"), "model is None, but stage train_deq needs one of deq_pgd_at_base"),
        (("train_deq", "--seed", "0", "--model", "resnet18_pgd_at"), "needs one of deq_pgd_at_base"),
        (("attack_grid", "--seed", "0", "--model", "deq_pretrain"), "needs one of deq_pgd_at_base"),
        (("pretrain", "--seed", "0", "--model", "deq_pretrain"), "stage pretrain has no model"),
        (("clean", "--model", "deq_pretrain"), "stage clean needs a seed"),
        (("fly", "--seed", "0"), "invalid choice: 'fly'"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, *options = arguments
    assert message in answer(capsys, "spec", stage, CONFIG, *options)


def test_a_written_config_reads_back(tmp_path: Path) -> None:
    loaded = config.load([Path(CONFIG), Path(DEMO)])
    assert tiny.run("write-config", "--spec", loaded.model_dump_json(), "--output", tmp_path / "c.yaml") == 0
    assert config.load([tmp_path / "c.yaml"]) == loaded


def test_prepared_data_are_the_same_file_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        line = ("prepare-data", "--spec", tiny.spec("data"), "--root", tmp_path, "--output", tmp_path / name)
        assert tiny.run(*line) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_or_damaged_inputs_are_named_and_nothing_is_written(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(trained.file("deq_pretrain", "handoff").read_bytes()[:-100])
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"something else")
    folder = tmp_path / "out"
    for option in ("data", "trunk"):
        for wrong, message in (
            ("none", "does not exist"),
            (cut, "is cut short"),
            (other, "is cut short, damaged or no"),
        ):
            assert message in answer(capsys, *training(trained, folder, **{option: wrong}))
    assert "holds something else" in answer(capsys, *training(trained, folder, data=trained.file("deq_pretrain")))
    assert not folder.exists()


def test_damaged_checkpoints_are_named_by_evaluations(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(trained.file("deq_pgd_at_base").read_bytes()[:1000])
    spec = tiny.spec("clean", model="deq_pgd_at_base")
    line = ("clean", "--spec", spec, "--data", trained.data, "--output", tmp_path / "x", "--batch-size", 4,
            "--state", tmp_path / "state")  # fmt: skip
    assert "is cut short" in answer(capsys, *line, "--checkpoint", cut)
    assert "does not exist" in answer(capsys, *line, "--checkpoint", tmp_path / "none")
    handoff = trained.file("deq_pretrain", "handoff")
    assert "holds no model: its kind is 'handoff'" in answer(capsys, *line, "--checkpoint", handoff)
    assert not (tmp_path / "x").exists()


def test_a_spec_that_lacks_a_setting_names_it(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = json.loads(tiny.spec("clean", model="deq_pgd_at_base"))
    del spec["config"]["solver"]
    line = ("clean", "--spec", json.dumps(spec), "--data", trained.data, "--output", tmp_path / "x")
    checkpoint = ("--checkpoint", trained.file("deq_pgd_at_base"), "--batch-size", "4", "--state", tmp_path / "state")
    assert "spec lacks the setting solver" in answer(capsys, *line, *checkpoint)


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(config, "load", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["check-config", CONFIG])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "memory ran out (MemoryError): it needs a machine with more, or raise the limits (ulimit -v"),
        (RuntimeError("can't start new thread"), "no more threads or processes can be started (can't start new"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "memory does not hold the libraries ("),
        (ImportError("libgomp.so: cannot open shared object file: Too many open files"), "raise the limit of this she"),
        (OSError(errno.ENOSPC, "No space left on device"), "a file, the log or the output: No space left on device: "),
        (OSError(errno.EIO, "I/O", "/somewhere"), "/somewhere: Input/output error: the disk fails, or the network"),
    ],
)
def test_failures_of_the_machine_are_answered_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    monkeypatch.setattr(config, "load", lambda *_: fail(error))
    assert message in answer(capsys, "check-config", CONFIG)


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("clean", "lower --batch-size (evaluation.batch_size of a workflow), now 7, or raise the limits"),
        ("train-deq", "the batch size of a training is part of its result, so it needs a device with more, or"),
    ],
)
def test_what_to_lower_is_said_with_its_value(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: str, advice: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(header, "opened", lambda *_: fail(MemoryError()))
    line = training(trained, tmp_path)
    if command == "clean":
        spec = ("--spec", tiny.spec("clean", model="deq_pgd_at_base"), "--checkpoint", trained.file("deq_pgd_at_base"))
        line = list(
            map(
                str,
                (
                    "clean",
                    *spec,
                    "--data",
                    trained.data,
                    "--output",
                    tmp_path / "x",
                    "--batch-size",
                    7,
                    "--state",
                    tmp_path,
                ),
            )
        )
    told = answer(capsys, *line)
    assert advice in told
    assert "lower --threads, now 1" in told


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), RuntimeError("x"), ImportError("x")])
def test_our_own_mistakes_are_not_taken_for_failures_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(config, "load", lambda *_: fail(error))
    with pytest.raises(type(error)):
        cli.main(["check-config", CONFIG])


def test_who_interrupts_a_command_gets_no_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(config, "load", lambda *_: fail(KeyboardInterrupt()))
    with caplog.at_level(logging.INFO):
        assert cli.main(["check-config", CONFIG]) == cli.INTERRUPTED
    assert caplog.messages == ["interrupted before there was anything to keep; start again to go on"]


def process(*arguments: object, **streams: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "deqpipe.cli", *map(str, arguments)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(line, cwd=tiny.ROOT, text=True, check=False, env=buffered, **streams)


def test_outputs_and_logs_on_a_full_disk_are_told_and_complained_of_once(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        found = process("check-config", CONFIG, stdout=full, stderr=subprocess.PIPE)
        assert (found.returncode, found.stderr.count("\n")) == (2, 1)
        assert found.stderr.startswith("deqpipe: what was printed cannot be written: No space left on device: free")
        found = process("check-config", "none.yaml", stdout=subprocess.PIPE, stderr=full)
        assert (found.returncode, found.stdout) == (2, "")
        written = ("write-config", "--spec", config.load([Path(CONFIG)]).model_dump_json(), "--output", tmp_path / "c")
        assert process(*written, stderr=full).returncode == 0


def test_every_try_has_a_heading_in_the_log_of_a_job_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ("write-config", "--spec", config.load([Path(CONFIG)]).model_dump_json(), "--output", tmp_path / "c")
    with (tmp_path / "log").open("a") as log:
        assert process(*written, stderr=log).returncode == 0
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        assert process(*written, stderr=log).returncode == 0
        assert process("check-config", CONFIG, stdout=subprocess.PIPE, stderr=log).returncode == 0
    first, second = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(r"---- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d on \S+", first)
    assert second.endswith(", SLURM job 7")
    assert process(*written, stderr=subprocess.PIPE).stderr == ""


def test_a_log_that_cannot_be_written_does_not_end_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w") as full:
        log = answers.Log(full)
        log.emit(logging.LogRecord("deqpipe", logging.INFO, "", 0, "a line", (), None))
        faults.silence(full)
    assert capsys.readouterr().err == ""
    answers.Log(io.StringIO()).emit(logging.LogRecord("deqpipe", logging.INFO, "", 0, "%d", ("ours",), None))
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_mistake() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    found = process("check-config", CONFIG, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (found.returncode, found.stderr) == (answers.NO_READER, "")


def test_neither_the_parser_nor_spec_import_torch_and_threads_are_settled_before() -> None:
    code = (
        "import os, sys; from deqpipe import cli; assert not {'torch', 'numpy'} & sys.modules.keys();"
        f"status = cli.main(['spec', 'pretrain', {CONFIG!r}, '--seed', '0']);"
        "assert 'torch' not in sys.modules and status == 0 and os.environ['OMP_NUM_THREADS'] == '1'"
    )
    unset = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, env=unset, check=False
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["stage"] == "pretrain"


def test_a_mistake_as_a_user_makes_it_exits_with_2() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "deqpipe.cli", "check-config", "none.yaml"], capture_output=True, text=True, check=False,
        cwd=tiny.ROOT,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "deqpipe: config file none.yaml does not exist\n"


def test_records_are_readable_without_the_command(trained: Trained, tmp_path: Path) -> None:
    spec = tiny.spec("clean", model="deq_pretrain")
    line = ("clean", "--spec", spec, "--data", trained.data, "--checkpoint", trained.file("deq_pretrain"))
    files = ("--output", tmp_path / "x.parquet", "--state", tmp_path / "state")
    assert tiny.run(*line, *files, "--batch-size", "64", "--threads", "1") == 0
    assert len(records.read(tmp_path / "x.parquet")) == tiny.TEST


@pytest.mark.parametrize("options", [("--configfile", "a", "b"), ("--configfile", "a", "--configfile", "b")])
def test_several_config_files_are_taken_as_snakemake_takes_them(options: tuple[str, ...]) -> None:
    assert cli.build_parser().parse_args(["plan", *options]).configfile == [Path("a"), Path("b")]
    assert cli.build_parser().parse_args(["plan"]).configfile == []  # nothing stays from before
