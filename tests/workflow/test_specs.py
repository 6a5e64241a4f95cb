"""Specs: a job's spec changes with exactly what its output depends on."""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from deqpipe.config import PROTOCOLS, Config, NoSuiteConfig, all_variants, load
from deqpipe.errors import UserError
from deqpipe.workflow import defences, gridpoints, layout, shards, specs, vocabulary
from deqpipe.workflow.stages import STAGES, ProductName, StageName, training_stage

ROOT = Path(__file__).parents[2]
CONFIG = load([ROOT / "config.yaml"])
PRODUCTS: tuple[ProductName, ...] = ("table", "figure", "report")
ALL = frozenset(vocabulary.EVALUATED)
DEQS, FEEDFORWARD, TRUNK = frozenset(vocabulary.DEQS), frozenset(vocabulary.FEEDFORWARD), frozenset({vocabulary.TRUNK})
OTHER = frozenset(vocabulary.OTHER_JACOBIAN)  # trained for Figure 6, never evaluated
MODELS = {name: vocabulary.MODELS[name] for name in vocabulary.present(CONFIG, vocabulary.MODELS)}
TRADES = frozenset(name for name, model in MODELS.items() if model.framework == "trades")
SWEPT, EXAMPLE = frozenset({vocabulary.SWEEP_MODEL}), frozenset({vocabulary.FIGURE2_MODEL})
CLOCK = {"time_training": frozenset({""})}
RANDOM = frozenset(name for name, model in MODELS.items() if model.random_states)
PERTURBED = frozenset(vocabulary.MODELS) - frozenset(MODELS)


def change(node: BaseModel, path: list[str], value: object) -> BaseModel:
    """A copy with one value replaced, unchecked: a spec must notice whatever the parser would let through one day."""
    name, *below = path
    return node.model_copy(update={name: change(getattr(node, name), below, value) if below else value})


# What stands in no section of config.yaml, because it belongs to another variant.
OF_OTHER_VARIANTS: Mapping[str, object] = {
    "root": "some/folder", "memory": 5, "index": 8, "images": 1000, "confidence": 0.99,
    "steps": 7, "size": {"pgd_at": 0.01, "trades": 0.005}, "warmup_epochs": 0,
}  # fmt: skip


def chosen(config: BaseModel, path: list[str], value: object) -> object | None:
    """The section with the variant that a key chooses; None where the key chooses none that there is."""
    *sections, key = path
    variants, node = all_variants().get(".".join(sections)), config
    if variants is None or key != variants.tag or value not in variants.sections:
        return None
    for name in sections:
        node = getattr(node, name)
    kind = variants.sections[value]
    known = {**OF_OTHER_VARIANTS, **node.model_dump(), key: value}
    return kind.model_validate({name: known[name] for name in kind.model_fields})


def changed(base: Config | None = None, /, **settings: object) -> Config:
    """The default configuration, or another, with some keys (two underscores for a dot) replaced."""
    config: BaseModel = base or CONFIG
    for key, value in settings.items():
        path = key.split("__")
        section = chosen(config, path, value)
        config = change(config, path, value) if section is None else change(config, path[:-1], section)
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
        case "all":
            return 3
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (other(value[0]), *value[1:]) if value else ("mine.py",)
        case dict():
            return {**value, "deq_trades_base": "file"}
    raise AssertionError(value)


def every_job(config: Config) -> dict[tuple[str, str], str]:
    """The fingerprint of every kind of job, by stage and model."""
    jobs = {("data", ""): specs.build("data", config)}
    jobs["pretrain", vocabulary.TRUNK] = specs.build("pretrain", config, seed=0)
    jobs["time_training", ""] = specs.build("time_training", config, seed=0)
    for name in vocabulary.present(config, vocabulary.MODELS):
        if name != vocabulary.TRUNK:
            jobs["train", name] = specs.build(training_stage(name), config, model=name, seed=0)
    for stage in EVALUATIONS:
        for name in vocabulary.present(config, STAGES[stage].models or ()):
            for defence in vocabulary.MODELS[name].defences if stage == "autoattack" else (None,):
                jobs[stage, f"{name} {defence or ''}".strip()] = specs.build(
                    stage, config, model=name, seed=0, defence=defence
                )
    return {job: specs.fingerprint(spec) for job, spec in jobs.items()}


