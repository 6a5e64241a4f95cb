"""Under which conditions numbers were made, and where these are not the paper's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from deqpipe import extending
from deqpipe.config import PROTOCOLS, Config, known_images, leaves
from deqpipe.reporting.paper import experiment
from deqpipe.reporting.paper.settings import SETTINGS
from deqpipe.workflow import gridpoints, shards, vocabulary

_MDEQ_LARGE = ("model.channels", "model.head_channels", "model.final_channels", "model.expansion")
_PROTOCOLS = {
    "paper": "where the paper and its authors' code differ, the paper's text holds",
    "release": "where the paper and its authors' code differ, the code holds",
}
# Keys and sections whose value changes no number. Where images lie is said by data.source.
_INERT = (
    "protocol",  # it stands resolved in every key that it sets
    "seeds",
    "device",
    "gpu_request",
    "compile",
    "graphs",
    "pathvars",
    "data.root",
    "attack.states_per_job",
    "attack.images_per_job",
    "attack.transfer",  # these decide what there is, not what it is
    "attack.in_loop_points",
    "entropy.controls",
    "weight_perturbation",
    "figures",
    "autoattack.batch_size",  # these two choose random streams, as a seed does
    "autoattack.images_per_job",
    "racing",  # a minimum stays what it is, but for a small chance that `setup` names
    "suite",  # attacks of their own, whose tables say what they are
    "timing",  # speeds are compared with nothing
    "statistics",
)
# Keys that change numbers only under a condition.
_USED_IF: Mapping[str, Callable[[Config], bool]] = {
    "jacobian.other_weight.pgd_at": lambda config: config.figures.jacobian,
    "jacobian.other_weight.trades": lambda config: config.figures.jacobian,
    "evaluation.batch_size": lambda config: config.couples_images,
}


def differences(config: Config) -> tuple[tuple[str, str, str], ...]:
    """What differs from the paper's experiment: (what, here, paper)."""
    return tuple(
        (experiment.NAMES.get(key, key), _written(value), _written(SETTINGS.get(key, "no such setting")))
        for key, value in settings(config)
        if (key not in SETTINGS or value != SETTINGS[key]) and (key not in _USED_IF or _USED_IF[key](config))
    )


def comparable(config: Config) -> bool:
    """Whether numbers may be subtracted from the paper's: every setting that they depend on is the paper's."""
    return not differences(config)


def settings(config: Config) -> Iterator[tuple[str, object]]:
    """Every setting that a number may depend on, by dotted key."""
    for key, value in leaves(config):
        if not any(key == inert or key.startswith(f"{inert}.") for inert in _INERT):
            yield key, value


def data(config: Config) -> str:
    """The data set in words; image folders by their name."""
    if config.data.source == "folder":
        return f"the image folder {Path(config.data.root).name or config.data.root}"
    known = known_images(config.data.source)
    assert known is not None
    return known.described


def architecture(config: Config, model: str) -> str:
    """What a model is called: DEQ-Large and ResNet-18 only where it is one."""
    if method := vocabulary.MODELS[model].architecture.method:
        return f"{method}-{vocabulary.feedforward(config, model).depth}"
    if vocabulary.MODELS[model].architecture.label:
        return "own DEQ"
    here = dict(settings(config))
    large = all(here[key] == SETTINGS[key] for key in _MDEQ_LARGE)
    return "DEQ-Large" if large else "small DEQ"


def setup(config: Config, *, seed: int) -> tuple[str, ...]:
    """Data, threat model, attacks and intervals, in sentences."""
    threat, pgd = config.threat_model.epsilon_255, config.attack.pgd
    return (
        f"Data: {data(config)}, the first {config.evaluation.images:,} test images; seed {seed}.",
        *_protocol(config),
        *_imported(config),
        f"Threat model: every pixel may change by at most {threat:g}/255, within [0, 1]. PGD: {pgd.steps} steps of "
        f"{pgd.step_size_255:g}/255 from a random start.",
        _grid(config),
        *_racing(config),
        f"Intervals ({100 * config.statistics.confidence:g} %): Wilson for one accuracy; for a minimum a bootstrap "
        f"over images ({config.statistics.resamples:,} resamples), the minimum taken inside each resample, reflected "
        "at the value; differences are paired by image.",
    )


def of_speed(config: Config, *, seed: int) -> tuple[str, ...]:
    """What speeds depend on beside the machine: neither attacks at evaluation nor how many test images there are."""
    return (f"Data: {data(config)}; seed {seed}.", *_protocol(config), *_imported(config))


def _protocol(config: Config) -> tuple[str, ...]:
    """Whose word holds where paper and authors' code differ, and what that does to the numbers."""
    name, here = config.protocol, dict(settings(config))
    own = [
        f"{key} {_written(here[key])}"
        for key, value in PROTOCOLS[name].items()
        if key in here and here[key] != value and (key not in _USED_IF or _USED_IF[key](config))
    ]
    but = f", but for {', '.join(own)}" if own else ""
    text = f"Protocol {name}: {_PROTOCOLS[name]}{but}."
    coupled = "The solver looks at whole batches: the images of a batch influence each other's results."
    leak = "Models were selected on the test images (selection.split: test): their accuracies are biased upwards."
    said = ((True, text), (config.couples_images, coupled), (config.selection.split == "test", leak))
    return tuple(sentence for holds, sentence in said if holds)


def _imported(config: Config) -> tuple[str, ...]:
    """Which models these conditions do not tell the training of."""
    if not config.imported:
        return ()
    listed = ", ".join(f"{model} (from {file})" for model, file in config.imported.items())
    return (f"Imported, so trained elsewhere and otherwise than these conditions say: {listed}.",)


def against_paper(config: Config) -> tuple[str, ...]:
    """What was reduced or changed, and what that makes of the paper's numbers."""
    changed = differences(config)
    if not changed:
        return ("The settings are the paper's; `difference` is here minus paper, in points.",)
    listed = "; ".join(f"{what}: {here} ({theirs})" for what, here, theirs in changed)
    return (
        f"Reduced or changed relative to the paper, whose settings stand in parentheses: {listed}.",
        "The paper's numbers stand beside as context only; no difference is computed.",
    )


def _grid(config: Config) -> str:
    grid, points = config.attack.grid, gridpoints.grid_points(config)
    ready = gridpoints.ready_made(config)
    blind = ("Sec. 3.2", *(own.label for own, _ in extending.pieces(extending.Defence, config.extensions).values()))
    return (
        f"Grid of Eq. (11): i in {_written(grid.states)}, K_a in {_written(grid.steps)}, lambda in "
        f"{_written(grid.damping)}; with the ready-made attack (i = {ready.state}, K_a = {ready.steps}, lambda = "
        f"{ready.damping:g}) {len(points)} attacks, crafted without knowledge of {' or of '.join(blind)}."
    )


def _racing(config: Config) -> tuple[str, ...]:
    """What an attack that did not run on all images is worth."""
    race = shards.race(config)
    if race is None:
        return ()
    return (
        f"Racing: all attacks face the first {shards.race_cut(config):,} images; only those that could still be the "
        f"strongest of a decision (probability {race.confidence:g}) face the others.",
    )


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) if isinstance(next(iter(value), 0), str) else _range(value)
    if isinstance(value, Mapping):
        return ", ".join(value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _range(values: Sequence[int | float]) -> str:
    if not values:
        return "none"
    whole = all(float(value).is_integer() for value in values)
    if whole and len(values) > 2 and list(values) == list(range(int(values[0]), int(values[0]) + len(values))):
        return f"{values[0]:g} to {values[-1]:g}"
    return ", ".join(f"{value:g}" for value in values)
