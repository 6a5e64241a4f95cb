"""Where files lie in a results folder, from the paths of their stages."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from deqpipe.config import Config
from deqpipe.workflow.products import Need
from deqpipe.workflow.stages import STAGES, StageName


def files(
    stage: StageName, config: Config, model: str | None, seed: int, *, below: int | None = None, **fixed: str
) -> tuple[str, ...]:
    """The files of one repetition of a stage, relative to the results folder, in the order of its jobs.

    Args:
        stage: that makes them.
        config: which says how its work is cut into jobs.
        model: that they concern; None: none by name.
        seed: the repetition.
        below: only of jobs whose test images all come before this one.
        fixed: only of jobs with these wildcards.
    """
    value = STAGES[stage]
    return tuple(
        value.path.format(model=model, seed=seed, **part)
        for part in value.parts(config, model or "", below)
        if all(part[name] == wanted for name, wanted in fixed.items())
    )


def needed(need: Need, config: Config, seed: int) -> Iterator[str]:
    """The files of a need for one repetition."""
    for model in (None,) if need.models is None else need.models:
        for path in files(need.stage, config, model, seed):
            yield path if need.file is None else str(PurePosixPath(path).with_name(need.file))


def all_needed(needs: Iterable[Need], config: Config) -> list[str]:
    """The files of some needs for all repetitions."""
    return [
        path
        for need in needs
        for seed in (config.seeds if need.every_seed else config.seeds[:1])
        for path in needed(need, config, seed)
    ]
