"""One canonical spec per job: all that its output depends on, and nothing else.

The spec is what Snakemake compares to decide about running again, what names a job's folder of resumable state, and
what provenance records. Package code is not part of it; a stage whose results would change raises its REVISION instead,
and tests/test_revisions.py fails when a stage's code changes and neither its revision nor the recorded hash does.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deqpipe.config import Config, DeqName, Entropy, Framework
from deqpipe.errors import UserError

Stage = Literal["data", "pretrain", "train_deq", "train_resnet", "select", "clean", "attack_grid", "attack_pgd"]
Product = Literal["table", "figure", "report"]
Defence = Literal["plain", "entropy", "entropy_zero_steps", "entropy_restart_only", "entropy_one_round"]
CONTROLS: tuple[Defence, ...] = ("entropy_zero_steps", "entropy_restart_only", "entropy_one_round")
"""What Sec. 3.2 is without its point: no descent steps (R = 0); and with the authors' code's keys, the restarts of the
solver without descent, and a single round (T_f = N), after which nothing follows."""

REVISION: Mapping[str, int] = {
    "data": 1,
    "pretrain": 1,
    "train_deq": 1,
    "train_resnet": 1,
    "select": 1,
    "clean": 3,
    "attack_grid": 3,
    "attack_pgd": 2,
    "table": 3,
    "figure": 3,
    "report": 3,
}

_COMPUTATION = ("model", "data", "gradient", "solver", "dynamics", "attack", "seeding", "threat_model")
_TRAINING = (*_COMPUTATION, "training")
_EVALUATION = (*_COMPUTATION, "defence", "evaluation")
# The modules whose code decides what a stage puts out; tests/test_revisions.py hashes them, and knows which others
# (files, command line) decide nothing.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "data": ("data", "seeding"),
    "pretrain": _TRAINING,
    "train_deq": _TRAINING,
    "train_resnet": _TRAINING,
    "select": _EVALUATION,
    "clean": _EVALUATION,
    "attack_grid": _EVALUATION,
    "attack_pgd": _EVALUATION,
    "table": ("reporting", "statistics"),
    "figure": ("reporting", "statistics"),
    "report": ("reporting", "statistics"),
}


@dataclass(frozen=True)
class TrainedModel:
    """One entry of the closed vocabulary of models."""

    name: str
    architecture: Literal["deq", "resnet"]
    framework: Framework | None
    """None: pretraining on clean images."""
    random_states: bool = False
    """Trained with the loss from random intermediate states (Sec. 3.3)."""

    @property
    def defences(self) -> tuple[Defence, ...]:
        """The test-time defences that this model is evaluated with."""
        return ("plain", "entropy") if self.architecture == "deq" and self.framework else ("plain",)

    def controls(self, entropy: Entropy) -> tuple[Defence, ...]:
        """The control decisions that its attacked images are scored on as well."""
        return CONTROLS if entropy.controls and "entropy" in self.defences else ()


MODELS: Mapping[str, TrainedModel] = {
    model.name: model
    for model in (
        TrainedModel("deq_pretrain", "deq", None),
        TrainedModel("deq_pgd_at_base", "deq", "pgd_at"),
        TrainedModel("deq_pgd_at_random_states", "deq", "pgd_at", random_states=True),
        TrainedModel("deq_trades_base", "deq", "trades"),
        TrainedModel("deq_trades_random_states", "deq", "trades", random_states=True),
        TrainedModel("resnet18_pgd_at", "resnet", "pgd_at"),
        TrainedModel("resnet18_trades", "resnet", "trades"),
    )
}
TRUNK = "deq_pretrain"
FINAL_DAMPING = 0.5  # lambda of the unroll from z^[N] to the final state, in the paper and in its authors' code
DEQS = tuple(name for name, model in MODELS.items() if model.architecture == "deq" and model.framework)
RESNETS = tuple(name for name, model in MODELS.items() if model.architecture == "resnet")
STAGE_MODELS: Mapping[str, tuple[str, ...]] = {
    "train_deq": DEQS,
    "train_resnet": RESNETS,
    "select": DEQS,
    "clean": tuple(MODELS),
    "attack_grid": DEQS,
    "attack_pgd": (TRUNK, *RESNETS),
}
"""The models that a stage concerns; data and pretrain concern none by name."""


@dataclass(frozen=True, order=True)
class GridPoint:
    """One intermediate-state attack of Eq. (11)."""

    damping: float
    """lambda."""
    state: int
    """i, counted from 1."""
    steps: int
    """K_a."""

    @property
    def name(self) -> str:
        """A file-name-safe name, such as state3_steps5_damping0.5."""
        return f"state{self.state}_steps{self.steps}_damping{self.damping!r}"

    @classmethod
    def parse(cls, name: str) -> "GridPoint":
        """The point of a name.

        Raises:
            UserError: it is no such name.
        """
        match = re.fullmatch(r"state([1-9]\d*)_steps([1-9]\d*)_damping(\d+(?:\.\d+)?)", name)
        if match is None:
            raise UserError(f"point is {name!r}, but must look like state3_steps5_damping0.5")
        return cls(damping=float(match[3]), state=int(match[1]), steps=int(match[2]))


def ready_made(config: Config) -> GridPoint:
    """The attack on the final state: z^[N], unrolled as the final state is."""
    return GridPoint(damping=FINAL_DAMPING, state=config.solver.steps, steps=config.evaluation.final_unroll_steps)


def grid_points(config: Config) -> tuple[GridPoint, ...]:
    """Every (lambda, i, K_a) of the config, and the ready-made point, sorted."""
    grid = config.attack.grid
    points = {GridPoint(d, i, k) for d in grid.damping for i in grid.states for k in grid.steps}
    return tuple(sorted(points | {ready_made(config)}))


def state_ranges(config: Config) -> tuple[tuple[int, int], ...]:
    """First and last state of each grid job."""
    states = sorted({point.state for point in grid_points(config)})
    size = config.attack.states_per_job
    chunks = [states[start : start + size] for start in range(0, len(states), size)]
    return tuple((chunk[0], chunk[-1]) for chunk in chunks)


def image_ranges(config: Config) -> tuple[tuple[int, int], ...]:
    """First and last test image of each grid job."""
    total, size = config.evaluation.images, config.attack.images_per_job
    return tuple((start, min(start + size, total) - 1) for start in range(0, total, size))


def shard_names(config: Config) -> tuple[str, ...]:
    """File names of the grid jobs of one model, without ending."""
    return tuple(f"states{a}-{b}_images{c}-{d}" for a, b in state_ranges(config) for c, d in image_ranges(config))


def build(stage: Stage, config: Config, *, model: str | None = None, seed: int | None = None) -> dict[str, Any]:
    """The spec of a job.

    Args:
        stage: what kind of job.
        config: the resolved configuration.
        model: name in MODELS, for stages that concern one.
        seed: the repetition, for all stages but data.

    Raises:
        UserError: model is not one of the stage's, or a seed is missing.
    """
    _check_subject(stage, model, seed)
    settings, upstream = _DEPENDS[stage](_without_inert(config), model, seed)
    spec: dict[str, Any] = {"stage": stage, "revision": REVISION[stage], "config": settings, "upstream": upstream}
    if model is not None:
        spec["model"] = model
    if seed is not None:
        spec["seed"] = seed
    return spec


def _without_inert(config: Config) -> Config:
    """The config with keys that another key makes meaningless set to a fixed value, so that they cause nothing."""
    solver, early, training = config.solver, config.early_state, config.training
    if solver.name != "anderson":
        solver = solver.model_copy(update={"anderson_memory": 2})
    if early.mode != "fixed":
        early = early.model_copy(update={"index": 1})
    if training.gradient != "exact":
        training = training.model_copy(update={"implicit_steps": 1})
    return config.model_copy(update={"solver": solver, "early_state": early, "training": training})


def _check_subject(stage: Stage, model: str | None, seed: int | None) -> None:
    allowed = STAGE_MODELS.get(stage)
    if allowed is None and model is not None:
        raise UserError(f"model is {model!r}, but stage {stage} has no model")
    if allowed is not None and model not in allowed:
        raise UserError(f"model is {model!r}, but stage {stage} needs one of {', '.join(allowed)}")
    if seed is None and stage != "data":
        raise UserError(f"stage {stage} needs a seed")


def build_import(config: Config, model: DeqName) -> dict[str, Any]:
    """The spec of a model that is taken from a file: which file, for which architecture."""
    settings = {"imported": config.imported[model], **_dump(config, "model")}
    upstream = {"data": fingerprint(build("data", config))}
    seed = config.seeds[0]
    return {"stage": "import", "revision": 1, "config": settings, "upstream": upstream, "model": model, "seed": seed}


def trained_here(config: Config) -> tuple[str, ...]:
    """The DEQs that are not imported."""
    return tuple(model for model in DEQS if model not in config.imported)


def build_product(product: Product, config: Config) -> dict[str, Any]:
    """The spec of what is made from records: tables and figures state the conditions that they were made under."""
    return {"stage": product, "revision": REVISION[product], "config": conditions(config), "upstream": {}}


def conditions(config: Config) -> dict[str, Any]:
    """The configuration but for what neither influences results nor says in which files they are kept."""
    exclude: dict[str, Any] = {"device": True, "pathvars": True}
    if not config.couples_images:
        exclude["evaluation"] = {"batch_size"}
    if config.data.source != "folder":
        exclude["data"] = {"root"}
    return _without_inert(config).model_dump(mode="json", exclude=exclude)


def dumps(spec: Mapping[str, Any]) -> str:
    """Canonical JSON: equal specs give equal text."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)


