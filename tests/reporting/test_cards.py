"""Model cards: what stands in them is what weights, early states and Table 1 say."""

import ast
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deqpipe.config import Config
from deqpipe.reporting import cards
from deqpipe.reporting.tables import tables
from deqpipe.results import early_states, weights
from deqpipe.workflow.vocabulary import MODELS

MODEL = "deq_trades_random_states"


@pytest.fixture(scope="module")
def written(finished: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with Table 1 and cards."""
    results = Path(shutil.copytree(finished, tmp_path_factory.mktemp("cards") / "results"))
    tables.write(1, config, results, output_stem=results / "tables" / "table1")
    assert cards.write_all(config, results)
    return results


def card(results: Path, model: str = MODEL) -> str:
    return (results / "models" / model / "seed0" / "README.md").read_text("utf-8")


def test_every_evaluated_model_that_is_there_gets_a_card(written: Path) -> None:
    with_weights = {path.parent for path in written.glob("models/*/seed0/best.safetensors")}
    assert {path.parent for path in written.glob("models/*/seed0/README.md")} <= with_weights
    assert len(list(written.glob("models/*/seed0/README.md"))) >= 7


def test_a_card_says_what_the_weights_say(written: Path) -> None:
    told, text = weights.read(written / "models" / MODEL / "seed0" / "best.safetensors"), card(written)
    assert f"{told.parameters:,} parameters" in text
    assert told.content[:16] in text
    assert f"after epoch {told.epoch}" in text
    assert "TRADES" in text
    assert "Sec. 3.3" in text


def test_a_card_names_the_states_that_decide(written: Path) -> None:
    chosen, _ = early_states.read(written / "select" / MODEL / "seed0.json", ("plain", "entropy"))
    for one in chosen.values():
        assert f"z^[{one.state}] of {len(one.accuracy)}, right on {one.accuracy[one.state - 1]:.1%}" in card(written)


def test_a_card_has_the_rows_of_its_model_in_table_1_with_their_intervals(written: Path) -> None:
    cells = tables.read(written / "tables" / "table1.json").table.cells
    rows = [line.split(" | ") for line in card(written).splitlines() if line.startswith("| TRADES")]
    assert {row[0].removeprefix("| ") for row in rows} == {"TRADES + Sec. 3.3", "TRADES + Secs. 3.2 & 3.3"}
    (clean,) = [cell for cell in cells if (cell.row, cell.column) == ("TRADES + Sec. 3.3", "Clean")]
    (shown,) = [row[2] for row in rows if row[:2] == ["| TRADES + Sec. 3.3", "Clean"]]
    assert shown.startswith(f"{clean.here:.1f} [{clean.low:.0f}")
    assert "upper bound" in card(written)


def test_a_card_of_another_seed_claims_no_numbers_of_the_first(config: Config, written: Path) -> None:
    told = weights.read(written / "models" / MODEL / "seed0" / "best.safetensors")
    text = cards.card(MODELS[MODEL], 1, config, written, told, ())
    assert "Nothing has been evaluated yet" in text
    assert "| Clean |" not in text


def test_a_card_of_a_network_without_states_has_no_early_state(written: Path) -> None:
    text = card(written, "resnet18_trades")
    assert "ResNet" in text
    assert "State that decides" not in text
    assert "load_model" in text


def test_imported_weights_are_under_the_licence_of_their_origin(config: Config, written: Path) -> None:
    told = weights.read(written / "models" / MODEL / "seed0" / "best.safetensors")
    theirs = replace(told, provenance=told.provenance | {"spec": {"stage": "import"}})
    assert "license: mit" in card(written)
    text = cards.card(MODELS[MODEL], 0, config, written, theirs, ())
    assert "license:" not in text
    assert "MIT" not in text
    assert "Licence: that of its origin." in text
    assert f"as imported, after epoch {told.epoch} by their own account" in text


def test_a_trunk_has_the_weights_of_its_last_epoch_and_not_the_best_ones(config: Config, written: Path) -> None:
    told = weights.read(written / "models" / MODEL / "seed0" / "best.safetensors")
    text = cards.card(MODELS["deq_pretrain"], 0, config, written, told, ())
    assert f"* Weights: those of its last epoch, {told.epoch}." in text
    assert "the best on held-out images" not in text
    assert "the best on held-out images" in card(written)


@pytest.mark.parametrize("model", [MODEL, "resnet18_trades"])
def test_a_card_names_its_file_from_here_and_no_place_of_the_machine(
    model: str, config: Config, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = weights.read(written / "models" / MODEL / "seed0" / "best.safetensors")
    monkeypatch.chdir(tmp_path)
    for results, named in (
        (tmp_path / 'my "best"', f'my "best"/models/{model}/seed0/best.safetensors'),
        (Path("results"), f"results/models/{model}/seed0/best.safetensors"),
        (tmp_path.parent, "best.safetensors"),
        (Path(".."), "best.safetensors"),
    ):
        text = cards.card(MODELS[model], 0, config, results, told, ())
        code = text.partition("```python\n")[2].partition("```")[0]
        assert named in [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
        assert str(tmp_path.parent) not in text
        assert ("beside this card" in code) == (named == "best.safetensors")


def test_a_card_says_the_confidence_in_full(config: Config, written: Path) -> None:
    cells = tables.read(written / "tables" / "table1.json").table.cells
    told = weights.read(written / "models" / MODEL / "seed0" / "best.safetensors")
    surer = config.model_copy(update={"statistics": config.statistics.model_copy(update={"confidence": 0.995})})
    assert "with 99.5% intervals" in cards.card(MODELS[MODEL], 0, surer, written, told, cells)
    assert "with 95% intervals" in card(written)


def test_a_page_of_the_user_stays_and_one_of_ours_is_written_anew(
    config: Config, results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours, earlier = (
        results / "models" / model / "seed0" / "README.md" for model in (MODEL, "deq_trades_base", "resnet18_trades")
    )
    theirs.write_text("My notes.\n")
    cards.write_all(config, results)
    ours.write_text(f"{ours.read_text('utf-8')}stale")
    earlier.write_text("---\nlicense: mit\nlibrary_name: deqpipe\ntags: [adversarial-robustness]\n---\n\n# stale")
    assert theirs not in cards.write_all(config, results)
    assert theirs.read_text() == "My notes.\n"
    assert "stale" not in ours.read_text("utf-8") + earlier.read_text("utf-8")
    assert f"{theirs} was not written by deqpipe" in caplog.text
