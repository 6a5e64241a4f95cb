"""Where files lie in a results folder, from the paths of their stages."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Literal

from deqpipe.config import Config
from deqpipe.workflow.products import FIGURES, Need, tables
from deqpipe.workflow.stages import STAGES, StageName, training_stage
from deqpipe.workflow.vocabulary import MODELS, TRUNK, own


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
    """The files of some needs for all repetitions, each once."""
    every = (
        path
        for need in needs
        for seed in (config.seeds if need.every_seed else config.seeds[:1])
        for path in needed(need, config, seed)
    )
    return list(dict.fromkeys(every))


def asked_for(config: Config) -> list[str]:
    """All files that `snakemake` makes by default and that say by what they were made, in the order of their stages."""
    products = [product for product in (*tables(config).values(), *FIGURES.values()) if product.wanted(config)]
    behind = _behind({(need.stage, model) for product in products for need in product.needs(config)
                      for model in need.models or (None,)}, config)  # fmt: skip
    made = [
        path
        for value in STAGES.values()
        for model in dict.fromkeys((*(value.models or ()), *own(config), None))
        if (value.name, model) in behind
        for seed in (config.seeds if value.seeded else config.seeds[:1])
        for path in files(value.name, config, model, seed)
    ]
    return [
        "config.yaml",
        *made,
        *(f"{product.kind}s/{product.name}.json" for product in products),
        "report.html",
        "results.json",
    ]


def _behind(wanted: set[tuple[StageName, str | None]], config: Config) -> set[tuple[StageName, str | None]]:
    """Stages and models, and all that is made before them."""
    known, waiting = set[tuple[StageName, str | None]](), list(wanted)
    while waiting:
        stage, model = waiting.pop()
        if (stage, model) not in known:
            known.add((stage, model))
            made = STAGES[stage].upstream(config, model or "").values()
            waiting += [("train_deq" if one.stage == "import" else one.stage, one.model) for one in made]
    return known


@dataclass(frozen=True)
class Job:
    """What makes a file: a job of a stage, for a model and a repetition where the stage has these.

    Attributes:
        stage: of the job; "import" for weights that come from a file.
        model: that it concerns.
        seed: the repetition.
        defence: that it attacks, of stages whose jobs attack one each.
        attack: of a user's file, of the stage of these.
    """

    stage: StageName | Literal["import"]
    model: str | None = None
    seed: int | None = None
    defence: str | None = None
    attack: str | None = None


_WEIGHTS = re.compile(r"models/(?P<model>\w+)/seed(?P<seed>\d+)/(best|last|handoff)\.safetensors")
_POINT = re.compile(r"attacks/points/(?P<model>\w+)/seed(?P<seed>\d+)/[^/]+\.parquet")
_WILDCARDS: Mapping[str, str] = {
    "model": r"\w+", "seed": r"\d+", "shard": r"[^/]+", "images": r"\d+-\d+", "defence": r"\w+",
    "attack": r"\w+",
}  # fmt: skip


def job_of(name: str, config: Config) -> Job | None:
    """The job that makes a file, by the file's path relative to the results folder.

    None of files that say nothing of their job (histories), of those that no stage makes (tables), and of models and
    defences that nobody declared.

    Args:
        name: of the file.
        config: says which models are imported.
    """
    if matched := _WEIGHTS.fullmatch(name):
        model = matched["model"]
        if model not in MODELS:
            return None
        stage = "import" if model in config.imported else training_stage(model)
        return Job(stage, None if model == TRUNK else model, int(matched["seed"]))
    if matched := _POINT.fullmatch(name):
        return _declared(Job("attack_grid", matched["model"], int(matched["seed"])), config)
    for stage, pattern in _patterns():
        if matched := pattern.fullmatch(name):
            found = matched.groupdict()
            seed = None if found.get("seed") is None else int(found["seed"])
            return _declared(Job(stage, found.get("model"), seed, found.get("defence"), found.get("attack")), config)
    return None


def _declared(job: Job, config: Config) -> Job | None:
    stage = STAGES[job.stage]
    return (
        job
        if stage.may_concern(job.model)
        and (job.defence is None or job.defence in stage.attacked(config, job.model or ""))
        else None
    )


@cache
def _patterns() -> tuple[tuple[StageName, re.Pattern[str]], ...]:
    """Paths of stages as patterns, but for those of trainings, which share theirs."""
    paths = [(value.name, path) for value in STAGES.values() for path in (value.path, value.beside) if path]
    return tuple((stage, re.compile(_pattern(path))) for stage, path in paths if not path.startswith("models/"))


def _pattern(path: str) -> str:
    parts = re.split(r"\{(\w+)\}", path)  # text, name, text, name, ...
    return "".join(f"(?P<{part}>{_WILDCARDS[part]})" if odd % 2 else re.escape(part) for odd, part in enumerate(parts))
