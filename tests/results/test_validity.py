"""What a file says of the spec that it was made by, whatever format it has, and what is thought of it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe.config import Config
from deqpipe.reporting.figures import figures
from deqpipe.reporting.report import report
from deqpipe.reporting.tables import tables
from deqpipe.results import checkpoint, document, records, validity
from deqpipe.results.validity import State
from deqpipe.workflow import layout, specs
from deqpipe.workflow.stages import STAGES
from tests import tiny
from tests.reporting import fabricate

SPEC: dict[str, Any] = {"stage": "clean", "revision": 4, "config": {"a": 1.5}, "upstream": {}}
TOLD = {"provenance": {"spec": SPEC}}


def save_records(path: Path) -> None:
    records.write(path, _columns(), provenance={"spec": SPEC})


def _columns() -> dict[str, np.ndarray]:
    scalars = {name: np.zeros(2) for name in records.SCALARS}
    texts = {name: np.array(["", ""]) for name in ("model", "defence", "attack", "crafted_on")}
    return scalars | texts | {name: np.zeros((2, 3)) for name in records.PER_STATE}


def save_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, provenance=json.dumps({"spec": SPEC}), digest="")


FORMATS: dict[str, Callable[[Path], None]] = {
    "seed0.parquet": save_records,
    "best.safetensors": lambda path: checkpoint.write(path, {"w": torch.ones(2)}, TOLD),
    "seed0.json": lambda path: document.write(path, {"x": 1}, {"spec": SPEC}),
    "seed0.npz": save_arrays,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_by_which_spec_it_was_made(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name)
    assert validity.fingerprint_in(tmp_path / name) == specs.fingerprint(SPEC)
    assert validity.state_of(tmp_path / name, specs.fingerprint(SPEC)) is State.VALID
    assert validity.state_of(tmp_path / name, specs.fingerprint({**SPEC, "revision": 5})) is State.STALE
    assert validity.state_of(tmp_path / "other", specs.fingerprint(SPEC)) is State.MISSING


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [0, 1, 7, 12, 40])
def test_of_a_file_that_is_cut_nothing_is_believed(tmp_path: Path, name: str, kept: int) -> None:
    FORMATS[name](tmp_path / "whole")
    (tmp_path / name).write_bytes((tmp_path / "whole").read_bytes()[:kept])
    assert validity.state_of(tmp_path / name, specs.fingerprint(SPEC)) is State.UNREADABLE


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b'{"provenance": 3}', b'{"provenance": {"spec": [1, NaN]}}', b"{" * 100_000,
        b"PAR1" + b"\0" * 99, b"PK\3\4" + b"\0" * 99, struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"[]", b"\xff" * 50,
        b'{"origin": {}}', b'{"provenance": {"spec": {}}}', b"<!DOCTYPE html><html></html>",
    ],
)  # fmt: skip
def test_foreign_content_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert validity.fingerprint_in(tmp_path / "file") is None
    assert validity.fingerprint_in(tmp_path) is None, "a folder"


CONFIG = fabricate.small({"racing": {"enabled": True, "images": 10, "confidence": 0.9}})


@pytest.mark.parametrize("stage", STAGES)
def test_the_job_of_a_file_is_told_by_its_path(stage: Any) -> None:
    value = STAGES[stage]
    for model in (None,) if value.models is None else value.models:
        seed = 3 if value.seeded else None
        for name in layout.files(stage, CONFIG, model, 3):
            job = layout.job_of(name, CONFIG)
            assert job is not None
            assert (job.stage, job.model, job.seed) == (stage, model, seed)
            assert job.defence in (value.attacked(CONFIG, model or "") or (None,))
            assert specs.of_job(job, CONFIG)["stage"] == stage


@pytest.mark.parametrize(
    "name",
    [
        "models/nobody/seed0/best.safetensors", "attacks/clean/nobody/seed0.parquet", "tables/table1.csv", "data/x",
        "attacks/autoattack/resnet18_trades/seed0/entropy_images0-4.parquet", "models/deq_trades_base/seed0/other.txt",
    ],
)  # fmt: skip
def test_of_other_files_no_job_is_told(name: str, tmp_path: Path) -> None:
    assert layout.job_of(name, CONFIG) is None
    empty = changed(CONFIG, pathvars={"results": str(tmp_path)})
    assert validity.state_of_output(name, empty) in (None, State.MISSING)


def test_weights_from_a_file_are_of_the_job_that_adopts_them() -> None:
    config = tiny.settings({"imported": {"deq_trades_base": "some.safetensors"}})
    job = layout.job_of("models/deq_trades_base/seed0/best.safetensors", config)
    assert job == layout.Job("import", "deq_trades_base", 0)
    assert specs.of_job(job, config) == specs.build_import(config, "deq_trades_base")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """A tree with Table 8, Figure 5 and the report of them, and its configuration."""
    root = tmp_path_factory.mktemp("validity") / "results"
    config = fabricate.small({"pathvars": {"results": str(root)}})
    fabricate.tree(root, config)
    tables.write(8, config, root, output_stem=root / "tables" / "table8")
    figures.write(5, config, root, output_stem=root / "figures" / "figure5")
    return root, config


def changed(config: Config, **changes: Any) -> Config:
    """The configuration with sections replaced key by key."""
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=change) for name, change in changes.items()}
    )


@pytest.mark.parametrize(
    "name", ["tables/table8.csv", "tables/table8.md", "figures/figure5.png", "figures/figure5.json"]
)
def test_a_product_is_valid_by_its_sidecar_and_by_what_it_was_made_of(made: tuple[Path, Config], name: str) -> None:
    _, config = made
    assert validity.state_of_output(name, config) is State.VALID
    assert validity.state_of_output(name, changed(config, statistics={"resamples": 999})) is State.STALE
    assert validity.state_of_output(name, config.model_copy(update={"device": "cpu"})) is State.VALID
    assert validity.state_of_output(name.replace("8", "7").replace("5", "4"), config) is State.MISSING


def test_a_product_of_other_records_is_stale_even_if_its_settings_are_the_same(
    made: tuple[Path, Config], tmp_path: Path
) -> None:
    root, config = made
    sidecar = json.loads((root / "tables/table8.json").read_text())
    sidecar["origin"]["inputs"][0]["spec"] = "0" * 16
    (tmp_path / "tables").mkdir()
    for name in ("table8.json", "table8.csv"):
        (tmp_path / "tables" / name).write_text(json.dumps(sidecar))
    elsewhere = changed(config, pathvars={"results": str(tmp_path)})
    assert validity.state_of_output("tables/table8.csv", elsewhere) is State.STALE


def test_records_and_histories_are_judged_by_what_their_jobs_would_be_now(made: tuple[Path, Config]) -> None:
    _, config = made
    grid = layout.files("attack_grid", config, "deq_trades_base", 0)[0]
    history = "models/deq_trades_base/seed0/history.csv"
    assert [validity.state_of_output(name, config) for name in (grid, history)] == [State.VALID, State.VALID]
    other = changed(config, jacobian={"frequency": 0.25})
    assert [validity.state_of_output(name, other) for name in (grid, history)] == [State.STALE, State.STALE]


def test_the_written_configuration_is_valid_if_it_says_the_same(tmp_path: Path) -> None:
    config = tiny.settings({"pathvars": {"results": str(tmp_path)}})
    assert validity.state_of_output("config.yaml", config) is State.MISSING
    (tmp_path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    assert validity.state_of_output("config.yaml", config) is State.VALID
    assert validity.state_of_output("config.yaml", changed(config, statistics={"resamples": 999})) is State.STALE
    (tmp_path / "config.yaml").write_text("nothing: 1")
    assert validity.state_of_output("config.yaml", config) is State.UNREADABLE


def test_a_report_says_its_spec_on_its_page(tmp_path: Path) -> None:
    config = tiny.settings({"pathvars": {"results": str(tmp_path)}})
    fingerprint = specs.fingerprint(specs.build_product("report", config))
    (tmp_path / "report.html").write_text(f'<!DOCTYPE html>\\n<meta name="deqpipe-spec" content="{fingerprint}">')
    assert validity.state_of_output("report.html", config) is State.VALID
    assert (
        'name="deqpipe-spec" content="{{ spec }}"'
        in Path(report.__file__).parents[1].joinpath("templates", "report.html").read_text()
    )


def test_what_is_asked_for_is_what_tables_and_figures_are_made_of_and_all_before() -> None:
    config = tiny.settings({"figures": {"jacobian": False}, "imported": {"deq_trades_base": "file"}})
    names = layout.asked_for(config)
    assert len(set(names)) == len(names)
    assert {"config.yaml", "data/dataset.safetensors", "models/deq_pretrain/seed0/best.safetensors", "report.html"} <= {
        *names
    }
    assert "models/deq_trades_base/seed0/best.safetensors" in names, "adopted"
    assert "models/deq_trades_jac_high/seed0/best.safetensors" not in names, "of Figure 6 alone"
    assert ("figures/figure5.json" in names, "figures/figure6.json" in names) == (True, False)
    assert not any(name.startswith("race/") for name in names)
    assert any(name.startswith("race/grid/") for name in layout.asked_for(CONFIG))


def test_why_a_file_is_stale_is_told_by_keys_values_and_origins() -> None:
    wanted = {"revision": 3, "config": {"a.b": 1, "c": {"d": [1], "e": 2}}, "upstream": {"model": "x", "data": "y"}}
    told = {
        "revision": 2,
        "config": {"a.b": 1, "c": {"d": [2], "e": 2}, "f": None},
        "upstream": {"model": "z", "data": "y"},
    }
    assert specs.difference(told, wanted) == "revision 2 instead of 3; c.d [2] instead of [1]; from another model"
    assert specs.difference(wanted, wanted) == ""


def test_status_lists_what_is_not_valid_and_counts_the_rest(
    made: tuple[Path, Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, config = made
    whole = tmp_path / "config.yaml"
    whole.write_text(json.dumps(config.model_dump(mode="json")))
    damaged = root / "select/deq_trades_base/seed0.json"
    before = damaged.read_bytes()
    try:
        damaged.write_bytes(b"{")
        assert tiny.run("status", whole) == 0
        said = capsys.readouterr().out.splitlines()
        (tmp_path / "other.yaml").write_text("selection: {freeze_fooled: true}")
        assert tiny.run("status", whole, tmp_path / "other.yaml", "--all") == 0
    finally:
        damaged.write_bytes(before)
    assert "unreadable select/deq_trades_base/seed0.json" in said
    assert said[-2].endswith("0 stale, 1 unreadable")
    assert said[-1].startswith("Snakemake makes what is asked for and not valid")
    listed = capsys.readouterr().out
    assert "stale      models/deq_trades_base/seed0/best.safetensors: made with selection.freeze_fooled false" in listed
    assert "missing    report.html" in listed
