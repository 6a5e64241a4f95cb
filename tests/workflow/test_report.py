"""Snakemake's own report: every table and figure in one file, with captions made from the configuration."""

import re
from pathlib import Path

import pytest

from deqpipe.config import read_yaml
from tests.workflow.conftest import DEMO, ROOT, Workspace

IMAGES = read_yaml(ROOT / "config/demo.yaml")["evaluation"]["images"]
CAPTION = f"digits, the first {IMAGES} test images"


@pytest.fixture(scope="module")
def html(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a finished demo, made without a network."""
    path = Path(tmp_path_factory.mktemp("report"), "snakemake-report.html")
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    result = finished.run(*DEMO, "--report", str(path), environment=nowhere)
    assert result.returncode == 0, result.stderr
    return path.read_text(encoding="utf-8")


def test_every_table_and_figure_is_in_the_report(html: str) -> None:
    for number in range(1, 12):
        assert f"results/demo/tables/table{number}.csv" in html
        assert f"results/demo/tables/table{number}.html" in html
    for number in (2, 3, 4, 5, 7, 8):
        assert f"results/demo/figures/figure{number}.png" in html
    assert "results/demo/report.html" in html


def test_captions_are_filled_from_the_configuration(html: str) -> None:
    """Of 11 tables in two files, 6 figures, one page, and the whole workflow."""
    flat = re.sub(r"(\\n|\s)+", " ", html)
    assert flat.count(CAPTION) == 2 * 11 + 6 + 1 + 1
    assert "Table 10 (digits" in flat
    assert "epsilon = 38/255" in flat
    assert "{{" not in flat.partition("Table 10 (digits")[2][:300]


def test_results_are_sorted_and_labelled(html: str) -> None:
    for label in ("Tables", "Figures", "Table 10", "Figure 5", "speed of inference"):
        assert f'"{label}"' in html
