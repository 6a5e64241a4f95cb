"""Specs: a job's spec changes with exactly what its output depends on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from deqpipe import specs
from deqpipe.config import PROTOCOLS, Config, load
from deqpipe.errors import UserError

ROOT = Path(__file__).parents[1]
CONFIG = load([ROOT / "config.yaml"])
PRODUCTS: tuple[specs.Product, ...] = ("table", "figure", "report")
ALL = frozenset(specs.MODELS)
DEQS, RESNETS, TRUNK = frozenset(specs.DEQS), frozenset(specs.RESNETS), frozenset({specs.TRUNK})
TRADES = frozenset(name for name, model in specs.MODELS.items() if model.framework == "trades")
RANDOM = frozenset(name for name, model in specs.MODELS.items() if model.random_states)


def change(node: BaseModel, path: list[str], value: object) -> BaseModel:
    """A copy with one value replaced, unchecked: a spec must notice whatever the parser would let through one day."""
    name, *below = path
    return node.model_copy(update={name: change(getattr(node, name), below, value) if below else value})


def changed(base: Config | None = None, /, **settings: object) -> Config:
    """The default configuration, or another, with some keys (two underscores for a dot) replaced."""
    config: BaseModel = base or CONFIG
    for key, value in settings.items():
        config = change(config, key.split("__"), value)
    assert isinstance(config, Config)
    return config


def leaves(node: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key that holds no section, with two underscores for a dot."""
    for name in type(node).model_fields:
        value = getattr(node, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}__")
        else:
            yield prefix + name, value


def other(value: object) -> object:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (other(value[0]), *value[1:])
        case dict():
            return {**value, "deq_trades_base": "file"}
    raise AssertionError(value)


def every_job(config: Config) -> dict[tuple[str, str], str]:
    """The fingerprint of every kind of job, by stage and model."""
    jobs = {("data", ""): specs.build("data", config)}
    jobs["pretrain", specs.TRUNK] = specs.build("pretrain", config, seed=0)
    for name in specs.MODELS:
        if name != specs.TRUNK:
            stage = specs.training_stage(name)
            jobs["train", name] = specs.build(stage, config, model=name, seed=0)
        jobs["clean", name] = specs.build("clean", config, model=name, seed=0)
        if name in specs.DEQS:
            jobs["select", name] = specs.build("select", config, model=name, seed=0)
            jobs["attack_grid", name] = specs.build("attack_grid", config, model=name, seed=0)
        else:
            jobs["attack_pgd", name] = specs.build("attack_pgd", config, model=name, seed=0)
    return {job: specs.fingerprint(spec) for job, spec in jobs.items()}


def affected(config: Config, base: Config = CONFIG) -> dict[str, frozenset[str]]:
    """The models whose jobs have another spec than by default, for every stage that has any."""
    before, after = every_job(base), every_job(config)
    stages: dict[str, frozenset[str]] = {}
    for stage, model in before:
        if before[stage, model] != after[stage, model]:
            stages[stage] = stages.get(stage, frozenset()) | {model}
    return stages


def evaluations(models: frozenset[str]) -> dict[str, frozenset[str]]:
    """Everything that is done with some trained models."""
    stages = {"clean": models, "select": models & DEQS, "attack_grid": models & DEQS, "attack_pgd": models - DEQS}
    return {stage: of for stage, of in stages.items() if of}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "cuda"}, {}),
        ({"evaluation__batch_size": 3}, {}),
        ({"attack__states_per_job": 2, "attack__images_per_job": 3}, {}),
        ({"statistics__resamples": 100}, {}),
        ({"attack__grid__states": (1, 2)}, {"attack_grid": DEQS}),
        ({"evaluation__images": 9}, {"clean": ALL, "attack_pgd": ALL - DEQS}),
        ({"attack__grid__steps": (1, 2)}, {"attack_grid": DEQS}),
        ({"attack__unroll__lead_step": True}, evaluations(DEQS | TRUNK)),
        ({"attack__pgd__steps": 3}, {"attack_grid": DEQS, "attack_pgd": ALL - DEQS}),
        ({"evaluation__final_unroll_steps": 9}, evaluations(DEQS | TRUNK)),
        ({"entropy__input_steps": 3}, evaluations(DEQS)),
        ({"entropy__controls": False}, {"clean": DEQS, "attack_grid": DEQS}),
        ({"early_state__index": 3}, {}),  # belongs to mode: fixed
        ({"solver__anderson_memory": 6}, {}),  # belongs to name: anderson
        ({"random_state__in_attack": False}, {"train": RANDOM, **evaluations(RANDOM)}),
        ({"jacobian__weight__trades": 0.0}, {"train": TRADES & DEQS, **evaluations(TRADES & DEQS)}),
        ({"training__trades__inverse_lambda": 1.0}, {"train": TRADES, **evaluations(TRADES)}),
        ({"training__implicit_steps": 9}, {}),  # belongs to gradient: exact
        ({"training__gradient": "exact"}, {"train": DEQS, **evaluations(DEQS)}),
        ({"resnet__layers": (1, 1, 1, 1)}, {"train": RESNETS, **evaluations(RESNETS)}),
        ({"model__dropout": 0.0}, {"pretrain": TRUNK, "train": DEQS, **evaluations(DEQS | TRUNK)}),
        (
            {"threat_model__epsilon_255": 4.0},
            {"train": ALL - TRUNK, **evaluations(ALL - TRUNK), "attack_pgd": ALL - DEQS},
        ),
        (
            {"data__validation": 50},
            {"data": frozenset({""}), "pretrain": TRUNK, "train": ALL - TRUNK, **evaluations(ALL)},
        ),
        ({"data__root": "elsewhere"}, {}),
        ({"imported": {"deq_trades_base": "file"}}, evaluations(frozenset({"deq_trades_base"}))),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) and value else "",
)
def test_a_key_changes_the_specs_that_depend_on_it(
    settings: Mapping[str, object], expected: Mapping[str, frozenset[str]]
) -> None:
    assert affected(changed(**settings)) == dict(expected)


