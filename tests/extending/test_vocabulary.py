"""Who knows a defence of one's own: only configurations that name its file, and only specs that it decides."""

from pathlib import Path

from deqpipe.config import Config
from deqpipe.workflow import layout, specs, stages, vocabulary
from deqpipe.workflow.stages import STAGES
from tests import tiny

AVERAGE = str(Path(__file__).parent / "defence.py")
SUITE = {"enabled": True}


def both() -> tuple[Config, Config]:
    """Without the file, and with it."""
    return tiny.settings({"suite": SUITE}), tiny.settings({"suite": SUITE, "extensions": [AVERAGE]})


def test_only_a_configuration_that_names_the_file_has_its_models() -> None:
    without, with_it = both()
    assert vocabulary.own(without) == ()
    assert vocabulary.own(with_it) == tuple(f"{name}_average" for name in vocabulary.DEQS)
    assert vocabulary.deqs(with_it)[: len(vocabulary.DEQS)] == vocabulary.DEQS


def test_nothing_of_the_others_is_computed_again_when_it_comes() -> None:
    without, with_it = both()
    before = {path for path in layout.asked_for(without) if layout.job_of(path, without)}
    after = {path for path in layout.asked_for(with_it) if layout.job_of(path, with_it)}
    added = after - before
    assert before <= after
    assert all("_average/" in path for path in added)
    for path in before:
        there, now = layout.job_of(path, without), layout.job_of(path, with_it)
        assert there is not None
        assert now is not None
        assert specs.fingerprint_of_job(there, without) == specs.fingerprint_of_job(now, with_it)


def test_the_digest_of_the_file_stands_in_the_specs_of_what_it_decides_and_in_no_other(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_bytes(Path(AVERAGE).read_bytes())
    config = tiny.settings({"suite": SUITE, "extensions": [str(mine)]})
    jobs = [job for path in layout.asked_for(config) if (job := layout.job_of(path, config))]
    told = {job: specs.fingerprint_of_job(job, config) for job in jobs}
    mine.write_text(mine.read_text() + "\n# another\n")
    changed = tiny.settings({"suite": SUITE, "extensions": [str(mine)]})
    for job in jobs:
        again = specs.fingerprint_of_job(job, changed) != told[job]
        assert again == (job.model is not None and job.model.endswith("_average")), job


def test_what_rules_judge_runs_again_by_a_number_of_its_own() -> None:
    without, config = both()
    assert "rules" not in specs.build("clean", config, model="deq_trades_base", seed=0)
    assert specs.build("clean", config, model="deq_trades_base_average", seed=0)["rules"] == stages.RULES
    assert "rules" not in specs.build("train_deq", without, model="deq_trades_base", seed=0)


def test_it_is_put_on_the_weights_of_the_model_that_it_is_named_after() -> None:
    _, config = both()
    name = "deq_trades_base_average"
    model = specs.build("clean", config, model=name, seed=0)["upstream"]["model"]
    assert model == specs.build("clean", config, model="deq_trades_base", seed=0)["upstream"]["model"]
    assert vocabulary.MODELS[name].defences == ("average",)
    assert not STAGES["train_deq"].may_concern(name)


def test_its_own_attacked_images_are_judged_on_it_beside_those_of_the_package_and_on_no_other() -> None:
    without, config = both()
    name = "deq_trades_base_average"
    shared = set(stages.lent(without, "deq_trades_base"))
    assert set(stages.lent(config, name)) == shared | {stages.role_of_suite(name, 0, "average")}
    assert set(stages.lent(config, "deq_trades_base")) == shared
    upstream = specs.build("attack_transferred", config, model=name, seed=0)["upstream"]
    suite = specs.build("attack_suite", config, model=name, seed=0, defence="average")
    assert upstream[stages.role_of_suite(name, 0, "average")] == specs.fingerprint(suite)
