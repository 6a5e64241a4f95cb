"""The smallest unit of kept work of each job, against the job's whole work and against what jobs keep."""

from collections.abc import Mapping
from functools import cache

import pytest

from deqpipe import config, extending
from deqpipe.config import Config
from deqpipe.planning import cost, sources, speeds
from deqpipe.planning.cluster import limits, needs, units
from deqpipe.planning.speeds import Speed
from deqpipe.workflow import gridpoints
from tests import tiny

MODEL = {"model": "deq_trades_random_states", "seed": "0"}


@cache
def full() -> Config:
    return config.load([tiny.ROOT / "config.yaml"])


@cache
def paper() -> Speed:
    return speeds.papers(full(), sources.images_of(full()), told=speeds.papers_config(tiny.ROOT / "config.yaml"))


def kept(rule: str, wildcards: Mapping[str, str] = MODEL, *, settings: Config | None = None) -> units.Keeping:
    settings = settings or full()
    return units.keeping(rule, {**MODEL, **wildcards}, settings, sources.images_of(settings))


def whole(rule: str, wildcards: Mapping[str, str] = MODEL, *, settings: Config | None = None) -> float:
    """Minutes of a job at its deepest, without its start."""
    settings = settings or full()
    work = cost.job(rule, {**MODEL, **wildcards}, settings, sources.images_of(settings), deepest=True)
    return paper().minutes(work) - 1


def minutes(unit: units.Unit) -> float:
    return paper().minutes(unit.work)


def several() -> Config:
    """The full reproduction with two seeds, a model and an attack of a user's: so that every rule has jobs."""
    files = tuple(str(tiny.ROOT / "tests" / "extending" / f"{name}.py") for name in ("model", "attack"))
    extending.activate(files)
    return full().model_copy(update={"seeds": (0, 1), "extensions": files})


def test_every_computing_rule_keeps_something() -> None:
    jobs = {job.rule: job for job in needs.submitted(several())}
    assert set(jobs) == set(cost.COMPUTING)
    for job in jobs.values():
        assert kept(job.rule, job.wildcards, settings=several()).units


def test_slices_make_up_the_job() -> None:
    for rule in ("clean", "attack_pgd", "select_early_state"):
        (unit,) = kept(rule).units
        images = 1000 if rule == "select_early_state" else 1024
        assert unit.words == f"{images:,} images"
        of_all = 1000 if rule == "select_early_state" else 10_000
        assert minutes(unit) * of_all / images == pytest.approx(whole(rule))


def test_slices_cut_no_batch_whose_images_influence_each_other() -> None:
    coupled = full().model_copy(update={"solver": full().solver.model_copy(update={"scope": "batch"})})
    (unit,) = kept("clean", settings=coupled).units
    batch = cost.batch_size(coupled)
    assert coupled.couples_images
    assert unit.words == f"{-(-1024 // batch) * batch:,} images"


def test_points_make_up_the_jobs_that_attack_many() -> None:
    (sweep,) = kept("attack_sweep", {"images": "0-959"}).units
    one = full().model_copy(update={"entropy_sweep": full().entropy_sweep.model_copy(update={"points": 1})})
    points = gridpoints.grid_points(full())
    mean = cost.sweep_point(full(), points) * (len(points) * 960)
    assert whole("attack_sweep", {"images": "0-959"}) == pytest.approx(paper().minutes(mean))
    assert minutes(sweep) > whole(
        "attack_sweep", {"images": "0-959"}, settings=one
    )  # its deepest point takes more than the mean
    (loop,) = kept("attack_in_loop", {"images": "0-959"}).units
    assert minutes(loop) * full().attack.in_loop_points == pytest.approx(whole("attack_in_loop", {"images": "0-959"}))


def test_a_grid_is_its_clean_states_and_its_points_none_of_which_is_longer_than_its_unit() -> None:
    shard, settings = {"shard": "states1-8_images0-959"}, full()
    keeping, other = kept("attack_grid", shard), "deq_trades_base"
    points = gridpoints.grid_points(settings)
    each = [paper().minutes(cost.grid_point(settings, MODEL["model"], point, other=other) * 960) for point in points]
    assert max(each) == pytest.approx(minutes(keeping.units[0]))
    again = paper().minutes(keeping.again) - 1
    assert sum(each) + again == pytest.approx(whole("attack_grid", shard))


def test_small_jobs_are_computed_several_points_at_once_and_kept_together() -> None:
    small = full().model_copy(update={"attack": full().attack.model_copy(update={"images_per_job": 40})})
    (unit,) = kept("attack_grid", {"shard": "states1-8_images0-39"}, settings=small).units
    batch = cost.batch_size(small)
    assert unit.words == f"{batch // 40} points x 40 images"
    (alone,) = kept("attack_grid", {"shard": "states1-8_images0-999"}, settings=small).units
    assert minutes(unit) / (batch // 40 * 40) == pytest.approx(minutes(alone) / 1000)


def test_a_training_keeps_every_step() -> None:
    step, validation = kept("train_deq", {"model": "deq_pgd_at_base"}).units
    assert 96 / 30.2 < 60 * minutes(step) < 1.1 * 96 / 30.2  # with the Jacobian term
    assert 0 < minutes(validation) < 1


def test_autoattack_keeps_every_answer_within_an_attack() -> None:
    keeping = kept("autoattack", {"defence": "entropy", "images": "0-999"})
    answer, verdict, checks, clean = keeping.units
    assert answer.words == "one gradient of 250 images within an attack"
    assert 60 * minutes(answer) == pytest.approx(
        250 * (1 / 11.7 + 2 * 9 / 8 / 94.9)
    )  # nine unroll steps, with gradient
    assert 60 * minutes(verdict) == pytest.approx(2 * 250 / 11.7)
    assert 60 * minutes(clean) == pytest.approx(1000 / 11.7)
    assert max(map(minutes, keeping.units)) == minutes(checks) < 5


def test_timing_keeps_rounds_and_warms_up_again() -> None:
    for rule in ("time_training", "time_inference"):
        keeping = kept(rule)
        rounds = minutes(keeping.units[0]) * full().timing.repeats
        assert rounds + paper().minutes(keeping.again) - 1 == pytest.approx(whole(rule))


def test_what_keeps_nothing_is_one_unit() -> None:
    (unit,) = kept("attack_example").units
    assert unit.words == "the whole job"
    assert minutes(unit) == pytest.approx(whole("attack_example"))


def test_every_unit_fits_a_quarter_of_its_runtime_at_the_papers_speed() -> None:
    setting = needs.Setting(several(), sources.images_of(several()), paper(), {}, on_gpu=True)
    first = {(job.rule, job.wildcards["model"]): job for job in reversed(needs.submitted(several()))}
    found = {need.rule: need for need in needs.needs(setting, first.values())}
    assert found.keys() == set(cost.COMPUTING)
    assert [rule for rule, need in found.items() if not limits.fits(need.longest, limits.runtime(need.longest))] == []
    assert found["attack_sweep"].longest.minutes == pytest.approx(whole("attack_sweep", {"images": "0-959"}))
