"""The vocabulary of evaluated models: what the workflow trains, attacks and reports, by name.

It is closed, but for what a user's file adds (deqpipe/extending). A defence of one's own is evaluated on weights that
are trained without it: weights and the decisions that are read off them are an entry of their own, with files of its
own, so that nothing else is computed again when the defence comes, changes or goes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from deqpipe import extending
from deqpipe.config import Config, EntropyConfig, FeedforwardConfig, Framework
from deqpipe.workflow.defences import CONTROLS, DECIDING, DEFENCES, MATCHED, PLAIN, DefenceName


@dataclass(frozen=True)
class Architecture:
    """What kind of network a model is.

    Attributes:
        name: as checkpoints call it, and `deqpipe.model.architecture`.
        section: of the configuration, which says how large it is and, where it has no states, how it is trained.
        method: what tables call the row of such a model; None: DEQs go by the method that they are trained with.
    """

    name: str
    section: str
    method: str | None = None
    label: str = ""
    """What tables call a DEQ from a user's file."""

    @property
    def has_states(self) -> bool:
        """Whether it is a DEQ, with states z^[1] .. z^[N] to attack, to defend and to decide at."""
        return self.method is None


DEQ = Architecture("deq", "model")
RESNET = Architecture("resnet", "resnet", "ResNet")


@dataclass(frozen=True)
class TrainedModel:
    """One entry of the vocabulary of models."""

    name: str
    architecture: Architecture
    framework: Framework | None
    """None: pretraining on clean images."""
    random_states: bool = False
    """Trained with the loss from random intermediate states (Sec. 3.3)."""
    other_jacobian: bool = False
    """Trained with `jacobian.other_weight`, for Figure 6 alone: never evaluated."""
    perturbed_weights: bool = False
    """Trained with adversarial weight perturbation, where the configuration asks for it."""
    decides_by: tuple[DefenceName, ...] = ()
    """The test-time defences that it is evaluated with, where these are of one's own."""
    weights_of: str | None = None
    """The model whose weights it has; None: it is trained, or imported, itself."""
    origin: str = ""
    """The user's file that it comes from, as the configuration names it."""

    @property
    def is_deq(self) -> bool:
        """Whether it is a DEQ that was trained adversarially: with states to attack, to defend and to decide at."""
        return self.architecture.has_states and self.framework is not None

    def is_present(self, config: Config) -> bool:
        """Whether a configuration has this model; those of Figure 6 may be asked for under every one."""
        if self.origin and self.origin not in config.extensions:
            return False
        return config.weight_perturbation.enabled or not self.perturbed_weights

    @property
    def defences(self) -> tuple[DefenceName, ...]:
        """The test-time defences that this model is evaluated with."""
        if self.other_jacobian:
            return ()
        return self.decides_by or (DECIDING if self.is_deq else (PLAIN.name,))

    def controls(self, entropy: EntropyConfig) -> tuple[DefenceName, ...]:
        """The control decisions that its attacked images are scored on as well."""
        if not entropy.controls:
            return ()
        return tuple(name for name in CONTROLS if DEFENCES[name].control_of in self.defences)


_BUILT_IN: Mapping[str, TrainedModel] = {
    model.name: model
    for model in (
        TrainedModel("deq_pretrain", DEQ, None),
        TrainedModel("deq_pgd_at_base", DEQ, "pgd_at"),
        TrainedModel("deq_pgd_at_random_states", DEQ, "pgd_at", random_states=True),
        TrainedModel("deq_trades_base", DEQ, "trades"),
        TrainedModel("deq_trades_random_states", DEQ, "trades", random_states=True),
        TrainedModel("resnet18_pgd_at", RESNET, "pgd_at"),
        TrainedModel("resnet18_trades", RESNET, "trades"),
        TrainedModel("deq_pgd_at_jac_low", DEQ, "pgd_at", other_jacobian=True),
        TrainedModel("deq_trades_jac_high", DEQ, "trades", other_jacobian=True),
        TrainedModel("deq_pgd_at_awp", DEQ, "pgd_at", perturbed_weights=True),
        TrainedModel("deq_pgd_at_awp_random_states", DEQ, "pgd_at", random_states=True, perturbed_weights=True),
        TrainedModel("deq_trades_awp", DEQ, "trades", perturbed_weights=True),
        TrainedModel("deq_trades_awp_random_states", DEQ, "trades", random_states=True, perturbed_weights=True),
        TrainedModel("resnet18_pgd_at_awp", RESNET, "pgd_at", perturbed_weights=True),
        TrainedModel("resnet18_trades_awp", RESNET, "trades", perturbed_weights=True),
    )
}


