"""The card of an evaluation as a page: one file with everything in it, for a phone, a screen and paper. No torch."""

from collections.abc import Mapping
from typing import Any

from deqpipe.reporting import pages

KINDS = {
    "network": "a network without states", "plain": "an equilibrium model, undefended",
    "defended": "an equilibrium model whose dynamics a defence changes", "ensemble": "several models together",
}  # fmt: skip
KNOWS = {"nothing": "answers alone", "states": "model, states and solver", "defence": "the defence as well"}
KNOWS_OF_NETWORK = {**KNOWS, "states": "the model"}


def page(card: Mapping[str, Any]) -> str:
    """The card of these numbers (`card.json`, with its provenance)."""
    return pages.template("evaluation.html").render(
        card=card, summary=summary(card), kind=KINDS[card["kind"]],
        knows=KNOWS_OF_NETWORK if card["kind"] == "network" else KNOWS,
        sections={one["name"]: one["label"] for one in card["sections"]} | {"controls": "Controls"},
        percent=percent, interval=interval, minutes=minutes,
    ) + "\n"  # fmt: skip


def summary(card: Mapping[str, Any]) -> list[str]:
    """What the model is worth, in plain sentences: clean, under attack, what was not run, what the checks say."""
    return [_of_clean(card), _under_attack(card), _what_ran(card), *_of_checks(card)]


def attacks_of(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The attacks of a card, controls left out."""
    return [one for one in card["attacks"] if one["section"] != "controls"]


def lacking_of(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Attacks that did not run, or not on all images."""
    return [one for one in card["skipped"] if one["attack"]]


def _of_clean(card: Mapping[str, Any]) -> str:
    return f"As they are, {_counted(card, 'clean')} are classified right."


def _under_attack(card: Mapping[str, Any]) -> str:
    changed = f"when every pixel may change by up to {card['epsilon_255']:g}/255"
    if not card["union"]["right"]:
        return f"Under attack, none of {card['union']['n']} images {_interval(card, 'union')} stays right {changed}."
    doubtful = bool(lacking_of(card)) or "failed" in _verdicts(card)
    bound = "This is an upper bound: attacks that were not tried may turn more."
    if doubtful:
        bound = "This is an upper bound, and may be far too high, for the reasons below."
    return f"Under attack, at most {_counted(card, 'union')} stay right {changed}. {bound}"


def _what_ran(card: Mapping[str, Any]) -> str:
    attacks, lacking = attacks_of(card), lacking_of(card)
    if not lacking:
        return f"All {len(attacks)} attacks ran on every image that they were due to meet."
    return (
        f"{len(lacking)} of {len(attacks)} attacks did not run, or not on all images: the time budget was used up. "
        "The strongest for their cost came first."
    )


def _of_checks(card: Mapping[str, Any]) -> list[str]:
    verdicts = _verdicts(card)
    parts = [
        f"{verdicts.count(verdict)} {words}"
        for verdict, words in (("passed", "passed"), ("failed", "failed"), ("too few", "had too few images to tell"))
        if verdict in verdicts
    ]
    if not parts:
        return ["No check of the attacks could be made."]
    if verdicts.count("passed") == len(verdicts):
        return [f"All {len(verdicts)} checks of the attacks passed."]
    doubt = "; the accuracy under attack is not to be relied on" if "failed" in verdicts else ""
    return [f"Of {len(verdicts)} checks of the attacks {', '.join(parts)}{doubt}."]


def _verdicts(card: Mapping[str, Any]) -> list[str]:
    return [one["verdict"] for one in card["findings"]]


def _counted(card: Mapping[str, Any], name: str) -> str:
    return f"{card[name]['right']} of {card[name]['n']} images {_interval(card, name)}"


def _interval(card: Mapping[str, Any], name: str) -> str:
    confidence = f"{100 * card['options']['confidence']:g}% interval"
    return f"({percent(card[name])}%, {confidence} {interval(card[name])}%)"


def percent(share: Mapping[str, Any] | None) -> str:
    """A share in per cent; a dash where there is none."""
    return "\N{EN DASH}" if share is None else f"{100 * share['value']:.1f}"


def interval(share: Mapping[str, Any] | None) -> str:
    """Its interval in per cent, and what it was counted from."""
    if share is None:
        return ""
    return f"{100 * share['low']:.1f}\N{EN DASH}{100 * share['high']:.1f}"


def minutes(seconds: float) -> str:
    """A time."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
