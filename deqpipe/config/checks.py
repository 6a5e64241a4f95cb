"""Values of several sections that make no sense together."""

import math
import struct
from collections.abc import Sequence
from itertools import pairwise

from deqpipe.config.attack import READY_MADE_DAMPING
from deqpipe.config.data import KnownImages, known_images
from deqpipe.config.experiment import Config
from deqpipe.config.model import FeedforwardConfig, check_model
from deqpipe.config.paths import check_folders, check_path, holds
from deqpipe.config.suite import AttackSuiteConfig
from deqpipe.errors import UserError

_MOST_POINTS = 10_000
"""Of the grid of Eq. (11), which has 144 in the paper."""
_MOST_SETTINGS = 100
"""Of Table 5, which has 24 with its controls: a file of records tells 127 words of a column apart."""
_FRACTION = 0.1
"""A radius or step of at most so many 255ths was meant in units of the pixel range: published radii begin at half of a
255th, and in units of the pixel range they end at a tenth for colour images (8/255 is 0.031)."""
_MOST_JOBS = 5_000
"""Of one kind and one model: Snakemake takes minutes to plan so many."""


def check(config: Config) -> None:
    """Refuse values that make no sense together.

    Raises:
        UserError: names the keys and the values.
    """
    check_folders(config.pathvars)
    if config.data.source in ("cifar10", "folder"):
        check_path("data.root", config.data.root)
    _check_imported(config)
    check_model(config.model)
    _check_lists(config)
    _check_255ths(config)
    _check_numbers(config)
    _check_states(config)
    check_schedule(config)
    _check_protocol(config)
    _check_library(config)
    if (images := known_images(config.data.source)) is not None:
        _check_images(config, images)


def _check_imported(config: Config) -> None:
    if config.imported and len(config.seeds) > 1:
        raise UserError(
            f"config: seeds is {list(config.seeds)}, but must be one seed where models are imported "
            f"({', '.join(config.imported)})"
        )
    for model, file in config.imported.items():
        check_path(f"imported.{model}", file, kind="a file", forbidden="{}<>")
        if holds(f"{config.pathvars.results}/models", file):
            raise UserError(
                f"config: imported.{model} is {file!r}, but must not lie where the workflow writes its models"
            )


def _check_lists(config: Config) -> None:
    grid = config.attack.grid
    lists = {f"attack.grid.{name}": getattr(grid, name) for name in ("states", "steps", "damping")}
    sweep = config.entropy_sweep
    lists |= {f"entropy_sweep.{name}": getattr(sweep, name) for name in ("solver_steps", "input_steps")}
    if isinstance(config.suite, AttackSuiteConfig):
        _check_ascending("suite.long", config.suite.long)
        _check_ascending("suite.radii", config.suite.radii)
    lists |= {"autoattack.attacks": config.autoattack.attacks, "seeds": config.seeds}
    for key, values in lists.items():
        if len(set(values)) != len(values):
            raise UserError(f"config: {key} is {list(values)}: every value may stand there once")
    _check_damping(grid.damping)
    _check_ascending("resnet.training.milestones", config.resnet.training.milestones)


def _check_ascending(key: str, values: Sequence[float | int]) -> None:
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise UserError(f"config: {key} is {list(values)}, but must ascend")


def _check_255ths(config: Config) -> None:
    """Refuse a radius in units of the pixel range, and steps in them, by which an attack stays far from its radius.

    Small steps are an experiment of their own where there are enough of them to get there.
    """
    radius, entropy, pgd = config.threat_model.epsilon_255, config.entropy, config.attack.pgd
    if radius:
        _check_unit("threat_model.epsilon_255", radius)
    steps = [
        ("training.attack", config.training.attack.step_size_255, config.training.attack.steps),
        ("selection.attack", config.selection.attack.step_size_255, config.selection.attack.steps),
        ("attack.pgd", pgd.step_size_255, pgd.steps),
    ]
    if entropy.step == "sign" and entropy.input_steps:  # a raw gradient has a scale of its own
        steps.append(("entropy", entropy.step_size_255, entropy.input_steps))
    for section, size, count in steps:
        if size * count < radius:
            _check_unit(f"{section}.step_size_255", size)