class _Models(Mapping[str, TrainedModel]):
    """The entries that this process knows: those of the package, and of the users' files that are loaded."""

    def __getitem__(self, name: str) -> TrainedModel:
        return _BUILT_IN[name] if name in _BUILT_IN else _own(None)[name]

    def __iter__(self) -> Iterator[str]:
        yield from (*_BUILT_IN, *_own(None))

    def __len__(self) -> int:
        return len(_BUILT_IN) + len(_own(None))


def is_built_in(name: str) -> bool:
    """Whether the package itself has a model of this name."""
    return name in _BUILT_IN


def added(paths: Iterable[str] | None) -> Iterator[tuple[TrainedModel, extending.Piece, extending.Extension]]:
    """The entries of users' files, each with its piece and its file; None: of all that are loaded."""
    for model, file in extending.pieces(extending.Model, paths).values():
        yield from ((entry, model, file) for entry in _trained(model, file.path))
    for defence, file in extending.pieces(extending.Defence, paths).values():
        yield from ((entry, defence, file) for entry in _defended(defence, file.path))


def _own(paths: Iterable[str] | None) -> dict[str, TrainedModel]:
    return {entry.name: entry for entry, _, _ in added(paths)}


def _trained(piece: extending.Model, path: str) -> Iterator[TrainedModel]:
    """A model of one's own, once per framework."""
    architecture = Architecture(piece.name, "model", label=piece.label)
    for framework in piece.frameworks:
        yield TrainedModel(
            f"{piece.name}_{framework}",
            architecture,
            cast(Framework, framework),
            decides_by=piece.defences,
            origin=path,
        )


def _defended(piece: extending.Defence, path: str) -> Iterator[TrainedModel]:
    """The weights that a defence of one's own is evaluated on, each with it."""
    for name in piece.models or DEQS:
        kind = _BUILT_IN[name]
        yield replace(kind, name=f"{name}_{piece.name}", decides_by=(piece.name,), weights_of=name, origin=path)


MODELS: Mapping[str, TrainedModel] = _Models()
FRAMEWORKS: tuple[Framework, ...] = ("pgd_at", "trades")
TRUNK = "deq_pretrain"
OTHER_JACOBIAN = tuple(name for name, model in _BUILT_IN.items() if model.other_jacobian)
EVERY_EVALUATED = tuple(name for name in _BUILT_IN if name not in OTHER_JACOBIAN)
EVERY_DEQ = tuple(name for name in EVERY_EVALUATED if _BUILT_IN[name].is_deq)
EVERY_FEEDFORWARD = tuple(name for name in EVERY_EVALUATED if not _BUILT_IN[name].architecture.has_states)
"""Networks without states, for comparison. Like the two before, with what only some configurations have: `present`."""
EVALUATED = tuple(name for name in EVERY_EVALUATED if not _BUILT_IN[name].perturbed_weights)
"""The paper's, and so in those below."""
DEQS = tuple(name for name in EVALUATED if _BUILT_IN[name].is_deq)
FEEDFORWARD = tuple(name for name in EVALUATED if name in EVERY_FEEDFORWARD)
TRADES = tuple(name for name in DEQS if _BUILT_IN[name].framework == "trades")
BASELINES = tuple(name for name in DEQS if not _BUILT_IN[name].random_states)
SWEEP_MODEL = "deq_trades_random_states"  # the model of Tables 4, 5, 8 and 10
FIGURE2_MODEL = "deq_pgd_at_base"  # the model of Figure 2


