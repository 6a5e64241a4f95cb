"""Stages of the workflow, one value each: what a job of the stage depends on, and where its file lies.

Specs (deqpipe/workflow/specs.py), the paths of rules and readers, the stage names of the command line and the record of
code are derived from these values. The rules themselves are written out in rules/.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from deqpipe import extending
from deqpipe.config import Config, known_images
from deqpipe.workflow.defences import DefenceName, defence_of
from deqpipe.workflow.shards import (
    autoattack_ranges,
    image_ranges,
    races,
    races_in_sweep,
    radius_images,
    shard_names,
    suite_ranges,
)
from deqpipe.workflow.vocabulary import (
    DEQS,
    EVERY_DEQ,
    EVERY_EVALUATED,
    EVERY_FEEDFORWARD,
    FIGURE2_MODEL,
    MODELS,
    OTHER_JACOBIAN,
    SWEEP_MODEL,
    TRADES,
    TRUNK,
    TrainedModel,
    ensembles,
    lends_images,
    other_trades,
    own,
    present,
    suite_decisions,
    transfers_to,
)

StageName: TypeAlias = Literal[
    "data", "pretrain", "train_deq", "train_feedforward", "train_own", "select", "clean", "attack_grid", "attack_pgd",
    "race", "race_sweep", "strongest", "autoattack", "attack_top", "attack_in_loop", "attack_sweep", "attack_example",
    "attack_suite", "attack_transferred", "attack_radius", "attack_ensemble", "attack_own", "time_training",
    "time_inference",
]  # fmt: skip
ProductName: TypeAlias = Literal["table", "figure", "report"]
Keys: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """A file that a job reads.

    Attributes:
        stage: that makes it; "import" for weights that come from a file.
        model: of which model; None: of none by name.
        defence: the decision that it attacks, if jobs of the stage attack one each.
        seed: the repetition; None: that of the job which reads it.
        attack: of a user's file, if jobs of the stage run one each.
    """

    stage: StageName | Literal["import"]
    model: str | None
    defence: DefenceName | None = None
    seed: int | None = None
    attack: str | None = None


Parts: TypeAlias = Callable[[Config, str, int | None], tuple[Mapping[str, str], ...]]


def _whole(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    """One job."""
    return ({},)


def _shards(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    return tuple({"shard": name} for name in shard_names(config, below=below))


def _by_images(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    return tuple({"images": f"{first}-{last}"} for first, last in image_ranges(config, below=below))


def _by_autoattacks_images(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    ranges = (pair for pair in autoattack_ranges(config) if below is None or pair[1] < below)
    return tuple({"images": f"{first}-{last}"} for first, last in ranges)


def _by_decision(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    images = _by_autoattacks_images(config, model, below)
    return tuple({"defence": defence, **part} for defence in MODELS[model].defences for part in images)


def _by_suites_images(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    ranges = (pair for pair in suite_ranges(config) if below is None or pair[1] < below)
    return tuple({"images": f"{first}-{last}"} for first, last in ranges)


def _by_suites_decision(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    images = _by_suites_images(config, model, below)
    return tuple({"defence": defence, **part} for defence in suite_decisions(config, model) for part in images)


def _by_ensembles_images(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    return _by_suites_images(config, model, below) if ensembles(config, model) else ()


def _by_defence(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    if not config.suite.enabled or (below is not None and below < radius_images(config)):
        return ()
    return tuple({"defence": defence} for defence in MODELS[model].defences)


def _by_own_attack(config: Config, model: str, below: int | None) -> tuple[Mapping[str, str], ...]:
    attacks = extending.pieces(extending.Attack, config.extensions)
    return tuple({"attack": attack, "defence": defence} for attack in attacks for defence in MODELS[model].defences)


def _none(config: Config, model: str) -> tuple[DefenceName, ...]:
    return ()


def _defences(config: Config, model: str) -> tuple[DefenceName, ...]:
    return MODELS[model].defences


def _with_controls(config: Config, model: str) -> tuple[DefenceName, ...]:
    return (*MODELS[model].defences, *MODELS[model].controls(config.entropy))


def _no_model(model: TrainedModel) -> bool:
    return False


def _deq(model: TrainedModel) -> bool:
    return model.is_deq


def _own_architecture(model: TrainedModel) -> bool:
    return bool(model.architecture.label) and model.weights_of is None


def _unchanged(config: Config, model: str) -> Config:
    return config


def _nothing(config: Config, model: str) -> Mapping[str, Made]:
    return {}


@dataclass(frozen=True)
class Stage:
    """One kind of job.

    Attributes:
        name: of the stage.
        revision: raised when the code would give other results: then everything below the stage runs again.
        code: the modules that decide what it puts out; tests/test_revisions.py hashes them.
        path: of its file in the results folder, with the wildcards of its rule.
        keys: dotted keys of the configuration that its jobs depend on, for a model.
        upstream: what they read, by a name of its role.
        models: that it may concern, whatever the configuration has of them (`vocabulary.present`); None: none by name.
        adapt: the configuration with what a job makes no use of set to a fixed value, so that it causes nothing.
        seeded: whether every repetition has a job of its own.
        parts: wildcards of its jobs beside model and seed, for a model; of those alone whose test images come before
            one, if one is given.
        decisions: the defences and controls that its images are judged by, for a model: with another one declared,
            records lack it.
        attacked: the decisions that have jobs of their own, for a model; none: a job attacks all, or none.
        beside: another file of the same jobs.
        own: which models of users' files it concerns as well.
    """

    name: StageName
    revision: int
    code: tuple[str, ...]
    path: str
    keys: Callable[[Config, str], Keys]
    upstream: Callable[[Config, str], Mapping[str, Made]] = _nothing
    models: tuple[str, ...] | None = None
    adapt: Callable[[Config, str], Config] = _unchanged
    seeded: bool = True
    parts: Parts = _whole
    decisions: Callable[[Config, str], tuple[DefenceName, ...]] = _none
    attacked: Callable[[Config, str], tuple[DefenceName, ...]] = _none
    beside: str | None = None
    own: Callable[[TrainedModel], bool] = _no_model

    def concerns(self, config: Config) -> tuple[str, ...]:
        """The models that it concerns in a configuration; none, if it concerns none by name."""
        added = (name for name in own(config) if self.own(MODELS[name]))
        return (*present(config, self.models or ()), *added)

    def may_concern(self, model: str | None) -> bool:
        """Whether it has jobs of a model under any configuration, the users' files that are loaded included."""
        if self.models is None or model is None:
            return self.models is None and model is None
        return model in self.models or (model in MODELS and bool(MODELS[model].origin) and self.own(MODELS[model]))


