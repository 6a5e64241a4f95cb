"""Code on pages: Python runs, commands parse, targets exist, files laid over the configuration are valid."""

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
import yaml

from deqpipe import cli, config
from deqpipe.results import early_states
from deqpipe.results.early_states import EarlyState
from deqpipe.workflow import layout
from documentation import tutorial
from documentation.blocks import Block, blocks
from tests import tiny
from tests.documentation.test_links import PAGES
from tests.tiny import ROOT

BLOCKS = [block for page in PAGES for block in blocks(page)]
PIECES = ("attack", "data", "defence", "model", "solver", "table")
MODEL = "deq_trades_random_states"
EXTENDING = ROOT / "docs/extending.md"
MAKE_TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
OPTIONS_WITH_ONE = ("--profile", "--resources", "--jobs", "--cores", "-s", "--directory", "--logger")


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in BLOCKS} <= {"", "python", "yaml"}
    assert len(BLOCKS) >= 35


@pytest.fixture(scope="module")
def demo(trained: tiny.Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like one in which the demo has run, with tiny models."""
    folder = tmp_path_factory.mktemp("demo")
    results = folder / "results" / "demo"
    weights = results / "models" / MODEL / "seed0" / "best.safetensors"
    for place, target in ((weights, trained.file(MODEL)), (results / "data" / "dataset.safetensors", trained.data)):
        place.parent.mkdir(parents=True)
        place.symlink_to(target)
    (results / "config.yaml").write_text(yaml.safe_dump(tiny.settings().model_dump(mode="json")))
    chosen = EarlyState(2, (0.1, 0.5, 0.4, 0.3), 0.3, tiny.VALIDATION)
    both = {"plain": chosen, "entropy": chosen}
    early_states.write(results / "select" / MODEL / "seed0.json", both, tiny.chosen_on(weights))
    clean = pd.DataFrame({"defence": ["plain"], "predicted": [[1, 2]], "label": [1]})
    (results / "attacks" / "clean" / "deq_trades_base").mkdir(parents=True)
    clean.to_parquet(results / "attacks" / "clean" / "deq_trades_base" / "seed0.parquet")
    cell = {"table": 1, "column": "PGD", "row": "a", "value": 50.0, "unit": "%", "interval": None, "paper": None}
    (results / "results.json").write_text(json.dumps({"cells": [cell]}))
    (results / "tables").mkdir()
    (results / "tables" / "table1.csv").write_text("table,row,column,here\n1,a,PGD,50\n")
    return folder


def run(page: Path, folder: Path) -> None:
    """All Python of a page, one block after the other, in one set of names."""
    matplotlib.use("Agg")
    names: dict[str, object] = {}
    with contextlib.chdir(folder):
        for block in of("python"):
            if block.page == page and not block.code.startswith("module "):
                exec(compile(block.code, str(block), "exec"), names)


def python_pages() -> list[Path]:
    return sorted({block.page for block in of("python")} - {tutorial.PAGE, ROOT / "docs/module.md", EXTENDING})


@pytest.mark.parametrize("page", python_pages(), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 12  # as many test images as the tiny dataset has
    monkeypatch.setattr("deqpipe.api.images", _at_most(limit))
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        run(page, demo)
    assert told.getvalue()


def test_the_examples_of_ones_own_pieces_are_files_that_tests_run() -> None:
    examples = [block.code.strip() for block in of("python") if block.page == EXTENDING]
    files = {name: (ROOT / f"tests/extending/{name}.py").read_text("utf-8").strip() for name in (*PIECES, "dynamics")}
    assert sorted(examples) == sorted(files.values())
    overlay = (ROOT / "tests/extending/shapes.yaml").read_text("utf-8")
    assert all(f"/{name}.py" in overlay for name in PIECES)


def _at_most(limit: int) -> object:
    from deqpipe import api

    original = api.images
    return lambda path, *, count=None, split="test": original(path, count=min(count or limit, limit), split=split)


def test_the_tutorial_takes_ten_lines_and_draws_its_picture(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(block for block in of("python") if block.page == ROOT / tutorial.PAGE)
    assert len([line for line in first.code.splitlines() if line.strip()]) <= 10
    monkeypatch.setattr("deqpipe.api.images", _at_most(12))
    with contextlib.redirect_stdout(io.StringIO()):
        names = tutorial.run(ROOT, demo)
    assert (demo / "along.png").stat().st_size > 5_000
    assert {"model", "attacked"} <= names.keys()


def overlays() -> Iterator[Block]:
    """Blocks of YAML, and indented ones that hold nothing but keys of the configuration."""
    yield from of("yaml")
    for block in of(""):
        with contextlib.suppress(yaml.YAMLError):
            read = yaml.safe_load(block.code)
            if isinstance(read, dict) and set(read) <= set(config.Config.model_fields):
                yield block


@pytest.mark.parametrize("block", list(overlays()), ids=str)
def test_yaml_on_a_page_is_a_valid_overlay(block: Block) -> None:
    base = config.merge(config.read_yaml(ROOT / "config.yaml"), config.read_yaml(ROOT / "config" / "demo.yaml"))
    config.parse(config.merge(base, yaml.safe_load(block.code)))


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a block, as words: comments left out, continued lines put together."""
    text = re.sub(r"\\\n\s*", " ", block.code)
    for line in text.splitlines():
        plain = line.strip().removeprefix("$ ")
        for part in re.split(r"\s&&\s|\s\|\s|\s>\s.*", plain):
            with contextlib.suppress(ValueError):  # prose with an apostrophe
                words = shlex.split(re.sub(r'"\$\(deqpipe (.*?)\)"', "SPEC", part), comments=True)
                if words:
                    yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def every(program: str) -> list[tuple[Block, list[str]]]:
    return [(block, words) for block in of("") for words in commands(block) if words[0] == program]


def identify(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(("block", "words"), every("deqpipe"), ids=identify)
def test_a_deqpipe_command_on_a_page_parses(block: Block, words: list[str]) -> None:
    stage = words[1]
    spec = tiny.spec(stage.replace("-", "_"), model=MODEL) if "SPEC" in words else ""
    arguments = [spec if word == "SPEC" else word for word in words[1:] if word != "..."]
    assert cli.build_parser().parse_args(arguments)


def test_a_wrong_command_is_found() -> None:
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        cli.build_parser().parse_args(["plan", "--hours"])


@pytest.mark.parametrize(("block", "words"), every("snakemake"), ids=identify)
def test_a_snakemake_command_on_a_page_names_targets_and_files_that_exist(block: Block, words: list[str]) -> None:
    before = words[1 : words.index("--configfile")] if "--configfile" in words else words[1:]
    behind = words[words.index("--configfile") + 1 :] if "--configfile" in words else []
    overlays = [word for word in behind[: next((n for n, w in enumerate(behind) if w[0] == "-"), None)]]
    for overlay in overlays:
        assert (
            overlay in ("my.yaml", "mine.yaml", "deqpipe/config.yaml", "deqpipe/config/demo.yaml")
            or (ROOT / overlay).is_file()
        )
    targets = [word for before_, word in zip(["", *before], before, strict=False)
               if word[0] != "-" and before_ not in OPTIONS_WITH_ONE and word != "..."]  # fmt: skip
    for target in targets:
        assert exists(target), f"{block}: {target}"
    for option, word in itertools.pairwise(words):
        if option == "--profile":
            assert word == "profiles/mine" or (ROOT / word / "profile.yaml").is_file()


def exists(target: str) -> bool:
    """Whether the workflow makes it: a file of the results folder, or a rule."""
    rules = "".join(path.read_text("utf-8") for path in [ROOT / "Snakefile", *ROOT.glob("rules/*.smk")])
    if "/" not in target:
        return bool(re.search(rf"^rule {target.removeprefix('deqpipe_')}:", rules, re.MULTILINE))
    name = re.sub(r"^results/((demo|gpu-trial|small-ball)/)?", "", target)
    known = {re.sub(r"\.\w+$", "", path) for path in layout.asked_for(tiny.settings())}
    return re.sub(r"\.\w+$", "", name) in known


def test_a_target_that_does_not_exist_is_found() -> None:
    assert exists("results/demo/tables/table2.csv")
    assert not exists("results/tables/table12.csv")
    assert not exists("tabels")


@pytest.mark.parametrize(("block", "words"), every("make"), ids=identify)
def test_a_make_command_on_a_page_names_a_target(block: Block, words: list[str]) -> None:
    targets = [word for word in words[1:] if "=" not in word and word != ".venv/.installed" and word[0] != "-"]
    assert set(targets) <= MAKE_TARGETS


@pytest.mark.slow  # starts Snakemake
def test_the_workflow_is_used_from_another_one_as_its_page_says(tmp_path: Path) -> None:
    (block,) = [block for block in of("python") if block.page == ROOT / "docs" / "module.md"]
    (_, words) = next(found for found in every("snakemake") if found[0].page == block.page)
    (tmp_path / "Snakefile").write_text(block.code)
    (tmp_path / "deqpipe").symlink_to(ROOT)
    (tmp_path / "my.yaml").write_text("statistics: {resamples: 500}\n")
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", "--cores", "1", *words[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "deqpipe_table1" in told.stdout + told.stderr


def test_pages_hold_commands_of_every_kind() -> None:
    assert [len(every(program)) > 3 for program in ("deqpipe", "snakemake", "make")] == [True] * 3
    assert json.loads(tiny.spec("clean", model=MODEL))
