"""How much a job computes, from the configuration alone: f-evaluations, and the parts that a machine takes time for.

An f-evaluation is one application of f to one image, as provenance counts them. A part is a kind of work whose price
per f-evaluation (or per image, or per job) is measured. Where work depends on results, it is assumed: `ASSUMED`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import TypeAlias

from deqpipe import specs
from deqpipe.config import Config, Entropy, Solver
from deqpipe.defence.entropy import control

ASSUMED = (
    "AutoAttack: no image leaves before the last attack; every strongest point has the mean i and K_a of the grid",
    "racing: every point stays in the race",
    "a solve takes all its steps, whatever solver.tolerance says",
    "downloads, and reading records for tables and figures, take no time",
)
"""What the work of jobs is reckoned with where it depends on results."""

Number: TypeAlias = int | float
Part: TypeAlias = str
"""start, report: jobs. pass: images through stem and head, with gradient. solve, unroll, descent: f-evaluations in a
solve, in an unroll with gradient, in Sec. 3.2's updates. pretrain, train/<model>: f-evaluations in training steps.
decide/<defence>: images. resnet/train/<framework>, resnet/gradient, resnet/decide: images."""


@dataclass(frozen=True)
class Work:
    """What is to be computed: f-evaluations, and how much of each part."""

    f_evaluations: Number = 0.0
    parts: Mapping[Part, Number] = field(default_factory=dict)

    def __add__(self, other: "Work") -> "Work":
        """Both."""
        names = {**self.parts, **other.parts}
        parts = {name: self.parts.get(name, 0.0) + other.parts.get(name, 0.0) for name in names}
        return Work(self.f_evaluations + other.f_evaluations, parts)

    def __mul__(self, times: Number) -> "Work":
        """The same so many times."""
        return Work(times * self.f_evaluations, {name: times * amount for name, amount in self.parts.items()})

    def seconds(self, prices: Mapping[Part, Number]) -> Number:
        """How long it takes with these seconds per unit of each part."""
        return sum(amount * prices[name] for name, amount in self.parts.items())


@dataclass(frozen=True)
class Images:
    """How many images a source has, and of which shape.

    Attributes:
        train: those that are trained on.
        validation: held out.
        test: test images.
        shape: channels, height, width.
        classes: how many.
    """

    train: int
    validation: int
    test: int
    shape: tuple[int, int, int]
    classes: int


# Solves and decisions, per image


def reached(solver: Solver, steps: Number) -> Number:
    """f-evaluations of a solve whose z* alone is wanted."""
    return steps if solver.returned == "last" else steps + 1


def dynamics(solver: Solver, entropy: Entropy | None = None) -> Number:
    """f-evaluations of the whole dynamics, undefended or with Sec. 3.2."""
    total = solver.steps
    if entropy is None or undefended(solver, entropy):
        return total + 1
    last = entropy.last_update == "resolve"
    due = [n for n in range(1, total + 1) if n % entropy.solver_steps == 0 and (n < total or last)]
    if entropy.resolve == "alg1":  # the descent, the new input's residual, and a look ahead for the lowest state
        return total + 1 + len(due) * (entropy.input_steps + 1 + (entropy.state == "lowest"))
    between = len([n for n in due if n < total])
    again = entropy.solver_steps + 1 if total in due else 0  # the last round: residual and steps
    return total + 1 + len(due) * entropy.input_steps + between + again


def undefended(solver: Solver, entropy: Entropy) -> bool:
    """Whether Sec. 3.2 with these keys is the plain dynamics bit for bit, which are not computed twice."""
    every, last = entropy.solver_steps, solver.steps
    if every > last or (every == last and entropy.last_update == "dead"):
        return True
    return entropy.resolve == "alg1" and entropy.input_steps == 0


def keys(config: Config, defence: specs.Defence) -> Entropy | None:
    """The keys of Sec. 3.2 that a defence or a control runs with; None: the plain dynamics."""
    if defence == "plain":
        return None
    entropy = config.entropy
    if defence != "entropy":
        entropy = control(entropy, defence, steps=config.solver.steps)
    return None if undefended(config.solver, entropy) else entropy


def defended(config: Config, defence: specs.Defence) -> Number:
    """f-evaluations of the dynamics of a defence or a control."""
    return dynamics(config.solver, keys(config, defence))


def behind(config: Config) -> int:
    """f-evaluations of a decision behind z*: the final state and its residual."""
    return config.evaluation.final_unroll_steps + config.attack.unroll.lead_step + 1


def decision(config: Config, defence: specs.Defence) -> Work:
    """One decision of a DEQ on an image, at all states."""
    return Work(defended(config, defence) + behind(config), {f"decide/{defence}": 1.0})


def swept(config: Config, settings: Iterable[specs.EntropySetting]) -> Work:
    """The decisions of other T_f and R: undefended ones, and what the updates add. Equal ones are computed once."""
    found = {_swept_keys(config, setting) for setting in settings}
    plain = dynamics(config.solver)
    added = [0.0 if entropy is None else dynamics(config.solver, entropy) - plain for entropy in found]
    return decision(config, "plain") * len(found) + Work(sum(added), {"descent": sum(added)})


def _swept_keys(config: Config, setting: specs.EntropySetting) -> Entropy | None:
    changed = {"solver_steps": setting.solver_steps, "input_steps": setting.input_steps}
    entropy = config.entropy.model_copy(update=changed)
    if setting.restart_only:
        entropy = control(entropy, "entropy_restart_only", steps=config.solver.steps)
    return None if undefended(config.solver, entropy) else entropy


def decisions(config: Config, model: str, *, controls: bool = True) -> Work:
    """All decisions that a model's attacked images are scored on. Equal ones are computed once."""
    kind = specs.MODELS[model]
    if kind.architecture == "resnet":
        return Work(0.0, {"resnet/decide": 1.0})
    names = (*kind.defences, *(kind.controls(config.entropy) if controls else ()))
    different = {keys(config, name): name for name in reversed(names)}
    return _sum(decision(config, name) for name in different.values())