DEQS_AGAIN = {"train": DEQS, **evaluations(DEQS | TRUNK)}
CONCERNS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "solver.returned": DEQS_AGAIN,
    "solver.tolerance": DEQS_AGAIN,
    "solver.scope": DEQS_AGAIN,
    "training.unroll.lead_step": {"train": DEQS, **evaluations(DEQS)},
    "attack.unroll.lead_step": evaluations(DEQS | TRUNK),
    "evaluation.final_unroll_steps": evaluations(DEQS | TRUNK),
    "evaluation.batch_size": {},
    "training.epochs": {"pretrain": TRUNK, **DEQS_AGAIN},
    "training.learning_rate_min": {"pretrain": TRUNK, **DEQS_AGAIN},
    "random_state.pick": {"train": RANDOM, **evaluations(RANDOM)},
    "random_state.natural": {"train": RANDOM & TRADES, **evaluations(RANDOM & TRADES)},
    "selection.split": {"train": ALL - TRUNK, **evaluations(ALL - TRUNK)},
    "selection.first_epoch": {"train": ALL - TRUNK, **evaluations(ALL - TRUNK)},
    "selection.attack_random_state": {"train": RANDOM, **evaluations(RANDOM)},
    "selection.freeze_fooled": {"train": ALL - TRUNK, **evaluations(ALL - TRUNK)},
    "early_state.mode": {"select": DEQS},
    "attack.pgd.clamp_start": {"select": DEQS, "attack_grid": DEQS, "attack_pgd": ALL - DEQS},
    "autoattack.mode": {},
    "autoattack.keep": {},
    "entropy.resolve": evaluations(DEQS),
    "entropy.last_update": evaluations(DEQS),
    "entropy.state": evaluations(DEQS),
    "entropy.final_input": evaluations(DEQS),
}
"""The models whose jobs run again when a key alone takes its value of protocol release."""


@pytest.mark.parametrize("key", PROTOCOLS["release"])
def test_a_key_of_a_protocol_changes_the_specs_that_depend_on_it(key: str) -> None:
    assert affected(changed(**{key.replace(".", "__"): PROTOCOLS["release"][key]})) == CONCERNS[key]


def test_the_name_of_the_protocol_is_in_no_job() -> None:
    assert affected(changed(protocol="release")) == {}


def under_release() -> Config:
    return changed(protocol="release", **{key.replace(".", "__"): v for key, v in PROTOCOLS["release"].items()})


def test_release_trains_everything_anew_on_the_same_data() -> None:
    again = affected(under_release())
    assert again == {"pretrain": TRUNK, "train": ALL - TRUNK, **evaluations(ALL)}


def test_training_under_release_is_specified_by_the_keys_of_release() -> None:
    trunk = specs.build("pretrain", under_release(), seed=0)["config"]
    assert (trunk["training.epochs"], trunk["training.learning_rate_min"]) == (220, 1e-6)
    settings = specs.build("train_deq", under_release(), model="deq_trades_random_states", seed=0)["config"]
    solver = {"name": "broyden", "steps": 8, "tolerance": 1e-3, "scope": "batch", "returned": "lowest_batch"}
    assert settings["solver"] == {**solver, "anderson_memory": 2}
    assert settings["random_state"] == {"pick": "prefix_lowest", "natural": "independent", "in_attack": True}
    assert settings["training.unroll"]["lead_step"] is True
    attack = {"steps": 10, "step_size_255": 2.0}
    chosen = {"split": "test", "first_epoch": 30, "attack_random_state": True, "freeze_fooled": True}
    assert settings["selection"] == {**chosen, "attack": attack}


