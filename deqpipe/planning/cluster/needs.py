"""What the jobs of each rule need at some speed: their hours, the work that they keep, memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deqpipe.config import AttackName, Config
from deqpipe.counts import Number
from deqpipe.planning import cost
from deqpipe.planning.cluster import memory, units
from deqpipe.planning.cluster.limits import Longest
from deqpipe.planning.cost import Images
from deqpipe.planning.speeds import Speed
from deqpipe.workflow import gridpoints, shards, vocabulary
from deqpipe.workflow.dry_run import PlannedJob
from deqpipe.workflow.stages import STAGES

RULES: Mapping[str, str] = {"select": "select_early_state"}
"""Of the stages whose rule has another name."""


@dataclass(frozen=True)
class Need:
    """What a rule's jobs need.

    Attributes:
        rule: that submits them.
        jobs: how many.
        longest: of its jobs the longest, bounded: every image stays to the end, the strongest points are the deepest.
        minutes: of all jobs, as expected.
        unit: the largest unit of work that one of them keeps or loses whole, in words.
        mem_mb: memory of the host.
    """

    rule: str
    jobs: int
    longest: Longest
    minutes: float
    unit: str
    mem_mb: int


@dataclass(frozen=True)
class Setting:
    """What needs are reckoned from.

    Attributes:
        config: the experiment.
        images: of its source.
        speed: of jobs.
        entering: the share of its images that each of AutoAttack's attacks is run on, as expected.
        on_gpu: whether jobs compute on a GPU.
    """

    config: Config
    images: Images
    speed: Speed
    entering: Mapping[AttackName, Number]
    on_gpu: bool

    def minutes(self, job: PlannedJob) -> float:
        """How long a job takes, as expected."""
        work = cost.job(job.rule, job.wildcards, self.config, self.images, entering=self.entering)
        return self.speed.minutes(work)

    def longest(self, job: PlannedJob) -> float:
        """How long a job takes at most, but for its start."""
        work = cost.job(job.rule, job.wildcards, self.config, self.images, deepest=True)
        return self.speed.minutes(work + cost.Work(parts={"start": -1}))


def needs(setting: Setting, jobs: Iterable[PlannedJob]) -> list[Need]:
    """What the submitted rules among some jobs need, in the order of the jobs."""
    by_rule: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        if cost.uses_device(job.rule):
            by_rule.setdefault(job.rule, []).append(job)
    return [_need(setting, rule, of_rule) for rule, of_rule in by_rule.items()]


def _need(setting: Setting, rule: str, jobs: Sequence[PlannedJob]) -> Need:
    config, images, speed = setting.config, setting.images, setting.speed
    kept = [units.keeping(rule, job.wildcards, config, images) for job in jobs]
    unit = max((unit for one in kept for unit in one.units), key=lambda unit: speed.minutes(unit.work))
    return Need(
        rule,
        len(jobs),
        Longest(
            minutes=max(setting.longest(job) for job in jobs),
            unit=speed.minutes(unit.work),
            again=max(speed.minutes(one.again) for one in kept),
        ),
        minutes=sum(setting.minutes(job) for job in jobs),
        unit=unit.words,
        mem_mb=max(memory.asked_mb(rule, job.wildcards, config, images, on_gpu=setting.on_gpu) for job in jobs),
    )


def submitted(config: Config) -> list[PlannedJob]:
    """The jobs of a configuration that train or evaluate, without asking Snakemake; and one of attack_point."""
    trained = (*vocabulary.trained_here(config), *(vocabulary.OTHER_JACOBIAN if config.figures.jacobian else ()))
    found = []
    for name, stage in STAGES.items():
        rule = RULES.get(name, name)
        models = trained if name == "train_deq" else ("",) if stage.models is None else stage.concerns(config)
        if cost.uses_device(rule):
            found += [
                PlannedJob(rule, {"model": model, "seed": str(seed), **part}, (), ())
                for model in models
                for seed in (config.seeds if stage.seeded else config.seeds[:1])
                for part in stage.parts(config, model, None)
            ]
    return [*found, _a_closer_look(config)]


def _a_closer_look(config: Config) -> PlannedJob:
    """The longest job of the rule that is part of no other target."""
    (point,), (first, last) = cost.deepest_points(gridpoints.grid_points(config)), shards.image_ranges(config)[0]
    wildcards = {"model": vocabulary.SWEEP_MODEL, "seed": "0", "point": point.name, "images": f"{first}-{last}"}
    return PlannedJob("attack_point", wildcards, (), ())
