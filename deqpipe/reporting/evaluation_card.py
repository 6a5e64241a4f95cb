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
        card=card, kind=KINDS[card["kind"]], knows=KNOWS_OF_NETWORK if card["kind"] == "network" else KNOWS,
        sections={one["name"]: one["label"] for one in card["sections"]} | {"controls": "Controls"},
        percent=percent, interval=interval, minutes=minutes,
    ) + "\n"  # fmt: skip


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
