"""How much a job computes, from the configuration alone: evaluations of f, and the parts that a machine takes time for.

Evaluations are counted per image, forward and backward, as provenance has them (`formulas`). A part is a kind of work
whose price per evaluation (or per image, or per job) is measured. Where work depends on results, it is assumed:
`ASSUMED`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import TypeAlias

from deqpipe import extending
from deqpipe.attack.autoattack import runnable
from deqpipe.config import AttackName, AttackSuiteConfig, Config, EntropyConfig
from deqpipe.counts import NO_EVALUATIONS, Evaluations, Number, sum_of
from deqpipe.evaluation.judge import CLASSES, CLASSES_ALONG, EVERYTHING, Wanted, at
from deqpipe.planning import formulas, suite_formulas
from deqpipe.workflow import gridpoints, shards, vocabulary
from deqpipe.workflow.defences import ENTROPY, defence_of
from deqpipe.workflow.equal_cost import undefended
from deqpipe.workflow.library_attacks import APGD_CE, LIBRARY_ATTACKS, SQUARE
from deqpipe.workflow.suite_attacks import AT_RADII, CONTROLS, Kind, SuiteAttack, against, suite_attacks

ASSUMED = (
    "no image leaves AutoAttack early where nothing is said of it",
    "the strongest points have the mean i and K_a of the grid",
    "the early state is the last one, unless it is fixed",
    "every point stays in a race",
    "a solve takes all its steps, whatever solver.tolerance says",
    "half of the images withstand the suite's first attack where images leave it early",
    "RayS asks no more than suite.decision_queries",
    "downloads, and reading records for tables and figures, take no time",
)
"""What the work of jobs is reckoned with where it depends on results."""

Points: TypeAlias = Sequence[gridpoints.GridPoint]
Part: TypeAlias = str
"""start, report: jobs. pass: images through stem and head, with gradient. solve: evaluations in a solve. unroll:
applications of f in an unroll, each with its gradient. descent: evaluations, whichever way, in Sec. 3.2's updates.
read: states that the head reads. pretrain, train/<model>: evaluations, whichever way, in training.
<architecture>/train/<framework>, <architecture>/gradient, <architecture>/decide, of networks without states: images."""


@dataclass(frozen=True)
class Work:
    """What is to be computed: evaluations of f, and how much of each part."""

    evaluations: Evaluations = NO_EVALUATIONS
    parts: Mapping[Part, Number] = field(default_factory=dict)

    def __add__(self, other: "Work") -> "Work":
        """Both."""
        names = {**self.parts, **other.parts}
        parts = {name: self.parts.get(name, 0.0) + other.parts.get(name, 0.0) for name in names}
        return Work(self.evaluations + other.evaluations, parts)

    def __mul__(self, times: Number) -> "Work":
        """The same so many times."""
        return Work(self.evaluations * times, {name: times * amount for name, amount in self.parts.items()})

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


# Decisions, per image


def decision(config: Config, defence: str, wanted: Wanted = EVERYTHING) -> Work:
    """One decision of a DEQ on an image, as far as it is looked at."""
    own, plain = (formulas.decision(config, one, wanted) for one in (defence, "plain"))
    states = 1 if wanted.only is not None else config.solver.steps + wanted.final
    return Work(plain, {"solve": plain.forward, "read": states}) + _descents(own - plain)


def swept(config: Config, settings: Iterable[gridpoints.EntropySetting], wanted: Wanted) -> Work:
    """The decisions of other T_f and R. Equal ones are computed once."""
    distinct = {_swept_keys(config, setting) for setting in settings}
    plain = formulas.dynamics(config.solver)
    added = (formulas.dynamics(config.solver, entropy) - plain for entropy in distinct if entropy is not None)
    return _sum((decision(config, "plain", wanted) * len(distinct), *(_descents(more) for more in added)))


def _swept_keys(config: Config, setting: gridpoints.EntropySetting) -> EntropyConfig | None:
    entropy = setting.keys(config.entropy, steps=config.solver.steps)
    return None if undefended(entropy, steps=config.solver.steps) else entropy


def _descents(added: Evaluations) -> Work:
    """What Sec. 3.2 takes more."""
    return Work(added, {"descent": added.total})


def decisions(config: Config, model: str, *, controls: bool = True, wanted: Wanted = EVERYTHING) -> Work:
    """All decisions that a model's attacked images are scored on. Equal ones are computed once."""
    kind = vocabulary.MODELS[model]
    if not kind.architecture.has_states:
        return network_work(model, {"decide": 1.0})
    names = (*kind.defences, *(kind.controls(config.entropy) if controls else ()))
    different = {_computed(config, name): name for name in reversed(names)}
    return _sum(decision(config, name, wanted) for name in different.values())