@dataclass(frozen=True)
class Product:
    """What is made of records: it depends on the whole configuration, which it states.

    Attributes:
        name: of the product.
        revision: as of a stage.
        code: as of a stage.
    """

    name: ProductName
    revision: int
    code: tuple[str, ...]


RULES = 2
"""Raised when decisions by rules from users' files would be others: what they judge runs again, and nothing else."""

_COMPUTATION = (
    "compute", "model", "data", "gradient", "solver", "dynamics", "defence", "attack", "seeding", "threat_model",
    "lazy", "machine.stopwatch", "build", "workflow.defences", "workflow.equal_cost", "workflow.gridpoints",
    "workflow.library_attacks", "workflow.suite_attacks",
)  # fmt: skip
_FORMATS = (
    "results.document", "results.early_states", "results.example", "results.race", "results.ranking", "results.speeds",
)  # fmt: skip
_TRAINING = (*_COMPUTATION, "training")
_EVALUATION = (*_COMPUTATION, *_FORMATS, "evaluation")
_ANALYSIS = (*_FORMATS, "analysis", "statistics")
_TOLD = (
    *_ANALYSIS, "reporting.absent", "reporting.cells", "reporting.conditions", "reporting.paper", "reporting.phrases",
    "reporting.quantities", "reporting.sidecar", "lazy", "workflow.library_attacks",
    "workflow.suite_attacks", "workflow.table1_columns",
)  # fmt: skip
_DRAWN = ("reporting.figures", "results.history", "results.weights")
_PRINTED = ("reporting.tables", "reporting.pages")

_OPTIMISER = (
    "training.epochs", "training.batch_size", "training.learning_rate", "training.learning_rate_min",
    "training.betas", "training.weight_decay",
)  # fmt: skip
_PGD = ("attack.pgd", "threat_model")
_GRID = ("attack.grid.states", "attack.grid.steps", "attack.grid.damping")
_AUTOATTACK = (
    "autoattack.keep", "autoattack.iterations", "autoattack.queries", "autoattack.batch_size",
    "autoattack.images_per_job", "autoattack.square_images", "autoattack.restarts", "evaluation.images", "threat_model",
)  # fmt: skip


