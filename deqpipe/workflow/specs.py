"""One canonical spec per job: all that its output depends on, and nothing else.

The spec is what Snakemake compares to decide about running again, what names a job's folder of resumable state, and
what provenance records. Package code is not part of it; a stage whose results would change raises its REVISION instead,
and tests/test_revisions.py fails when a stage's code changes and neither its revision nor the recorded hash does.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deqpipe.config import Config, DeqName, Entropy, Framework
from deqpipe.errors import UserError

Stage = Literal[
    "data", "pretrain", "train_deq", "train_resnet", "select", "clean", "attack_grid", "attack_pgd", "race",
    "race_sweep", "strongest", "autoattack", "attack_top", "attack_in_loop", "attack_sweep", "attack_example",
    "time_training", "time_inference",
]  # fmt: skip
Product = Literal["table", "figure", "report"]
Defence = Literal["plain", "entropy", "entropy_zero_steps", "entropy_restart_only", "entropy_one_round"]
CONTROLS: tuple[Defence, ...] = ("entropy_zero_steps", "entropy_restart_only", "entropy_one_round")
"""What Sec. 3.2 is without its point: no descent steps (R = 0); and with the authors' code's keys, the restarts of the
solver without descent, and a single round (T_f = N), after which nothing follows."""

REVISION: Mapping[str, int] = {
    "data": 1,
    "pretrain": 2,
    "train_deq": 2,
    "train_resnet": 2,
    "select": 2,
    "clean": 4,
    "attack_grid": 5,
    "attack_pgd": 3,
    "race": 1,
    "race_sweep": 1,
    "strongest": 1,
    "autoattack": 2,
    "attack_top": 2,
    "attack_in_loop": 2,
    "attack_sweep": 2,
    "attack_example": 2,
    "time_training": 2,
    "time_inference": 2,
    "table": 5,
    "figure": 5,
    "report": 5,
}

_COMPUTATION = (
    "compute", "model", "data", "gradient", "solver", "dynamics", "defence", "attack", "seeding", "threat_model",
    "lazy", "machine.stopwatch",
)  # fmt: skip
_TRAINING = (*_COMPUTATION, "training")
_EVALUATION = (*_COMPUTATION, "evaluation")
_ANALYSIS = ("analysis", "statistics")
_REPORTING = (*_ANALYSIS, "reporting", "results.history", "results.weights")
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
    "race": _ANALYSIS,
    "race_sweep": _ANALYSIS,
    "strongest": _ANALYSIS,
    "autoattack": _EVALUATION,
    "attack_top": _EVALUATION,
    "attack_in_loop": _EVALUATION,
    "attack_sweep": _EVALUATION,
    "attack_example": _EVALUATION,
    "time_training": _TRAINING,
    "time_inference": _EVALUATION,
    "table": _REPORTING,
    "figure": _REPORTING,
    "report": _REPORTING,
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
    other_jacobian: bool = False
    """Trained with `jacobian.other_weight`, for Figure 6 alone: never evaluated."""

    @property
    def defences(self) -> tuple[Defence, ...]:
        """The test-time defences that this model is evaluated with."""
        if self.other_jacobian:
            return ()
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
        TrainedModel("deq_pgd_at_jac_low", "deq", "pgd_at", other_jacobian=True),
        TrainedModel("deq_trades_jac_high", "deq", "trades", other_jacobian=True),
    )
}
TRUNK = "deq_pretrain"
FINAL_DAMPING = 0.5  # lambda of the unroll from z^[N] to the final state, in the paper and in its authors' code
OTHER_JACOBIAN = tuple(name for name, model in MODELS.items() if model.other_jacobian)
EVALUATED = tuple(name for name in MODELS if name not in OTHER_JACOBIAN)
DEQS = tuple(name for name in EVALUATED if MODELS[name].architecture == "deq" and MODELS[name].framework)
RESNETS = tuple(name for name in EVALUATED if MODELS[name].architecture == "resnet")
TRADES = tuple(name for name in DEQS if MODELS[name].framework == "trades")
BASELINES = tuple(name for name in DEQS if not MODELS[name].random_states)
SWEPT = "deq_trades_random_states"  # the model of Tables 4, 5, 8 and 10
EXAMPLE = "deq_pgd_at_base"  # the model of Figure 2
STAGE_MODELS: Mapping[str, tuple[str, ...]] = {
    "train_deq": (*DEQS, *OTHER_JACOBIAN),
    "train_resnet": RESNETS,
    "select": DEQS,
    "clean": EVALUATED,
    "attack_grid": DEQS,
    "attack_pgd": (TRUNK, *RESNETS),
    "race": DEQS,
    "race_sweep": (SWEPT,),
    "strongest": DEQS,
    "autoattack": (*DEQS, *RESNETS),
    "attack_top": (SWEPT,),
    "attack_in_loop": TRADES,
    "attack_sweep": (SWEPT,),
    "attack_example": (EXAMPLE,),
    "time_inference": (SWEPT,),
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

    @property
    def triple(self) -> str:
        """As tables write it: (i, K_a, lambda)."""
        return f"({self.state}, {self.steps}, {self.damping:g})"

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


@dataclass(frozen=True, order=True)
class EntropySetting:
    """Sec. 3.2 with another T_f and R, or a control of it (Table 5)."""

    solver_steps: int
    """T_f."""
    input_steps: int
    """R; 0: the control without descent steps."""
    restart_only: bool = False
    """The control that restarts the solver as the authors' code does, every T_f steps, and updates no input."""

    @property
    def defence(self) -> str:
        """Its name in records, such as entropy_every2_steps10."""
        kind = "restart_only" if self.restart_only else "entropy"
        return f"{kind}_every{self.solver_steps}" + ("" if self.restart_only else f"_steps{self.input_steps}")


