"""The smallest unit of work that each job keeps: what it has to compute whole before anything of it is kept.

A job that leaves at a signal or at the end of its time keeps all units that are over and does the one under way again.
One that is killed without notice loses what came since its last save as well (five minutes at most).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deqpipe.config import Config
from deqpipe.evaluation.images import PIECE, suite_piece
from deqpipe.planning import cost, formulas
from deqpipe.planning.cost import Images, Work
from deqpipe.workflow import gridpoints, shards, stages, vocabulary
from deqpipe.workflow.defences import ENTROPY
from deqpipe.workflow.suite_attacks import AT_RADII, SuiteAttack, suite_attacks

Wildcards = Mapping[str, str]


@dataclass(frozen=True)
class Unit:
    """What a job computes whole, or not at all.

    Attributes:
        words: what it is.
        work: what it takes.
    """

    words: str
    work: Work


@dataclass(frozen=True)
class Keeping:
    """How a job keeps what it computes.

    Attributes:
        units: the different kinds of unit that it consists of.
        again: what every try does anew before its first unit.
    """

    units: tuple[Unit, ...]
    again: Work = field(default_factory=Work)


def keeping(rule: str, wildcards: Wildcards, config: Config, images: Images) -> Keeping:
    """How a job of a computing rule keeps what it computes.

    Args:
        rule: its rule.
        wildcards: which of the rule's jobs.
        config: the experiment.
        images: of its source.
    """
    start = Work(parts={"start": 1.0})
    kept = _KEEPING[rule](config, images, wildcards)
    return Keeping(kept.units, start + kept.again)


# Trainings


def _pretrain(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    step = cost.training_work(formulas.pretraining_step(config) * config.training.batch_size, "pretrain")
    validation = cost.training_work(formulas.pretraining_validation(config) * images.validation, "pretrain")
    return _training(step, validation)


def _train_deq(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    """A step with the Jacobian term, and where weights are perturbed at perturbed ones, which is the longest."""
    model, part = wildcards["model"], f"train/{cost.priced_as(wildcards['model'])}"
    perturbed = int(vocabulary.MODELS[model].perturbed_weights)
    step = cost.training_step(config, model, regularised=1, perturbed=perturbed) * config.training.batch_size
    validation = formulas.validation(config, model) * cost.validation_images(config, images)
    return _training(cost.training_work(step, part), cost.training_work(validation, part))


def _train_feedforward(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    model, steps = wildcards["model"], config.selection.attack.steps
    kind, count = vocabulary.MODELS[model], vocabulary.feedforward(config, model).training.batch_size
    ascents = {"gradient": cost.ascents(model, count)} if kind.perturbed_weights else {}
    step = cost.network_work(model, {f"train/{kind.framework}": float(count), **ascents})
    each = cost.network_work(model, {"decide": 2.0, "gradient": float(steps)})
    return _training(step, each * cost.validation_images(config, images))


def _training(step: Work, validation: Work) -> Keeping:
    return Keeping((Unit("a training step", step), Unit("the validation behind an epoch", validation)))


# Slices of images


def _slice(config: Config, count: int) -> int:
    """Images that are kept at once, as `evaluation.images.slices` cuts them."""
    batch = cost.batch_size(config)
    return min(count, -(-PIECE // batch) * batch if config.couples_images else PIECE)


def _sliced(count: int, each: Work) -> Keeping:
    return Keeping((Unit(f"{count:,} images", each * count),))


def _select(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    each = cost.job("select_early_state", wildcards, config, images)
    count = cost.validation_images(config, images)
    return _sliced(_slice(config, count), _per_image(each, count))


def _clean(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    count = config.evaluation.images
    return _sliced(_slice(config, count), cost.decisions(config, wildcards["model"]))


def _attack_pgd(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    count = config.evaluation.images
    each = cost.job("attack_pgd", wildcards, config, images)
    return _sliced(_slice(config, count), _per_image(each, count))


def _per_image(work: Work, count: int) -> Work:
    """A job's work on each of its images, once it has started."""
    return _started(work) * (1 / count)


def _started(work: Work) -> Work:
    """A job's work without its start."""
    return Work(work.evaluations, {name: more for name, more in work.parts.items() if name != "start"})


# Points of the grid


