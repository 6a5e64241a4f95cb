"""Every sanity check on records that trigger it, on sound ones that do not, and on too few to tell."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from deqpipe.analysis import sanity
from deqpipe.analysis.radius import RadiusCurve
from deqpipe.analysis.sanity import Finding
from deqpipe.workflow.suite_attacks import against
from tests.analysis.suites import Did, Made, asked, curve

STRONG = Did(turned=range(50), margin=0.5)
SOUND: Mapping[str, Did] = {
    **{attack.name: STRONG for attack in against(asked(), "defended")},
    "noise": Did(turned=range(2)),
    "pgd_50": Did(turned=range(40), margin=0.6),
    "pgd_100": Did(turned=range(45), margin=0.5),
    "square": Did(turned=range(20), taken=1000),
    "rays": Did(turned=range(8), taken=1000),
}


def by_check(made: Made) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in sanity.findings([made.outcome()], ()):
        found.setdefault(one.check, []).append(one)
    return found


def failing(made: Made) -> set[str]:
    return {one.check for one in sanity.failed(sanity.findings([made.outcome()], ()))}


@pytest.mark.parametrize("mode", ["standard", "individual"])
def test_a_sound_suite_fails_no_check_and_says_so_of_each(mode: str) -> None:
    made = Made(did=SOUND, suite=asked(mode=mode))
    assert failing(made) == set()
    assert by_check(made).keys() == {
        "deterministic", "lost gradients", "agreeing starts", "never succeeds", "more steps", "black box", "noise",
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["standard", "individual"])
@pytest.mark.parametrize("images", [1, 8, 19])
def test_few_images_raise_no_alarm(mode: str, images: int) -> None:
    """Whatever the attacks do: at such a size everything happens by chance."""
    weird = {**SOUND, "pgd_100": Did(margin=3.0), "exact_dlr": Did(spread=0.0), "square": Did(turned=range(images))}
    weird = {name: replace(did, turned=[one for one in did.turned if one < images]) for name, did in weird.items()}
    made = Made(images=images, did=weird, suite=asked(mode=mode))
    assert failing(made) == set()
    assert any("too few to tell" in one.words for found in by_check(made).values() for one in found)


TRIGGERS: Mapping[str, tuple[Mapping[str, Did], str]] = {
    "more steps": ({"pgd_100": Did(turned=range(10), margin=0.9)}, "the longer attack ends with the higher margin on"),
    "lost gradients": ({"exact_cross_entropy": Did(turned=range(5), lost=0.8)}, "80% of the steps of exact, cross-"),
    "agreeing starts": (
        {"exact_margin": Did(turned=range(40), spread=0.0)},
        "end with the clean image's margin: exact, margin on 100%",
    ),
    "never succeeds": ({"adjoint_margin": Did()}, "simultaneous adjoint, margin turns none of 100 images"),
}


@pytest.mark.parametrize("check", TRIGGERS)
def test_a_broken_attack_fails_its_check_alone(check: str) -> None:
    changes, words = TRIGGERS[check]
    made = Made(did={**SOUND, **changes})
    assert failing(made) == {check}
    (said,) = sanity.failed(sanity.findings([made.outcome()], ()))
    assert words in said.words
    assert said.row == "TRADES + Sec. 3.2"


@pytest.mark.parametrize(("margin", "bad"), [(1.5, True), (1.0, True), (0.99999, True), (0.999, False), (0.1, False)])
def test_starts_that_agree_fail_only_where_the_clean_margin_is_not_lowered(margin: float, bad: bool) -> None:
    """Clean margins are 1. Far below them, all starts have met in one minimum."""
    made = Made(did={**SOUND, "exact_margin": Did(turned=range(40), spread=0.0, margin=margin)})
    assert failing(made) == ({"agreeing starts"} if bad else set())
    if not bad:
        assert "starts of exact, margin meet in one minimum on 100%" in by_check(made)["agreeing starts"][0].words


def test_starts_that_are_the_same_by_design_are_not_asked_whether_they_agree() -> None:
    assert failing(Made(did={**SOUND, "warm_targeted": Did(turned=range(40), spread=0.0)})) == set()


@pytest.mark.parametrize("mode", ["standard", "individual"])
def test_masked_gradients_show_where_queries_turn_what_gradients_do_not(mode: str) -> None:
    blind = {attack.name: Did(turned=range(3)) for attack in against(asked(), "defended")}
    made = Made(did={**blind, "square": Did(turned=range(60), taken=1000)}, suite=asked(mode=mode))
    assert "black box" in failing(made)
    (said,) = by_check(made)["black box"]
    assert "queries alone turn" in said.words


def test_queries_that_find_a_few_more_than_gradients_are_no_alarm() -> None:
    made = Made(did={**SOUND, "square": Did(turned=[*range(40), 60, 61, 62], taken=1000)})
    assert "black box" not in failing(made)


@pytest.mark.parametrize("mode", ["standard", "individual"])
def test_attacks_that_turn_nothing_at_all_fail_in_both_modes(mode: str) -> None:
    made = Made(suite=asked(mode=mode))
    assert "never succeeds" in failing(made)
    assert by_check(made)["never succeeds"][0].words == "no attack turns any of 100 images"


@pytest.mark.parametrize(
    ("attack", "noise", "words"),
    [
        ([100, 100, 80, 0], [100, 100, 99, 90], "; at another radius one does: 20 of 100 at 255/255"),
        ([100, 100, 100, 100], [100, 100, 100, 100], ""),  # turns nothing anywhere
        ([100, 100, 80, 40], [100, 100, 79, 40], ""),  # only as much as noise
        ([100, 100, 97, 95], [100, 100, 99, 99], ""),  # no more than chance may do
    ],
)
def test_a_decision_that_falls_in_larger_balls_alone_is_robust_and_not_badly_attacked(
    attack: list[int], noise: list[int], words: str
) -> None:
    found = sanity.findings([Made().outcome()], [curve(attack, noise)])
    (said,) = [one for one in found if one.check == "never succeeds"]
    assert said.words == f"no attack turns any of 100 images{words}"
    assert said.verdict == ("passed" if words else "failed")


def test_a_small_budget_is_no_attack_that_never_succeeds() -> None:
    assert failing(Made(did={**SOUND, "rays": Did(taken=30), "adjoint_margin": Did(taken=6)})) == set()


@pytest.mark.parametrize("mode", ["standard", "individual"])
def test_noise_that_does_all_that_attacks_do_is_told(mode: str) -> None:
    same = {attack.name: Did(turned=range(30)) for attack in against(asked(), "defended")}
    assert "noise" in failing(Made(did=same, suite=asked(mode=mode)))
    assert "noise" not in failing(Made(did={**SOUND, "noise": Did(turned=range(12))}, suite=asked(mode=mode)))


def test_a_decision_that_answers_otherwise_when_asked_again_is_told() -> None:
    flag = "decision is not deterministic: 7 of 100 images have other logits when they are judged again"
    made = Made(did=SOUND, flags=[flag])
    assert failing(made) == {"deterministic"}
    assert by_check(made)["deterministic"][0].words == f"{flag} (1 of 1 jobs)"


def over_radius(one: RadiusCurve) -> dict[str, Finding]:
    return {finding.check: finding for finding in sanity.findings((), [one])}


def test_a_sound_curve_passes() -> None:
    found = over_radius(curve([100, 60, 20, 0], [100, 99, 90, 80]))
    assert {one.verdict for one in found.values()} == {"passed"}
    assert found.keys() == {"reaches zero", "larger ball", "noise over the radius"}


@pytest.mark.parametrize(
    ("last", "verdict"), [(0, "passed"), (3, "too few"), (10, "too few"), (15, "too few"), (40, "failed")]
)
def test_reaching_zero_means_no_more_than_one_class_in_so_many_beyond_chance(last: int, verdict: str) -> None:
    """A constant answer keeps 10 of 100 images in any ball; an attack that fails keeps more."""
    assert over_radius(curve([100, 60, last], [100, 99, 90]))["reaches zero"].verdict == verdict


def test_a_decision_with_two_classes_may_keep_half() -> None:
    assert over_radius(curve([100, 90, 40], [100] * 3, labels=2))["reaches zero"].verdict != "failed"
    assert over_radius(curve([100, 90, 40], [100] * 3, labels=10))["reaches zero"].verdict == "failed"


def test_a_curve_that_rises_or_lies_above_noise_is_told() -> None:
    found = over_radius(curve([100, 20, 60, 0], [100, 99, 90, 80]))
    assert found["larger ball"].verdict == "failed"
    assert "at radius 255/255" in found["larger ball"].words
    assert over_radius(curve([100, 90, 0], [100, 50, 40]))["noise over the radius"].verdict == "failed"


def test_each_check_can_be_told_apart_by_its_name() -> None:
    checks: list[Callable[..., object]] = [*sanity._OF_SUITE, sanity.never_succeeds, *sanity._OF_RADIUS]
    assert len(checks) == len(set(checks)) == 10