EVALUATIONS: tuple[StageName, ...] = (
    "clean", "select", "attack_grid", "attack_pgd", "race", "race_sweep", "strongest", "autoattack", "attack_top",
    "attack_in_loop", "attack_sweep", "attack_example", "time_inference",
)  # fmt: skip


SUITE: tuple[StageName, ...] = ("attack_suite", "attack_transferred", "attack_radius", "attack_ensemble")
"""They have tests of their own."""
RACES = ("race", "race_sweep")  # only ever run with racing.enabled: they have tests of their own


@functools.cache
def by_default() -> dict[tuple[str, str], str]:
    """Of the default configuration, to which most tests compare."""
    return every_job(CONFIG)


def affected(config: Config, base: Config = CONFIG) -> dict[str, frozenset[str]]:
    """The models whose jobs have another spec than by default, for every stage that has any."""
    before, after = by_default() if base is CONFIG else every_job(base), every_job(config)
    stages: dict[str, frozenset[str]] = {}
    for stage, model in before:
        if before[stage, model] != after[stage, model] and stage not in RACES:
            stages[stage] = stages.get(stage, frozenset()) | {model.split()[0] if model else ""}
    return stages


def evaluations(models: frozenset[str], *more: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Everything that is done with some trained models."""
    return union(
        {"clean": models, "select": models & DEQS, "attack_pgd": models - DEQS},
        {"autoattack": models - TRUNK, "attack_sweep": models & SWEPT, "time_inference": models & SWEPT},
        grid(models | (TRADES & DEQS if models & TRADES & DEQS else frozenset())),  # images are transferred
        *more,
    )


def grid(models: frozenset[str]) -> dict[str, frozenset[str]]:
    """The attack grid of some models, and what takes its strongest points from it."""
    deqs = models & DEQS
    return union(dict.fromkeys(("attack_grid",), deqs), ranks(deqs))


def ranks(models: frozenset[str]) -> dict[str, frozenset[str]]:
    """What the ranking of a grid's points decides."""
    deqs = models & DEQS
    tables = {"attack_top": deqs & SWEPT, "attack_in_loop": deqs & TRADES, "attack_example": deqs & EXAMPLE}
    return union({"strongest": deqs, "autoattack": deqs}, tables)


def union(*parts: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The models of every stage that has any."""
    stages: dict[str, frozenset[str]] = {}
    for part in parts:
        for stage, of in part.items():
            stages[stage] = stages.get(stage, frozenset()) | of
    return {stage: of for stage, of in stages.items() if of}


LIBRARY = {"autoattack": DEQS | FEEDFORWARD, "attack_top": SWEPT}
IMAGES = union(
    dict.fromkeys(("clean", "attack_pgd", "strongest", "attack_example", "attack_in_loop"), frozenset()),
    {"clean": ALL, "attack_pgd": ALL - DEQS, "attack_sweep": SWEPT, "autoattack": FEEDFORWARD},
    ranks(DEQS),
)


TRAINED = ALL - TRUNK | OTHER
CONTROLS = union({"clean": DEQS}, grid(DEQS))  # the sweep and the clock bring their own


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "cuda"}, {}),
        ({"evaluation__batch_size": 3}, {}),
        ({"attack__states_per_job": 2, "attack__images_per_job": 3}, {}),
        ({"statistics__resamples": 100}, {}),
        ({"attack__grid__states": (1, 2)}, grid(DEQS) | {"attack_sweep": SWEPT}),
        ({"evaluation__images": 9}, IMAGES),
        ({"attack__grid__steps": (1, 2)}, grid(DEQS) | {"attack_sweep": SWEPT}),
        ({"attack__transfer": False}, grid(TRADES)),
        ({"attack__in_loop_points": 1}, {"attack_in_loop": TRADES & DEQS}),
        ({"autoattack__queries": 1}, LIBRARY),
        ({"autoattack__images_per_job": 1}, LIBRARY),
        ({"autoattack__targets": 1}, {"autoattack": DEQS | FEEDFORWARD}),
        ({"autoattack__top_points": 1}, {"attack_top": SWEPT}),
        ({"entropy_sweep__solver_steps": (3,)}, {"attack_sweep": SWEPT, "time_inference": SWEPT}),
        ({"entropy_sweep__points": 3}, {"attack_sweep": SWEPT}),
        ({"figures__jacobian": True}, {}),
        ({"weight_perturbation__enabled": True}, {}),
        ({"timing__repeats": 9}, {**CLOCK, "time_inference": SWEPT}),
        ({"jacobian__other_weight__trades": 9.0}, {"train": OTHER & TRADES}),
        ({"attack__unroll__lead_step": True}, evaluations(DEQS | TRUNK)),
        ({"attack__pgd__steps": 3}, {**grid(DEQS), "attack_pgd": ALL - DEQS, "attack_sweep": SWEPT}),
        ({"evaluation__final_unroll_steps": 9}, evaluations(DEQS | TRUNK)),
        ({"entropy__input_steps": 3}, evaluations(DEQS)),
        ({"entropy__controls": False}, CONTROLS),
        ({"random_state__in_attack": False}, {"train": RANDOM, **CLOCK, **evaluations(RANDOM)}),
        ({"jacobian__weight__trades": 0.0}, {"train": TRADES & DEQS, **CLOCK, **evaluations(TRADES & DEQS)}),
        ({"training__trades__inverse_lambda": 1.0}, {"train": TRADES, **CLOCK, **evaluations(TRADES - OTHER)}),
        ({"training__gradient__name": "exact"}, {"train": DEQS | OTHER, **CLOCK, **evaluations(DEQS)}),
        ({"resnet__layers": (1, 1, 1, 1)}, {"train": FEEDFORWARD, **evaluations(FEEDFORWARD)}),
        ({"model__dropout": 0.0}, {"pretrain": TRUNK, "train": DEQS | OTHER, **CLOCK, **evaluations(DEQS | TRUNK)}),
        (
            {"threat_model__epsilon_255": 4.0},
            {"train": TRAINED, **CLOCK, **evaluations(ALL - TRUNK), "attack_pgd": ALL - DEQS},
        ),
        (
            {"data__validation": 50},
            {"data": frozenset({""}), "pretrain": TRUNK, "train": TRAINED, **CLOCK, **evaluations(ALL)},
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


DEQS_AGAIN = {"train": DEQS | OTHER, **CLOCK, **evaluations(DEQS | TRUNK)}
CONCERNS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "solver.returned": DEQS_AGAIN,
    "solver.tolerance": DEQS_AGAIN,
    "solver.scope": DEQS_AGAIN,
    "training.unroll.lead_step": {"train": DEQS | OTHER, **CLOCK, **evaluations(DEQS)},
    "attack.unroll.lead_step": evaluations(DEQS | TRUNK),
    "evaluation.final_unroll_steps": evaluations(DEQS | TRUNK),
    "evaluation.batch_size": {},
    "training.epochs": {"pretrain": TRUNK, **DEQS_AGAIN},
    "training.learning_rate_min": {"pretrain": TRUNK, **DEQS_AGAIN},
    "random_state.pick": {"train": RANDOM, **CLOCK, **evaluations(RANDOM)},
    "random_state.natural": {"train": RANDOM & TRADES, **CLOCK, **evaluations(RANDOM & TRADES)},
    "selection.split": {"train": TRAINED, **CLOCK, **evaluations(ALL - TRUNK)},
    "selection.first_epoch": {"train": TRAINED, **CLOCK, **evaluations(ALL - TRUNK)},
    "selection.attack_random_state": {"train": RANDOM, **CLOCK, **evaluations(RANDOM)},
    "selection.freeze_fooled": {"train": TRAINED, **CLOCK, **evaluations(ALL - TRUNK)},
    "early_state.mode": {"select": DEQS, **ranks(DEQS)},
    "attack.pgd.clamp_start": {"select": DEQS, **grid(DEQS), "attack_pgd": ALL - DEQS, "attack_sweep": SWEPT},
    "autoattack.mode": {"autoattack": DEQS | FEEDFORWARD},
    "autoattack.keep": LIBRARY,
    "autoattack.restarts": LIBRARY,
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
    assert again == {"pretrain": TRUNK, "train": TRAINED, **CLOCK, **evaluations(ALL)}


def test_training_under_release_is_specified_by_the_keys_of_release() -> None:
    trunk = specs.build("pretrain", under_release(), seed=0)["config"]
    assert (trunk["training.epochs"], trunk["training.learning_rate_min"]) == (220, 1e-6)
    settings = specs.build("train_deq", under_release(), model="deq_trades_random_states", seed=0)["config"]
    solver = {"name": "broyden", "steps": 8, "tolerance": 1e-3, "scope": "batch", "returned": "lowest_batch"}
    assert settings["solver"] == solver
    assert settings["random_state"] == {"pick": "prefix_lowest", "natural": "independent", "in_attack": True}
    assert settings["training.unroll"]["lead_step"] is True
    attack = {"steps": 10, "step_size_255": 2.0}
    chosen = {"split": "test", "first_epoch": 30, "attack_random_state": True, "freeze_fooled": True}
    assert settings["selection"] == {**chosen, "attack": attack}


DEQ_STAGES: tuple[StageName, ...] = ("select", "clean", "attack_grid")
RESNET_STAGES: tuple[StageName, ...] = ("clean", "attack_pgd")
COUPLED = ({"solver__scope": "batch"}, {"solver__returned": "lowest_batch"})


@pytest.mark.parametrize("coupling", COUPLED, ids=lambda value: next(iter(value)))
def test_which_images_meet_is_part_of_what_coupled_decisions_depend_on(coupling: Mapping[str, object]) -> None:
    base = changed(**coupling)
    assert affected(changed(base, evaluation__batch_size=3), base) == evaluations(DEQS | TRUNK)
    fewer = union(IMAGES, grid(DEQS), {"time_inference": SWEPT})
    assert affected(changed(base, evaluation__images=9), base) == fewer
    assert affected(changed(base, attack__images_per_job=3), base) == {}
    for model in vocabulary.DEQS:
        for stage in DEQ_STAGES:
            settings = specs.build(stage, base, model=model, seed=0)["config"]
            assert settings["evaluation.batch_size"] == 192
            assert settings.get("evaluation.images") == (None if stage == "select" else 10_000)
    for stage in RESNET_STAGES:
        assert "evaluation.batch_size" not in specs.build(stage, base, model="resnet18_trades", seed=0)["config"]


def test_how_many_images_meet_is_in_no_spec_where_they_do_not_influence_each_other() -> None:
    apart = changed(solver__returned="lowest_sample", solver__tolerance=1e-3)
    assert affected(changed(apart, evaluation__batch_size=3), apart) == {}
    assert affected(changed(apart, evaluation__images=9), apart) == IMAGES


@pytest.mark.parametrize("product", PRODUCTS)
def test_tables_state_how_many_images_meet_only_where_it_matters(product: ProductName) -> None:
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


def test_a_race_is_part_of_the_grid_that_it_cuts_short_but_not_of_a_finished_point() -> None:
    base = changed(racing__enabled=True)
    again = affected(base)
    assert again == union(grid(DEQS), {"attack_sweep": SWEPT})
    assert affected(changed(base, racing__confidence=0.9), base) == again
    assert affected(changed(racing__enabled=True, racing__images=10_000)) == {}  # nothing is left to be cut


def test_a_race_depends_on_what_faces_all_attacks_and_on_the_states_that_decide() -> None:
    base = changed(racing__enabled=True)

    def races(**settings: object) -> set[tuple[str, str]]:
        before, after = every_job(base), every_job(changed(base, **settings))
        return {job for job in before if job[0] in RACES and before[job] != after[job]}

    everyone = {("race", name) for name in vocabulary.DEQS}
    sweep = {("race_sweep", vocabulary.SWEEP_MODEL)}
    assert races(evaluation__images=5000) <= sweep
    assert races(attack__grid__steps=(1,)) == everyone | sweep
    assert races(racing__confidence=0.9) == everyone | sweep
    assert races(early_state__mode="fixed") == everyone | sweep
    assert races(entropy_sweep__input_steps=(3,)) == sweep
    assert races(autoattack__queries=3) == set()
    assert races(random_state__in_attack=False) == {
        *sweep, *(("race", name) for name in vocabulary.DEQS if name != "deq_pgd_at_base")
    }  # fmt: skip
    points = (
        specs.point_spec(specs.build("attack_grid", one, model=vocabulary.SWEEP_MODEL, seed=0))
        for one in (base, CONFIG)
    )
    assert len({specs.dumps(point) for point in points}) == 1


def test_weight_perturbation_adds_models_of_its_own_and_changes_no_other() -> None:
    base = changed(weight_perturbation__enabled=True)
    before, after = every_job(CONFIG), every_job(base)
    assert after.items() >= before.items()
    added = {(stage, job.split()[0]) for stage, job in after.keys() - before.keys()}
    deqs = {name for name in PERTURBED if vocabulary.MODELS[name].is_deq}
    assert (len(deqs), len(PERTURBED)) == (4, 6)
    assert added == {
        *((stage, name) for stage in ("train", "clean", "autoattack") for name in PERTURBED),
        *((stage, name) for stage in ("select", "attack_grid", "strongest", "race") for name in deqs),
        *(("attack_pgd", name) for name in PERTURBED - deqs),
    }


def test_a_size_of_weight_perturbation_is_part_of_the_trainings_of_its_framework() -> None:
    base = changed(weight_perturbation__enabled=True)
    trades = {name for name in PERTURBED if vocabulary.MODELS[name].framework == "trades"}
    for settings, expected in (({"size__trades": 0.1}, trades), ({"warmup_epochs": 3}, PERTURBED)):
        other = changed(base, **{f"weight_perturbation__{key}": value for key, value in settings.items()})
        found = {
            name
            for name in vocabulary.MODELS
            if name != vocabulary.TRUNK
            and len({specs.dumps(specs.build(training_stage(name), one, model=name, seed=0)) for one in (base, other)})
            == 2
        }
        assert found == expected


@pytest.mark.parametrize("model", sorted(PERTURBED))
def test_files_of_models_that_a_configuration_no_longer_has_are_of_another_spec(model: str) -> None:
    with_them = changed(weight_perturbation__enabled=True)
    one, other = (specs.build("clean", config, model=model, seed=0) for config in (with_them, CONFIG))
    assert one != other


def test_few_points_of_the_sweep_are_those_of_the_ranking() -> None:
    base = changed(entropy_sweep__points=3)
    assert affected(changed(base, early_state__mode="fixed"), base)["attack_sweep"] == SWEPT


def test_no_job_takes_images_of_both_parts_of_a_race() -> None:
    base = changed(racing__enabled=True, racing__images=1000, attack__images_per_job=960, evaluation__images=3000)
    assert shards.image_ranges(base) == ((0, 959), (960, 999), (1000, 1959), (1960, 2919), (2920, 2999))
    assert shards.race_cut(changed(base, racing__images=5000)) == 3000
    assert shards.race_cut(changed(base, racing__enabled=False)) == 3000


def test_settings_of_the_sweep_have_names_of_their_own() -> None:
    settings = gridpoints.entropy_settings(CONFIG)
    names = [setting.defence for setting in settings]
    assert len(names) == len(set(names)) == 4 * 6
    assert {"restart_only_every2", "entropy_every2_steps0", "entropy_every2_steps10"} <= set(names)
    assert not set(names) & {"plain", "entropy", *defences.CONTROLS}


def test_images_of_trades_go_to_the_other_trades_model() -> None:
    pair = {name: vocabulary.transfers_to(CONFIG, name) for name in vocabulary.DEQS}
    assert pair == {
        "deq_pgd_at_base": None, "deq_pgd_at_random_states": None,
        "deq_trades_base": "deq_trades_random_states", "deq_trades_random_states": "deq_trades_base",
    }  # fmt: skip
    assert vocabulary.transfers_to(changed(attack__transfer=False), "deq_trades_base") is None
    with pytest.raises(ValueError, match="deq_pgd_at_base is none of deq_trades_base, deq_trades_random_states"):
        vocabulary.other_trades("deq_pgd_at_base")


def test_autoattack_is_specified_per_decision() -> None:
    with pytest.raises(UserError, match="defence is None, but must be one of plain, entropy for deq_trades_base"):
        specs.build("autoattack", CONFIG, model="deq_trades_base", seed=0)
    with pytest.raises(UserError, match="defence is 'entropy', but must be one of plain for resnet18_trades"):
        specs.build("autoattack", CONFIG, model="resnet18_trades", seed=0, defence="entropy")


def test_other_jacobian_weights_train_under_the_usual_key() -> None:
    low, usual = (
        specs.build("train_deq", CONFIG, model=model, seed=0)["config"]["jacobian.weight.pgd_at"]
        for model in ("deq_pgd_at_jac_low", "deq_pgd_at_base")
    )
    assert (low, usual) == (0.4, 2.0)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of words that no key may hold
@pytest.mark.parametrize(
    ("key", "value"), list(leaves(CONFIG)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_key_is_noticed_by_tables_unless_it_has_no_influence(key: str, value: object) -> None:
    """Tables state their conditions, so every key counts but for those that say how and where to compute."""
    config = changed(**{key: other(value)})
    no_influence = key.startswith("pathvars__") or key in (
        "device",
        "gpu_request",
        "compile",
        "graphs",
        "evaluation__batch_size",
        "data__root",
    )
    noticed = specs.build_product("table", config) != specs.build_product("table", CONFIG)
    assert noticed != no_influence
    if no_influence:
        assert affected(config) == {}


def test_an_imported_model_is_another_one_by_its_file_its_architecture_and_its_data() -> None:
    model = {"deq_trades_base"}
    base = changed(imported={"deq_trades_base": "file"}, attack__transfer=False)
    ours = (changed(base, imported={"deq_trades_base": "b"}), changed(base, model__groups=4))
    for config in (*ours, changed(base, data__validation=50)):
        assert model <= affected(config, base)["attack_grid"]
    for config in (changed(base, training__epochs=70), changed(base, jacobian__weight__trades=0.0)):
        assert model.isdisjoint(affected(config, base)["attack_grid"])
    assert vocabulary.trained_here(base) == tuple(name for name in vocabulary.DEQS if name not in model)


def test_a_seed_has_its_own_models_and_shares_the_data() -> None:
    first, second = (specs.build("train_deq", CONFIG, model="deq_trades_base", seed=seed) for seed in (0, 1))
    assert first["upstream"] != second["upstream"]
    assert specs.build("data", CONFIG) == specs.build("data", CONFIG, seed=None)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in (*SUITE, "train_own", "attack_own")])
def test_a_raised_revision_reaches_every_stage_below(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = every_job(CONFIG)
    monkeypatch.setitem(STAGES, stage, replace(STAGES[stage], revision=99))
    after = every_job(CONFIG.model_copy())
    stages = {job[0] for job in before if before[job] != after[job]} - ({*RACES} - {stage})
    ranked = {"strongest", "autoattack", "attack_top", "attack_in_loop", "attack_example"}
    trained = {"train", *EVALUATIONS} - {*RACES}
    below = {
        "data": {"data", "pretrain", "time_training", *trained},
        "pretrain": {"pretrain", "time_training", *trained},
        "train_deq": trained - {"attack_pgd"},
        "train_feedforward": {"train", "clean", "attack_pgd", "autoattack"},
        "select": {"select", *ranked},
        "clean": {"clean", "attack_example"},
        "attack_grid": {"attack_grid", *ranked},
        "strongest": {"strongest", "autoattack", "attack_top", "attack_in_loop"},
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
    points = gridpoints.grid_points(CONFIG)
    assert len(points) == len(set(points)) == len({point.name for point in points}) == 144
    assert gridpoints.GridPoint(damping=0.5, state=8, steps=5) in points
    assert list(points) == sorted(points)


def test_the_ready_made_point_is_in_every_grid() -> None:
    points = gridpoints.grid_points(
        changed(attack__grid__states=(2,), attack__grid__steps=(1,), attack__grid__damping=(1.0,))
    )
    assert points == (gridpoints.GridPoint(0.5, 8, 5), gridpoints.GridPoint(1.0, 2, 1))


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
    taken = [state for first, last in shards.state_ranges(config) for state in wanted if first <= state <= last]
    assert taken == wanted
    covered = [image for first, last in shards.image_ranges(config) for image in range(first, last + 1)]
    assert covered == list(range(images))
    assert len(set(shards.shard_names(config))) == len(shards.state_ranges(config)) * len(shards.image_ranges(config))


def test_models_are_the_seven_of_the_tables_two_of_figure_6_and_six_with_perturbed_weights() -> None:
    assert (len(vocabulary.EVALUATED), len(MODELS), len(vocabulary.MODELS)) == (7, 9, 15)
    assert (len(vocabulary.DEQS), len(vocabulary.FEEDFORWARD)) == (4, 2)
    defended = [name for name, model in vocabulary.MODELS.items() if "entropy" in model.defences]
    assert defended == list(vocabulary.EVERY_DEQ)
    assert vocabulary.EVERY_DEQ[:4] == vocabulary.DEQS


@pytest.mark.parametrize("asked", [True, False])
def test_controls_are_those_of_the_models_with_a_defence(asked: bool) -> None:
    entropy = changed(entropy__controls=asked).entropy
    three = ("entropy_zero_steps", "entropy_restart_only", "entropy_one_round")
    expected = {name: three if asked and name in vocabulary.EVERY_DEQ else () for name in vocabulary.MODELS}
    assert {name: model.controls(entropy) for name, model in vocabulary.MODELS.items()} == expected


def suite_jobs(config: Config) -> dict[tuple[str, str, str], str]:
    """The fingerprints of the suite's jobs of the first seed, by stage, model and attacked decision."""
    return {
        (stage, model, defence or ""): specs.fingerprint(
            specs.build(stage, config, model=model, seed=0 if STAGES[stage].seeded else None, defence=defence)
        )
        for stage in SUITE
        for model in STAGES[stage].models or ()
        for defence in STAGES[stage].attacked(config, model) or (None,)
    }


@functools.cache
def suite_jobs_by_default() -> dict[tuple[str, str, str], str]:
    return suite_jobs(CONFIG)


def differing(config: Config) -> set[str]:
    """The stages of the suite that have a job of another spec than by default, of jobs that there are by both."""
    before, after = suite_jobs_by_default(), suite_jobs(config)
    return {job[0] for job in before.keys() & after.keys() if before[job] != after[job]}


MADE = {"attack_suite", "attack_transferred", "attack_ensemble"}
"""What attacks the images of Table 11, and what is shown them."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"suite__mode": "individual"}, MADE),
        ({"suite__iterations": 7}, set(SUITE)),
        ({"suite__queries": 7}, MADE),
        ({"suite__long": (7,)}, MADE),
        ({"suite__radii": (0.0, 1.0)}, {"attack_radius"}),
        ({"suite__radius_images": 7}, {"attack_radius"}),
        ({"suite__images": 7}, set()),
        ({"suite__images_per_job": 7}, set()),
        ({"suite__static": False}, {"attack_transferred", "attack_ensemble"}),
        ({"suite__controls": False}, {"attack_transferred", "attack_ensemble"}),
        ({"seeds": (0, 1)}, {"attack_transferred", "attack_ensemble"}),
        ({"evaluation__images": 9}, set()),
        ({"threat_model__epsilon_255": 4.0}, set(SUITE)),
        ({"autoattack__queries": 7, "attack__grid__states": (1,)}, set()),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_key_changes_the_jobs_of_the_suite_that_depend_on_it(
    settings: Mapping[str, object], expected: set[str]
) -> None:
    found = changed(**settings)
    assert differing(found) == expected
    if all(key.startswith("suite") for key in settings):
        assert affected(found) == {}, "no stage beside the suite's depends on it"


def test_without_a_suite_there_is_no_job_of_it_and_no_other_job_is_another_one() -> None:
    without = config_without_suite()
    assert affected(without) == {}
    for stage in SUITE:
        assert not any(layout.files(stage, without, model, 0) for model in STAGES[stage].models or ())


def config_without_suite() -> Config:
    return CONFIG.model_copy(update={"suite": NoSuiteConfig(enabled=False)})


@pytest.mark.parametrize(
    ("stage", "below"),
    [
        ("select", set(SUITE)),
        ("attack_suite", MADE),
        ("attack_grid", set()),
    ],
)
def test_a_raised_revision_reaches_the_suite_behind_it(
    stage: str, below: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = suite_jobs(CONFIG)
    monkeypatch.setitem(STAGES, stage, replace(STAGES[stage], revision=99))
    after = suite_jobs(CONFIG.model_copy())
    assert {job[0] for job in before if before[job] != after[job]} == below


def test_transferred_images_are_those_of_every_decision_of_every_model_and_seed() -> None:
    config = changed(seeds=(0, 2), protocol="release", entropy__resolve="quasi_newton")
    spec = specs.build("attack_transferred", config, model="resnet18_trades", seed=2)
    assert len(spec["upstream"]) == 1 + 2 * (4 * 6 + 2)
    of_deq = {role for role in spec["upstream"] if role.startswith("deq_trades_base/seed2/")}
    decisions = (
        "plain", "entropy", "entropy_zero_steps", "entropy_restart_only", "entropy_one_round", "longer_solve",
    )  # fmt: skip
    assert of_deq == {f"deq_trades_base/seed2/{name}" for name in decisions}
    restarts = specs.build("attack_suite", config, model="deq_trades_base", seed=2, defence="entropy_restart_only")
    assert spec["upstream"]["deq_trades_base/seed2/entropy_restart_only"] == specs.fingerprint(restarts)
