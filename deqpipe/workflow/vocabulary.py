"""The closed vocabulary of trained models: what the workflow trains, attacks and reports, by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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

    @property
    def has_states(self) -> bool:
        """Whether it is a DEQ, with states z^[1] .. z^[N] to attack, to defend and to decide at."""
        return self.method is None


DEQ = Architecture("deq", "model")
RESNET = Architecture("resnet", "resnet", "ResNet")


@dataclass(frozen=True)
class TrainedModel:
    """One entry of the closed vocabulary of models."""

    name: str
    architecture: Architecture
    framework: Framework | None
    """None: pretraining on clean images."""
    random_states: bool = False
    """Trained with the loss from random intermediate states (Sec. 3.3)."""
    other_jacobian: bool = False
    """Trained with `jacobian.other_weight`, for Figure 6 alone: never evaluated."""
    perturbed_weights: bool = False
    """Trained with adversarial weight perturbation, for Table 1 alone, where the configuration asks for it."""

    @property
    def is_deq(self) -> bool:
        """Whether it is a DEQ that was trained adversarially: with states to attack, to defend and to decide at."""
        return self.architecture.has_states and self.framework is not None

    def is_present(self, config: Config) -> bool:
        """Whether a configuration has this model; those of Figure 6 may be asked for under every one."""
        return config.weight_perturbation.enabled or not self.perturbed_weights

    @property
    def defences(self) -> tuple[DefenceName, ...]:
        """The test-time defences that this model is evaluated with."""
        if self.other_jacobian:
            return ()
        return DECIDING if self.is_deq else (PLAIN.name,)

    def controls(self, entropy: EntropyConfig) -> tuple[DefenceName, ...]:
        """The control decisions that its attacked images are scored on as well."""
        if not entropy.controls:
            return ()
        return tuple(name for name in CONTROLS if DEFENCES[name].control_of in self.defences)


MODELS: Mapping[str, TrainedModel] = {
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
FRAMEWORKS: tuple[Framework, ...] = ("pgd_at", "trades")
TRUNK = "deq_pretrain"
OTHER_JACOBIAN = tuple(name for name, model in MODELS.items() if model.other_jacobian)
EVERY_EVALUATED = tuple(name for name in MODELS if name not in OTHER_JACOBIAN)
EVERY_DEQ = tuple(name for name in EVERY_EVALUATED if MODELS[name].is_deq)
EVERY_FEEDFORWARD = tuple(name for name in EVERY_EVALUATED if not MODELS[name].architecture.has_states)
"""Networks without states, for comparison. Like the two before, with what only some configurations have: `present`."""
EVALUATED = tuple(name for name in EVERY_EVALUATED if not MODELS[name].perturbed_weights)
"""The paper's, and so in those below."""
DEQS = tuple(name for name in EVALUATED if MODELS[name].is_deq)
FEEDFORWARD = tuple(name for name in EVALUATED if name in EVERY_FEEDFORWARD)
SUITE_MODELS = (*DEQS, *FEEDFORWARD)
"""Those whose decisions face the suite: a defence is compared with what faced as much."""
TRADES = tuple(name for name in DEQS if MODELS[name].framework == "trades")
BASELINES = tuple(name for name in DEQS if not MODELS[name].random_states)
SWEEP_MODEL = "deq_trades_random_states"  # the model of Tables 4, 5, 8 and 10
FIGURE2_MODEL = "deq_pgd_at_base"  # the model of Figure 2


def present(config: Config, models: Iterable[str]) -> tuple[str, ...]:
    """Those of some models that a configuration has."""
    return tuple(name for name in models if MODELS[name].is_present(config))


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
    several = len(config.seeds) > 1
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
    return tuple(model for model in present(config, EVERY_DEQ) if model not in config.imported)
