"""The paper's settings, by section and protocol, and what readers know them as."""

from collections.abc import Mapping
from typing import Any

from deqpipe.config import PROTOCOLS
from deqpipe.reporting.paper.settings import SETTINGS


def nested(protocol: str) -> dict[str, Any]:
    """The settings by section, with the values of a protocol where paper and authors' code differ, without controls."""
    nest: dict[str, Any] = {}
    known = {key: value for key, value in PROTOCOLS[protocol].items() if key in SETTINGS}
    for key, value in {**SETTINGS, **known, "entropy.controls": False}.items():
        *sections, last = key.split(".")
        node = nest
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return nest


NAMES: Mapping[str, str] = {
    "precision": "arithmetic",
    "imported": "models that were not trained here",
    "data.source": "data",
    "data.validation": "held-out images",
    "data.augment": "augmentation",
    "model.channels": "channels of the DEQ",
    "model.head_channels": "head channels",
    "model.final_channels": "final channels",
    "model.groups": "groups",
    "model.expansion": "expansion",
    "model.dropout": "dropout",
    "model.weight_norm": "weight normalisation",
    "model.init": "initialisation",
    "resnet.layers": "blocks of the ResNet",
    "resnet.training.epochs": "epochs of the ResNet",
    "resnet.training.batch_size": "batch size of the ResNet",
    "resnet.training.learning_rate": "learning rate of the ResNet",
    "resnet.training.momentum": "momentum of the ResNet",
    "resnet.training.weight_decay": "weight decay of the ResNet",
    "resnet.training.milestones": "milestones of the ResNet",
    "resnet.training.factor": "learning-rate factor of the ResNet",
    "solver.name": "solver",
    "solver.steps": "solver steps N",
    "solver.memory": "memory of Anderson mixing",
    "pretrain.layers": "pretraining layers",
    "pretrain.steps": "pretraining steps",
    "training.epochs": "epochs of the DEQs",
    "training.batch_size": "batch size",
    "training.learning_rate": "learning rate",
    "training.learning_rate_min": "lowest learning rate",
    "training.weight_decay": "weight decay",
    "training.gradient.name": "training gradient",
    "training.gradient.steps": "solver steps of the exact training gradient",
    "training.unroll.steps": "unroll steps in training",
    "training.unroll.damping": "unroll damping in training",
    "training.attack.steps": "PGD steps in training",
    "training.attack.step_size_255": "PGD step size in training (1/255)",
    "training.trades.inverse_lambda": "1/lambda of TRADES",
    "jacobian.weight.pgd_at": "Jacobian weight with PGD-AT",
    "jacobian.weight.trades": "Jacobian weight with TRADES",
    "jacobian.other_weight.pgd_at": "other Jacobian weight with PGD-AT",
    "jacobian.other_weight.trades": "other Jacobian weight with TRADES",
    "jacobian.frequency": "share of steps with the Jacobian term",
    "jacobian.stop_epoch": "last epoch with the Jacobian term",
    "jacobian.probes": "Jacobian probes",
    "selection.split": "selection split",
    "selection.first_epoch": "first epoch tried in selection",
    "selection.attack.steps": "PGD steps in selection",
    "selection.attack.step_size_255": "PGD step size in selection (1/255)",
    "early_state.mode": "choice of the early state",
    "early_state.index": "early state",
    "threat_model.epsilon_255": "epsilon (1/255)",
    "attack.pgd.steps": "PGD steps",
    "attack.pgd.step_size_255": "PGD step size (1/255)",
    "attack.grid.states": "attacked states i",
    "attack.grid.steps": "unroll steps K_a",
    "attack.grid.damping": "damping lambda",
    "entropy.solver_steps": "T_f",
    "entropy.input_steps": "R",
    "entropy.step_size_255": "beta (1/255)",
    "autoattack.mode": "AutoAttack's attacks",
    "autoattack.keep": "image that AutoAttack is judged by",
    "autoattack.attacks": "attacks of AutoAttack",
    "autoattack.iterations": "AutoAttack steps",
    "autoattack.restarts": "AutoAttack restarts",
    "autoattack.targets": "AutoAttack target classes",
    "autoattack.queries": "Square queries",
    "autoattack.square_images": "images that Square attacks",
    "autoattack.top_points": "points of Table 4",
    "entropy_sweep.solver_steps": "T_f of Table 5",
    "entropy_sweep.input_steps": "R of Table 5",
    "entropy_sweep.points": "attacks of Table 5",
    "evaluation.images": "test images",
    "evaluation.batch_size": "images that are evaluated together",
    "evaluation.final_unroll_steps": "unroll steps to the final state",
}
"""What readers know a setting as; the others go by their key."""
