"""What is printed where characters are lacking, and to readers that leave."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from deqpipe import cli
from deqpipe.machine import environment, streams
from snakemake_logger_plugin_deqpipe import LogHandler
from tests import workflow_files

TABLE = "57.9 \N{EN DASH} 62.5 (\N{GREEK CAPITAL LETTER DELTA} \N{MINUS SIGN}4.6) of \u732b, caf\xe9"


def terminal(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def shown(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", rb"57.9 - 62.5 (D -4.6) of \u732b, caf\xe9"),
        ("iso-8859-1", b"57.9 - 62.5 (D -4.6) of \\u732b, caf\xe9"),
        ("utf-8", TABLE.encode()),
    ],
)
def test_what_a_terminal_cannot_show_is_written_in_what_it_can(
    encoding: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, terminal(encoding))
    streams.degrade()
    print(TABLE, end="")
    print(TABLE, end="", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        assert shown(stream) == expected


def test_what_cannot_be_decoded_is_still_a_mistake() -> None:
    streams.degrade()
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", errors=streams.PLAIN)


def handler() -> LogHandler:
    return LogHandler(SimpleNamespace(stdout=True, dryrun=True), None)  # type: ignore[arg-type]  # two of its settings


def test_the_bar_shows_names_that_the_terminal_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal("ascii"))
    handler()._print("results/\N{CJK UNIFIED IDEOGRAPH-732B}")
    assert isinstance(sys.stdout, io.TextIOWrapper)
    assert shown(sys.stdout) == b"results/\\u732b\n"


def test_the_bar_outlives_who_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE, text=True) as reader:
        reader.wait()
        assert reader.stdin is not None
        monkeypatch.setattr(sys, "stdout", reader.stdin)
        bar = handler()
        for _ in range(2):
            bar._print("a line")


UNREAD = """
import argparse, os, sys
from deqpipe import cli
read, write = os.pipe()
os.dup2(write, 1)
os.close(write), os.close(read)
sys.exit(cli._run(argparse.Namespace(command=lambda options: print("x" * {length}, flush={flush}) or 0)))
"""


@pytest.mark.parametrize(("length", "flush"), [(10, True), (9_000, False), (100_000, False)])
def test_a_command_whose_reader_left_while_it_printed_ends_without_a_traceback(length: int, flush: bool) -> None:
    """Of what is longer than the buffer, nothing may be left for a later flush to fail on."""
    code = UNREAD.format(length=length, flush=flush)
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=workflow_files.ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


PRINTING = """
import sys
from deqpipe.machine import streams
streams.{how}()
print("a line", file=sys.{first}, flush=True)
sys.stdin.readline()  # the reader has gone
try:
    print("another", file=sys.{then}, flush=True)
except BrokenPipeError:
    print("goes on", file=sys.{other}, flush=True)
"""


@pytest.mark.parametrize(
    ("how", "closed", "status"),
    [
        ("leave_with_reader", "stdout", -signal.SIGPIPE),
        ("leave_with_reader_of_output", "stdout", -signal.SIGPIPE),
        ("leave_with_reader_of_output", "stderr", 0),
    ],
)
def test_a_process_that_prints_ends_in_silence_with_its_reader(how: str, closed: str, status: int) -> None:
    other = {"stdout": "stderr", "stderr": "stdout"}[closed]
    code = PRINTING.format(how=how, first=closed, then=closed, other=other)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=workflow_files.ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        pipe, kept = getattr(process, closed), getattr(process, other)
        assert pipe.readline() == "a line\n"
        pipe.close()
        setattr(process, closed, None)
        process.stdin.write("\n")
        process.stdin.close()
        assert kept.read() == ("goes on\n" if status == 0 else "")
        assert process.wait() == status


DRAWING = """
from deqpipe.machine import environment
environment.shield()
from pathlib import Path
from deqpipe.reporting.figures import plotting
with plotting.style():
    figure, axes = plotting.new()
    axes.set_title("drawn")
    plotting.save(figure, Path("figure"))
"""


def test_settings_for_other_figures_do_not_reach_ours(tmp_path: Path) -> None:
    folder = tmp_path / "of matplotlib"
    (folder / "stylelib").mkdir(parents=True)
    for name in ("matplotlibrc", "stylelib/own.mplstyle"):
        (folder / name).write_bytes(b"\xff\xfe: no setting")
    variables = {"MPLBACKEND": "module://of_a_notebook.backend", "MPLCONFIGDIR": str(folder), "PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(workflow_files.ROOT)!r}){DRAWING}"],
        env=variables, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (0, "")
    assert (tmp_path / "figure.png").is_file()


def test_the_command_line_shields_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://of_a_notebook.backend")
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert {key: os.environ[key] for key in environment.NEUTRAL} == environment.NEUTRAL
