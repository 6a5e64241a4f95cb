"""A user's file: what it defines, and every mistake in it in one line."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from deqpipe import extending
from deqpipe.errors import UserError
from deqpipe.extending import loading
from tests import tiny

AVERAGE = Path(__file__).parent / "defence.py"
HEAD = "from deqpipe.extending import Defence\n"

MISTAKES = (
    ("x = (\n", "line 1: '(' was never closed"),
    ("x = 1\n", "defines nothing: a value at its top level must be one of"),
    (HEAD + "\n1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
    (HEAD + "import missing_library\n", "line 2: ModuleNotFoundError: No module named 'missing_library'"),
    (HEAD + "\ndef f():\n    raise KeyError('k')\n\nf()\n", "line 4: KeyError: 'k'"),
    (HEAD + "x = Defence('a')\n", "line 2: TypeError: Defence.__init__() missing 1 required positional argument"),
    (HEAD + "x = Defence('a', 'A')\n", "line 2: defence a: has neither dynamics nor decide"),
    (HEAD + "x = Defence('a b', 'A', decide=max)\n", "line 2: defence name is 'a b', but must be lower-case letters"),
    (HEAD + "x = Defence('a', '', decide=max)\n", "line 2: defence a: label is '', but must be a line of text"),
    (HEAD + "x = Defence('a', 'A', decide=3)\n", "line 2: defence a: decide is 3, but must be a function"),
    (HEAD + "x = Defence('a', 'A', decide=max, evaluations=0)\n", "line 2: defence a: evaluations is 0, but must"),
    (HEAD + "x = Defence('entropy', 'A', decide=max)\n", "line 2: defence 'entropy' is taken by the package"),
    (HEAD + "x = Defence('a', 'A', decide=max)\ny = Defence('a', 'B', decide=min)\n", "line 3: defence 'a' is defined"),
    (
        HEAD + "x = Defence('a', 'A', decide=max, models=('deq',))\n",
        "line 2: models has 'deq', but may have deq_pgd_at",
    ),
    (HEAD + "raise SystemExit(3)\n", "line 2: SystemExit: 3"),
)


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each file is refused with, by a process in which nobody else looks at types."""
    folder = tmp_path_factory.mktemp("mistakes")
    for number, (content, _) in enumerate(MISTAKES):
        (folder / f"mine{number}.py").write_text(content)
    script = """
        import pathlib
        import sys
        from deqpipe import config
        from deqpipe.errors import UserError
        for path in sys.argv[1:]:
            raw = config.read_yaml(pathlib.Path("config.yaml")) | {"extensions": [path]}
            try:
                config.parse(raw)
                print("taken")
            except UserError as error:
                print(error)
    """
    paths = [str(folder / f"mine{number}.py") for number in range(len(MISTAKES))]
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *paths],
        capture_output=True,
        text=True,
        cwd=tiny.ROOT,
        check=True,
    )
    return ran.stdout.splitlines()


def test_a_mistake_in_a_file_is_one_line_with_file_and_line(refusals: list[str]) -> None:
    assert len(refusals) == len(MISTAKES), refusals
    for number, (told, (content, expected)) in enumerate(zip(refusals, MISTAKES, strict=True)):
        assert f"mine{number}.py" in told, content
        assert told.startswith("extension "), content
        assert expected in told, content


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"extension nowhere/mine\.py does not exist"):
        tiny.settings({"extensions": ["nowhere/mine.py"]})


def test_what_two_files_define_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "copy.py"
    copy.write_bytes(AVERAGE.read_bytes())
    with pytest.raises(
        UserError, match=rf"extension {copy}, line \d+: defence 'average' is taken by .*defence.py, line"
    ):
        tiny.settings({"extensions": [str(AVERAGE), str(copy)]})


def test_pieces_are_known_with_their_lines() -> None:
    loaded = loading.load(str(AVERAGE))
    (piece,) = loaded.pieces
    line = AVERAGE.read_text().split("\n")[loaded.lines["defence", "average"] - 1]
    assert piece.name == "average"
    assert line.startswith("AVERAGE = ")


def test_a_changed_file_is_loaded_again_and_refused_by_jobs_that_were_planned_before(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(AVERAGE.read_bytes())
    (before,) = extending.activate([str(path)])
    extending.expect({str(path): before.digest})
    path.write_text(AVERAGE.read_text().replace("mean of 3 states", "mean of 4 states"))
    with pytest.raises(UserError, match="has changed since this job was planned: start the workflow again"):
        extending.expect({str(path): before.digest})
    found = extending.find(extending.Defence, "average")
    assert found is not None
    assert found.label == "mean of 4 states"


def test_of_two_configurations_in_a_process_the_later_ones_piece_has_the_name(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(AVERAGE.read_text().replace("mean of 3 states", "another"))
    for path, label in ((AVERAGE, "mean of 3 states"), (mine, "another"), (AVERAGE, "mean of 3 states")):
        tiny.settings({"extensions": [str(path)]})
        found = extending.find(extending.Defence, "average")
        assert found is not None
        assert found.label == label
