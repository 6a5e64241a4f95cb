"""Tables and figures, one value each: which files they are made of, and the module that makes them.

The rules of the workflow, what is waited for, the report and the command line are derived from these values. Nothing
here imports what draws or counts: a value names its module, which `reporting` looks up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from deqpipe import extending
from deqpipe.config import Config
from deqpipe.workflow.shards import races, races_in_sweep
from deqpipe.workflow.stages import STAGES, StageName
from deqpipe.workflow.vocabulary import (
    BASELINES,
    DEQS,
    FIGURE2_MODEL,
    OTHER_JACOBIAN,
    SWEEP_MODEL,
    TRADES,
    TRUNK,
    deqs,
    evaluated,
    faces_suite,
    feedforward_networks,
    trained_here,
)


@dataclass(frozen=True)
class Need:
    """Files of one stage.

    Attributes:
        stage: that makes them.
        models: of these models; None: of a stage that concerns none by name.
        file: another file of the same jobs, beside the one of the stage's path.
        every_seed: of every repetition, otherwise of the first one.
    """

    stage: StageName
    models: tuple[str, ...] | None = None
    file: str | None = None
    every_seed: bool = True


Needs: TypeAlias = Callable[[Config], tuple[Need, ...]]


@dataclass(frozen=True)
class Definition:
    """A table or figure of the paper.

    Attributes:
        kind: which of the two.
        number: in the paper.
        title: its headline.
        about: in a few words, for lists of results.
        module: that makes it.
        needs: what it is made of.
        comparable: whether its numbers may be compared with the paper's where the settings are the paper's; speeds may
            not.
        every_attack: whether it needs every attack on every image, so that there is none where attacks race.
        priority: of its rule.
        wanted: whether a whole run makes it.
        unwanted: why not, where it does not.
        on_request: whether it can be made all the same, by its name.
        foremost: columns of a table that a narrow terminal shows, the most important first; none: all, some of them
            below the others.
        pooled: columns of differences that are pooled over all seeds as well, where there are several.
        piece: what a user's file says of it, if it comes from one.
    """

    kind: Literal["table", "figure"]
    number: int
    title: str
    about: str
    module: str
    needs: Needs
    comparable: bool = True
    every_attack: bool = False
    priority: int = 20
    wanted: Callable[[Config], bool] = lambda config: True
    unwanted: str = ""
    on_request: bool = False
    foremost: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()
    piece: extending.Table | None = None

    @property
    def name(self) -> str:
        """Of its rule and its files."""
        return f"{self.kind}{self.number}"


def _decisions(config: Config, *models: str) -> tuple[Need, ...]:
    """What decisions under the attacks of the grid are read from."""
    race = (Need("race", models),) if races(config) else ()
    return (Need("attack_grid", models), *race, Need("select", models))


def _of_decisions(*models: str) -> Needs:
    return lambda config: _decisions(config, *models)


def _own_attacks(config: Config) -> tuple[Need, ...]:
    """What attacks from users' files leave, if there are any."""
    return (Need("attack_own", faces_suite(config)),) if extending.pieces(extending.Attack, config.extensions) else ()


def _table1(config: Config) -> tuple[Need, ...]:
    networks = feedforward_networks(config)
    return (
        *_own_attacks(config),
        Need("clean", evaluated(config)),
        Need("attack_pgd", (TRUNK, *networks)),
        Need("autoattack", (*deqs(config), *networks)),
        *_decisions(config, *deqs(config)),
    )


def _table3(config: Config) -> tuple[Need, ...]:
    return (*_decisions(config, *TRADES), Need("attack_in_loop", TRADES))


def _table4(config: Config) -> tuple[Need, ...]:
    models = (SWEEP_MODEL,)
    return (*_decisions(config, *models), Need("attack_top", models), Need("strongest", models))


def _table5(config: Config) -> tuple[Need, ...]:
    models = (SWEEP_MODEL,)
    race = (Need("race_sweep", models),) if races_in_sweep(config) else ()
    return (Need("select", models), Need("attack_sweep", models), *race)


def _entropies(config: Config) -> tuple[Need, ...]:
    return (*_decisions(config, *DEQS), Need("clean", DEQS))


def _figure2(config: Config) -> tuple[Need, ...]:
    models = (FIGURE2_MODEL,)
    example = Need("attack_example", models, every_seed=False)
    return (*_decisions(config, *models), Need("clean", models), example)


def _histories(models: tuple[str, ...], config: Config) -> tuple[Need, ...]:
    """Training histories; an imported model has none, but says in its weights where it comes from."""
    trained = tuple(model for model in models if model in (*trained_here(config), *OTHER_JACOBIAN))
    return Need("train_deq", trained, file="history.csv"), Need("train_deq", models)


def _suite(config: Config) -> tuple[Need, ...]:
    """What Figure 8 is made of: the suite, and the grid beside it."""
    models = faces_suite(config)
    return (*_decisions(config, *deqs(config)), Need("clean", models), Need("attack_suite", models))


def _table11(config: Config) -> tuple[Need, ...]:
    models = faces_suite(config)
    return (
        *_suite(config),
        Need("attack_pgd", feedforward_networks(config)),
        Need("autoattack", models),
        Need("attack_transferred", models),
        Need("attack_radius", models),
        Need("attack_ensemble", DEQS),
        *_own_attacks(config),
    )


def _has_suite(config: Config) -> bool:
    return config.suite.enabled


_NO_SUITE = "suite.enabled is false: it needs the attacks of the suite, which know what they attack."