def training_stage(model: str) -> StageName:
    """The stage that trains a model."""
    if model == TRUNK:
        return "pretrain"
    if MODELS[model].architecture.label:
        return "train_own"
    return "train_deq" if MODELS[model].architecture.has_states else "train_feedforward"


def trained(config: Config, model: str) -> Made:
    """The weights of a model, trained or taken from a file."""
    whose = MODELS[model].weights_of or model
    if whose in config.imported:
        return Made("import", whose)
    stage = training_stage(whose)
    return Made(stage, None if stage == "pretrain" else whose)


def _weights(config: Config, model: str) -> dict[str, Made]:
    return {"model": trained(config, model)}


def _images(config: Config, model: str) -> dict[str, Made]:
    return {"data": Made("data", None)}


def _of(model: str, *stages: StageName) -> dict[str, Made]:
    """Files of the same model, by the names of their stages."""
    return {stage: Made(stage, model) for stage in stages}


def _without_controls(config: Config, model: str) -> Config:
    """The configuration of stages that score no controls."""
    return config.model_copy(update={"entropy": config.entropy.model_copy(update={"controls": False})})


# --- images and models -----------------------------------------------------------------------------------------------


def _data_keys(config: Config, model: str) -> Keys:
    return ("data.source", "data.validation", *(() if known_images(config.data.source) else ("data.root",)))


def _pretrain_keys(config: Config, model: str) -> Keys:
    return ("model", "pretrain", "precision", "data.augment", *_OPTIMISER)


def _train_deq_keys(config: Config, model: str) -> Keys:
    kind = MODELS[model]
    return (
        "solver", "training.gradient", "training.unroll", "training.attack", "selection", "threat_model",
        "jacobian.frequency", "jacobian.stop_epoch", "jacobian.probes", "jacobian.length_jitter",
        f"jacobian.weight.{kind.framework}",
        *(("training.trades", "jacobian.trades_terms") if kind.framework == "trades" else ()),
        *(("random_state",) if kind.random_states else ()),
        *_perturbation_keys(config, kind),
    )  # fmt: skip


def _perturbation_keys(config: Config, kind: TrainedModel) -> Keys:
    """Of adversarial weight perturbation; files of models that the configuration no longer has are of another spec."""
    if not kind.perturbed_weights:
        return ()
    if not config.weight_perturbation.enabled:
        return ("weight_perturbation",)
    return (f"weight_perturbation.size.{kind.framework}", "weight_perturbation.warmup_epochs")


def _adapt_training(config: Config, model: str) -> Config:
    kind = MODELS[model]
    config = _without_unused(config, kind)
    if not kind.other_jacobian:
        return config
    # Under the usual name: the training itself knows no other.
    assert kind.framework is not None
    other = getattr(config.jacobian.other_weight, kind.framework)
    weight = config.jacobian.weight.model_copy(update={kind.framework: other})
    return config.model_copy(update={"jacobian": config.jacobian.model_copy(update={"weight": weight})})


def _without_unused(config: Config, kind: TrainedModel) -> Config:
    selection, random = config.selection, config.random_state
    if not kind.random_states:
        selection = selection.model_copy(update={"attack_random_state": False})
    if kind.framework != "trades":
        random = random.model_copy(update={"natural": "final"})  # only TRADES has a natural branch
    return config.model_copy(update={"selection": selection, "random_state": random})


def _train_own_keys(config: Config, model: str) -> Keys:
    """As of a DEQ, and what the trunk's training depends on, as there is none."""
    return (*_train_deq_keys(config, model), *_OPTIMISER, "precision", "data.augment")


def _train_feedforward_keys(config: Config, model: str) -> Keys:
    kind = MODELS[model]
    section, trades = kind.architecture.section, ("training.trades",) if kind.framework == "trades" else ()
    return (
        section, "training.attack", "selection", "threat_model", "precision", "data.augment", *trades,
        *_perturbation_keys(config, kind),
    )  # fmt: skip


# --- evaluations -----------------------------------------------------------------------------------------------------