def _at_point(config: Config, wildcards: Wildcards, each: Work, *, again: Work) -> Keeping:
    """Attacks on the images of a job; small ones are computed several at once, and kept together."""
    images = wildcards.get("images")
    count = cost.images_in(wildcards["shard"], "images") if images is None else cost.images_in(images)
    together = 1 if config.couples_images else max(1, cost.batch_size(config) // count)
    points = "one point" if together == 1 else f"{together} points"
    return Keeping((Unit(f"{points} x {count:,} images", each * (together * count)),), again * count)


def _attack_grid(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    model, (deepest,) = wildcards["model"], cost.deepest_points(gridpoints.grid_points(config))
    each = cost.grid_point(config, model, deepest, other=vocabulary.transfers_to(config, model))
    return _at_point(config, wildcards, each, again=cost.references(config, model))


def _attack_in_loop(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    deepest = cost.deepest_points(gridpoints.grid_points(config))
    return _at_point(config, wildcards, cost.in_loop_point(config, wildcards["model"], deepest), again=Work())


def _attack_sweep(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    deepest = cost.deepest_points(gridpoints.grid_points(config))
    return _at_point(config, wildcards, cost.sweep_point(config, deepest), again=Work())


# AutoAttack: within an attack, what it was told


def _autoattack(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    points = cost.deepest_points(gridpoints.grid_points(config))
    target = cost.attacked(config, wildcards["model"], wildcards["defence"], points)
    count = cost.images_in(wildcards["images"])
    batch = min(config.autoattack.batch_size, count)
    checks = Unit(f"the library's checks on {batch:,} images", target.forward * (formulas.CHECKS * batch))
    clean = Unit(f"{count:,} clean images", target.decision * count)
    return Keeping((*_answers(config, target, batch), checks, clean))


def _attack_top(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    points = cost.deepest_points(gridpoints.grid_points(config))
    target = cost.attacked(config, wildcards["model"], ENTROPY.name, points)
    return Keeping(_answers(config, target, min(config.autoattack.batch_size, cost.images_in(wildcards["images"]))))


def _answers(config: Config, target: cost.AttackCost, batch: int) -> tuple[Unit, ...]:
    """An answer that an attack gets, with its gradient; the verdict on what the attack came to."""
    shown = 2 if config.autoattack.keep == "best_loss" else 1
    return (
        Unit(f"one gradient of {batch:,} images within an attack", target.gradient * batch),
        Unit(f"the verdict on {batch:,} images", target.decision * (shown * batch)),
    )


# The suite: an attack on a piece of the images


def _attack_suite(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    count = cost.images_in(wildcards["images"])
    return Keeping(_pieces(config, images, wildcards["model"], wildcards["defence"], count))


def _pieces(config: Config, images: Images, model: str, defence: str, count: int) -> tuple[Unit, ...]:
    """An attack on as many of some images as are kept at once."""
    decide, units = cost.deciding(config, model, defence), []
    for attack, work in cost.faced(config, model, defence, classes=images.classes).items():
        size = _piece(config, attack, count, classes=images.classes)
        units.append(Unit(f"{attack.label} on {size:,} images", (work + decide * cost.JUDGED_ATTACKED) * size))
    return tuple(units)


def _attack_ensemble(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    """As an attack of the suite; what was made against one other decision is a piece as well, and shorter."""
    model, count = wildcards["model"], cost.images_in(wildcards["images"])
    names = vocabulary.ensembles(config, model)
    return Keeping(tuple(unit for name in names for unit in _pieces(config, images, model, name, count)))


def _attack_radius(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    count, suite = shards.radius_images(config), cost.suite_of(config)
    whole = cost.job("attack_radius", wildcards, config, images)
    size = max(_piece(config, suite_attacks(suite)[name], count, classes=images.classes) for name in AT_RADII)
    each = _per_image(whole, count) * (size / len(suite.radii))
    return Keeping((Unit(f"one radius on {size:,} images", each),))


def _attack_own(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    """A batch of images."""
    whole, size = cost.job("attack_own", wildcards, config, images), cost.batch_size(config)
    return Keeping((Unit(f"{size:,} images", _per_image(whole, config.evaluation.images) * size),))


def _attack_transferred(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
    """What the suite made of the images against one decision."""
    decisions = len(stages.lent(config, wildcards["model"]))
    whole = _started(cost.job("attack_transferred", wildcards, config, images))
    return Keeping((Unit("the images of one decision's suite", whole * (1 / decisions)),))


def _piece(config: Config, attack: SuiteAttack, count: int, *, classes: int) -> int:
    """Images of a piece, as `evaluation.stages.suite` cuts them."""
    suite = cost.suite_of(config)
    steps = attack.starts(suite, classes - 1) * attack.steps(suite)
    return min(count, cost.batch_size(config) if config.couples_images else suite_piece(steps))


# Timing, and what keeps nothing


def _timing(rule: str) -> Callable[[Config, Images, Wildcards], Keeping]:
    def keeps(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
        """A round of all that is timed; the warm-up is repeated by every try."""
        without, with_one = (
            _started(cost.job(rule, wildcards, _timed(config, warmup=warmup, repeats=repeats), images))
            for warmup, repeats in ((0, 1), (config.timing.warmup, 1))
        )
        return Keeping((Unit("one round of all that is timed", without),), with_one + without * -1)

    return keeps


def _timed(config: Config, *, warmup: int, repeats: int) -> Config:
    return config.model_copy(update={"timing": config.timing.model_copy(update={"warmup": warmup, "repeats": repeats})})


def _whole(rule: str) -> Callable[[Config, Images, Wildcards], Keeping]:
    def keeps(config: Config, images: Images, wildcards: Wildcards) -> Keeping:
        return Keeping((Unit("the whole job", _started(cost.job(rule, wildcards, config, images))),))

    return keeps


_KEEPING = {
    "pretrain": _pretrain,
    "train_deq": _train_deq,
    "train_feedforward": _train_feedforward,
    "train_own": _train_deq,
    "select_early_state": _select,
    "clean": _clean,
    "attack_grid": _attack_grid,
    "attack_pgd": _attack_pgd,
    "attack_point": _whole("attack_point"),
    "attack_sweep": _attack_sweep,
    "attack_ensemble": _attack_ensemble,
    "attack_example": _whole("attack_example"),
    "attack_in_loop": _attack_in_loop,
    "attack_own": _attack_own,
    "attack_radius": _attack_radius,
    "attack_suite": _attack_suite,
    "attack_top": _attack_top,
    "attack_transferred": _attack_transferred,
    "autoattack": _autoattack,
    "time_training": _timing("time_training"),
    "time_inference": _timing("time_inference"),
}
