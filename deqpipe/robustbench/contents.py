"""What the files of a hand-in hold: source, weights, model_info, and the words of the issue that hands it in."""

import ast
import textwrap
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

import torch
from torch import Tensor, nn

from deqpipe import __version__
from deqpipe.config import ModelConfig
from deqpipe.model.cell import NormedConv2d
from deqpipe.robustbench import standalone
from deqpipe.robustbench.decision import METHODS, Decision

TITLE = (
    "Improving Adversarial Robustness of Deep Equilibrium Models with Explicit Regulations Along the Neural Dynamics"
)
_CUT = ("module.", "model.")
"""What RobustBench's loader takes for a prefix, wherever in a name it stands."""
DATASETS = {"CIFAR-10": "cifar10"}
"""RobustBench's names of datasets that have a leaderboard there, by ours."""


@dataclass(frozen=True)
class Claim:
    """What only the person who hands in can know.

    Attributes:
        name: of the model, as RobustBench forms it: first author, year, first word of the title.
        title: of the paper.
        link: to it.
        authors: with commas between.
        venue: with the year.
        additional_data: whether more than the training images of the dataset were used.
        reported: robust accuracy that the paper reports, in percent.
        external: robust accuracy under the strongest attack that is known, in percent, if lower than AutoAttack's.
        footnote: to be added to ours.
    """

    name: str
    title: str
    link: str
    authors: str
    venue: str
    additional_data: bool = False
    reported: float | None = None
    external: float | None = None
    footnote: str = ""


@dataclass(frozen=True)
class Subject:
    """The network that is handed in.

    Attributes:
        architecture: as its checkpoint describes it.
        decision: of a DEQ; None: a network without states.
        parameters: how many.
        origin: who trained it, in words.
        epsilon_255: radius of the ball that it is attacked in, in 1/255 of the pixel range.
    """

    architecture: Mapping[str, Any]
    decision: Decision | None
    parameters: int
    origin: str
    epsilon_255: float

    @property
    def dataset(self) -> str:
        """RobustBench's name of the dataset; of one without a leaderboard there, ours."""
        name = self.architecture["dataset"]
        return DATASETS.get(name, "_".join(name.lower().split()))

    @property
    def in_words(self) -> str:
        """The architecture, as leaderboards name it."""
        if self.decision is None:
            return f"ResNet-{2 * sum(self.architecture['layers']) + 2}"
        channels = "/".join(map(str, self.architecture["model"]["channels"]))
        return f"MDEQ (deep equilibrium model, {channels} channels, {_count(self.parameters)} parameters)"

    @property
    def footnote(self) -> str:
        """What a reader of the leaderboard has to know."""
        if self.decision is None:
            return f"{self.origin}."
        return (
            f"Reads {self.decision.in_words}: one forward pass evaluates f {self.decision.evaluations} times, and "
            "gradients go through all solver steps. Without input entropy reduction (Sec. 3.2), which optimises at "
            f"test time. {self.origin}."
        )


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f}M" if parameters >= 1e6 else f"{parameters / 1e3:.1f}K"


def class_name(name: str) -> str:
    """The name of a model's class."""
    return name.replace("-", "_")


def source(subject: Subject, name: str) -> str:
    """The module of a network: a copy of a file of `standalone`, and the class that needs no argument."""
    head = (
        f"{subject.in_words} as one file. Images are (channels, height, width) = {_shape(subject)}, in [0, 1], without"
    )
    head += f"\nany normalisation. {subject.footnote}\n\nWritten by deqpipe {__version__}; MIT licence."
    text = _whole("resnet.py" if subject.decision is None else "deq.py")
    body, docstring = _body(text, unused=_unused(subject))
    return f'"""{_wrapped(head)}\n\n{docstring}\n"""\n{body}\n{_tail(subject, name)}'


def _whole(file: str) -> str:
    return resources.files(standalone).joinpath(file).read_text(encoding="utf-8")


def reproduce() -> str:
    """The script that measures."""
    return _whole("reproduce.py")


def _shape(subject: Subject) -> tuple[int, ...]:
    return tuple(subject.architecture["image_shape"])


def _unused(subject: Subject) -> set[str]:
    """Solvers that the network does without."""
    return set() if subject.decision is None else set(METHODS.values()) - {subject.decision.method}


def _body(text: str, *, unused: set[str]) -> tuple[str, str]:
    """A module without its docstring and some of its classes; and that docstring."""
    tree, lines = ast.parse(text), text.splitlines()
    for node in reversed(tree.body):
        if isinstance(node, ast.ClassDef) and node.name in unused:
            del lines[node.lineno - 1 : (node.end_lineno or 0) + 2]  # and the blank lines behind it
    return "\n".join(lines[tree.body[0].end_lineno :]), (ast.get_docstring(tree) or "").strip()