def references(config: Config, model: str) -> Work:
    """The clean states that deviations are measured from."""
    return decisions(config, model, controls=False)


# Attacks, per image


def gradient_pass(config: Config, state: Number, steps: Number) -> Work:
    """One gradient of the surrogate of z^[state], unrolled `steps` times."""
    unroll = steps + config.attack.unroll.lead_step
    return Work(state + unroll, {"pass": 1.0, "solve": state, "unroll": unroll})


def forward_pass(config: Config, state: Number, steps: Number) -> Work:
    """The surrogate's logits alone."""
    total = state + steps + config.attack.unroll.lead_step
    return Work(total, {"pass": 1.0, "solve": total})


def through_defence(config: Config) -> Work:
    """What a pass takes more when its state comes from the dynamics of Sec. 3.2, on average over the grid's states.

    The dynamics end there, solved again where Algorithm 1 says so.
    """
    last = "resolve" if config.entropy.resolve == "alg1" else "dead"
    entropy = config.entropy.model_copy(update={"last_update": last})
    states = [point.state for point in specs.grid_points(config)]
    whole = [dynamics(config.solver.model_copy(update={"steps": state}), entropy) - state for state in states]
    added = sum(whole) / len(whole)
    return Work(added, {"descent": added})


def point_pgd(config: Config, point: specs.GridPoint, steps: int) -> Work:
    """PGD on the surrogate of a point."""
    return gradient_pass(config, point.state, point.steps) * steps


def mean_point(config: Config) -> tuple[Number, Number]:
    """Mean i and K_a of the grid."""
    points = specs.grid_points(config)
    return sum(p.state for p in points) / len(points), sum(p.steps for p in points) / len(points)


def library(config: Config, model: str, attack: str, *, classes: int, defended_loop: bool) -> Work:
    """One of AutoAttack's attacks on an image."""
    gradients, forwards = _passes(config, attack, classes)
    if specs.MODELS[model].architecture == "resnet":
        return Work(0.0, {"resnet/gradient": float(gradients), "resnet/decide": float(forwards)})
    state, steps = mean_point(config)
    if not defended_loop:
        return gradient_pass(config, state, steps) * gradients + forward_pass(config, state, steps) * forwards
    through = through_defence(config)
    with_gradient, without = gradient_pass(config, state, steps), forward_pass(config, state, steps)
    return (with_gradient + through) * gradients + (without + through) * forwards