def _check_unit(key: str, value: float) -> None:
    if value <= _FRACTION:
        raise UserError(
            f"config: {key} is {value:g}, but is counted in 255ths of the pixel range: "
            f"write {value * 255:.3g} for {value * 255:.3g}/255, which is {value:g}"
        )


def _check_damping(damping: Sequence[float]) -> None:
    """Refuse values of lambda that records, in float32, or tables, of six digits, would take for each other."""
    ready_made = [] if READY_MADE_DAMPING in damping else [READY_MADE_DAMPING]  # its point is always in the grid
    for lower, upper in pairwise(sorted([*damping, *ready_made])):
        if struct.pack("f", lower) == struct.pack("f", upper) or f"{lower:g}" == f"{upper:g}":
            raise UserError(
                f"config: attack.grid.damping is {list(damping)}, but {lower!r} and {upper!r} are the same number in "
                f"records and tables, which have six digits ({READY_MADE_DAMPING} is that of the ready-made attack)"
            )


def _check_numbers(config: Config) -> None:
    """Refuse numbers of points, settings and jobs that no file, table or workflow holds."""
    grid, sweep, images = config.attack.grid, config.entropy_sweep, config.evaluation.images
    points = len(grid.states) * len(grid.steps) * len(grid.damping)
    if points > _MOST_POINTS:
        raise UserError(f"config: attack.grid has {points} points, but may have at most {_MOST_POINTS}")
    settings = len(sweep.solver_steps) * (len(sweep.input_steps) + 2)  # with R = 0 and the restarts alone
    if settings > _MOST_SETTINGS:
        raise UserError(
            f"config: entropy_sweep has {settings} settings, controls included, but may have at most {_MOST_SETTINGS}"
        )
    cut = {
        "attack.images_per_job": math.ceil(len(grid.states) / config.attack.states_per_job)
        * math.ceil(images / config.attack.images_per_job),
        "autoattack.images_per_job": math.ceil(images / config.autoattack.images_per_job),
    }
    if isinstance(config.suite, AttackSuiteConfig):
        faced = min(config.suite.images, images)
        cut["suite.images_per_job"] = math.ceil(faced / config.suite.images_per_job)
    for key, jobs in cut.items():
        if jobs > _MOST_JOBS:
            raise UserError(f"config: {key} makes {jobs} jobs for a model, but may make at most {_MOST_JOBS}")


def _check_states(config: Config) -> None:
    steps = config.solver.steps
    if max(config.attack.grid.states) > steps:
        raise UserError(
            f"config: attack.grid.states has {max(config.attack.grid.states)}, but the solver has states 1 to {steps}"
        )
    early = config.early_state
    if early.mode == "fixed" and early.index > steps:
        raise UserError(f"config: early_state.index is {early.index}, but the solver has states 1 to {steps}")
    if config.entropy.solver_steps > steps:
        raise UserError(
            f"config: entropy.solver_steps is {config.entropy.solver_steps}, but must be 1 to {steps}: "
            f"the solver has {steps} steps, and the input would never be updated"
        )
    low, high = config.jacobian.length_jitter
    if low > high or steps + low < 1:
        raise UserError(
            f"config: jacobian.length_jitter is [{low}, {high}], but must ascend "
            f"and leave at least one of {steps} steps"
        )


def check_schedule(config: Config) -> None:
    """Refuse learning rates and epochs that do not go together.

    Raises:
        UserError: names the key and its value.
    """
    training = config.training
    if training.learning_rate_min > training.learning_rate:
        raise UserError(
            f"config: training.learning_rate_min is {training.learning_rate_min}, "
            f"but training.learning_rate is {training.learning_rate}"
        )
    if config.selection.first_epoch > training.epochs:
        raise UserError(
            f"config: selection.first_epoch is {config.selection.first_epoch}, "
            f"but training.epochs is {training.epochs}: no epoch would be tried"
        )


