"""Which attacks a model faces, in which order: the strongest for their cost first, controls beside them.

A network faces AutoAttack first, as by its library; a model with states the attacks that know its solver and defence
first, then intermediate states (Eq. 11), then AutoAttack on its own decision, whose gradient goes through the solver.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from deqpipe.attack import autoattack, suite
from deqpipe.attack.autoattack import Flags, LibraryAttacks
from deqpipe.attack.judged import Crafted, Hunt
from deqpipe.attack.pgd import PGD, cross_entropy_objective, uniform_start
from deqpipe.attack.suite import Batch, Victim
from deqpipe.attack.surrogate import surrogate_of
from deqpipe.config import AttackName, AttackSuiteConfig
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Logits, PerImage
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.library_attacks import LIBRARY_ATTACKS
from deqpipe.workflow.suite_attacks import (
    CONTROLS,
    NOISE,
    QUERIES,
    UNROLLED,
    AttackGroup,
    Kind,
    SuiteAttack,
    against,
)

EffortName: TypeAlias = str
Section: TypeAlias = Literal["knows", "states", "autoattack", "queries", "controls"]
SECTIONS: Mapping[Section, str] = {
    "knows": "Attacks that know the decision",
    "states": "Intermediate states (Eq. 11)",
    "autoattack": "AutoAttack",
    "queries": "Answers alone",
    "controls": "Controls",
}
"""Of the card."""
AUTOATTACK = AttackGroup("autoattack", "AutoAttack", "the library's attacks on the decision's logits")


@dataclass(frozen=True)
class Effort:
    """How much is spent.

    Attributes:
        suite: on the attacks that know the decision.
        library: iterations, targets and queries of AutoAttack.
        states: how many states the grid attacks.
        steps: K_a of the grid.
        damping: lambda of the grid.
        radii: of the controls, in units of epsilon; the whole pixel range is added.
    """

    suite: AttackSuiteConfig
    library: tuple[int, int, int]
    states: int
    steps: tuple[int, ...]
    damping: tuple[float, ...]
    radii: tuple[float, ...]


def _suite(iterations: int, restarts: int, targets: int, long: tuple[int, ...], queries: int) -> AttackSuiteConfig:
    return AttackSuiteConfig.model_construct(
        enabled=True, mode="standard", images=1, images_per_job=1, controls=False, static=False, radii=(0.0, 1.0),
        radius_images=1, iterations=iterations, restarts=restarts, targets=targets, long=long, queries=queries,
        decision_queries=queries,
    )  # fmt: skip


EFFORTS: Mapping[EffortName, Effort] = {
    "quick": Effort(_suite(10, 2, 2, (10, 20), 100), (20, 3, 200), 3, (5,), (0.5,), (1.0, 4.0)),
    "standard": Effort(
        _suite(50, 2, 5, (50, 100), 1000), (100, 9, 5000), 4, (1, 5, 9), (0.5, 1.0), (0.5, 1.0, 2.0, 4.0)
    ),
    "thorough": Effort(
        _suite(100, 5, 9, (50, 100, 1000), 2000), (100, 9, 5000), 8, tuple(range(1, 10)), (0.5, 1.0),
        (0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 8.0),
    ),
}  # fmt: skip
"""quick: minutes, for a first look; standard; thorough: as config.yaml has it, with AutoAttack's standard version in
both of these."""

GRID_STEPS, GRID_STEP_255 = 10, 2.0
"""Of the grid's PGD, as in the paper."""
RADIUS_IMAGES = 24
"""Controls over the radius take the first so many."""


Craft: TypeAlias = Callable[[Victim, Batch, int], Crafted]
"""(decision, images, seed) -> what the attack came to."""