def _computed(config: Config, defence: str) -> object:
    """What two defences have in common whose decisions are equal."""
    value = defence_of(defence)
    return formulas.keys(config, defence) if value.build is None or value.adjust else defence


def references(config: Config, model: str) -> Work:
    """The clean states that deviations are measured from; networks without states have none."""
    kind = vocabulary.MODELS[model]
    if not kind.architecture.has_states:
        return Work()
    work = _sum(decision(config, defence, CLASSES) for defence in kind.defences)
    return Work(work.evaluations, {name: amount for name, amount in work.parts.items() if name != "read"})


# Attacks, per image


def gradient_pass(config: Config, state: Number, steps: Number) -> Work:
    """One gradient of the surrogate of z^[state], unrolled `steps` times."""
    unroll = steps + config.attack.unroll.lead_step
    evaluations = formulas.surrogate_gradient(config, state, steps)
    return Work(evaluations, {"pass": 1.0, "solve": state, "unroll": unroll})


def forward_pass(config: Config, state: Number, steps: Number) -> Work:
    """The surrogate's logits alone."""
    evaluations = formulas.surrogate(config, state, steps)
    return Work(evaluations, {"pass": 1.0, "solve": evaluations.forward})


def through_defence(config: Config, defence: str, points: Sequence[gridpoints.GridPoint]) -> Work:
    """What a pass takes more when its state comes from the dynamics of Sec. 3.2, on average over some points."""
    return _sum(_descents(formulas.through_defence(config, defence, point.state)) for point in points) * (
        1 / len(points)
    )


def point_pgd(config: Config, point: gridpoints.GridPoint, steps: int) -> Work:
    """PGD on the surrogate of a point."""
    return gradient_pass(config, point.state, point.steps) * steps


def mean_point(points: Sequence[gridpoints.GridPoint]) -> tuple[Number, Number]:
    """Mean i and K_a of some points."""
    return sum(point.state for point in points) / len(points), sum(point.steps for point in points) / len(points)


@dataclass(frozen=True)
class AttackCost:
    """What AutoAttack attacks in place of a decision.

    Attributes:
        gradient: a pass with gradient.
        forward: one without.
        decision: the decision itself, at all states.
    """

    gradient: Work
    forward: Work
    decision: Work


def attacked(config: Config, model: str, defence: str, points: Sequence[gridpoints.GridPoint]) -> AttackCost:
    """A decision and its surrogates at some points, on average; of a network without states itself."""
    if not vocabulary.MODELS[model].architecture.has_states:
        decide = network_work(model, {"decide": 1.0})
        return AttackCost(network_work(model, {"gradient": 1.0}), decide, decide)
    state, steps = mean_point(points)
    through = through_defence(config, defence, points)
    return AttackCost(
        gradient_pass(config, state, steps) + through,
        forward_pass(config, state, steps) + through,
        decision(config, defence, at(_deciding(config, defence))),
    )


def _deciding(config: Config, defence: str) -> int:
    """The state that decides; nobody selects one of a longer solve."""
    early, longer = config.early_state, defence_of(defence).longer
    return early.index if early.mode == "fixed" and longer is None else config.solver.steps


def library(config: Config, attack: AttackName, target: AttackCost, *, classes: int) -> Work:
    """One of AutoAttack's attacks on an image that nothing fools, and what decides about it.

    With `keep: best_loss` the image that fools the surrogate is shown to the decision, too, where it withstands the
    other one.
    """
    targets = min(config.autoattack.targets, classes - 1)
    passes = LIBRARY_ATTACKS[attack].passes(config.autoattack, targets)
    shown = 2 if config.autoattack.keep == "best_loss" else 1
    return target.gradient * passes.gradients + target.forward * passes.forwards + target.decision * shown


def network_work(model: str, amounts: Mapping[str, Number]) -> Work:
    """Work of a network without states, which has no f."""
    architecture = vocabulary.MODELS[model].architecture.name
    return Work(parts={f"{architecture}/{name}": amount for name, amount in amounts.items()})