def _decision_keys(config: Config, model: str) -> Keys:
    """What a decision's logits depend on beside the weights."""
    if not MODELS[model].architecture.has_states:
        return ("precision",)
    coupled = ("evaluation.batch_size", "evaluation.images") if config.couples_images else ()  # which images meet
    defended = (key for name in MODELS[model].defences for key in defence_of(name).keys)
    return ("solver", "evaluation.final_unroll_steps", "attack.unroll", "precision", *coupled, *dict.fromkeys(defended))


def _select_keys(config: Config, model: str) -> Keys:
    keys = (*_decision_keys(config, model), "early_state", "selection.attack", "selection.split",
            "attack.pgd.clamp_start", "threat_model")  # fmt: skip
    return tuple(key for key in keys if key != "evaluation.images")  # those are test images


def _and(*more: str) -> Callable[[Config, str], Keys]:
    """What a decision depends on, and more."""
    return lambda config, model: (*_decision_keys(config, model), *more)


def _grid_keys(config: Config, model: str) -> Keys:
    raced = ("racing",) if races(config) else ()
    return (*_decision_keys(config, model), *_PGD, "attack.defence_in_loop", *_GRID, *raced)


def _grid_upstream(config: Config, model: str) -> dict[str, Made]:
    other = transfers_to(config, model)
    return _weights(config, model) | ({} if other is None else {"transfer": trained(config, other)})


def _in_loop_upstream(config: Config, model: str) -> dict[str, Made]:
    return _weights(config, model) | {"transfer": trained(config, other_trades(model))} | _of(model, "strongest")


def _sweep_keys(config: Config, model: str) -> Keys:
    raced = ("racing",) if races_in_sweep(config) else ()
    return (*_decision_keys(config, model), *_PGD, *_GRID, "entropy_sweep", "evaluation.images", *raced)


def _sweep_upstream(config: Config, model: str) -> dict[str, Made]:
    if config.entropy_sweep.points != "all":
        return _weights(config, model) | _of(model, "strongest")
    # Races need to know at which state decisions are taken.
    return _weights(config, model) | (_of(model, "select") if races_in_sweep(config) else {})


def _graded(config: Config, model: str) -> dict[str, Made]:
    """What the accuracy of decisions under the grid's attacks rests on."""
    return _of(model, "attack_grid", "select") | (_of(model, "race") if races(config) else {})


def _example_upstream(config: Config, model: str) -> dict[str, Made]:
    return _grid_upstream(config, model) | _graded(config, model) | _of(model, "clean")


def _autoattack_upstream(config: Config, model: str) -> dict[str, Made]:
    return _weights(config, model) | (_of(model, "strongest") if MODELS[model].is_deq else {})


def _top_upstream(config: Config, model: str) -> dict[str, Made]:
    return _weights(config, model) | _of(model, "strongest")


# --- the suite -------------------------------------------------------------------------------------------------------


def _attacked_by_suite(*names: str) -> Callable[[Config, str], Keys]:
    """What attacks of the suite depend on beside a decision, by the names of its keys; without it, on that."""
    return lambda config, model: (
        *_decision_keys(config, model),
        "threat_model",
        *((f"suite.{name}" for name in names) if config.suite.enabled else ("suite",)),
    )


def _decided(config: Config, model: str) -> dict[str, Made]:
    """The weights, and the states at which decisions are taken."""
    return _weights(config, model) | (_of(model, "select") if MODELS[model].architecture.has_states else {})


def _transferred_upstream(config: Config, model: str) -> dict[str, Made]:
    """The images of the suite that are judged, of every seed; they are read in this order."""
    return _decided(config, model) | lent(config, model)


def role_of_suite(model: str, seed: int, defence: str) -> str:
    """What a job of transferred images calls the suite against a decision."""
    return f"{model}/seed{seed}/{defence}"


def lent(config: Config, model: str) -> dict[str, Made]:
    """The suites whose images are judged on a model's decisions, by the roles of their files."""
    return {
        role_of_suite(name, seed, defence): Made("attack_suite", name, defence, seed)
        for name in lends_images(config, model)
        for seed in config.seeds
        for defence in suite_decisions(config, name)
    }


_SUITE = ("mode", "iterations", "restarts", "targets", "long", "queries", "decision_queries")
"""The keys of its budget."""


def _ensemble_keys(config: Config, model: str) -> Keys:
    return (*_attacked_by_suite(*_SUITE)(config, model), "seeds")