@dataclass(frozen=True)
class Entry:
    """One attack of an evaluation.

    Attributes:
        attack: its name, group and what it knows.
        section: of the card.
        craft: runs it.
        work: gradients, or queries, that an image takes at most.
        times: radius of its ball, in units of epsilon.
        images: it takes the first so many only; None: all.
    """

    attack: SuiteAttack
    section: Section
    craft: Craft
    work: int
    times: float = 1.0
    images: int | None = None

    @property
    def name(self) -> str:
        """Of its files, and in records."""
        return self.attack.name if self.images is None else f"{self.attack.name}_at{self.times:g}"

    @property
    def by_gradient(self) -> bool:
        """Whether its steps are gradients."""
        return self.attack.search in ("apgd", "pgd")

    @property
    def counts(self) -> bool:
        """Whether an image that it turns is turned within the ball, control or not."""
        return self.times <= 1

    @property
    def removes(self) -> bool:
        """Whether an image leaves by it."""
        return self.section != "controls"


def plan(kind: Kind, classes: int, states: int, *, effort: EffortName, epsilon: float) -> tuple[Entry, ...]:
    """All attacks on a decision, in order.

    Args:
        kind: of the decision.
        classes: how many.
        states: N; 0 of a network.
        effort: how much is spent.
        epsilon: radius of the ball, in units of the pixel range.
    """
    spent = EFFORTS[effort]
    every = against(spent.suite, kind)
    own = [_of_suite(attack, spent.suite, "knows", classes) for attack in every if _knows(attack)]
    queries = [_of_suite(attack, spent.suite, "queries", classes) for attack in every if attack.name == "rays"]
    noise = [_of_suite(attack, spent.suite, "controls", classes) for attack in every if attack.group == NOISE]
    library = [_of_library(name, spent.library, classes) for name in autoattack.runnable(_LIBRARY, classes=classes)]
    grid = [_of_grid(point) for point in _points(states, spent)] if kind != "network" else []
    attacks = [*library, *own] if kind == "network" else [*own, *grid, *library]
    return (*noise, *attacks, *queries, *_over_radius(every, spent, classes, epsilon))


_LIBRARY: tuple[AttackName, ...] = ("apgd_ce", "apgd_t", "fab_t", "square")


def _knows(attack: SuiteAttack) -> bool:
    return attack.group not in (NOISE, QUERIES)


def _of_suite(
    attack: SuiteAttack,
    spent: AttackSuiteConfig,
    section: Section,
    classes: int,
    times: float = 1.0,
    images: int | None = None,
) -> Entry:
    def craft(victim: Victim, batch: Batch, seed: int) -> Crafted:
        stream = Stream(seed, f"suite/{attack.name}")
        return suite.run(attack, victim, batch, stream=stream, suite=spent)

    work = attack.starts(spent, classes - 1) * attack.steps(spent)
    return Entry(attack, section, craft, work, times, images)


def _over_radius(every: Sequence[SuiteAttack], spent: Effort, classes: int, epsilon: float) -> list[Entry]:
    """One attack and noise within balls of other radii, the last of which holds every image."""
    once = spent.suite.model_copy(update={"restarts": 1})
    chosen = [attack for attack in every if attack.name in ("exact_margin", *CONTROLS)]
    radii = sorted({*(times for times in spent.radii if times * epsilon < 1), 1 / epsilon})
    return [
        _of_suite(attack, once, "controls", classes, times=times, images=RADIUS_IMAGES)
        for times in radii
        for attack in chosen
    ]


