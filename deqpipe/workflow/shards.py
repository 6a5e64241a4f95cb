"""How attacks are cut into jobs: by attacked states and by test images; racing keeps the first images apart."""

from deqpipe.config import AttackSuiteConfig, Config, RaceConfig
from deqpipe.workflow.gridpoints import grid_points


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
    total, racing = config.evaluation.images, config.racing
    return min(racing.images, total) if racing.enabled else total


def race(config: Config) -> RaceConfig | None:
    """The race of the attacks; None where all test images face every attack."""
    racing = config.racing
    return racing if racing.enabled and race_cut(config) < config.evaluation.images else None


def races(config: Config) -> bool:
    """Whether some test images face a part of the grid only."""
    return race(config) is not None


def races_in_sweep(config: Config) -> bool:
    """Whether the attacks of Table 5 race as well: few points, chosen by their strength, do not."""
    return races(config) and config.entropy_sweep.points == "all"


def autoattack_ranges(config: Config) -> tuple[tuple[int, int], ...]:
    """First and last test image of each job that runs AutoAttack's attacks."""
    return _ranges(0, config.evaluation.images, config.autoattack.images_per_job)


def suite_ranges(config: Config) -> tuple[tuple[int, int], ...]:
    """First and last test image of each job of the suite; none where there is no suite."""
    suite = config.suite
    if not isinstance(suite, AttackSuiteConfig):
        return ()
    return _ranges(0, whole_batches(config, suite.images), whole_batches(config, suite.images_per_job))


def radius_images(config: Config) -> int:
    """How many of the test images Figure 7 takes; none where there is no suite."""
    suite = config.suite
    return whole_batches(config, suite.radius_images) if isinstance(suite, AttackSuiteConfig) else 0


def whole_batches(config: Config, images: int) -> int:
    """So many of the test images; more of them where a batch would be cut whose images influence each other."""
    size = config.evaluation.batch_size
    if config.couples_images and isinstance(size, int):
        images = -(-images // size) * size
    return min(images, config.evaluation.images)


def _ranges(first: int, stop: int, size: int) -> tuple[tuple[int, int], ...]:
    return tuple((start, min(start + size, stop) - 1) for start in range(first, stop, size))


def shard_names(config: Config, *, below: int | None = None) -> tuple[str, ...]:
    """File names of the grid jobs of one model, without ending; of `image_ranges` below an image."""
    images = image_ranges(config, below=below)
    return tuple(f"states{a}-{b}_images{c}-{d}" for a, b in state_ranges(config) for c, d in images)