def entropy_settings(config: Config) -> tuple[EntropySetting, ...]:
    """Every (T_f, R) of the sweep, with R = 0 and the restarts alone per T_f as controls."""
    return swept(config.entropy_sweep.solver_steps, config.entropy_sweep.input_steps)


def swept(solver_steps: Iterable[int], input_steps: Iterable[int]) -> tuple[EntropySetting, ...]:
    """The same for lists of T_f and R."""
    numbers = sorted({0, *input_steps})
    return tuple(
        setting
        for every in sorted(solver_steps)
        for setting in (
            EntropySetting(every, 0, restart_only=True),
            *(EntropySetting(every, steps) for steps in numbers),
        )
    )


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


def state_ranges(config: Config) -> tuple[tuple[int, int], ...]:
    """First and last state of each grid job."""
    states = sorted({point.state for point in grid_points(config)})
    size = config.attack.states_per_job
    chunks = [states[start : start + size] for start in range(0, len(states), size)]
    return tuple((chunk[0], chunk[-1]) for chunk in chunks)


def image_ranges(config: Config, *, below: int | None = None) -> tuple[tuple[int, int], ...]:
    """First and last test image of each grid job; with racing, no job takes images of both parts.

    Args:
        config: the configuration.
        below: only jobs whose images all come before this one.
    """
    total, cut = config.evaluation.images, race_cut(config)
    size = config.attack.images_per_job
    every = (*_ranges(0, cut, size), *_ranges(cut, total, size))
    return tuple((first, last) for first, last in every if below is None or last < below)


def race_cut(config: Config) -> int:
    """How many of the test images face every attack of the grid."""
    total = config.evaluation.images
    return min(config.racing.images, total) if config.racing.enabled else total


def races(config: Config) -> bool:
    """Whether some test images face a part of the grid only."""
    return race_cut(config) < config.evaluation.images


def races_in_sweep(config: Config) -> bool:
    """Whether the attacks of Table 5 race as well: few points, chosen by their strength, do not."""
    return races(config) and config.entropy_sweep.points == "all"


def library_ranges(config: Config) -> tuple[tuple[int, int], ...]:
    """First and last test image of each job that runs AutoAttack's attacks."""
    return _ranges(0, config.evaluation.images, config.autoattack.images_per_job)


def _ranges(first: int, stop: int, size: int) -> tuple[tuple[int, int], ...]:
    return tuple((start, min(start + size, stop) - 1) for start in range(first, stop, size))


def shard_names(config: Config, *, below: int | None = None) -> tuple[str, ...]:
    """File names of the grid jobs of one model, without ending; of `image_ranges` below an image."""
    images = image_ranges(config, below=below)
    return tuple(f"states{a}-{b}_images{c}-{d}" for a, b in state_ranges(config) for c, d in images)