def _passes(config: Config, attack: str, classes: int) -> tuple[int, int]:
    """Passes with and without gradient of one of AutoAttack's attacks, as the library runs them."""
    settings = config.autoattack
    targets = min(settings.targets, classes - 1)
    if attack == "square":
        return 0, settings.queries
    if attack == "fab_t":
        return targets * settings.iterations, targets * settings.iterations
    return (settings.restarts if attack == "apgd_ce" else targets) * (settings.iterations + 1), 0


# Training, per image


def training_step(config: Config, model: str, *, regularised: Number = 0.0) -> Number:
    """f-evaluations of a training step of a DEQ; `regularised`: the share of steps with the Jacobian term."""
    kind, steps = specs.MODELS[model], config.solver.steps
    length = steps + regularised * sum(config.jacobian.length_jitter) / 2
    crafting = config.random_state.in_attack if kind.random_states else False
    attack = config.training.attack.steps * (_state(config, steps, random=crafting) + _gradient(config))
    perturbed = _state(config, length, random=kind.random_states) + _gradient(config)
    if kind.framework == "pgd_at":
        return attack + perturbed + regularised
    random = kind.random_states and config.random_state.natural != "final"
    natural = _state(config, length, random=random) + _gradient(config)
    terms = 2 if config.jacobian.trades_terms == "both" else 1
    return attack + perturbed + natural + _natural_targets(config, random=random and crafting) + terms * regularised


def _state(config: Config, length: Number, *, random: bool) -> Number:
    """f-evaluations of reaching z*, or on average a state that is drawn."""
    if not random:
        return reached(config.solver, length)
    return (length + 1) / 2 + (config.random_state.pick != "iterate")


def _gradient(config: Config) -> int:
    """f-evaluations of making a state differentiable in training."""
    return 2 if config.training.gradient == "exact" else _training_unroll(config)


def _training_unroll(config: Config) -> int:
    return config.training.unroll.steps + config.training.unroll.lead_step


def _natural_targets(config: Config, *, random: bool) -> Number:
    """The natural logits that TRADES' attack moves away from: once for every state that its steps draw."""
    steps, draws = config.solver.steps, config.training.attack.steps
    forward = 1 if config.training.gradient == "exact" else _training_unroll(config)
    if not random:
        return reached(config.solver, steps) + forward
    different = steps * (1 - (1 - 1 / steps) ** draws)
    return different * (_state(config, steps, random=True) + forward)


def validation_image(config: Config, model: str) -> Number:
    """f-evaluations of clean accuracy and accuracy under PGD, for one image after one epoch."""
    random = specs.MODELS[model].random_states and config.selection.attack_random_state
    final = reached(config.solver, config.solver.steps) + _training_unroll(config)
    crafting = _state(config, config.solver.steps, random=random) + _training_unroll(config)
    return 2 * final + config.selection.attack.steps * crafting


# Jobs


def job(rule: str, wildcards: Mapping[str, str], config: Config, images: Images) -> Work:
    """The work of one of Snakemake's jobs."""
    if rule in _COMPUTING:
        return Work(0.0, {"start": 1.0}) + _COMPUTING[rule](config, images, wildcards)
    return Work(0.0, {"start" if rule in ("prepare_data", "use_imported") else "report": 1.0})


def taken(rule: str, wildcards: Mapping[str, str], config: Config, images: Images) -> int:
    """Images that a job takes: of a training all that its steps see, otherwise those that it judges or times."""
    first = config.pretrain.steps
    match rule:
        case "pretrain":
            return _seen(config, images, first)
        case "train_deq":
            last = config.training.epochs * _per_epoch(config, images)
            return _seen(config, images, last) - _seen(config, images, first)
        case "train_resnet":
            return config.resnet.training.epochs * images.train
        case "select_early_state":
            return _validated(config, images)
        case "time_training" | "time_inference":
            return config.timing.batch_size
        case "clean" | "attack_pgd" | "attack_example":
            return config.evaluation.images
    return _count(wildcards.get("images") or wildcards["shard"].partition("images")[2]) if uses_device(rule) else 0


def uses_device(rule: str) -> bool:
    """Whether jobs of a rule train or evaluate."""
    return rule in _COMPUTING