def _ensemble_upstream(config: Config, model: str) -> dict[str, Made]:
    """The networks of all seeds and their early states, and all images of the suite, which are read in this order."""
    members = {
        role_of_member(role, seed): replace(made, seed=seed)
        for seed in config.seeds
        for role, made in _decided(config, model).items()
    }
    return members | lent(config, model)


def role_of_member(role: str, seed: int) -> str:
    """What a job of an ensemble calls what it reads of one network: its weights (model) and early states (select)."""
    return f"{role}/seed{seed}"


# --- races, and speeds -----------------------------------------------------------------------------------------------


def _racing_keys(config: Config, model: str) -> Keys:
    return ("racing",)


def _race_upstream(config: Config, model: str) -> dict[str, Made]:
    other = transfers_to(config, model)
    transferred: dict[str, Made] = {} if other is None else {"transfer_select": Made("select", other)}
    return _of(model, "attack_grid", "select") | transferred


def _race_sweep_upstream(config: Config, model: str) -> dict[str, Made]:
    return _of(model, "attack_sweep", "select")


def _images_key(config: Config, model: str) -> Keys:
    return ("evaluation.images",)


def _time_training_keys(config: Config, model: str) -> Keys:
    """Those of all trainings that it times."""
    keys = (key for name in DEQS for key in _train_deq_keys(config, name))
    return (*dict.fromkeys(keys), "timing", "precision", "model")