def _of_grid(point: GridPoint) -> Entry:
    attack = SuiteAttack(
        name=f"grid_{point.name}", label=f"PGD on z^[{point.state}], K_a {point.steps}, lambda {point.damping:g}",
        group=UNROLLED, knows="states", search="pgd", loss="cross_entropy", gradient="unrolled",
        against=("plain", "defended"), starts=lambda spent, others: 1, steps=lambda spent: GRID_STEPS,
    )  # fmt: skip

    def craft(victim: Victim, batch: Batch, seed: int) -> Crafted:
        surrogate = surrogate_of(point, dynamics=victim.blind, lead_step=False)

        def logits_of(x: Tensor) -> Logits:
            return surrogate(victim.deq, x)

        start = uniform_start(batch.x, ball=victim.ball, stream=Stream(seed, "grid"), images=batch.keys, clamp=True)
        ascent = PGD(victim.ball, steps=GRID_STEPS, step_size=_step(victim))
        made = ascent(cross_entropy_objective(logits_of, batch.y), batch.x, start=start)
        return judged_at_the_end(victim, batch, (made.images,), taken=GRID_STEPS, lost_gradient=made.lost_gradient)

    return Entry(attack, "states", craft, GRID_STEPS)


def _step(victim: Victim) -> float:
    """2/255 at the paper's 8/255, and in proportion."""
    return victim.ball.epsilon * GRID_STEP_255 / 8


def _points(states: int, spent: Effort) -> list[GridPoint]:
    """Of evenly spread states every K_a and lambda; middling unrolls first, late states before early ones."""
    last = states - 1
    chosen = sorted({1 + round(last * n / max(1, spent.states - 1)) for n in range(spent.states)}, reverse=True)
    points = [
        GridPoint(damping, state, steps) for steps in spent.steps for damping in spent.damping for state in chosen
    ]
    middle = spent.steps[len(spent.steps) // 2]
    return sorted(points, key=lambda point: (abs(point.steps - middle), point.damping))


def _of_library(name: AttackName, amounts: tuple[int, int, int], classes: int) -> Entry:
    known, (iterations, targets, queries) = LIBRARY_ATTACKS[name], amounts
    steps = queries if name == "square" else iterations
    attack = SuiteAttack(
        name=f"autoattack_{name}", label=known.label, group=QUERIES if name == "square" else AUTOATTACK,
        knows="nothing" if name == "square" else "states", search="square" if name == "square" else "apgd",
        loss="margin", gradient="decision", against=("network", "plain", "defended"),
        starts=lambda spent, others: 1, steps=lambda spent: steps,
    )  # fmt: skip

    def craft(victim: Victim, batch: Batch, seed: int) -> Crafted:
        run = LibraryAttacks(victim.ball, iterations, targets=targets, queries=queries, misclassified=False)
        made = run(name, suite.decision_of(victim), batch.x, batch.y, seed=seed, flags=Flags())
        return judged_at_the_end(victim, batch, (made.fooled, made.best), taken=steps)

    aims = min(targets, classes - 1) if name in ("apgd_t", "fab_t") else 1
    return Entry(attack, "autoattack", craft, steps * aims)


@torch.no_grad()
def judged_at_the_end(
    victim: Victim, batch: Batch, made: Sequence[Images], *, taken: int, lost_gradient: PerImage | None = None
) -> Crafted:
    """What an attack came to that did not ask the decision on its way, of images that it ended with, bit for bit.

    Args:
        victim: the decision.
        batch: the clean images.
        made: one or several images for each of them; those that the decision errs on count, then those of lower margin.
        taken: steps.
        lost_gradient: share of steps without one; None: nobody knows.
    """
    hunt = Hunt(batch.x, batch.y, victim.logits, victim.ball)
    rows = torch.arange(len(batch.x), device=batch.x.device)
    every = [victim.logits(images) for images in made]
    right = torch.stack([hunt.right(logits, rows) for logits in every])
    margins = torch.stack([hunt.margins(logits, rows) for logits in every])
    best = torch.where(right, margins, -torch.inf).argmin(0)
    images = torch.stack(list(made))[best, rows]
    steps, unknown = torch.full_like(rows, taken), torch.full_like(margins[0], torch.nan)
    return Crafted(
        delta=images - batch.x, images=images, margin=margins[best, rows],
        broken_at=torch.where(right[best, rows], -1, steps), taken=steps,
        lost_gradient=unknown if lost_gradient is None else lost_gradient, spread=unknown,
    )  # fmt: skip