def build(
    stage: Stage,
    config: Config,
    *,
    model: str | None = None,
    seed: int | None = None,
    defence: Defence | None = None,
) -> dict[str, Any]:
    """The spec of a job.

    Args:
        stage: what kind of job.
        config: the resolved configuration.
        model: name in MODELS, for stages that concern one.
        seed: the repetition, for all stages but data.
        defence: the attacked decision, for autoattack.

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
    if stage == "autoattack":
        allowed = MODELS[model or ""].defences
        if defence not in allowed:
            raise UserError(f"defence is {defence!r}, but must be one of {', '.join(allowed)} for {model}")
        spec["defence"] = defence
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
    exclude: dict[str, Any] = {"device": True, "pathvars": True, "compile": True, "graphs": True}
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
    lists = ("attack.grid.", "racing")
    settings = {key: value for key, value in spec["config"].items() if not key.startswith(lists)}
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
    if kind.other_jacobian:  # under the usual name: the training itself knows no other
        settings[f"jacobian.weight.{kind.framework}"] = getattr(config.jacobian.other_weight, kind.framework)
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
    return _dump(_without_controls(config), *keys), _trained(config, model, seed)


def _without_controls(config: Config) -> Config:
    """The config of stages that score no controls."""
    return config.model_copy(update={"entropy": config.entropy.model_copy(update={"controls": False})})


def _clean(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), "evaluation.images"]
    return _dump(config, *keys), _trained(config, model, seed)


_ATTACK = ("attack.pgd", "threat_model")


def _attack_grid(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), *_ATTACK, "attack.defence_in_loop", *_GRID]
    keys += ["racing"] if races(config) else []
    return _dump(config, *keys), {**_trained(config, model, seed), **_transferred(config, model, seed)}


_GRID = ("attack.grid.states", "attack.grid.steps", "attack.grid.damping")


def _transferred(config: Config, model: str | None, seed: int | None) -> dict[str, str]:
    """The other model that images are scored on."""
    other = transfers_to(config, model or "")
    return {} if other is None else {"transfer": _trained(config, other, seed)["model"]}


def _race(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    other = transfers_to(config, model or "")
    transferred = {} if other is None else {"transfer_select": _fingerprint_of("select", config, other, seed)}
    own = {str(stage): _fingerprint_of(stage, config, model, seed) for stage in _GRADES}
    return _dump(config, "racing"), {**own, **transferred}


_GRADES: tuple[Stage, ...] = ("attack_grid", "select")


def _race_sweep(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    stages: tuple[Stage, ...] = ("attack_sweep", "select")
    return _dump(config, "racing"), {str(stage): _fingerprint_of(stage, config, model, seed) for stage in stages}


def _strongest(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    return _dump(config, "evaluation.images"), _graded(config, model, seed)


def _graded(config: Config, model: str | None, seed: int | None) -> dict[str, str]:
    """What the accuracy of decisions under the grid's attacks rests on."""
    stages = (*_GRADES, *(("race",) if races(config) else ()))
    return {str(stage): _fingerprint_of(stage, config, model, seed) for stage in stages}


_LIBRARY = (
    "autoattack.keep", "autoattack.iterations", "autoattack.queries", "autoattack.batch_size",
    "autoattack.images_per_job", "autoattack.square_images", "autoattack.restarts", "evaluation.images", "threat_model",
)  # fmt: skip


def _autoattack(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), *_LIBRARY, "autoattack.mode", "autoattack.attacks", "autoattack.targets",
            "autoattack.defence_in_loop"]  # fmt: skip
    point = {"strongest": _fingerprint_of("strongest", config, model, seed)} if model in DEQS else {}
    return _dump(_without_controls(config), *keys), {**_trained(config, model, seed), **point}


def _attack_top(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), *_LIBRARY, "autoattack.top_points", "autoattack.defence_in_loop"]
    return _dump(_without_controls(config), *keys), {
        **_trained(config, model, seed),
        "strongest": _fingerprint_of("strongest", config, model, seed),
    }


def _fingerprint_of(stage: Stage, config: Config, model: str | None, seed: int | None) -> str:
    return fingerprint(build(stage, config, model=model, seed=seed))


def _attack_in_loop(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), *_ATTACK, "attack.in_loop_points", "evaluation.images"]
    return _dump(_without_controls(config), *keys), {
        **_trained(config, model, seed),
        "transfer": _trained(config, other_trades(model or ""), seed)["model"],
        "strongest": _fingerprint_of("strongest", config, model, seed),
    }


def _attack_sweep(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), *_ATTACK, *_GRID, "entropy_sweep", "evaluation.images"]
    keys += ["racing"] if races_in_sweep(config) else []
    few = config.entropy_sweep.points != "all"
    stage: Stage = "strongest" if few else "select"  # races need to know at which state decisions are taken
    point = {str(stage): _fingerprint_of(stage, config, model, seed)} if few or races_in_sweep(config) else {}
    return _dump(_without_controls(config), *keys), {**_trained(config, model, seed), **point}


def _attack_example(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    settings, upstream = _attack_grid(config, model, seed)
    graded = {**_graded(config, model, seed), "clean": _fingerprint_of("clean", config, model, seed)}
    return settings | _dump(config, "evaluation.images"), {**upstream, **graded}


def _time_training(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    trainings = [build("train_deq", config, model=name, seed=seed) for name in DEQS]
    settings = {key: value for training in trainings for key, value in training["config"].items()}
    return settings | _dump(config, "timing", "precision", "model"), {
        "data": fingerprint(build("data", config)),
        "trunk": fingerprint(build("pretrain", config, seed=seed)),
    }


def _time_inference(config: Config, model: str | None, seed: int | None) -> _Dependencies:
    keys = [*_decision_keys(config, model), "timing", "entropy_sweep.solver_steps", "entropy_sweep.input_steps"]
    return _dump(_without_controls(config), *keys), _trained(config, model, seed)


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
    "race": _race,
    "race_sweep": _race_sweep,
    "strongest": _strongest,
    "autoattack": _autoattack,
    "attack_top": _attack_top,
    "attack_in_loop": _attack_in_loop,
    "attack_sweep": _attack_sweep,
    "attack_example": _attack_example,
    "time_training": _time_training,
    "time_inference": _time_inference,
}