# Jobs


def job(
    rule: str,
    wildcards: Mapping[str, str],
    config: Config,
    images: Images,
    *,
    entering: Mapping[AttackName, Number] | None = None,
    deepest: bool = False,
) -> Work:
    """The work of one of Snakemake's jobs.

    Args:
        rule: its rule.
        wildcards: which of the rule's jobs.
        config: the experiment.
        images: of its source.
        entering: the share of its images that each of AutoAttack's attacks is run on; of those it does not name, all.
        deepest: where the strongest points decide, they are those that take longest, for a bound; otherwise the mean.
    """
    if rule in _AT_STRONGEST:
        chosen = deepest_points if deepest else _every_point
        strongest = Strongest(config, images, chosen, entering or {})
        return Work(parts={"start": 1.0}) + _AT_STRONGEST[rule](strongest, wildcards)
    if rule in _OF_SUITE:
        return Work(parts={"start": 1.0}) + _OF_SUITE[rule](config, images, wildcards, bool(entering))
    if rule in _COMPUTING:
        return Work(parts={"start": 1.0}) + _COMPUTING[rule](config, images, wildcards)
    return Work(parts={"start" if rule in ("prepare_data", "use_imported") else "report": 1.0})


def taken(rule: str, wildcards: Mapping[str, str], config: Config, images: Images) -> int:
    """Images that a job takes: of a training all that its steps see, otherwise those that it judges or times."""
    first = config.pretrain.steps
    match rule:
        case "pretrain":
            return _seen(config, images, first)
        case "train_deq":
            last = config.training.epochs * _per_epoch(config, images)
            return _seen(config, images, last) - _seen(config, images, first)
        case "train_own":
            return _seen(config, images, config.training.epochs * _per_epoch(config, images))
        case "train_feedforward":
            return vocabulary.feedforward(config, wildcards["model"]).training.epochs * images.train
        case "select_early_state":
            return validation_images(config, images)
        case "time_training" | "time_inference":
            return config.timing.batch_size
        case "clean" | "attack_pgd" | "attack_own":
            return config.evaluation.images
        case "attack_radius":
            return shards.radius_images(config)
        case "attack_example":
            return _example_batch(config)
    return images_in(wildcards.get("images") or wildcards["shard"].partition("images")[2]) if uses_device(rule) else 0


def uses_device(rule: str) -> bool:
    """Whether jobs of a rule train or evaluate."""
    return rule in COMPUTING


def trains(rule: str) -> bool:
    """Whether jobs of a rule spend their time on training steps."""
    return rule in ("pretrain", "train_deq", "train_feedforward", "train_own", "time_training")


def runs_alone(rule: str) -> bool:
    """Whether jobs of a rule want the whole machine."""
    return rule in ("time_training", "time_inference")