def _time_training_upstream(config: Config, model: str) -> dict[str, Made]:
    return {"data": Made("data", None), "trunk": Made("pretrain", None)}


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("data", 1, ("data", "seeding"), "data/dataset.safetensors", _data_keys, seeded=False),
        Stage("pretrain", 2, _TRAINING, f"models/{TRUNK}/seed{{seed}}/best.safetensors", _pretrain_keys, _images),
        Stage(
            "train_deq", 2, _TRAINING, "models/{model}/seed{seed}/best.safetensors", _train_deq_keys,
            lambda config, model: {"trunk": Made("pretrain", None)}, (*EVERY_DEQ, *OTHER_JACOBIAN),
            adapt=_adapt_training,
        ),
        Stage(
            "train_feedforward", 2, _TRAINING, "models/{model}/seed{seed}/best.safetensors", _train_feedforward_keys,
            _images, EVERY_FEEDFORWARD, adapt=_adapt_training,
        ),
        Stage(
            "train_own", 1, _TRAINING, "models/{model}/seed{seed}/best.safetensors", _train_own_keys, _images, (),
            adapt=_adapt_training, own=_own_architecture,
        ),
        Stage(
            "select", 2, _EVALUATION, "select/{model}/seed{seed}.json", _select_keys, _weights, EVERY_DEQ,
            _without_controls, decisions=_defences, own=_deq,
        ),
        Stage(
            "clean", 4, _EVALUATION, "attacks/clean/{model}/seed{seed}.parquet", _and("evaluation.images"), _weights,
            EVERY_EVALUATED, decisions=_with_controls, own=_deq,
        ),
        Stage(
            "attack_grid", 5, _EVALUATION, "attacks/grid/{model}/seed{seed}/{shard}.parquet", _grid_keys,
            _grid_upstream, EVERY_DEQ, parts=_shards, decisions=_with_controls, own=_deq,
        ),
        Stage(
            "attack_pgd", 3, _EVALUATION, "attacks/pgd/{model}/seed{seed}.parquet", _and(*_PGD, "evaluation.images"),
            _weights, (TRUNK, *EVERY_FEEDFORWARD), decisions=_defences,
        ),
        Stage(
            "race", 1, _ANALYSIS, "race/grid/{model}/seed{seed}.json", _racing_keys, _race_upstream, EVERY_DEQ,
            own=_deq,
        ),
        Stage(
            "race_sweep", 1, _ANALYSIS, "race/sweep/{model}/seed{seed}.json", _racing_keys, _race_sweep_upstream,
            (SWEEP_MODEL,),
        ),
        Stage(
            "strongest", 1, _ANALYSIS, "strongest/{model}/seed{seed}.json", _images_key, _graded, EVERY_DEQ, own=_deq,
        ),
        Stage(
            "autoattack", 2, _EVALUATION, "attacks/autoattack/{model}/seed{seed}/{defence}_images{images}.parquet",
            _and(*_AUTOATTACK, "autoattack.mode", "autoattack.attacks", "autoattack.targets",
                 "autoattack.defence_in_loop"),
            _autoattack_upstream, (*EVERY_DEQ, *EVERY_FEEDFORWARD), _without_controls, parts=_by_decision,
            attacked=_defences, own=_deq,
        ),
        Stage(
            "attack_top", 2, _EVALUATION, "attacks/top/{model}/seed{seed}/images{images}.parquet",
            _and(*_AUTOATTACK, "autoattack.top_points", "autoattack.defence_in_loop"), _top_upstream, (SWEEP_MODEL,),
            _without_controls, parts=_by_autoattacks_images,
        ),
        Stage(
            "attack_in_loop", 2, _EVALUATION, "attacks/in_loop/{model}/seed{seed}/images{images}.parquet",
            _and(*_PGD, "attack.in_loop_points", "evaluation.images"), _in_loop_upstream, TRADES, _without_controls,
            parts=_by_images, decisions=_defences,
        ),
        Stage(
            "attack_sweep", 2, _EVALUATION, "attacks/sweep/{model}/seed{seed}/images{images}.parquet", _sweep_keys,
            _sweep_upstream, (SWEEP_MODEL,), _without_controls, parts=_by_images,
        ),
        Stage(
            "attack_example", 2, _EVALUATION, "attacks/example/{model}/seed{seed}.npz",
            lambda config, model: (*_grid_keys(config, model), "evaluation.images"), _example_upstream,
            (FIGURE2_MODEL,),
        ),
        Stage(
            "attack_suite", 1, _EVALUATION, "attacks/suite/{model}/seed{seed}/{defence}_images{images}.parquet",
            _attacked_by_suite(*_SUITE), _decided, (*EVERY_DEQ, *EVERY_FEEDFORWARD), _without_controls,
            parts=_by_suites_decision, attacked=suite_decisions, own=_deq,
            beside="attacks/suite/{model}/seed{seed}/{defence}_images{images}.safetensors",
        ),
        Stage(
            "attack_transferred", 1, _EVALUATION, "attacks/transferred/{model}/seed{seed}/images{images}.parquet",
            _attacked_by_suite("mode"), _transferred_upstream, (*EVERY_DEQ, *EVERY_FEEDFORWARD), _without_controls,
            parts=_by_suites_images, decisions=suite_decisions, own=_deq,
        ),
        Stage(
            "attack_radius", 1, _EVALUATION, "attacks/radius/{model}/seed{seed}/{defence}.parquet",
            _attacked_by_suite("iterations", "radii", "radius_images"), _decided,
            (*EVERY_DEQ, *EVERY_FEEDFORWARD), _without_controls, parts=_by_defence, attacked=_defences, own=_deq,
        ),
        Stage(
            "attack_ensemble", 1, _EVALUATION, "attacks/ensemble/{model}/images{images}.parquet", _ensemble_keys,
            _ensemble_upstream, DEQS, _without_controls, seeded=False, parts=_by_ensembles_images, decisions=ensembles,
            beside="attacks/ensemble/{model}/images{images}.safetensors",
        ),
        Stage(
            "attack_own", 2, _EVALUATION, "attacks/own/{attack}/{model}/seed{seed}/{defence}.parquet",
            _and("threat_model", "evaluation.images"), _decided, (*EVERY_DEQ, *EVERY_FEEDFORWARD), _without_controls,
            parts=_by_own_attack, attacked=_defences, own=_deq,
        ),
        Stage(
            "time_training", 2, (*_TRAINING, "results.document", "results.speeds"), "timing/training/seed{seed}.json",
            _time_training_keys, _time_training_upstream,
        ),
        Stage(
            "time_inference", 2, _EVALUATION, "timing/inference/{model}/seed{seed}.json",
            _and("timing", "entropy_sweep.solver_steps", "entropy_sweep.input_steps"), _weights, (SWEEP_MODEL,),
            _without_controls,
        ),
    )
}  # fmt: skip
PRODUCTS: Mapping[str, Product] = {
    "table": Product("table", 7, (*_TOLD, *_PRINTED)),
    "figure": Product("figure", 5, (*_TOLD, *_DRAWN)),
    "report": Product("report", 6, (*_TOLD, *_PRINTED, *_DRAWN, "reporting.report")),
}
