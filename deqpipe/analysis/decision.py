"""Decisions: trained models with a test-time defence, by the names that the paper gives them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from deqpipe.analysis.reading import Judge
from deqpipe.config import Config, Framework
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import ENTROPY, PLAIN, DefenceName, defence_of

AWP = "AWP"
"""Adversarial weight perturbation, as its authors call it."""
_FRAMEWORKS: dict[Framework | None, str] = {"pgd_at": "PGD-AT", "trades": "TRADES"}


@dataclass(frozen=True)
class Decision:
    """A trained model with a test-time defence."""

    model: str
    defence: DefenceName

    @property
    def judge(self) -> Judge:
        """Its name in records."""
        return self.model, self.defence

    @property
    def framework(self) -> str:
        """Adversarial training framework, as the paper writes it."""
        return _FRAMEWORKS.get(vocabulary.MODELS[self.model].framework, "clean")

    @property
    def method(self) -> str:
        """The paper's name of the method; network or trunk for what is none of its four."""
        kind = vocabulary.MODELS[self.model]
        added = [AWP] if kind.perturbed_weights else []
        if network := kind.architecture.method:
            return " + ".join((network, *added))
        if self.model == vocabulary.TRUNK:
            return "pretrained trunk"
        value = defence_of(self.defence)
        if value.control_of:
            return f"{replace(self, defence=value.control_of).method}, {value.label}"
        if value.matched_to:
            return f"{replace(self, defence=PLAIN.name).method}, {value.label}"
        if kind.architecture.label:
            return " + ".join(filter(None, (kind.architecture.label, value.label)))
        trained = ["Sec. 3.3"] if kind.random_states else []
        return _with([label for label in (value.label, *trained) if label], also=added)

    @property
    def row(self) -> str:
        """Its row in tables, such as `TRADES + Sec. 3.2`; of a model that the workflow does not have its name."""
        if self.model not in vocabulary.MODELS:
            return self.model
        return self.method if self.model == vocabulary.TRUNK else f"{self.framework} {self.method}"


def _with(labels: Sequence[str], *, also: Sequence[str] = ()) -> str:
    """What is added to adversarial training as in Yang et al. (2022), as the paper writes it; first what is not its."""
    sections = [label.removeprefix("Sec. ") for label in labels if label.startswith("Sec. ")]
    if len(sections) > 1:
        labels = [f"Secs. {' & '.join(sections)}", *(label for label in labels if not label.startswith("Sec. "))]
    added = " + ".join((*also, *labels))
    return f"+ {added}" if added else "baseline"


def controls(config: Config, models: Iterable[str] = vocabulary.DEQS) -> tuple[Decision, ...]:
    """The control decisions of Sec. 3.2 on some models, in the order of the paper's decisions."""
    return tuple(
        Decision(model, control) for model in models for control in vocabulary.MODELS[model].controls(config.entropy)
    )


def paper_decisions(*frameworks: Framework) -> tuple[Decision, ...]:
    """The paper's four methods in each framework, in the paper's order."""
    return tuple(one for one in all_decisions(*frameworks) if defence_of(one.defence).published)


def all_decisions(*frameworks: Framework) -> tuple[Decision, ...]:
    """Every decision of the paper's DEQs in some frameworks, model by model, and those with further defences."""
    return _of(vocabulary.DEQS, frameworks)


def perturbed_decisions(config: Config, *frameworks: Framework) -> tuple[Decision, ...]:
    """Every decision of the DEQs that a configuration has with adversarial weight perturbation."""
    models = vocabulary.present(config, vocabulary.EVERY_DEQ)
    return _of([name for name in models if vocabulary.MODELS[name].perturbed_weights], frameworks)


def own_decisions(config: Config, *frameworks: Framework) -> tuple[Decision, ...]:
    """Every decision of the models that users' files add."""
    return _of(vocabulary.own(config), frameworks)


def _of(models: Iterable[str], frameworks: Sequence[Framework]) -> tuple[Decision, ...]:
    models = tuple(models)
    return tuple(
        Decision(model, defence)
        for framework in frameworks
        for model in models
        if vocabulary.MODELS[model].framework == framework
        for defence in vocabulary.MODELS[model].defences
    )


SWEEP_DECISION = Decision(vocabulary.SWEEP_MODEL, ENTROPY.name)
"""TRADES with Secs. 3.2 and 3.3: the decision of Tables 4, 8 and Figure 5."""