def _pretrain(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    steps = config.pretrain.steps
    epochs = ceil(steps / _per_epoch(config, images))
    trained = formulas.pretraining_step(config) * _seen(config, images, steps)
    validated = formulas.pretraining_validation(config) * (epochs * images.validation)
    return training_work(trained + validated, "pretrain")


def _train_deq(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model, per_epoch = wildcards["model"], _per_epoch(config, images)
    first, last = config.pretrain.steps, config.training.epochs * per_epoch
    stop = min(max(config.jacobian.stop_epoch * per_epoch, first), last) if _weight(config, model) else first
    perturbed = min(first + _unperturbed_epochs(config, model, every=config.training.epochs) * per_epoch, last)
    epochs = config.training.epochs - first // per_epoch
    steps = sum_of(
        training_step(
            config,
            model,
            regularised=config.jacobian.frequency if begin < stop else 0,
            perturbed=int(begin >= perturbed),
        )
        * (_seen(config, images, end) - _seen(config, images, begin))
        for begin, end in pairwise(sorted({first, stop, perturbed, last}))
    )
    total = steps + formulas.validation(config, model) * (epochs * validation_images(config, images))
    return training_work(total, f"train/{priced_as(model)}")


def _train_own(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    """As a DEQ from its first step on; an evaluation of a user's f is priced like one of ours."""
    model, epochs = wildcards["model"], config.training.epochs
    steps = training_step(config, model) * _seen(config, images, epochs * _per_epoch(config, images))
    total = steps + formulas.validation(config, model) * (epochs * validation_images(config, images))
    return training_work(total, f"train/{priced_as(model)}")


def _unperturbed_epochs(config: Config, model: str, *, every: int) -> int:
    """How many of every epoch of adversarial training perturb no weights: all of a model that is trained without."""
    how = config.weight_perturbation
    return min(how.warmup_epochs, every) if how.enabled and vocabulary.MODELS[model].perturbed_weights else every


def training_step(config: Config, model: str, *, regularised: Number = 0, perturbed: Number = 0) -> Evaluations:
    """A training step of a DEQ on average, per image.

    Args:
        config: the experiment.
        model: the DEQ.
        regularised: the share of steps with the Jacobian term.
        perturbed: the share of steps at perturbed weights.
    """
    extra = regularised * sum(config.jacobian.length_jitter) / 2
    states = formulas.drawn(config, model, extra=extra)
    return formulas.training_step(config, model, states, regularised=regularised, perturbed=perturbed)


def ascents(model: str, images: Number) -> Number:
    """What perturbing the weights of a network without states takes for so many images, in gradients of an attack step.

    Each of the loss's branches, one or TRADES' two, goes forward, back, and to the weights: three passes for two.
    """
    return 1.5 * images * (2 if vocabulary.MODELS[model].framework == "trades" else 1)


def priced_as(model: str) -> str:
    """The method whose evaluations are timed: that of a model without another Jacobian weight or perturbed weights."""
    kind = vocabulary.MODELS[model]
    return next(
        name
        for name in vocabulary.DEQS
        if (vocabulary.MODELS[name].framework, vocabulary.MODELS[name].random_states)
        == (kind.framework, kind.random_states)
    )


def _weight(config: Config, model: str) -> Number:
    kind = vocabulary.MODELS[model]
    weights = config.jacobian.other_weight if kind.other_jacobian else config.jacobian.weight
    weight: Number = getattr(weights, kind.framework or "")
    return weight


def _train_feedforward(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model = wildcards["model"]
    epochs = vocabulary.feedforward(config, model).training.epochs
    validated = epochs * validation_images(config, images)
    perturbed = epochs - _unperturbed_epochs(config, model, every=epochs)
    return network_work(
        model,
        {
            f"train/{vocabulary.MODELS[model].framework}": float(epochs * images.train),
            "decide": 2.0 * validated,
            "gradient": float(validated * config.selection.attack.steps) + ascents(model, perturbed * images.train),
        },
    )


def _clean(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    return decisions(config, wildcards["model"]) * config.evaluation.images


def _select(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model = wildcards["model"]
    attack = point_pgd(config, gridpoints.ready_made(config), config.selection.attack.steps)
    return (attack + decisions(config, model, controls=False, wanted=CLASSES)) * validation_images(config, images)


def _attack_pgd(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    model, steps = wildcards["model"], config.attack.pgd.steps
    if not vocabulary.MODELS[model].architecture.has_states:
        attack = network_work(model, {"gradient": float(steps)})
    else:
        attack = point_pgd(config, gridpoints.ready_made(config), steps)
    return (attack + references(config, model) + decisions(config, model)) * config.evaluation.images


def _attack_grid(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    first, last = _range(wildcards["shard"], "states")
    points = [point for point in gridpoints.grid_points(config) if first <= point.state <= last]
    other = vocabulary.transfers_to(config, wildcards["model"])
    return _grid_points(config, wildcards["model"], points, other=other) * images_in(wildcards["shard"], "images")


def _attack_point(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    point = gridpoints.GridPoint.parse(wildcards["point"])
    return _grid_points(config, wildcards["model"], [point], other=None) * images_in(wildcards["images"])


def _grid_points(config: Config, model: str, points: Points, *, other: str | None) -> Work:
    crafted = _sum(point_pgd(config, point, config.attack.pgd.steps) for point in points)
    return references(config, model) + crafted + _scored(config, model, other=other) * len(points)


def grid_point(config: Config, model: str, point: gridpoints.GridPoint, *, other: str | None) -> Work:
    """A point of the grid, scored on every decision of the model and of the one that images are transferred to."""
    return point_pgd(config, point, config.attack.pgd.steps) + _scored(config, model, other=other)


def _scored(config: Config, model: str, *, other: str | None) -> Work:
    scored = decisions(config, model)
    if other is not None:
        scored += decisions(config, other, controls=False)  # which have nothing to be compared with
    return scored


def deepest_points(points: Points) -> Points:
    """Those of some points whose surrogates take most evaluations."""
    return [max(points, key=lambda point: (point.state, point.steps))]


def _every_point(points: Points) -> Points:
    return points


@dataclass(frozen=True)
class Strongest:
    """What jobs at the strongest points of a grid are reckoned with.

    Attributes:
        config: the experiment.
        images: of its source.
        chosen: those of the points that could be the strongest whose mean is taken for them.
        entering: as for `job`.
    """

    config: Config
    images: Images
    chosen: Callable[[Points], Points]
    entering: Mapping[AttackName, Number]


def _autoattack(strongest: Strongest, wildcards: Mapping[str, str]) -> Work:
    config, images, entering = strongest.config, strongest.images, strongest.entering
    points = strongest.chosen(gridpoints.grid_points(config))
    target = attacked(config, wildcards["model"], wildcards["defence"], points)
    attacks = runnable(config.autoattack.attacks, classes=images.classes)
    count = images_in(wildcards["images"])
    checked = target.forward * (formulas.CHECKS * min(config.autoattack.batch_size, count))
    return (
        _sum(_library_attack(config, images, wildcards, attack, target) * entering.get(attack, 1) for attack in attacks)
        + target.decision * count
        + checked
    )


def _attack_top(strongest: Strongest, wildcards: Mapping[str, str]) -> Work:
    config, images = strongest.config, strongest.images
    points = [point for point in gridpoints.grid_points(config) if point.damping == gridpoints.FINAL_DAMPING]
    target = attacked(config, wildcards["model"], ENTROPY.name, strongest.chosen(points))
    attacks: tuple[AttackName, ...] = (APGD_CE.name, SQUARE.name)
    once = _sum(_library_attack(config, images, wildcards, attack, target) for attack in attacks)
    return once * min(config.autoattack.top_points, len(points))


def _library_attack(
    config: Config, images: Images, wildcards: Mapping[str, str], attack: AttackName, target: AttackCost
) -> Work:
    """One of the library's attacks on all images of a job that it is run on."""
    first, last = _range(wildcards["images"])
    for_square = max(0, min(last + 1, config.autoattack.square_images) - first)
    exposed = for_square if LIBRARY_ATTACKS[attack].first_images_only else last + 1 - first
    return library(config, attack, target, classes=images.classes) * exposed


def _attack_in_loop(strongest: Strongest, wildcards: Mapping[str, str]) -> Work:
    config, grid = strongest.config, gridpoints.grid_points(strongest.config)
    each = in_loop_point(config, wildcards["model"], strongest.chosen(grid))
    return each * (min(config.attack.in_loop_points, len(grid)) * images_in(wildcards["images"]))


def in_loop_point(config: Config, model: str, points: Points) -> Work:
    """An image crafted through Sec. 3.2 at one of some points, on average, and its decisions."""
    crafted = gradient_pass(config, *mean_point(points)) + through_defence(config, ENTROPY.name, points)
    both = (model, vocabulary.other_trades(model))
    scored = _sum(decisions(config, one, controls=False, wanted=CLASSES_ALONG) for one in both)
    return crafted * config.attack.pgd.steps + scored


def _attack_sweep(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    grid, wanted = gridpoints.grid_points(config), config.entropy_sweep.points
    count = len(grid) if wanted == "all" else min(wanted, len(grid))
    return sweep_point(config, grid) * (count * images_in(wildcards["images"]))


def sweep_point(config: Config, points: Points) -> Work:
    """An image crafted at one of some points, on average, and its decisions with every T_f and R."""
    attack = gradient_pass(config, *mean_point(points)) * config.attack.pgd.steps
    return attack + swept(config, gridpoints.entropy_settings(config), CLASSES_ALONG)


STANDING = 0.5
"""Share of the images that meets an attack of the suite behind its first one where images leave, as assumed."""


def suite_of(config: Config) -> AttackSuiteConfig:
    """The suite, which there is where there are jobs of it."""
    assert isinstance(config.suite, AttackSuiteConfig), "without a suite there are no jobs of it"
    return config.suite


def suite_attack(
    config: Config, model: str, defence: str, attack: SuiteAttack, suite: AttackSuiteConfig, *, classes: int
) -> Work:
    """An attack of the suite on an image that withstands it."""
    if not vocabulary.MODELS[model].architecture.has_states:
        starts, steps = attack.starts(suite, classes - 1), attack.steps(suite)
        if attack.search in ("apgd", "pgd"):
            gradients = starts * (steps + (attack.search == "apgd"))
            return network_work(model, {"gradient": float(gradients), "decide": float(starts + 1)})
        return network_work(model, {"decide": float(starts * steps)})
    one = suite_formulas.decided(config, defence, _deciding(config, defence))
    spent = suite_formulas.spent(attack, suite, one, others=classes - 1)
    return differentiated(spent * networks(config, defence))


def networks(config: Config, defence: str) -> int:
    """How many networks take a decision together."""
    return len(config.seeds) if defence_of(defence).of_seeds else 1


def differentiated(evaluations: Evaluations) -> Work:
    """Evaluations of an attack: pairs forward and backward, and what either way has more of."""
    pairs = min(evaluations.forward, evaluations.backward_input)
    forward, backward = evaluations.forward - pairs, evaluations.backward_input - pairs
    return Work(evaluations, {"unroll": pairs, "solve": forward, "descent": backward})


def deciding(config: Config, model: str, defence: str) -> Work:
    """A decision at the state that decides."""
    if not vocabulary.MODELS[model].architecture.has_states:
        return network_work(model, {"decide": 1.0})
    return decision(config, defence, at(_deciding(config, defence))) * networks(config, defence)


def faced(config: Config, model: str, defence: str, *, classes: int) -> dict[SuiteAttack, Work]:
    """The attacks of the suite that a decision faces, each with what it takes on an image that withstands it."""
    suite = suite_of(config)
    return {
        attack: suite_attack(config, model, defence, attack, suite, classes=classes)
        for attack in against(suite, _kind(config, model, defence))
    }


def _kind(config: Config, model: str, defence: str) -> Kind:
    if not vocabulary.MODELS[model].architecture.has_states:
        return "network"
    if defence_of(defence).of_seeds:
        return "ensemble"
    return suite_formulas.decided(config, defence, _deciding(config, defence)).kind


JUDGED_CLEAN = 3
"""Decisions on a clean image: one for its row, two that are compared."""
JUDGED_ATTACKED = 2
"""Decisions on what an attack ended with: as it is, and rounded."""


def _attack_suite(config: Config, images: Images, wildcards: Mapping[str, str], leaving: bool) -> Work:
    each = _attacked_by_suite(config, images, wildcards["model"], wildcards["defence"], leaving=leaving)
    return each * images_in(wildcards["images"])


def _attacked_by_suite(config: Config, images: Images, model: str, defence: str, *, leaving: bool) -> Work:
    """All attacks on an image."""
    decide = deciding(config, model, defence)
    total, share = decide * JUDGED_CLEAN, 1.0
    for attack, work in faced(config, model, defence, classes=images.classes).items():
        total += (work + decide * JUDGED_ATTACKED) * share
        if leaving and suite_of(config).mode == "standard" and attack.name not in CONTROLS:
            share = STANDING
    return total


def _attack_transferred(config: Config, images: Images, wildcards: Mapping[str, str], leaving: bool) -> Work:
    """Every saved image on every decision of a model but on the one that it was made against."""
    own = wildcards["model"]
    each = (_shown(config, images, own, one, leaving=leaving) for one in vocabulary.suite_decisions(config, own))
    return _sum(each) * images_in(wildcards["images"])


def _attack_ensemble(config: Config, images: Images, wildcards: Mapping[str, str], leaving: bool) -> Work:
    """All attacks, and every image that the suite has made against anything else."""
    model, total = wildcards["model"], Work()
    for name in vocabulary.ensembles(config, model):
        total += _attacked_by_suite(config, images, model, name, leaving=leaving)
        total += _shown(config, images, model, name, leaving=leaving)
    return total * images_in(wildcards["images"])


def _shown(config: Config, images: Images, own: str, decides: str, *, leaving: bool) -> Work:
    """What a decision is asked about an image that others have changed, all attacks on all decisions together."""
    share = STANDING if leaving and suite_of(config).mode == "standard" else 1.0
    shown = 0.0
    for model in vocabulary.lends_images(config, own):
        for defence in vocabulary.suite_decisions(config, model):
            attacks = against(suite_of(config), _kind(config, model, defence))
            times = len(config.seeds) - ((model, defence) == (own, decides))
            shown += sum(attack.name not in CONTROLS for attack in attacks) * times
    return deciding(config, own, decides) * (share * share * shown)


def _attack_radius(config: Config, images: Images, wildcards: Mapping[str, str], leaving: bool) -> Work:
    model, defence = wildcards["model"], wildcards["defence"]
    decide, suite = deciding(config, model, defence), suite_of(config).model_copy(update={"restarts": 1})
    attacks = [suite_attacks(suite)[name] for name in AT_RADII]
    each = _sum(suite_attack(config, model, defence, attack, suite, classes=images.classes) for attack in attacks)
    around = sum(radius > 0 for radius in suite.radii)
    judged = JUDGED_CLEAN + len(attacks) * len(suite.radii)
    return (each * around + decide * judged) * shards.radius_images(config)


def _attack_own(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    """By the number of gradients that the user's file says, each through the whole decision."""
    model, defence = wildcards["model"], wildcards["defence"]
    piece, decide = extending.find(extending.Attack, wildcards["attack"]), deciding(config, model, defence)
    assert piece is not None
    if not vocabulary.MODELS[model].architecture.has_states:
        spent = network_work(model, {"gradient": float(piece.gradients)})
    else:
        spent = differentiated(formulas.GRADIENT * (decide.evaluations.total * piece.gradients))
    return (spent + decide) * config.evaluation.images


def _attack_example(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    attack = point_pgd(config, gridpoints.ready_made(config), config.attack.pgd.steps)
    return (attack + decision(config, "plain", CLASSES)) * _example_batch(config)


def _example_batch(config: Config) -> int:
    """The images that the one of Figure 2 is crafted again with."""
    return min(batch_size(config), config.attack.images_per_job)


def batch_size(config: Config) -> int:
    """Images at once in evaluation, as far as the configuration tells."""
    return min(config.evaluation.expected_batch_size, config.evaluation.images)


def _time_training(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    timing = config.timing
    seen = (timing.warmup + timing.repeats * config.solver.steps) * timing.batch_size
    return _sum(training_work(training_step(config, model) * seen, f"train/{model}") for model in vocabulary.DEQS)


def _time_inference(config: Config, images: Images, wildcards: Mapping[str, str]) -> Work:
    timing, sweep, last = config.timing, config.entropy_sweep, at(config.solver.steps)
    settings = [gridpoints.EntropySetting(every, steps) for every in sweep.solver_steps for steps in sweep.input_steps]
    each = _sum(swept(config, [setting], last) for setting in settings) + decision(config, "plain", last)
    return each * ((timing.warmup + timing.repeats) * timing.batch_size)


_COMPUTING = {
    "pretrain": _pretrain,
    "train_deq": _train_deq,
    "train_feedforward": _train_feedforward,
    "train_own": _train_own,
    "select_early_state": _select,
    "clean": _clean,
    "attack_grid": _attack_grid,
    "attack_pgd": _attack_pgd,
    "attack_point": _attack_point,
    "attack_sweep": _attack_sweep,
    "attack_example": _attack_example,
    "attack_own": _attack_own,
    "time_training": _time_training,
    "time_inference": _time_inference,
}
_AT_STRONGEST = {"autoattack": _autoattack, "attack_top": _attack_top, "attack_in_loop": _attack_in_loop}
_OF_SUITE = {
    "attack_suite": _attack_suite, "attack_transferred": _attack_transferred, "attack_radius": _attack_radius,
    "attack_ensemble": _attack_ensemble,
}  # fmt: skip
COMPUTING = (*_COMPUTING, *_AT_STRONGEST, *_OF_SUITE)
"""The rules whose jobs train or evaluate."""


def training_work(evaluations: Evaluations, part: Part) -> Work:
    """Evaluations in training, all at one price."""
    return Work(evaluations, {part: evaluations.total})


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


def validation_images(config: Config, images: Images) -> int:
    """Images that epochs and early states are chosen by."""
    return images.validation if config.selection.split == "validation" else images.test


def _range(text: str, name: str = "") -> tuple[int, int]:
    match = re.search(rf"{name}(\d+)-(\d+)", text)
    assert match is not None, f"{text} names no {name or 'range'}"
    return int(match[1]), int(match[2])


def images_in(text: str, name: str = "") -> int:
    """How many images, or what is named, a range in a wildcard has: 960 of states1-8_images0-959."""
    first, last = _range(text, name)
    return last + 1 - first