def loads(text: str) -> dict[str, Any]:
    """A spec from its canonical JSON."""
    spec: dict[str, Any] = json.loads(text)
    return spec


def fingerprint(spec: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for a spec."""
    return hashlib.sha256(dumps(spec).encode()).hexdigest()[:16]


def point_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What one finished point of the attack grid depends on: the grid's spec without its lists of points."""
    settings = {key: value for key, value in spec["config"].items() if not key.startswith("attack.grid.")}
    return {**spec, "stage": "attack_point", "config": settings}


def state_key(spec: Mapping[str, Any]) -> str:
    """Name of the folder of a job's resumable state.

    Jobs of the attack grid keep finished points, which outlive a change of the list of points.
    """
    return fingerprint(point_spec(spec) if spec["stage"] == "attack_grid" else spec)


def _dump(config: Config, *keys: str) -> dict[str, Any]:
    """The named parts of the config (dotted), as JSON values."""
    return pick(config.model_dump(mode="json"), *keys)


def pick(nested: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The named parts (dotted) of nested settings, by these names."""
    parts: dict[str, Any] = {}
    for key in keys:
        node: Any = nested
        for part in key.split("."):
            node = node[part]
        parts[key] = node
    return parts


_Dependencies = tuple[dict[str, Any], dict[str, str]]


def _data(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = ("data.source", "data.validation") + (("data.root",) if config.data.source == "folder" else ())
    return _dump(config, *keys), {}


_OPTIMISER = (
    "training.epochs", "training.batch_size", "training.learning_rate", "training.learning_rate_min",
    "training.betas", "training.weight_decay",
)  # fmt: skip


def _pretrain(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    settings = _dump(config, "model", "pretrain", "precision", "data.augment", *_OPTIMISER)
    return settings, {"data": fingerprint(build("data", config))}


def _train_deq(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    kind = MODELS[model or ""]
    assert kind.framework is not None
    keys = [
        "solver", "training.gradient", "training.unroll", "training.attack", "selection", "threat_model",
        "jacobian.frequency", "jacobian.stop_epoch", "jacobian.probes", "jacobian.length_jitter",
        f"jacobian.weight.{kind.framework}",
    ]  # fmt: skip
    keys += ["training.implicit_steps"] if config.training.gradient == "exact" else []
    keys += ["training.trades", "jacobian.trades_terms"] if kind.framework == "trades" else []
    keys += ["random_state"] if kind.random_states else []
    settings = _dump(_without_unused(config, kind), *keys)
    return settings, {"trunk": fingerprint(build("pretrain", config, seed=seed))}


def _without_unused(config: Config, kind: TrainedModel) -> Config:
    """The config with keys that a model's training makes no use of set to a fixed value, so that they cause nothing."""
    selection, random = config.selection, config.random_state
    if not kind.random_states:
        selection = selection.model_copy(update={"attack_random_state": False})
    if kind.framework != "trades":
        random = random.model_copy(update={"natural": "final"})  # only TRADES has a natural branch
    return config.model_copy(update={"selection": selection, "random_state": random})


def _train_resnet(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    kind = MODELS[model or ""]
    keys = ["resnet", "training.attack", "selection", "threat_model", "precision", "data.augment"]
    keys += ["training.trades"] if kind.framework == "trades" else []
    return _dump(_without_unused(config, kind), *keys), {"data": fingerprint(build("data", config))}


def training_stage(model: str) -> Stage:
    """The stage that trains a model."""
    if model == TRUNK:
        return "pretrain"
    return "train_deq" if MODELS[model].architecture == "deq" else "train_resnet"


def _trained(config: Config, model: str | None, seed: int | None) -> dict[str, str]:
    if model in config.imported:
        return {"model": fingerprint(build_import(config, model))}
    stage = training_stage(model or "")
    return {"model": fingerprint(build(stage, config, model=None if stage == "pretrain" else model, seed=seed))}


def _decision_keys(config: Config, model: str | None) -> list[str]:
    """What a decision's logits depend on beside the weights."""
    if MODELS[model or ""].architecture == "resnet":
        return ["precision"]
    keys = ["solver", "evaluation.final_unroll_steps", "attack.unroll", "precision"]
    keys += ["evaluation.batch_size", "evaluation.images"] if config.couples_images else []  # which images meet
    return keys + (["entropy", "threat_model"] if "entropy" in MODELS[model or ""].defences else [])


def _select(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), "early_state", "selection.attack", "selection.split",
            "attack.pgd.clamp_start", "threat_model"]  # fmt: skip
    keys = [key for key in keys if key != "evaluation.images"]  # those are test images
    without_controls = config.entropy.model_copy(update={"controls": False})
    config_of_it = config.model_copy(update={"entropy": without_controls})
    return _dump(config_of_it, *keys), _trained(config, model, seed)


def _clean(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), "evaluation.images"]
    return _dump(config, *keys), _trained(config, model, seed)


_ATTACK = ("attack.pgd", "threat_model")


def _attack_grid(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), *_ATTACK, "attack.defence_in_loop",
            "attack.grid.states", "attack.grid.steps", "attack.grid.damping"]  # fmt: skip
    return _dump(config, *keys), _trained(config, model, seed)


def _attack_pgd(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), *_ATTACK, "evaluation.images"]
    return _dump(config, *keys), _trained(config, model, seed)


_DEPENDS = {
    "data": _data,
    "pretrain": _pretrain,
    "train_deq": _train_deq,
    "train_resnet": _train_resnet,
    "select": _select,
    "clean": _clean,
    "attack_grid": _attack_grid,
    "attack_pgd": _attack_pgd,
}