DEQ_STAGES: tuple[specs.Stage, ...] = ("select", "clean", "attack_grid")
RESNET_STAGES: tuple[specs.Stage, ...] = ("clean", "attack_pgd")
COUPLED = ({"solver__scope": "batch"}, {"solver__returned": "lowest_batch"})


@pytest.mark.parametrize("coupling", COUPLED, ids=lambda value: next(iter(value)))
def test_which_images_meet_is_part_of_what_coupled_decisions_depend_on(coupling: Mapping[str, object]) -> None:
    base = changed(**coupling)
    assert affected(changed(base, evaluation__batch_size=3), base) == evaluations(DEQS | TRUNK)
    fewer = {"clean": ALL, "attack_grid": DEQS, "attack_pgd": ALL - DEQS}
    assert affected(changed(base, evaluation__images=9), base) == fewer
    assert affected(changed(base, attack__images_per_job=3), base) == {}
    for model in specs.DEQS:
        for stage in DEQ_STAGES:
            settings = specs.build(stage, base, model=model, seed=0)["config"]
            assert settings["evaluation.batch_size"] == 192
            assert settings.get("evaluation.images") == (None if stage == "select" else 10_000)
    for stage in RESNET_STAGES:
        assert "evaluation.batch_size" not in specs.build(stage, base, model="resnet18_trades", seed=0)["config"]


def test_how_many_images_meet_is_in_no_spec_where_they_do_not_influence_each_other() -> None:
    apart = changed(solver__returned="lowest_sample", solver__tolerance=1e-3)
    assert affected(changed(apart, evaluation__batch_size=3), apart) == {}
    only_all = {"clean": ALL, "attack_pgd": ALL - DEQS}
    assert affected(changed(apart, evaluation__images=9), apart) == only_all


@pytest.mark.parametrize("product", PRODUCTS)
def test_tables_state_how_many_images_meet_only_where_it_matters(product: specs.Product) -> None:
    for coupling in COUPLED:
        base = changed(**coupling)
        assert specs.build_product(product, base)["config"]["evaluation"]["batch_size"] == 192
    assert "batch_size" not in specs.build_product(product, CONFIG)["config"]["evaluation"]
    assert specs.build_product(product, under_release())["config"]["protocol"] == "release"


def test_a_finished_point_knows_which_images_met() -> None:
    """Points outlive a change of the list of points, but not one of the batches."""
    base = changed(solver__scope="batch")
    kept, other = (
        specs.state_key(specs.build("attack_grid", config, model="deq_trades_base", seed=0))
        for config in (changed(base, attack__grid__states=(1,)), changed(base, evaluation__batch_size=3))
    )
    assert specs.state_key(specs.build("attack_grid", base, model="deq_trades_base", seed=0)) == kept != other


def test_the_root_of_an_image_folder_is_part_of_what_the_data_are() -> None:
    here, there = (changed(data__source="folder", data__root=root) for root in ("here", "there"))
    assert every_job(here)["data", ""] != every_job(there)["data", ""]


# Meaningful only together with another value of another key.
INERT = ("solver__anderson_memory", "training__implicit_steps", "early_state__index")


