"""A user's file: what it defines, and every mistake in it in one line."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from deqpipe import extending
from deqpipe.errors import UserError
from deqpipe.extending import blame, loading
from deqpipe.workflow import own, table1_columns
from tests import tiny

AVERAGE = Path(__file__).parent / "defence.py"
HEAD = "from deqpipe.extending import Defence\n"
SOURCE = (
    "from deqpipe.extending import DataSource\n"
    "x = DataSource('a', '{}', prepare=lambda: 0, train=9, test=9, size=8, classes=('b', 'c'))\n"
)

MISTAKES = (
    ("x = (\n", "line 1: '(' was never closed"),
    ("x = 1\n", "defines nothing: a value at its top level, outside lists and functions, must be one of"),
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
    (HEAD + "x = Defence('a', 'A', decide=lambda: 0)\n", "decide takes (), but is called with (logits)"),
    (HEAD + "x = Defence('a', 'A', dynamics=lambda p: p)\n", "dynamics takes (p), but is called with (undefended dyn"),
    (
        HEAD + "x = Defence('a', 'A', decide=max, models='deq_pgd_at_base')\n",
        "models is 'deq_pgd_at_base', but must be a",
    ),
    (HEAD + "x = Defence('a', 'A', decide=max, keys='entropy')\n", "keys is 'entropy', but must be a tuple of names"),
    (
        HEAD + "x = Defence('a', 'A', decide=max, evaluations='two')\n",
        "evaluations is 'two', but must be a number above",
    ),
    (
        HEAD + "x = Defence('a', 'A', decide=max)\ny = Defence('b', 'A', decide=min)\n",
        "line 3: defence b: label 'A' is that of a, ",
    ),
    (
        HEAD + "x = Defence('a', 'Sec. 3.3', decide=max)\n",
        "line 2: defence a: label 'Sec. 3.3' stands for the package's",
    ),
    (HEAD + "x = [Defence('a', 'A', decide=max)]\n", "defines nothing: a value at its top level, outside lists"),
    (
        "from deqpipe.extending import Attack\nx = Attack('a', 'ALL', craft=lambda t, x, y: x, gradients=1)\n",
        "line 2: attack a: label 'ALL' stands for the package's own",
    ),
    (
        "from deqpipe.extending import Model\nx = Model('a', 'ResNet', build=lambda s, c: None)\n",
        "line 2: model a: label 'ResNet' stands for the package's own",
    ),
    (
        "from deqpipe.extending import Model\nx = Model('resnet18', 'A', build=lambda s, c: None)\n",
        "line 2: model 'resnet18' makes model 'resnet18_trades', which the package has",
    ),
    (
        HEAD + "x = Defence('random_states', 'A', decide=max, models=('deq_pgd_at_awp',))\n",
        "line 2: defence 'random_states' makes model 'deq_pgd_at_awp_random_states', which the package has",
    ),
    (
        "from deqpipe.extending import Defence, Model\nx = Model('deq_trades_base', 'A', build=lambda s, c: None)\n"
        "y = Defence('trades', 'A', decide=max)\n",
        "line 3: defence 'trades' makes model 'deq_trades_base_trades', which model 'deq_trades_base', ",
    ),
    (SOURCE.format("Digits"), "line 2: data source a: label 'Digits' stands for images of the package's own"),
    (SOURCE.format("CIFAR 10"), "line 2: data source a: label 'CIFAR 10' stands for images of the package's own"),
    (SOURCE.format("folder mine"), "line 2: data source a: label 'folder mine' stands for images of the package's own"),
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


@pytest.mark.parametrize("column", table1_columns.EVERY)
def test_labels_that_stand_for_columns_of_table_1_are_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "mine.py"
    attack = f"Attack('a', {column!r}, craft=lambda t, x, y: x, gradients=1)"
    path.write_text(f"from deqpipe.extending import Attack\nx = {attack}\n")
    extending.activate([str(path)])
    with pytest.raises(UserError, match=r"line 2: attack a: label .* stands for the package's own"):
        own.refuse_taken([str(path)])


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


def raised(path: Path, content: str, call: str, *arguments: object) -> Exception:
    """What a function of a user's file ends with."""
    path.write_text(content)
    scope: dict[str, Any] = {}
    exec(compile(content, str(path), "exec"), scope)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        scope[call](*arguments)
    return caught.value


def test_an_exception_is_that_of_the_last_line_of_the_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    error = raised(path, "def f(x):\n    return g(x)\n\ndef g(x):\n    return x[5]\n", "f", [])
    assert blame.place(error, [str(path)]) == f"extension {path}, line 5"
    assert blame.place(error, ["another.py"]) is None
    in_library = raised(path, "import json\n\ndef f(x):\n    return json.loads(x)\n", "f", "{")
    assert blame.place(in_library, [str(path)]) == f"extension {path}, line 4"


def test_an_exception_of_the_package_that_the_file_has_called_is_not_the_users(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    content = "from deqpipe.extending import loading\n\ndef f(x):\n    return loading.load(x)\n"
    assert blame.place(raised(path, content, "f", "nowhere.py"), [str(path)]) is None
