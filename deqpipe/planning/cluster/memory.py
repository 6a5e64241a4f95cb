"""How much memory of the host a rule's job takes, from what it holds: an upper estimate, in MB (10^6 bytes).

Measured: 2,300 MB at most (max_rss) in a run of the whole workflow on an H200, with a small model and 10,000 images,
most of it libraries and what CUDA maps. All else is not measured: 2,700 MB are assumed for compilers, and what a job
holds is reckoned from shapes: images, weights, clean states, rows of records, what is kept of an attack under way. A
third more is asked for, in whole thousands.
"""

from collections.abc import Mapping
from math import ceil, prod

import numpy as np

from deqpipe.config import Config
from deqpipe.planning import arithmetic, cost
from deqpipe.planning.cost import Images
from deqpipe.results.records import PER_STATE
from deqpipe.workflow import gridpoints, stages, vocabulary
from deqpipe.workflow.suite_attacks import suite_attacks

LIBRARIES = 2300.0
"""Measured."""
COMPILERS = 2700.0
"""Assumed: f is compiled by processes of their own, and a larger model's kernels are larger."""
HEADROOM = 4 / 3
STEP = 1000
IMAGE_ON_CPU = 40.0
"""MB that an image of MDEQ-Large takes while it is attacked, as config.yaml says; on a GPU none of it is the host's."""
_LARGE_STATE = 61_440
_FLOAT = 4
_TEXTS, _SCALARS = 4 * 25 * 4, 60
"""Bytes of a row of records beside its states: four names of up to 25 letters, and numbers."""
_COPIES = 3
"""Of records: pieces that are read, all of them together, what is written."""


def asked_mb(rule: str, wildcards: Mapping[str, str], config: Config, images: Images, *, on_gpu: bool) -> int:
    """What to ask for.

    Args:
        rule: of the job.
        wildcards: which of the rule's jobs.
        config: the experiment.
        images: of its source.
        on_gpu: whether it computes on a GPU.
    """
    held = LIBRARIES + COMPILERS + sum(parts_mb(rule, wildcards, config, images, on_gpu=on_gpu).values())
    return STEP * ceil(HEADROOM * held / STEP)


def parts_mb(
    rule: str, wildcards: Mapping[str, str], config: Config, images: Images, *, on_gpu: bool
) -> dict[str, float]:
    """What a job holds beside libraries, by what it is."""
    count = cost.taken(rule, wildcards, config, images)
    networks = len(config.seeds) if rule == "attack_ensemble" else 1
    at_once = networks * min(count, config.training.batch_size if cost.trains(rule) else cost.batch_size(config))
    held = {
        "images": 2 * (images.train + images.validation + images.test) * prod(images.shape),  # the file, and tensors
        "weights": networks * (10 if cost.trains(rule) else 3) * _FLOAT * _weights(config),  # with Adam's two, copies
        "records": _COPIES * count * _rows_per_image(rule, wildcards, config) * _row_bytes(config),
        "clean states": count * _references(wildcards, config, images) if rule == "attack_grid" else 0,
        "saved images": _COPIES * count * _saved(rule, config) * _FLOAT * prod(images.shape),
        "an attack under way": _transcript(config, images) if rule in ("autoattack", "attack_top") else 0,
    }
    in_mb = {name: size / 1e6 for name, size in held.items()}
    states = _state(config, images) / _LARGE_STATE
    return in_mb | {"images at once": 0.0 if on_gpu else IMAGE_ON_CPU * states * at_once}


def _state(config: Config, images: Images) -> int:
    """Numbers of a state."""
    _, height, width = images.shape
    return sum(channels * (height >> n) * (width >> n) for n, channels in enumerate(config.model.channels))


def _weights(config: Config) -> int:
    """Weights of a DEQ, roughly: stem and head have at most as many as f."""
    return 2 * arithmetic.cell_weights(config.model)


def _references(wildcards: Mapping[str, str], config: Config, images: Images) -> int:
    """Bytes of the states of a clean image, for every defence: the host keeps them where a GPU has no room."""
    defences = vocabulary.MODELS[wildcards["model"]].defences
    return len(defences) * (config.solver.steps + 1) * _state(config, images) * _FLOAT


def _row_bytes(config: Config) -> int:
    """Of a row of records while it is handled."""
    per_state = sum(np.dtype(kind).itemsize for kind in PER_STATE.values())
    return _TEXTS + _SCALARS + per_state * (config.solver.steps + 1)


def _rows_per_image(rule: str, wildcards: Mapping[str, str], config: Config) -> int:
    """Rows of a job's records."""
    points = len(gridpoints.grid_points(config))
    match rule:
        case "attack_grid" | "attack_point":
            other = vocabulary.transfers_to(config, wildcards["model"])
            scored = _decisions(config, wildcards["model"]) + (_decisions(config, other) if other else 0)
            return scored * (points if rule == "attack_grid" else 1)
        case "attack_sweep":
            wanted = config.entropy_sweep.points
            return len(gridpoints.entropy_settings(config)) * (points if wanted == "all" else min(wanted, points))
        case "attack_in_loop":
            both = (wildcards["model"], vocabulary.other_trades(wildcards["model"]))
            return config.attack.in_loop_points * sum(_decisions(config, model) for model in both)
        case "attack_top":
            return 2 * config.autoattack.top_points
        case "attack_suite":
            return _faced(config)
        case "attack_transferred":
            return _transferred(wildcards, config)
        case "attack_ensemble":
            return _faced(config) + _lent(config, wildcards["model"])
        case "attack_own":
            return 1
        case "attack_radius":
            return 1 + 2 * len(cost.suite_of(config).radii)
        case "autoattack":
            return 1 + len(config.autoattack.attacks)
        case "clean" | "attack_pgd" | "select_early_state":
            return _decisions(config, wildcards["model"])
    return 0


def _saved(rule: str, config: Config) -> int:
    """Attacked images of an image that a job holds: its own, or of one decision."""
    return _faced(config) if rule in ("attack_suite", "attack_transferred", "attack_ensemble") else 0


def _faced(config: Config) -> int:
    """Rows of an image that withstands every attack of the suite, and of the clean one."""
    return 1 + len(suite_attacks(cost.suite_of(config)))


def _transferred(wildcards: Mapping[str, str], config: Config) -> int:
    """Rows of an image that every decision made something of with every attack."""
    model = wildcards["model"]
    return _lent(config, model) * len(vocabulary.suite_decisions(config, model))


def _lent(config: Config, model: str) -> int:
    """Attacked images that an image becomes, of all decisions of all seeds whose images a model's are asked about."""
    return len(stages.lent(config, model)) * _faced(config)


def _decisions(config: Config, model: str) -> int:
    """Defences and controls."""
    kind = vocabulary.MODELS[model]
    return len(kind.defences) + len(kind.controls(config.entropy))


def _transcript(config: Config, images: Images) -> int:
    """Bytes of the answers of an attack's longest step, and of a copy that is written."""
    attack, batch = config.autoattack, config.autoattack.batch_size
    gradients = (attack.iterations + 1) * batch * prod(images.shape)
    logits = attack.queries * batch * images.classes
    return 2 * _FLOAT * max(gradients, logits)