@pytest.mark.parametrize(
    ("key", "value"), list(leaves(CONFIG)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_key_is_noticed_by_tables_unless_it_has_no_influence(key: str, value: object) -> None:
    """Tables state their conditions, so every key counts but for those that say how and where to compute."""
    config = changed(**{key: other(value)})
    no_influence = key.startswith("pathvars__") or key in ("device", "evaluation__batch_size", "data__root", *INERT)
    noticed = specs.build_product("table", config) != specs.build_product("table", CONFIG)
    assert noticed != no_influence
    if no_influence:
        assert affected(config) == {}


def test_an_imported_model_is_another_one_by_its_file_its_architecture_and_its_data() -> None:
    model = {"deq_trades_base"}
    base = changed(imported={"deq_trades_base": "file"})
    ours = (changed(base, imported={"deq_trades_base": "b"}), changed(base, model__groups=4))
    for config in (*ours, changed(base, data__validation=50)):
        assert model <= affected(config, base)["attack_grid"]
    for config in (changed(base, training__epochs=70), changed(base, jacobian__weight__trades=0.0)):
        assert model.isdisjoint(affected(config, base)["attack_grid"])
    assert specs.trained_here(base) == tuple(name for name in specs.DEQS if name not in model)


def test_a_seed_has_its_own_models_and_shares_the_data() -> None:
    first, second = (specs.build("train_deq", CONFIG, model="deq_trades_base", seed=seed) for seed in (0, 1))
    assert first["upstream"] != second["upstream"]
    assert specs.build("data", CONFIG) == specs.build("data", CONFIG, seed=None)


@pytest.mark.parametrize("stage", [stage for stage in specs.REVISION if stage not in PRODUCTS])
def test_a_raised_revision_reaches_every_stage_below(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = every_job(CONFIG)
    monkeypatch.setitem(specs.REVISION, stage, 99)
    after = every_job(CONFIG)
    stages = {job[0] for job in before if before[job] != after[job]}
    trained = {"train", "clean", "select", "attack_grid", "attack_pgd"}
    below = {
        "data": {"data", "pretrain", *trained},
        "pretrain": {"pretrain", *trained},
        "train_deq": trained - {"attack_pgd"},
        "train_resnet": {"train", "clean", "attack_pgd"},
    }
    assert stages == below.get(stage, {stage})


@given(st.permutations(["b", "a", "c"]))
def test_equal_specs_give_equal_text_whatever_the_order(order: list[str]) -> None:
    spec = {name: {"x": 1.5, "n": [1, 2]} for name in order}
    assert specs.dumps(spec) == '{"a":{"n":[1,2],"x":1.5},"b":{"n":[1,2],"x":1.5},"c":{"n":[1,2],"x":1.5}}'
    assert specs.loads(specs.dumps(spec)) == spec


def test_a_whole_number_is_the_same_setting_as_an_integer() -> None:
    whole, fraction = (changed(threat_model__epsilon_255=float(value)) for value in (8, 8.5))
    assert every_job(whole) == every_job(CONFIG)
    assert every_job(fraction) != every_job(CONFIG)


def test_a_spec_is_json_and_nothing_else() -> None:
    spec = specs.build("attack_grid", CONFIG, model="deq_trades_base", seed=0)
    assert json.loads(specs.dumps(spec)) == spec


def test_a_model_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="model is 'mdeq', but stage clean needs one of deq_pretrain, "):
        specs.build("clean", CONFIG, model="mdeq", seed=0)


def test_the_paper_has_144_points_with_the_ready_made_one_among_them() -> None:
    points = specs.grid_points(CONFIG)
    assert len(points) == len(set(points)) == len({point.name for point in points}) == 144
    assert specs.GridPoint(damping=0.5, state=8, steps=5) in points
    assert list(points) == sorted(points)


def test_the_ready_made_point_is_in_every_grid() -> None:
    points = specs.grid_points(
        changed(attack__grid__states=(2,), attack__grid__steps=(1,), attack__grid__damping=(1.0,))
    )
    assert points == (specs.GridPoint(0.5, 8, 5), specs.GridPoint(1.0, 2, 1))


@given(
    states=st.sets(st.integers(1, 8), min_size=1),
    images=st.integers(1, 50),
    states_per_job=st.integers(1, 9),
    images_per_job=st.integers(1, 60),
)
def test_grid_jobs_partition_states_and_images(
    states: set[int], images: int, states_per_job: int, images_per_job: int
) -> None:
    config = changed(
        attack__grid__states=tuple(states),
        evaluation__images=images,
        attack__states_per_job=states_per_job,
        attack__images_per_job=images_per_job,
    )
    wanted = sorted(states | {8})
    taken = [state for first, last in specs.state_ranges(config) for state in wanted if first <= state <= last]
    assert taken == wanted
    covered = [image for first, last in specs.image_ranges(config) for image in range(first, last + 1)]
    assert covered == list(range(images))
    assert len(set(specs.shard_names(config))) == len(specs.state_ranges(config)) * len(specs.image_ranges(config))


def test_models_are_the_seven_of_the_paper() -> None:
    assert len(specs.MODELS) == 7
    assert (len(specs.DEQS), len(specs.RESNETS)) == (4, 2)
    defended = [name for name, model in specs.MODELS.items() if "entropy" in model.defences]
    assert defended == list(specs.DEQS)


@pytest.mark.parametrize("asked", [True, False])
def test_controls_are_those_of_the_models_with_a_defence(asked: bool) -> None:
    entropy = changed(entropy__controls=asked).entropy
    three = ("entropy_zero_steps", "entropy_restart_only", "entropy_one_round")
    expected = {name: three if asked and name in DEQS else () for name in specs.MODELS}
    assert {name: model.controls(entropy) for name, model in specs.MODELS.items()} == expected
