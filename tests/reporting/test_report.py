"""report.html: one file, whole, honest."""

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.analysis.decision import paper_decisions
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Table, by_name, show
from deqpipe.reporting.figures import figures
from deqpipe.reporting.pages import page
from deqpipe.reporting.report import claims, report, summary
from deqpipe.reporting.sidecar import sidecar_text
from deqpipe.reporting.tables import table1, tables
from deqpipe.results import history, records, weights
from deqpipe.workflow import products, vocabulary
from tests.analysis import test_race
from tests.reporting import fabricate
from tests.results.edits import write_json

VOID = {"meta", "link", "img", "br", "input", "source"}


def write(config: Config, results: Path) -> str:
    report.write(config, results, results / "report.html")
    return (results / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, finished: Path, config: Config) -> Path:
    """A tree with all tables and figures."""
    results = tmp_path_factory.mktemp("report") / "results"
    shutil.copytree(finished, results)
    for number in products.TABLES:
        tables.write(number, config, results, output_stem=results / "tables" / f"table{number}")
    for number in products.FIGURES:
        figures.write(number, config, results, output_stem=results / "figures" / f"figure{number}")
    return results


@pytest.fixture
def results(tmp_path: Path, written: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "results"))


@pytest.fixture(scope="module")
def html(written: Path, config: Config) -> str:
    return write(config, written)