def _wrapped(text: str) -> str:
    return "\n\n".join(textwrap.fill(part, 116) for part in text.split("\n\n"))


def _tail(subject: Subject, name: str) -> str:
    lines = [
        "",
        "",
        f"IMAGE_SHAPE = {_shape(subject)}  # channels, height, width",
        f"CLASSES = {tuple(subject.architecture['classes'])!a}",
        "",
        "",
    ]
    base, keys = ("ResNet", _resnet_keys(subject)) if subject.decision is None else ("DEQ", _deq_keys(subject))
    if subject.decision is not None:
        lines += [*_begin(subject.decision), "", ""]
    lines += [
        f"class {class_name(name)}({base}):",
        f'    """{subject.in_words}, for the weights of {name}.pt."""',
        "",
        "    def __init__(self) -> None:",
        "        super().__init__(",
        *(f"            {key}={value}," for key, value in keys.items()),
        "        )",
        "",
    ]
    return "\n".join(lines)


def _begin(decision: Decision) -> list[str]:
    more = "" if decision.memory is None else f", memory={decision.memory}"
    head = ["def begin(g: Tensor) -> Solver:", '    """The solver of this model."""']
    return [*head, f"    return {decision.method}(g{more})"]


def _deq_keys(subject: Subject) -> dict[str, str]:
    model, decision = ModelConfig.model_validate(subject.architecture["model"]), subject.decision
    assert decision is not None
    return {
        "image_shape": "IMAGE_SHAPE",
        "classes": "len(CLASSES)",
        "channels": repr(tuple(model.channels)),
        "groups": repr(model.groups),
        "expansion": repr(model.expansion),
        "head_widths": repr(tuple(model.head_channels)),
        "final_channels": repr(model.final_channels),
        "method": "begin",
        "steps": repr(decision.steps),
        "tolerance": repr(decision.tolerance),
        "lowest": repr(decision.lowest),
        "dampings": repr(decision.dampings),
    }


def _resnet_keys(subject: Subject) -> dict[str, str]:
    layers = repr(tuple(subject.architecture["layers"]))
    return {"layers": layers, "channels": "IMAGE_SHAPE[0]", "classes": "len(CLASSES)"}


@torch.no_grad()
def weights(network: nn.Module) -> "OrderedDict[str, Tensor]":
    """The tensors of a network under the names of its exported module, weight norm folded into the convolutions."""
    normed = {name: module for name, module in network.named_modules() if isinstance(module, NormedConv2d)}
    tensors = OrderedDict(
        (name, tensor.detach().cpu().clone(memory_format=torch.contiguous_format))
        for name, tensor in network.state_dict().items()
        if name.rpartition(".")[0] not in normed
    )
    for name, module in normed.items():
        tensors[f"{name}.weight"] = module.effective_weight().cpu().contiguous()
    for name in tensors:
        assert not any(cut in name for cut in _CUT), f"RobustBench's loader would cut the name {name}"
    return tensors


def model_info(subject: Subject, claim: Claim) -> dict[str, Any]:
    """The fields of RobustBench's model_info, accuracies not measured yet.

    `external` is there only with a number, and `unreliable` only once AutoAttack's warnings are known: RobustBench
    takes null for a number in the one and for "no" in the other.
    """
    info = {
        "link": claim.link,
        "name": claim.title,
        "authors": claim.authors,
        "additional_data": claim.additional_data,
        "number_forward_passes": 1,  # networks that a prediction asks; a neural ODE there has 1, too
        "dataset": subject.dataset,
        "venue": claim.venue,
        "architecture": subject.in_words,
        "eps": f"{subject.epsilon_255:g}/255",
        "clean_acc": None,
        "reported": _percent(claim.reported),
        "autoattack_acc": None,
        "footnote": " ".join(part for part in (subject.footnote, claim.footnote) if part),
    }
    return info if claim.external is None else info | {"external": _percent(claim.external)}


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def issue(info: Mapping[str, Any], name: str) -> str:
    """The fields of RobustBench's issue "New Model(s)"; accuracies stand in model_info once they are measured."""
    measured = info["clean_acc"] is not None
    accuracies = {} if measured else dict.fromkeys(("clean_acc", "autoattack_acc"), "not measured yet")
    additional = str(info["additional_data"]).lower()
    words = {**info, "title": info["name"], "model": name, "additional_data": additional, **accuracies}
    return Template(_whole("new-model.md")).substitute(words)