def runs_alone(rule: str) -> bool:
    """Whether jobs of a rule want the whole machine."""
    return rule in ("time_training", "time_inference")


def _pretrain(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    steps = config.pretrain.steps
    epochs = ceil(steps / _per_epoch(config, images))
    seen = _seen(config, images, steps) + epochs * images.validation
    return _f(config.pretrain.layers * seen, "pretrain")


def _train_deq(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model, per_epoch = wildcards["model"], _per_epoch(config, images)
    first, last = config.pretrain.steps, config.training.epochs * per_epoch
    stop = min(max(config.jacobian.stop_epoch * per_epoch, first), last) if _weight(config, model) else first
    share = config.jacobian.frequency
    with_term = _seen(config, images, stop) - _seen(config, images, first)
    without = _seen(config, images, last) - _seen(config, images, stop)
    epochs = config.training.epochs - first // per_epoch
    total = (
        with_term * training_step(config, model, regularised=share)
        + without * training_step(config, model)
        + epochs * _validated(config, images) * validation_image(config, model)
    )
    return _f(total, f"train/{_priced_as(model)}")


def _priced_as(model: str) -> str:
    """The method whose steps are timed; the models of Figure 6 differ in a weight only."""
    kind = specs.MODELS[model]
    return next(
        name
        for name in specs.DEQS
        if (specs.MODELS[name].framework, specs.MODELS[name].random_states) == (kind.framework, kind.random_states)
    )


def _weight(config: Config, model: str) -> Number:
    kind = specs.MODELS[model]
    weights = config.jacobian.other_weight if kind.other_jacobian else config.jacobian.weight
    found: Number = getattr(weights, kind.framework or "")
    return found


def _train_resnet(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    kind, epochs = specs.MODELS[wildcards["model"]], config.resnet.training.epochs
    validated = epochs * _validated(config, images)
    return Work(
        0.0,
        {
            f"resnet/train/{kind.framework}": float(epochs * images.train),
            "resnet/decide": 2.0 * validated,
            "resnet/gradient": float(validated * config.selection.attack.steps),
        },
    )


def _clean(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    return decisions(config, wildcards["model"]) * config.evaluation.images


def _select(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model = wildcards["model"]
    attack = point_pgd(config, specs.ready_made(config), config.selection.attack.steps)
    return (attack + decisions(config, model, controls=False)) * _validated(config, images)


def _attack_pgd(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model, steps = wildcards["model"], config.attack.pgd.steps
    if specs.MODELS[model].architecture == "resnet":
        attack = Work(0.0, {"resnet/gradient": float(steps)})
    else:
        attack = point_pgd(config, specs.ready_made(config), steps)
    return (attack + references(config, model) + decisions(config, model)) * config.evaluation.images


def _attack_grid(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    first, last = _range(wildcards["shard"], "states")
    points = [point for point in specs.grid_points(config) if first <= point.state <= last]
    return _grid_points(config, wildcards["model"], points) * _count(wildcards["shard"], "images")


def _attack_point(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    point = specs.GridPoint.parse(wildcards["point"])
    return _grid_points(config, wildcards["model"], [point]) * _count(wildcards["images"])


def _grid_points(config: Config, model: str, points: list[specs.GridPoint]) -> Work:
    """Points of the grid, scored on every decision of the model and, where images are transferred, of another one."""
    other = specs.transfers_to(config, model)
    scored, once = decisions(config, model), references(config, model)
    if other is not None:
        scored, once = scored + decisions(config, other, controls=False), once + references(config, other)
    return once + _sum(point_pgd(config, point, config.attack.pgd.steps) + scored for point in points)


def _autoattack(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model, defence = wildcards["model"], wildcards["defence"]
    return _library_attacks(
        config, images, wildcards, config.autoattack.attacks, in_loop=defence == "entropy"
    ) + _scored(config, model, defence) * (_count(wildcards["images"]) * (len(config.autoattack.attacks) + 1))


def _attack_top(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    attacks, count = ("apgd_ce", "square"), _count(wildcards["images"])
    once = _library_attacks(config, images, wildcards, attacks, in_loop=True)
    return (once + decision(config, "entropy") * (len(attacks) * count)) * config.autoattack.top_points


def _library_attacks(
    config: Config, images: Images, wildcards: Mapping[str, str], attacks: tuple[str, ...], *, in_loop: bool
) -> Work:
    first, last = _range(wildcards["images"])
    for_square = max(0, min(last + 1, config.autoattack.square_images) - first)
    return _sum(
        library(config, wildcards["model"], attack, classes=images.classes, defended_loop=in_loop)
        * (for_square if attack == "square" else last + 1 - first)
        for attack in attacks
    )


def _scored(config: Config, model: str, defence: str) -> Work:
    if specs.MODELS[model].architecture == "resnet":
        return decisions(config, model)
    return decision(config, "entropy" if defence == "entropy" else "plain")


def _attack_in_loop(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model = wildcards["model"]
    crafted = gradient_pass(config, *mean_point(config)) + through_defence(config)
    scored = decisions(config, model, controls=False) + decisions(config, specs.other_trades(model), controls=False)
    points = min(config.attack.in_loop_points, len(specs.grid_points(config)))
    return (crafted * config.attack.pgd.steps + scored) * (points * _count(wildcards["images"]))


def _attack_sweep(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    points, wanted = specs.grid_points(config), config.entropy_sweep.points
    some = points if wanted == "all" else points[:wanted]
    state, steps = mean_point(config)
    attack = gradient_pass(config, state, steps) * config.attack.pgd.steps
    scored = swept(config, specs.entropy_settings(config))
    return (attack + scored) * (len(some) * _count(wildcards["images"]))


def _attack_example(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    batch = min(config.evaluation.expected_batch_size, config.evaluation.images)
    attack = point_pgd(config, specs.ready_made(config), config.attack.pgd.steps)
    return (attack + decisions(config, wildcards["model"], controls=False)) * batch


def _time_training(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    timing = config.timing
    seen = (timing.warmup + timing.repeats * config.solver.steps) * timing.batch_size
    return _sum(_f(seen * training_step(config, model), f"train/{model}") for model in specs.DEQS)


def _time_inference(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    timing, sweep = config.timing, config.entropy_sweep
    settings = [specs.EntropySetting(every, steps) for every in sweep.solver_steps for steps in sweep.input_steps]
    passes = (timing.warmup + timing.repeats) * timing.batch_size
    each = _sum(swept(config, [setting]) for setting in settings) + decision(config, "plain")
    final = Work(-behind(config) * (len(settings) + 1))  # no final state is needed; what it takes stays counted
    return (each + final) * passes


_COMPUTING = {
    "pretrain": _pretrain,
    "train_deq": _train_deq,
    "train_resnet": _train_resnet,
    "select_early_state": _select,
    "clean": _clean,
    "attack_grid": _attack_grid,
    "attack_pgd": _attack_pgd,
    "attack_point": _attack_point,
    "autoattack": _autoattack,
    "attack_top": _attack_top,
    "attack_in_loop": _attack_in_loop,
    "attack_sweep": _attack_sweep,
    "attack_example": _attack_example,
    "time_training": _time_training,
    "time_inference": _time_inference,
}


def _f(evaluations: Number, part: Part) -> Work:
    return Work(evaluations, {part: evaluations})


def _sum(works: Iterable[Work]) -> Work:
    total = Work()
    for work in works:
        total += work
    return total


def _per_epoch(config: Config, images: Images) -> int:
    return ceil(images.train / config.training.batch_size)


def _seen(config: Config, images: Images, steps: int) -> int:
    """Images in the first so many training steps; the last batch of an epoch may be smaller."""
    epochs, rest = divmod(steps, _per_epoch(config, images))
    return epochs * images.train + min(rest * config.training.batch_size, images.train)


def _validated(config: Config, images: Images) -> int:
    """Images that epochs and early states are chosen by."""
    return images.validation if config.selection.split == "validation" else images.test


def _range(text: str, name: str = "") -> tuple[int, int]:
    match = re.search(rf"{name}(\d+)-(\d+)", text)
    assert match is not None, f"{text} names no {name or 'range'}"
    return int(match[1]), int(match[2])


def _count(text: str, name: str = "") -> int:
    first, last = _range(text, name)
    return last + 1 - first
