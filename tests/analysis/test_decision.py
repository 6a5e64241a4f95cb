"""Decisions have the names of the paper."""

from deqpipe.analysis.decision import Decision, controls, paper_decisions
from deqpipe.config import Config
from deqpipe.workflow import vocabulary


def test_rows_are_named_as_in_the_paper() -> None:
    assert [decision.row for decision in paper_decisions("trades")] == [
        "TRADES baseline", "TRADES + Sec. 3.2", "TRADES + Sec. 3.3", "TRADES + Secs. 3.2 & 3.3",
    ]  # fmt: skip
    assert len(paper_decisions("pgd_at", "trades")) == 8
    assert Decision("resnet18_pgd_at", "plain").row == "PGD-AT ResNet"
    assert Decision(vocabulary.TRUNK, "plain").row == "pretrained trunk"


def test_controls_are_named_after_the_method_that_they_control(config: Config) -> None:
    kinds = ("R = 0", "restart only", "T_f = N")
    assert [decision.row for decision in controls(config)] == [
        f"{framework} {method}, control: {kind}"
        for framework in ("PGD-AT", "TRADES")
        for method in ("+ Sec. 3.2", "+ Secs. 3.2 & 3.3")
        for kind in kinds
    ]
    assert not set(controls(config)) & set(paper_decisions("pgd_at", "trades"))