class _Page(HTMLParser):
    """Collects addresses and ids, and refuses what is not nested."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(html: str) -> _Page:
    found = _Page()
    found.feed(html)
    return found


def test_report_is_one_self_contained_file_without_scripts(html: str) -> None:
    parsed = parse(html)
    assert not parsed.open
    assert "script" not in {tag for tag, _ in parsed.seen}
    for _, attributes in parsed.seen:
        for name in ("src", "href", "srcset"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:"))
    assert not re.search(r"url\(|@import", html)


def test_links_lead_somewhere_and_images_have_words(html: str) -> None:
    parsed = parse(html)
    ids = {attributes["id"] for _, attributes in parsed.seen if "id" in attributes}
    targets = {a["href"] or "" for tag, a in parsed.seen if tag == "a"}
    assert {f"#{name}" for name in ids} >= {target for target in targets if not target.startswith("data:")}
    listed = [a["id"] for _, a in parsed.seen if "id" in a]
    assert len(listed) == len(ids)
    images = [attributes for tag, attributes in parsed.seen if tag == "img"]
    assert len(images) == len(products.FIGURES) + 1
    assert all(len(image["alt"] or "") > 40 for image in images)


def test_files_in_the_report_are_those_of_the_results(html: str, written: Path) -> None:
    """They are part of the page, so that it may be sent alone."""
    files = {a["download"] or "": a["href"] or "" for tag, a in parse(html).seen if tag == "a" and "download" in a}
    kinds = [f"table{number}.{kind}" for number in products.TABLES for kind in ("csv", "md", "tex")]
    kinds += [f"figure{number}.{kind}" for number in products.FIGURES for kind in ("png", "pdf", "csv")]
    assert sorted(files) == sorted([*kinds, "overview.png", "overview.svg"])
    for name, address in files.items():
        (path,) = (*written.glob(f"*/{name}"), *written.glob(name))
        assert base64.b64decode(address.partition(";base64,")[2]) == path.read_bytes()


def test_headings_are_in_order(html: str) -> None:
    levels = [int(tag[1]) for tag, _ in parse(html).seen if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_claim_has_its_line_and_every_trained_model_too(html: str) -> None:
    for name in (
        *(name for claims_of in claims.OF_TABLES.values() for name in claims_of),
        "Figure 2",
        "Figure 3 (b)",
        "Figure 6",
    ):
        assert re.search(rf'<a href="#\w+">{re.escape(name)}</a>', html)
    for model in ("PGD-AT baseline", "PGD-AT baseline, Jacobian weight 0.4", "TRADES baseline, Jacobian weight 2"):
        assert f'<th scope="row">{model}</th>' in html


def test_figure_6_is_absent_with_its_reason_and_command(results: Path) -> None:
    (results / "figures/figure6.png").unlink()
    html = write(fabricate.small({"figures": {"jacobian": False}}), results)
    assert "figures.jacobian is false" in html
    assert f"snakemake --cores all {results}/figures/figure6.png</pre>" in html
    assert "Jacobian weight 0.4</th>" not in html


@pytest.mark.parametrize(
    "overlay",
    [
        pytest.param(test_race.RACING, marks=pytest.mark.slow),
        pytest.param({"entropy": {"controls": False}}, marks=pytest.mark.slow),
        pytest.param({"attack": {"transfer": False}}, marks=pytest.mark.slow),
        pytest.param({"autoattack": {"mode": "individual"}}, marks=pytest.mark.slow),
    ],
    ids=["racing", "no controls", "no transfer", "individual"],
)
def test_a_report_survives_what_a_configuration_leaves_out(tmp_path: Path, overlay: dict[str, Any]) -> None:
    config = fabricate.small({"figures": {"jacobian": False}}, overlay)
    results = fabricate.tree(tmp_path / "results", config)
    if "racing" in overlay:
        for model in vocabulary.DEQS:
            test_race.after_race(results, config, model, "grid")
        test_race.after_race(results, config, vocabulary.SWEEP_MODEL, "sweep")
    for number in products.TABLES:
        tables.write(number, config, results, output_stem=results / "tables" / f"table{number}")
    for number in (2, 3, 4, 5, 7, 8):
        figures.write(number, config, results, output_stem=results / "figures" / f"figure{number}")
    html = write(config, results)
    assert "All attacks together" in html
    if "racing" in overlay:
        assert "Absent: it needs every attack" in html
        assert 'class="verdict not-comparable"' in html


def test_checks_of_attacks_that_failed_stand_above_everything_else(
    written: Path, config: Config, tmp_path: Path
) -> None:
    results = Path(shutil.copytree(written, tmp_path / "results"))
    path = results / "tables" / "table11.json"
    sound = tables.read(path)
    said = tuple(f"Sanity check failed ({name}) on TRADES baseline: so." for name in ("one", "two", "three", "four"))
    records.write_text(path, sidecar_text(replace(sound, table=replace(sound.table, warnings=said))))
    html = write(config, results)
    assert html.index("Attacks failed") < html.index(said[0]) < html.index('class="overview"')
    assert html.count(said[3]) == 1
    assert "Attacks failed" not in write(config, written)


def test_every_table_and_figure_is_in_the_report(html: str) -> None:
    for number in products.TABLES:
        assert f'id="table{number}"' in html
    for number in products.FIGURES:
        assert f'id="figure{number}"' in html


def test_report_says_what_was_reduced_and_how_it_was_made(html: str, config: Config) -> None:
    for phrase in ("This is not the paper", "38/255", "17 attacks", "torch 2.15.0", "Resolved configuration"):
        assert phrase in html
    assert "Results of different code" not in html
    assert str(config.evaluation.images) in html


def test_report_is_the_same_twice(html: str, results: Path, config: Config) -> None:
    assert write(config, results) == html


def test_a_name_from_outside_is_escaped(results: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fabricate.small({"data": {"source": "folder", "root": "<script>alert(1)"}})
    data = conditions.data(folder)
    monkeypatch.setattr(conditions, "data", lambda config: data)
    html = write(config, results)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_words_of_a_sidecar_are_escaped(results: Path, config: Config) -> None:
    """A class may be called anything."""
    for path in (results / "figures/figure2.json", results / "tables/table1.json"):
        words = json.loads(path.read_text())
        place = words.get("table", words)
        place["caption"] = place["title"] = "\"><script>alert('1')</script>"
        write_json(path, words)
    found = write(config, results)
    assert "<script" not in found
    assert "<script" not in page(tables.read(results / "tables/table1.json").table)


def test_results_of_different_code_are_pointed_out(results: Path, config: Config) -> None:
    path = Tree(results, config, 0).clean("deq_trades_base")
    rows = fabricate.clean(config, "deq_trades_base", 0)
    fabricate.write(path, rows, config, "clean", "deq_trades_base", 0, code="abcdef0123456789")
    tables.write(1, config, results, output_stem=results / "tables" / "table1")
    html = write(config, results)
    assert "Results of different code stand side by side" in html
    assert "abcdef0123456789" in html


def test_parameters_are_counted_from_the_weights_without_their_statistics(results: Path, config: Config) -> None:
    path = Tree(results, config, 0).weights("deq_trades_base")
    tensors = {"a.weight": np.zeros((3, 5, 7)), "b.running_mean": np.zeros(1000), "a.bias": np.zeros(3)}
    origin = fabricate.provenance(config, "train_deq", "deq_trades_base", 0)
    fabricate.write_weights(path, tensors, {"provenance": origin, "epoch": 8})
    figures.write(4, config, results, output_stem=results / "figures" / "figure4")
    html = write(config, results)
    assert '<td class="number" data-label="parameters">108</td>' in html
    assert "models/deq_trades_base/seed0/best.safetensors" in html


def test_the_chosen_epoch_is_the_one_that_the_weights_name(results: Path, config: Config) -> None:
    model, tree = "deq_trades_base", Tree(results, config, 0)
    worst = min(
        history.read(tree.history(model), weights.read(tree.weights(model)).history),
        key=lambda epoch: epoch.robust or 0.0,
    )
    fabricate.weights(results, config, model, 0, epoch=worst.epoch)
    (row,) = re.findall(
        r'<tr><th scope="row">TRADES baseline</th>(<td class="number" data-label="par.*)', write(config, results)
    )
    assert f'data-label="chosen">{worst.epoch}</td>' in row
    assert f'data-label="under PGD (%)">{100 * (worst.robust or 0.0):.1f}</td>' in row


def test_cells_name_their_column_where_a_narrow_screen_hides_the_heading(html: str, written: Path) -> None:
    parsed = parse(html)
    cells = [attributes for tag, attributes in parsed.seen if tag == "td" and attributes.get("class") == "number"]
    labels = {attributes.get("data-label") for attributes in cells}
    assert {"Clean", "PGD", "PGD per image", "PGD gain", "DIFF", "i = 1", "chosen", "z[1]", "final"} <= labels
    stacked = re.findall(r'<table class="stack">.*?</table>', html, flags=re.DOTALL)
    assert len(stacked) == 3 + sum(len(table.blocks) for table in everything(written).values())
    assert all(table.count("<td") == table.count("data-label=") for table in stacked)


def test_damaged_weights_are_refused(results: Path, config: Config) -> None:
    Tree(results, config, 0).weights("deq_trades_base").write_bytes(b"\x08\x00")
    with pytest.raises(UserError, match="is cut short, damaged or no safetensors file"):
        figures.write(4, config, results, output_stem=results / "figure4")


def test_a_report_without_its_tables_or_figures_is_refused(results: Path, config: Config) -> None:
    (results / "figures" / "figure4.png").unlink()
    with pytest.raises(UserError, match=r"figure4\.png does not exist"):
        report.write(config, results, results / "new.html")
    (results / "tables" / "table1.json").unlink()
    with pytest.raises(UserError, match=r"table1\.json does not exist"):
        report.write(config, results, results / "new.html")
    assert not (results / "new.html").exists()


def everything(written: Path) -> dict[int, Table]:
    return {number: tables.read(written / "tables" / f"table{number}.json").table for number in products.TABLES}


def visible(html: str) -> list[str]:
    """The words that are read without unfolding anything: what holds two letters."""
    page = re.sub(r"<(style|title)>.*?</\1>|<nav.*?</nav>", " ", html, flags=re.DOTALL)
    for _ in range(3):
        page = re.sub(r"<details(?:(?!<details).)*?</details>", " ", page, flags=re.DOTALL)
    return re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^>]*>", " ", page))


def test_the_page_is_short_until_it_is_unfolded(html: str) -> None:
    """It was 13,000 words."""
    assert len(visible(html)) < 3900  # a fifth of them in Table 11


def test_no_paragraph_stands_twice(html: str) -> None:
    """One stood fifteen times."""
    items = [text for text in re.findall(r"<li>(.*?)</li>", html, flags=re.DOTALL) if len(text.split()) > 8]
    assert len(items) == len(set(items))


def test_at_most_three_notes_stand_unfolded_below_a_table(html: str) -> None:
    lists = re.findall(r'<ul class="notes">.*?</ul>', html, flags=re.DOTALL)
    assert lists
    assert all(one.count("<li>") <= 3 for one in lists)
    assert re.search(r"<summary>\d+ more notes on Table 1</summary>", html)


def test_the_page_begins_with_the_picture_and_the_five_sentences(html: str, config: Config, written: Path) -> None:
    picture, answers, claims = (html.index(part) for part in ('class="overview"', 'class="answer"', 'id="claims"'))
    assert html.index("This is not the paper") < picture < answers < claims
    found = re.search(r'<ul class="answer">(.*?)</ul>', html, flags=re.DOTALL)
    assert found
    assert found.group(1).count("<li>") == len(summary.sentences(everything(written), config)) <= 5


def test_the_first_screen_has_a_row_per_method_with_both_figures_and_what_is_left(html: str, written: Path) -> None:
    found = re.search(r'<table class="standings">(.*?)</table>', html, flags=re.DOTALL)
    assert found
    assert html.index('class="standings"') < html.index('class="overview"')
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', found.group(1), flags=re.DOTALL)
    assert [name for name, _ in rows] == ["baseline", "+ Sec. 3.2", "+ Sec. 3.3", "+ Secs. 3.2 &amp; 3.3"] * 2
    cells = by_name(everything(written)[11].cells)
    for one, (_, text) in zip(paper_decisions("pgd_at", "trades"), rows, strict=True):
        numbers = re.findall(r'<td class="number">([^ <]*)', text)
        assert numbers[:2] == [show(cells[one.row, column]).value for column in ("PGD", "Union")]
        if one.method != "baseline":
            gains = [show(cells[one.row, column], signed=True) for column in ("Gain by PGD", "Union gain")]
            assert numbers[2:] == [gain.value for gain in gains]
            assert f"<small>({gains[1].interval})</small>" in text
    assert "Right answers (%) on 20 test images" in html


def test_figures_grow_and_the_contents_lead_everywhere_without_scripts(html: str) -> None:
    boxes = [a["aria-label"] for tag, a in parse(html).seen if tag == "input"]
    assert boxes == ["Enlarge the overview", *(f"Enlarge Figure {number}" for number in products.FIGURES)]
    contents = re.search(r"<nav.*?</nav>", html, flags=re.DOTALL)
    assert contents
    assert contents.group().count("<a href") == 5 + len(products.TABLES) + len(products.FIGURES)


def test_words_of_the_trade_are_explained(html: str) -> None:
    assert {"Decision", "Per image", "Gain, open", "Control"} <= set(re.findall(r"<dt>(.*?)</dt>", html))
    assert "A <dfn>decision</dfn> is a trained model" in html


def test_a_network_is_found_in_the_files_though_its_depth_is_another(html: str) -> None:
    assert "is resnet18_pgd_at and resnet18_trades in file names" in html
    assert "<code>resnet18_trades</code>" in html
    assert table1.file_names(fabricate.small({"resnet": {"layers": [2, 2, 2, 2]}})) == ()