def present(config: Config, models: Iterable[str]) -> tuple[str, ...]:
    """Those of some models that a configuration has."""
    return tuple(name for name in models if MODELS[name].is_present(config))


def own(config: Config) -> tuple[str, ...]:
    """The models that the users' files of a configuration add."""
    return present(config, _own(config.extensions))


def deqs(config: Config) -> tuple[str, ...]:
    """Every DEQ that a configuration evaluates, those of users' files behind the others."""
    return (*present(config, EVERY_DEQ), *own(config))


def feedforward_networks(config: Config) -> tuple[str, ...]:
    """Every network without states that a configuration evaluates."""
    return present(config, EVERY_FEEDFORWARD)


def evaluated(config: Config) -> tuple[str, ...]:
    """Every model that a configuration evaluates, the trunk included."""
    return (*present(config, EVERY_EVALUATED), *own(config))


def faces_suite(config: Config) -> tuple[str, ...]:
    """The models whose decisions face the suite: a defence is compared with what faced as much."""
    return (*deqs(config), *feedforward_networks(config))


def lends_images(config: Config, model: str) -> tuple[str, ...]:
    """Those of them whose attacked images are judged on a model's decisions: the package's, and the model itself.

    Other models of users' files are not: whoever adds one has nothing of the others computed again.
    """
    return tuple(name for name in faces_suite(config) if not MODELS[name].origin or name == model)


def with_weights(config: Config) -> tuple[str, ...]:
    """Every model with weights of its own that a configuration evaluates."""
    return tuple(name for name in evaluated(config) if MODELS[name].weights_of is None)


def other_trades(model: str) -> str:
    """The TRADES DEQ that the images of another one are transferred to.

    Raises:
        ValueError: it is no TRADES DEQ.
    """
    if model not in TRADES:
        raise ValueError(f"{model} is none of {', '.join(TRADES)}")
    return next(name for name in TRADES if name != model)


def transfers_to(config: Config, model: str) -> str | None:
    """The other model that the images of a model's grid are scored on, if any."""
    return other_trades(model) if config.attack.transfer and model in TRADES else None


def suite_decisions(config: Config, model: str) -> tuple[DefenceName, ...]:
    """The decisions of a network that the suite attacks: its defences, controls, and what costs as much.

    None where there is no suite.
    """
    declared, suite = MODELS[model].defences, config.suite
    if not suite.enabled:
        return ()
    explaining = (name for name in CONTROLS if suite.controls and DEFENCES[name].control_of in declared)
    matched = (name for name in _matched(config, model) if not DEFENCES[name].of_seeds)
    return (*declared, *(name for name in explaining if _attacked(name, config.entropy)), *matched)


def ensembles(config: Config, model: str) -> tuple[DefenceName, ...]:
    """The decisions that a model's networks of all seeds take together, and the suite attacks; none of one seed."""
    several = len(config.seeds) > 1 and model in DEQS
    return tuple(name for name in _matched(config, model) if several and DEFENCES[name].of_seeds)


def _matched(config: Config, model: str) -> tuple[DefenceName, ...]:
    """The baselines of at most the cost of a model's defences, where the suite attacks them."""
    declared, suite = MODELS[model].defences, config.suite
    asked = suite.enabled and suite.static
    return tuple(name for name in MATCHED if asked and DEFENCES[name].matched_to in declared)


def _attacked(control: DefenceName, entropy: EntropyConfig) -> bool:
    attacked = DEFENCES[control].attacked
    return attacked is not None and attacked(entropy)


def feedforward(config: Config, model: str) -> FeedforwardConfig:
    """The section of a network without states."""
    section: FeedforwardConfig = getattr(config, MODELS[model].architecture.section)
    return section


def trained_here(config: Config) -> tuple[str, ...]:
    """The DEQs that are not imported."""
    return tuple(model for model in deqs(config) if MODELS[model].weights_of is None and model not in config.imported)