_TABLES = (
    Definition(
        "table", 1, "Robustness of ResNets and DEQs in two adversarial training frameworks.",
        "all defences, all attacks", "deqpipe.reporting.tables.table1", _table1,
        foremost=("PGD", "Clean", "PGD gain", "ALL", "AA"),
    ),
    Definition(
        "table", 2, "Ready-made against intermediate-state attacks.", "intermediate-state attacks",
        "deqpipe.reporting.tables.table2", _of_decisions(*DEQS),
    ),
    Definition(
        "table", 3, "Attacks transferred between the methods with TRADES.", "transferred attacks",
        "deqpipe.reporting.tables.table3", _table3,
    ),
    Definition(
        "table", 4, "Strong attacks at the strongest points.", "APGD-CE and Square",
        "deqpipe.reporting.tables.table4", _table4,
    ),
    Definition(
        "table", 5, "Sec. 3.2 with other frequencies T_f and numbers of descent steps R.", "T_f and R",
        "deqpipe.reporting.tables.table5", _table5,
    ),
    Definition(
        "table", 6, "How often a clean image has a lower entropy than its attacked one.", "entropies: P",
        "deqpipe.reporting.tables.table6", _entropies,
    ),
    Definition(
        "table", 7, "How much lower the entropy of clean images is.", "entropies: Delta H",
        "deqpipe.reporting.tables.table7", _entropies,
    ),
    Definition(
        "table", 8, "The strongest attack at each state along the neural dynamics.", "damping and state",
        "deqpipe.reporting.tables.table8", _of_decisions(SWEEP_MODEL), every_attack=True,
    ),
    Definition(
        "table", 9, "Speed of training steps.", "speed of training", "deqpipe.reporting.tables.table9",
        lambda config: (Need("time_training", every_seed=False),), comparable=False, priority=5,
    ),
    Definition(
        "table", 10, "Speed of inference with Sec. 3.2.", "speed of inference", "deqpipe.reporting.tables.table10",
        lambda config: (Need("time_inference", (SWEEP_MODEL,), every_seed=False),), comparable=False, priority=5,
    ),
    Definition(
        "table", 11, "Every decision under attacks that know it, and what remains of the gains.",
        "attacks that know the defence", "deqpipe.reporting.tables.table11", _table11, wanted=_has_suite,
        unwanted=_NO_SUITE, foremost=("Union", "PGD", "Sec. 3.2 under union", "Sec. 3.2 by PGD", "Clean", "AA"),
        pooled=(
            "Gain by PGD", "Union gain", "Gain: fall", "Sec. 3.2 by PGD", "Sec. 3.2 under union", "Sec. 3.2: fall",
            "Sec. 3.2 over R = 0 by PGD", "Sec. 3.2 over R = 0", "Sec. 3.2 over R = 0: fall",
            "Sec. 3.2 over longer solve", "Sec. 3.2 over ensemble",
            "Sec. 3.3 by PGD", "Sec. 3.3 under union", "Sec. 3.3: fall",
        ),
    ),
)  # fmt: skip
_FIGURES = (
    Definition(
        "figure", 2, "Residual and prediction entropy of clean and attacked images.", "residuals and entropies",
        "deqpipe.reporting.figures.figure2", _figure2,
    ),
    Definition(
        "figure", 3, "Attacks, entropy and deviation along the neural dynamics.", "attacks, entropy and deviation",
        "deqpipe.reporting.figures.figure3", _of_decisions(*TRADES), every_attack=True,
    ),
    Definition(
        "figure", 4, "Robustness while training.", "robustness while training", "deqpipe.reporting.figures.figure4",
        lambda config: _histories(DEQS, config),
    ),
    Definition(
        "figure", 5, "Effect of the damping lambda on attacks.", "damping and state",
        "deqpipe.reporting.figures.figure5", _of_decisions(SWEEP_MODEL), every_attack=True,
    ),
    Definition(
        "figure", 6, "Weight of the Jacobian regularisation.", "Jacobian weight", "deqpipe.reporting.figures.figure6",
        lambda config: _histories((*BASELINES, *OTHER_JACOBIAN), config),
        wanted=lambda config: config.figures.jacobian,
        unwanted="figures.jacobian is false: the figure needs two trainings of its own. This makes them and the figure "
        "(with the --configfile of this run, if it had one); with figures.jacobian: true it is part of the report.",
        on_request=True,
    ),
    Definition(
        "figure", 7, "Robust accuracy over the radius of the ball.", "accuracy over epsilon",
        "deqpipe.reporting.figures.figure7",
        lambda config: (Need("attack_radius", faces_suite(config)), Need("select", deqs(config))), wanted=_has_suite,
        unwanted=_NO_SUITE,
    ),
    Definition(
        "figure", 8, "Robust accuracy over the cost of attacks.", "accuracy over cost",
        "deqpipe.reporting.figures.figure8", _suite, wanted=_has_suite, unwanted=_NO_SUITE,
    ),
)  # fmt: skip
TABLES: Mapping[int, Definition] = {one.number: one for one in _TABLES}
"""Those of the paper, and Table 11."""
FIGURES: Mapping[int, Definition] = {one.number: one for one in _FIGURES}


def tables(config: Config) -> Mapping[int, Definition]:
    """All tables of a configuration by number; those of users' files behind the others, in the order of the files."""
    own = extending.pieces(extending.Table, config.extensions).values()
    numbered = enumerate((piece for piece, _ in own), start=max(TABLES) + 1)
    return {**TABLES, **{number: _own(piece, number) for number, piece in numbered}}


def _own(piece: extending.Table, number: int) -> Definition:
    def needs(config: Config) -> tuple[Need, ...]:
        return tuple(
            Need(stage.name, stage.concerns(config) or None, every_seed=stage.seeded)
            for stage in map(STAGES.__getitem__, piece.needs)
        )

    module = "deqpipe.reporting.tables.own"
    return Definition("table", number, piece.label, piece.name, module, needs, comparable=False, piece=piece)