def _check_protocol(config: Config) -> None:
    """Refuse values whose meaning another value takes away."""
    size, job = config.evaluation.batch_size, config.attack.images_per_job
    if not config.couples_images:
        size = 1
    if size == "auto":
        raise UserError(
            "config: evaluation.batch_size is auto, but must be a number with this solver.scope and solver.returned: "
            "images of a batch influence each other"
        )
    if config.couples_images and job % size and config.evaluation.images > job:
        coupling = {"solver.scope": config.solver.scope, "solver.returned": config.solver.returned}
        why = " and ".join(f"{key}: {value}" for key, value in coupling.items() if value in ("batch", "lowest_batch"))
        raise UserError(
            f"config: attack.images_per_job is {job}, but with {why} it must be a multiple of evaluation.batch_size "
            f"({size}): images of a batch influence each other, so jobs may not cut batches"
        )
    racing = config.racing
    if racing.enabled and config.couples_images and racing.images % size:
        raise UserError(
            f"config: racing.images is {racing.images}, but must be a multiple of evaluation.batch_size "
            f"({size}): images of a batch influence each other"
        )
    if config.entropy.resolve == "quasi_newton" and config.solver.name == "fixed_point":
        raise UserError(
            "config: entropy.resolve is quasi_newton, but solver.name is fixed_point: it corrects the solver's memory, "
            "and fixed-point iteration has none"
        )


def _check_library(config: Config) -> None:
    """Refuse a run of single attacks of which none meets all images: there would be no minimum to take."""
    library = config.autoattack
    part = library.square_images < config.evaluation.images
    if library.mode == "individual" and part and set(library.attacks) == {"square"}:
        raise UserError(
            f"config: autoattack.attacks is {list(library.attacks)}, but with autoattack.mode: individual one must "
            f"stand beside square, which meets the first {library.square_images} of {config.evaluation.images} images"
        )


def _check_images(config: Config, images: KnownImages) -> None:
    """Refuse what cannot work with the images of a source; for an image folder the jobs themselves do."""
    if config.data.validation >= images.train:
        raise UserError(
            f"config: data.validation is {config.data.validation}, but must be 1 to {images.train - 1} "
            f"({images.name} has {images.train} training images)"
        )
    if config.evaluation.images > images.test:
        raise UserError(
            f"config: evaluation.images is {config.evaluation.images}, but {images.name} has {images.test} test images"
        )
    scales = len(config.model.channels)
    if images.size % 2 ** (scales - 1):
        raise UserError(
            f"config: model.channels has {scales} scales, but images of {images.size}x{images.size} pixels "
            f"({images.name}) allow {images.size.bit_length()}"
        )
    train = images.train - config.data.validation
    _check_pretraining(config, train)
    _check_batch("training.batch_size", config.training.batch_size, train, pixels=images.size >> scales - 1)
    for name in Config.model_fields:
        section = getattr(config, name)
        if isinstance(section, FeedforwardConfig):
            key, size = f"{name}.training.batch_size", section.training.batch_size
            _check_batch(key, size, train, pixels=images.size >> section.halvings)


def _check_pretraining(config: Config, train: int) -> None:
    total = config.training.epochs * math.ceil(train / config.training.batch_size)
    if config.pretrain.steps >= total:
        raise UserError(
            f"config: pretrain.steps is {config.pretrain.steps}, but must be 1 to {total - 1}: "
            f"the {config.training.epochs} epochs have {total} steps"
        )


def _check_batch(key: str, size: int, train: int, *, pixels: int) -> None:
    """Refuse a batch of one image where one pixel is left of it: batch normalisation has nothing to average over."""
    if pixels == 1 and (train % size or size) == 1:
        raise UserError(
            f"config: {key} is {size}, which leaves one of {train} training images for the last batch: "
            "batch normalisation needs two"
        )
