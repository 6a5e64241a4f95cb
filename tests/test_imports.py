"""What commands import: the start of a job is mostly imports, and some packages import ten others behind one's back."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from deqpipe.config import Config
from deqpipe.workflow import vocabulary
from tests import tiny
from tests.evaluation import commands
from tests.reporting import fabricate
from tests.sampling import one_in
from tests.tiny import Trained

# torch._dynamo: the compiler of torch, which torch.optim and torchvision import, with sympy and what else it needs.
COMPILER = ("torch._dynamo", "torch._inductor", "sympy", "triton")
DRAWING = ("matplotlib",)
FOREIGN = ("pandas", "sklearn", "scipy", "torchvision", "pyautoattack")
FILES = ("pyarrow", "jinja2", "PIL")
FORBIDDEN = {
    "configuration": ("torch", *FILES, *DRAWING, *FOREIGN),
    "tables": ("torch", "PIL", *DRAWING, *FOREIGN),
    "figures": ("torch", *FOREIGN),
    "data": (*COMPILER, *DRAWING, *FOREIGN, *FILES),
    "training": (*COMPILER, *DRAWING, *FOREIGN, *FILES),
    "evaluation": (*COMPILER, *DRAWING, *FOREIGN, "jinja2", "PIL"),
}
"""Packages that no command of a group imports."""

REPORT_IMPORTS = "import sys; from deqpipe import cli; cli.main({!r}); print('imported', *sys.modules)"


def imported(arguments: Sequence[object]) -> set[str]:
    """The modules that a command has imported when it is done, in a process of its own."""
    script = REPORT_IMPORTS.format([str(argument) for argument in arguments])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tiny.ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def check(group: str, arguments: Sequence[object]) -> None:
    """Fails on a command that imports what its group must not."""
    found = imported(arguments)
    assert not sorted(found & set(FORBIDDEN[group])), f"deqpipe {arguments[0]} imports what it does not need"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check-config", "config.yaml", "config/demo.yaml"),
        ("spec", "train_deq", "config.yaml", "--model", "deq_trades_base", "--seed", "0"),
    ],
)
def test_configuration_and_specs_need_no_torch(arguments: tuple[str, ...]) -> None:
    check("configuration", arguments)


def test_the_command_line_alone_needs_no_torch() -> None:
    script = "import sys, deqpipe.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not sorted(set(done.stdout.split()) & set(FORBIDDEN["configuration"]))


@pytest.fixture(scope="module")
def config() -> Config:
    return fabricate.small()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """A fabricated results tree with its configuration."""
    results = fabricate.tree(tmp_path_factory.mktemp("imports") / "results", config)
    (results / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return results


def test_tables_need_neither_torch_nor_matplotlib_nor_pandas(results: Path, tmp_path: Path) -> None:
    files = ("--config", results / "config.yaml", "--results", results)
    check("tables", ("table", 1, *files, "--output-stem", tmp_path / "table"))


def test_rankings_need_what_tables_need(results: Path, config: Config, tmp_path: Path) -> None:
    text = json.dumps(config.model_dump(mode="json"))
    options = ("--model", "deq_trades_base", "--seed", 0, "--configuration", text)
    check("tables", ("strongest", *options, "--results", results, "--output", tmp_path / "strongest.json"))


@pytest.mark.slow
def test_figures_need_no_torch(results: Path, tmp_path: Path) -> None:
    files = ("--config", results / "config.yaml", "--results", results)
    check("figures", ("figure", 3, *files, "--output-stem", tmp_path / "figure"))


def test_the_report_reads_figures_and_draws_none() -> None:
    script = "import sys, deqpipe.cli, deqpipe.reporting.report.report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not sorted(set(done.stdout.split()) & set(FORBIDDEN["tables"]))


@pytest.mark.slow
def test_digits_need_no_scikit_learn(tmp_path: Path) -> None:
    check("data", ("prepare-data", "--spec", tiny.spec("data"), "--root", ".", "--output", tmp_path / "data"))


@pytest.mark.parametrize("model", one_in(3, [commands.BASE, vocabulary.TRUNK, "resnet18_pgd_at"]))
def test_training_needs_no_compiler_on_a_cpu(trained: Trained, model: str, tmp_path: Path) -> None:
    check("training", [*tiny.replace_folder(trained.trainings[model], tmp_path).arguments, "--device", "cpu"])


@pytest.mark.parametrize("model", one_in(2, [commands.BASE, "resnet18_pgd_at"]))
def test_evaluations_need_no_compiler_on_a_cpu(trained: Trained, model: str, tmp_path: Path) -> None:
    check("evaluation", [*commands.call(trained, "clean", tmp_path / "clean", model=model), "--device", "cpu"])


def test_the_grid_is_attacked_and_kept_without_pandas(trained: Trained, tmp_path: Path) -> None:
    check("evaluation", [*commands.grid(trained, tmp_path, states="1-1", images="0-3"), "--device", "cpu"])
