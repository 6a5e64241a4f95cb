"""Targets that no rule makes."""

import pytest

from deqpipe.workflow import targets

RULES = ("all", "table1", "table2", "table10", "figure2", "report")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("table12", "there is no rule table12 (snakemake --list names all); did you mean table2, table1, table10?"),
        ("nonsense", "there is no rule nonsense (snakemake --list names all)"),
        ("seeds=1", "settings are written in a file behind --configfile"),
        ("results/demo/tables/table12.csv", "there is no table12; did you mean table2"),
        ("results/tables/table2.csv", "lie in results/demo; did you mean results/demo/tables/table2.csv?"),
        ("results/report.html", "did you mean results/demo/report.html?"),
    ],
)
def test_a_target_that_no_rule_makes_is_told_with_what_was_meant(target: str, words: str) -> None:
    told = targets.refusal(["table1", target], rules=RULES, results="results/demo")
    assert told is not None
    assert words in told


@pytest.mark.parametrize(
    "target",
    [
        "table2",
        "results/demo/tables/table2.csv",
        "results/demo/models/x/seed0/best.safetensors",
        "logs/demo/report.log",
    ],
)
def test_what_rules_may_make_is_left_to_snakemake(target: str) -> None:
    assert targets.refusal([target], rules=RULES, results="results/demo") is None
