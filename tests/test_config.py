"""The configuration: what is accepted, what is refused and how that is told."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from snakemake.utils import update_config

from deqpipe import config, data
from deqpipe.config.paths import IN_RESULTS
from deqpipe.errors import UserError, line
from deqpipe.results import checkpoint
from deqpipe.workflow.stages import STAGES

ROOT = Path(__file__).parents[1]
DEFAULTS = config.read_yaml(ROOT / "config.yaml")
DEMO = config.read_yaml(ROOT / "config" / "demo.yaml")
SCHEMA = config.json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
DIGITS: Mapping[str, object] = {
    "data.source": "digits", "data.validation": 100, "evaluation.images": 360, "pretrain.steps": 105,
    "model.channels": [8, 16], "model.head_channels": [4, 8],
}  # fmt: skip


def nest(settings: Mapping[str, object]) -> dict[str, Any]:
    """Settings with dotted keys as sections."""
    merged: dict[str, Any] = {}
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        assert isinstance(value, dict)
        merged = config.merge(merged, value)
    return merged


def overlaid(settings: Mapping[str, object]) -> dict[str, Any]:
    """The default configuration with some dotted keys changed."""
    return config.merge(DEFAULTS, nest(settings))


def told(action: Callable[[], object]) -> str:
    """The one line of a refusal."""
    with pytest.raises(UserError) as refusal:
        action()
    message = str(refusal.value)
    assert "\n" not in message
    return message


def sections(node: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every section of a configuration."""
    yield prefix
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from sections(value, (*prefix, key))


def keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every dotted key that holds no section, with its value."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_default_is_the_papers_experiment() -> None:
    parsed = config.parse(DEFAULTS)
    assert (parsed.solver.steps, parsed.training.epochs, parsed.pretrain.steps) == (8, 210, 16000)
    assert (parsed.threat_model.epsilon_255, parsed.attack.pgd.steps, parsed.attack.pgd.step_size_255) == (8, 10, 2)
    assert (parsed.entropy.solver_steps, parsed.entropy.input_steps) == (2, 10)
    assert parsed.evaluation.images == 10_000


def test_the_demo_changes_only_keys_that_exist() -> None:
    assert {key for key, _ in keys(DEMO)} <= {key for key, _ in keys(DEFAULTS)}
    config.load([ROOT / "config.yaml", ROOT / "config" / "demo.yaml"])


def test_a_configuration_cannot_be_changed() -> None:
    parsed = config.parse(DEFAULTS)
    with pytest.raises(ValidationError, match="frozen"):
        parsed.solver.__setattr__("steps", 9)


def test_a_resolved_configuration_parses_to_itself() -> None:
    """The workflow writes it down resolved, and tables read it again."""
    parsed = config.parse(overlaid({"seeds": [3, 1]}))
    assert config.parse(json.loads(json.dumps(parsed.model_dump(mode="json")))) == parsed


@pytest.mark.parametrize("path", list(sections(DEFAULTS)), ids=".".join)
def test_unknown_and_missing_keys_are_refused_at_every_level(path: tuple[str, ...]) -> None:
    assert "unknown key " + ".".join((*path, "surprise")) in told(
        lambda: config.parse(overlaid({".".join((*path, "surprise")): 1}))
    )
    section: Any = json.loads(json.dumps(DEFAULTS))
    whole = section
    for part in path:
        section = section[part]
    name = next(key for key in section if key != "protocol")
    del section[name]
    assert ".".join((*path, name)) + " is missing" in told(lambda: config.parse(whole))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training.epoch": 3}, ["unknown key training.epoch", "did you mean epochs?"]),
        ({"protocol": "papers"}, ["protocol is 'papers'", "must be one of paper, release"]),
        ({"protocol": ["paper"]}, ["protocol is ['paper']", "must be one of paper, release"]),
        ({"protocol": {"paper": 1}}, ["protocol is {'paper': 1}", "must be one of paper, release"]),
        ({"seeds": []}, ["seeds", "[]"]),
        ({"autoattack.attacks": ["square", "square"]}, ["autoattack.attacks is ['square', 'square']", "once"]),
        ({"autoattack.attacks": ["pgd"]}, ["autoattack.attacks.0 is 'pgd'", "'apgd_ce'"]),
        (
            {"autoattack.mode": "individual", "autoattack.attacks": ["square"]},
            ["autoattack.attacks is ['square']", "beside square", "the first 1000 of 10000 images"],
        ),
        (
            {"racing.enabled": True, "racing.images": 9, "racing.confidence": 0.5},
            ["racing.confidence is 0.5", "greater than 0.5"],
        ),
        (
            {"protocol": "release", "racing.enabled": True, "racing.images": 1000, "racing.confidence": 0.99},
            ["racing.images is 1000", "a multiple of evaluation.batch_size (96)"],
        ),
        ({"timing.repeats": 2}, ["timing.repeats is 2", "greater than or equal to 3"]),
        ({"entropy_sweep.points": "few"}, ["entropy_sweep.points", "is 'few'", "'all'"]),
        ({"entropy_sweep.input_steps": [1, 1]}, ["entropy_sweep.input_steps is [1, 1]", "once"]),
        ({"seeds": [1, 1]}, ["seeds is [1, 1]", "once"]),
        ({"device": "gpu"}, ["device is 'gpu'", "'cuda'"]),
        ({"threat_model.epsilon_255": "8/255"}, ["threat_model.epsilon_255 is '8/255'", "write 8 for 8/255"]),
        ({"entropy.step_size_255": " 2 / 255. "}, ["entropy.step_size_255", "write 2 for 2 / 255."]),
        ({"threat_model.epsilon_255": 0.03137}, ["threat_model.epsilon_255 is 0.03137", "write 8 for 8/255"]),
        ({"attack.pgd.step_size_255": 0.00784}, ["attack.pgd.step_size_255 is 0.00784", "write 2 for 2/255"]),
        ({"training.attack.step_size_255": 0.01}, ["training.attack.step_size_255 is 0.01", "write 2.55 for 2.55/255"]),
        ({"selection.attack.step_size_255": 0.00392}, ["selection.attack.step_size_255", "write 1 for 1/255"]),
        ({"entropy.step_size_255": 0.00784}, ["entropy.step_size_255 is 0.00784", "write 2 for 2/255"]),
        ({"seeds": 1}, ["seeds is 1, but must be a list, such as [1]"]),
        ({"evaluation.images": "048"}, ["evaluation.images is '048'", "begins with 0: write 48"]),
        ({"evaluation.images": "0o50"}, ["evaluation.images is '0o50'", "begins with 0: write 50, or 40"]),
        ({"training.learning_rate": "1e-3"}, ["training.learning_rate is '1e-3'", "number", "1.0e-3 instead of 1e-3"]),
        ({"training.betas": [0.9, 1.0]}, ["training.betas.1 is 1.0", "less than 1"]),
        ({"pretrain.steps": 0}, ["pretrain.steps is 0", "greater than or equal to 1"]),
        ({"pretrain.steps": 107_310}, ["pretrain.steps is 107310", "1 to 107309", "210 epochs have 107310 steps"]),
        ({"data.validation": 50_000}, ["data.validation is 50000", "1 to 49999", "CIFAR-10 has 50000"]),
        ({"evaluation.images": 10_001}, ["evaluation.images is 10001", "CIFAR-10 has 10000 test images"]),
        ({**DIGITS, "evaluation.images": 361}, ["evaluation.images is 361", "digits has 360 test images"]),
        ({**DIGITS, "data.validation": 1437}, ["data.validation is 1437", "1 to 1436"]),
        (
            {**DIGITS, "model.channels": [8] * 5, "model.head_channels": [4] * 5},
            ["model.channels has 5 scales", "8x8", "allow 4"],
        ),
        ({"model.channels": [8] * 7, "model.head_channels": [4] * 7}, ["has 7 scales", "32x32", "allow 6"]),
        (
            {"training.epochs": 40, "selection.first_epoch": 41},
            ["selection.first_epoch is 41", "training.epochs is 40"],
        ),
        ({**DIGITS, "resnet.training.batch_size": 167}, ["resnet.training.batch_size is 167", "one of 1337", "two"]),
        (
            {**DIGITS, "model.channels": [8] * 4, "model.head_channels": [4] * 4, "training.batch_size": 167},
            ["config: training.batch_size is 167", "one of 1337", "two"],
        ),
        ({**DIGITS, "resnet.training.batch_size": 1}, ["resnet.training.batch_size is 1", "one of 1337"]),
        ({"training.learning_rate": float("nan")}, ["training.learning_rate is nan"]),
        ({"training.epochs": 3.5}, ["training.epochs is 3.5", "integer"]),
        ({"training.epochs": True}, ["training.epochs is True", "integer"]),
        ({"training.epochs": 0}, ["training.epochs is 0", "greater than or equal to 1"]),
        ({"model.weight_norm": 1}, ["model.weight_norm is 1", "boolean"]),
        ({"attack.pgd": 3}, ["attack.pgd is 3"]),
        ({"solver.name": "protocol"}, ["solver.name is 'protocol'", "'broyden'"]),
        ({"attack.defence_in_loop": "bpda"}, ["attack.defence_in_loop is 'bpda'", "'none'"]),
        ({"model.head_channels": [14, 28]}, ["model.head_channels has 2 entries", "4 scales"]),
        ({"model.groups": 1}, ["model.groups is 1", "at least 2"]),
        (
            {"model.groups": 5, "model.channels": [30, 60, 90, 45]},
            ["model.channels has 45, which 2 groups", "groups = 5"],
        ),
        ({"model.channels": [32, 64, 128, 252]}, ["model.channels has 252", "model.groups = 8"]),
        ({"attack.grid.states": [1, 9]}, ["attack.grid.states has 9", "states 1 to 8"]),
        ({"attack.grid.steps": [2, 2]}, ["attack.grid.steps is [2, 2]", "once"]),
        ({"attack.grid.damping": [0.5, 0.5]}, ["attack.grid.damping", "once"]),
        ({"early_state.mode": "fixed", "early_state.index": 9}, ["early_state.index is 9", "states 1 to 8"]),
        ({"training.learning_rate_min": 0.1}, ["training.learning_rate_min is 0.1", "training.learning_rate is 0.001"]),
        ({"jacobian.length_jitter": [1, -2]}, ["jacobian.length_jitter is [1, -2]"]),
        ({"jacobian.length_jitter": [-8, 0]}, ["jacobian.length_jitter is [-8, 0]"]),
        ({"entropy.solver_steps": 9}, ["entropy.solver_steps is 9", "1 to 8", "never be updated"]),
        ({**DIGITS, "solver.steps": 1, "attack.grid.states": [1]}, ["entropy.solver_steps is 2", "must be 1 to 1"]),
        (
            {"entropy.resolve": "quasi_newton", "solver.name": "fixed_point"},
            ["entropy.resolve is quasi_newton", "solver.name is fixed_point", "has none"],
        ),
        ({"protocol": "release", "solver.name": "fixed_point"}, ["entropy.resolve is quasi_newton"]),
        (
            {"protocol": "release", "attack.images_per_job": 1000},
            ["attack.images_per_job is 1000", "solver.scope: batch", "a multiple of evaluation.batch_size (96)"],
        ),
        (
            {"solver.returned": "lowest_batch", "evaluation.batch_size": 7},
            ["attack.images_per_job is 960", "solver.returned: lowest_batch", "evaluation.batch_size (7)"],
        ),
        ({"solver.scope": "image"}, ["solver.scope is 'image'", "'sample' or 'batch'"]),
        ({"solver.returned": "lowest"}, ["solver.returned is 'lowest'", "'last', 'lowest_sample' or 'lowest_batch'"]),
        ({"imported.deq_mart": "file"}, ["imported.deq_mart", "'deq_mart'", "'deq_trades_base'"]),
        ({"imported.deq_trades_base": " "}, ["imported.deq_trades_base is ' '", "must name a file"]),
        ({"imported.deq_trades_base": "<x>"}, ["imported.deq_trades_base is '<x>'", "without any of {}<>"]),
        ({"imported.deq_trades_base": "file", "seeds": [0, 1]}, ["seeds is [0, 1]", "(deq_trades_base)"]),
        ({"pathvars.state": "results"}, ["pathvars", "different folders"]),
        ({"pathvars.state": "./logs/../results/"}, ["pathvars", "different folders"]),
        ({"pathvars.logs": os.path.abspath("results")}, ["pathvars", "different folders"]),
        ({"pathvars.results": ""}, ["pathvars.results is ''", "must name a folder"]),
        ({"pathvars.logs": " "}, ["pathvars.logs is ' '", "must name a folder"]),
        ({"pathvars.results": "c{model}/res"}, ["pathvars.results is 'c{model}/res'", "without any of {}<>"]),
        ({"pathvars.state": "<results>/state"}, ["pathvars.state is '<results>/state'", "without any of {}<>"]),
        ({"pathvars.results": "x/.."}, ["pathvars.results is 'x/..'", "must not be the folder of the workflow"]),
        ({"pathvars.results": ".."}, ["pathvars.results is '..'", "nor one above it"]),
        ({"pathvars.state": "/"}, ["pathvars.state is '/'", "nor one above it"]),
        ({"pathvars.results": "-rf"}, ["pathvars.results is '-rf'", "must not start with -; write ./-rf"]),
        ({"pathvars.results": "~nobody-at-all/out"}, ["there is no user nobody-at-all", "write ./~nobody-at-all/out"]),
        ({"pathvars.results": "a/$UNSET_HERE/x"}, ["pathvars.results is 'a/$UNSET_HERE/x': $UNSET_HERE is not set"]),
        ({"data.root": "${UNSET_HERE}/x"}, ["data.root", "${UNSET_HERE} is not set in the environment"]),
        ({"pathvars.logs": "a\nb"}, ["pathvars.logs is 'a\\nb'", "printable characters only"]),
        ({"pathvars.logs": "a\0b"}, ["pathvars.logs is 'a\\x00b'", "printable characters only"]),
        ({"pathvars.logs": "\udcff"}, ["pathvars.logs is '\\udcff'", "printable characters only"]),
        ({"pathvars.logs": "x" * 300}, ["must name a folder: File name too long"]),
        (
            {"pathvars.logs": ".snakemake/log"},
            ["pathvars.logs is '.snakemake/log'", "must not lie in .git or .snakemake"],
        ),
        (
            {"pathvars.state": "results/models"},
            ["pathvars.state is 'results/models'", "beside what it holds (attacks, "],
        ),
        ({"pathvars.logs": "results/data/logs"}, ["pathvars.logs is 'results/data/logs' within pathvars.results"]),
        ({"pathvars.results": "state/results"}, ["pathvars.results is 'state/results' within pathvars.state"]),
        ({"pathvars.results": __file__}, [f"pathvars.results is {__file__!r}", f"{__file__} is a file"]),
        ({"pathvars.state": f"{__file__}/x"}, ["must name a folder", f"{__file__} is a file"]),
        ({"data.root": "-rf"}, ["data.root is '-rf'", "must not start with -"]),
        ({"data.root": ""}, ["data.root is ''", "must name a folder"]),
        ({"imported.deq_trades_base": "-x"}, ["imported.deq_trades_base is '-x'", "must not start with -"]),
        ({"seeds": [10**26]}, [f"seeds.0 is {10**26}", f"less than or equal to {2**63 - 1}"]),
        ({"attack.grid.steps": [40_000]}, ["attack.grid.steps.0 is 40000", "less than or equal to 1000"]),
        ({"attack.grid.damping": [0.1, 0.10000000001]}, ["0.1 and 0.10000000001 are the same number"]),
        ({"attack.grid.damping": [0.123456, 0.1234561]}, ["0.123456 and 0.1234561 are the same number"]),
        ({"attack.grid.damping": [0.50000001]}, ["0.5 and 0.50000001 are the same number", "the ready-made attack"]),
        ({"attack.grid.damping": [1.0e-5]}, ["attack.grid.damping.0 is 1e-05", "greater than or equal to 0.0001"]),
        ({"attack.pgd.step_size_255": 0}, ["attack.pgd.step_size_255 is 0", "greater than or equal to 0.000001"]),
        ({"entropy.step_size_255": 0.0}, ["entropy.step_size_255 is 0.0", "greater than or equal to 0.000001"]),
        ({"threat_model.epsilon_255": float("nan")}, ["threat_model.epsilon_255 is nan"]),
        ({"training.learning_rate": 1.0e39}, ["training.learning_rate is 1e+39", "less than or equal to 1000"]),
        ({"training.weight_decay": 1.0e39}, ["training.weight_decay is 1e+39", "less than or equal to 1000000"]),
        ({"training.learning_rate": 1.0e-300}, ["training.learning_rate is 1e-300", "greater than or equal to"]),
        ({"model.expansion": 10**9}, ["model.expansion is 1000000000", "less than or equal to 1000"]),
        ({"model.final_channels": 10**9}, ["model.final_channels is 1000000000", "less than or equal to 65536"]),
        ({"model.channels": [8000] * 4}, ["model has more than 23,041,938,048 weights, but may have 1,000,000,000"]),
        ({"model.head_channels": [14, 28, 10_000, 10_000]}, ["model has more than", "model.head_channels"]),
        ({"resnet.layers": [2, 2, 2, 10**6]}, ["resnet.layers.3 is 1000000", "less than or equal to 200"]),
        ({"pretrain.layers": 10**9}, ["pretrain.layers is 1000000000", "less than or equal to 1000"]),
        ({"entropy.input_steps": 10**9}, ["entropy.input_steps is 1000000000", "less than or equal to 1000"]),
        ({"training.epochs": 10**9}, ["training.epochs is 1000000000", "less than or equal to 100000"]),
        ({"seeds": list(range(101))}, ["seeds is [0, 1, ", "should have at most 100 items"]),
        ({"timing.batch_size": 10**6}, ["timing.batch_size is 1000000", "less than or equal to 100000"]),
        ({"resnet.training.factor": 10}, ["resnet.training.factor is 10", "less than or equal to 1"]),
        ({"statistics.confidence": 1.0e-9}, ["statistics.confidence is 1e-09", "greater than or equal to 0.5"]),
        ({"resnet.training.milestones": [1, 1, 1]}, ["resnet.training.milestones is [1, 1, 1]", "must ascend"]),
        ({"resnet.training.milestones": [5, 3]}, ["resnet.training.milestones is [5, 3]", "must ascend"]),
        (
            {"entropy_sweep.solver_steps": [1, 2, 3, 4, 5, 6, 7, 8], "entropy_sweep.input_steps": list(range(1, 12))},
            ["entropy_sweep has 104 settings", "at most 100"],
        ),
        (
            {"attack.grid.steps": list(range(1, 900)), "attack.grid.damping": [0.1, 0.2]},
            ["attack.grid has 14384 points", "at most 10000"],
        ),
        (
            {"attack.images_per_job": 1, "attack.states_per_job": 4},
            ["attack.images_per_job makes 20000 jobs", "at most 5000"],
        ),
        ({"autoattack.images_per_job": 1}, ["autoattack.images_per_job makes 10000 jobs", "at most 5000"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_told_with_what_was_allowed(settings: Mapping[str, object], words: list[str]) -> None:
    message = told(lambda: config.parse(overlaid(settings)))
    assert [word for word in words if word not in message] == [], message


def test_only_text_that_is_a_number_gets_a_hint_about_numbers() -> None:
    for value in ("8/255", "nan", True, None):
        assert "YAML wants" not in told(partial(config.parse, overlaid({"training.learning_rate": value})))


def test_what_just_fits_the_images_is_accepted() -> None:
    config.parse(overlaid({"data.validation": 20_000, "evaluation.images": 10_000}))
    config.parse(overlaid({"pretrain.steps": 107_309, "selection.first_epoch": 210}))
    config.parse(overlaid({"model.channels": [8] * 6, "model.head_channels": [4] * 6}))
    config.parse(overlaid({**DIGITS, "model.channels": [8] * 4, "model.head_channels": [4] * 4}))
    config.parse(overlaid({**DIGITS, "training.batch_size": 167}))  # 4x4 pixels are left
    config.parse(overlaid({"resnet.training.batch_size": 48_999}))  # 4x4 pixels are left
    config.parse(overlaid({"pathvars.results": "out", "pathvars.logs": "out/logs", "pathvars.state": "out/state"}))


def test_what_is_unusual_but_sensible_is_accepted() -> None:
    config.parse(overlaid({"attack.grid.damping": [0.3333333333333333, 0.1, 1]}))
    config.parse(overlaid({"seeds": [2**63 - 1], "threat_model.epsilon_255": 0, "resnet.training.milestones": []}))
    config.parse(overlaid({"pathvars.results": "./-rf", "pathvars.state": "sta-te", "pathvars.logs": "log ü ~"}))
    config.parse(overlaid({"training.learning_rate": 30, "training.weight_decay": 1, "model.expansion": 20}))


def test_folders_are_known_behind_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "there").symlink_to("results/models")
    (tmp_path / "above").symlink_to("..")
    for key, link, words in (
        ("pathvars.results", "here", "must not be the folder of the workflow"),
        ("pathvars.logs", "above", "nor one above it"),
        ("pathvars.state", "there", "is 'there' within pathvars.results"),
        ("imported.deq_trades_base", "there/x", "must not lie where the workflow writes its models"),
    ):
        assert words in told(partial(config.parse, overlaid({key: link})))


def test_folders_within_the_results_lie_beside_all_that_is_written_there() -> None:
    written = {stage.path.split("/")[0] for stage in STAGES.values()}
    reported = {"report.html", "overview.png", "overview.svg", "results.json"}
    assert written | {"config.yaml", "tables", "figures"} | reported == IN_RESULTS


def test_of_an_image_folder_nothing_is_known_beforehand() -> None:
    settings = {"data.source": "folder", "data.validation": 70_000, "evaluation.images": 10**6}
    config.parse(
        overlaid({**settings, "pretrain.steps": 10**7, "model.channels": [8] * 7, "model.head_channels": [4] * 7})
    )


def test_what_is_known_of_a_source_is_what_it_holds() -> None:
    dataset, known = data.prepare("digits", Path("unused"), validation=100), config.KNOWN_IMAGES["digits"]
    assert dataset.name == known.name
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (known.train, known.test)
    assert dataset.image_shape == (1, known.size, known.size)


def test_several_mistakes_are_counted() -> None:
    assert told(lambda: config.parse(overlaid({"seeds": [], "device": "gpu"}))).endswith("(and 1 more)")


def test_protocol_may_stand_exactly_where_a_protocol_has_a_say() -> None:
    for values in config.PROTOCOLS.values():
        config.parse(overlaid(dict.fromkeys(values, "protocol")))
    for key, _ in keys(DEFAULTS):
        if key not in config.PROTOCOLS["paper"] and not key.startswith(("pathvars.", "data.root")):
            settings = {key: "protocol"}
            assert key in told(partial(config.parse, overlaid(settings)))


def test_a_protocol_says_what_a_key_is_unless_the_key_says_it_itself() -> None:
    assert config.parse(overlaid({"training.epochs": "protocol"})).training.epochs == 210
    assert config.parse(overlaid({"training.epochs": 70})).training.epochs == 70
    assert config.parse(overlaid({"protocol": "release", "training.epochs": 70})).training.epochs == 70
    assert config.parse(overlaid({"protocol": "release"})).training.epochs == 220


# Where the paper's text and its authors' code differ, written out by hand: key, paper, release.
TABLE: Mapping[str, tuple[object, object]] = {
    "solver.returned": ("last", "lowest_batch"),
    "solver.tolerance": (0.0, 1.0e-3),
    "solver.scope": ("sample", "batch"),  # ours: over what the tolerance's norm and the lowest residuals are taken
    "training.unroll.lead_step": (False, True),
    "attack.unroll.lead_step": (False, True),
    "evaluation.final_unroll_steps": (5, 9),
    "evaluation.batch_size": (192, 96),  # in paper any number will do
    "training.epochs": (210, 220),
    "training.learning_rate_min": (0.0, 1.0e-6),
    "random_state.pick": ("iterate", "prefix_lowest"),
    "random_state.natural": ("final", "independent"),
    "selection.split": ("validation", "test"),
    "selection.first_epoch": (1, 30),
    "selection.attack_random_state": (False, True),
    "selection.freeze_fooled": (False, True),  # ours
    "early_state.mode": ("select", "last"),
    "attack.pgd.clamp_start": (True, False),
    "autoattack.mode": ("standard", "individual"),
    "autoattack.keep": ("best_loss", "success"),
    "autoattack.restarts": (1, 5),
    "entropy.resolve": ("alg1", "quasi_newton"),
    "entropy.last_update": ("resolve", "dead"),
    "entropy.state": ("last", "lowest"),
    "entropy.final_input": ("updated", "original"),
}
NAMES = ("paper", "release")
DEMO_SETS = {"training.epochs", "selection.first_epoch", "evaluation.batch_size"}


def resolved(settings: Mapping[str, Any]) -> dict[str, object]:
    """Every dotted key of the parsed configuration with its value."""
    return dict(keys(config.parse(settings).model_dump(mode="json")))


def demo(settings: Mapping[str, object]) -> dict[str, Any]:
    """The demo's configuration with some dotted keys changed."""
    return config.merge(config.merge(DEFAULTS, DEMO), nest(settings))


def test_release_sets_the_table_and_nothing_else() -> None:
    paper, release = (resolved(overlaid({"protocol": name})) for name in NAMES)
    assert {key: (paper[key], release[key]) for key in paper if paper[key] != release[key]} == {
        "protocol": NAMES,
        **TABLE,
    }


def test_the_protocols_speak_of_the_same_keys() -> None:
    for index, name in enumerate(NAMES):
        assert dict(config.PROTOCOLS[name]) == {key: values[index] for key, values in TABLE.items()}
    assert set(config.PROTOCOLS) == set(NAMES)


def test_the_demo_runs_under_either_protocol(tmp_path: Path) -> None:
    overlay = tmp_path / "release.yaml"
    overlay.write_text("protocol: release\n")
    files = [ROOT / "config.yaml", ROOT / "config" / "demo.yaml"]
    paper, release = config.load(files), config.load([*files, overlay])
    here, there = (dict(keys(parsed.model_dump(mode="json"))) for parsed in (paper, release))
    changed = {key for key in here if here[key] != there[key]}
    assert changed == {"protocol", *TABLE} - DEMO_SETS
    assert {key: there[key] for key in changed - {"protocol"}} == {
        key: values[1] for key, values in TABLE.items() if key not in DEMO_SETS
    }


# What cannot be set alone, and the words of the reason.
REFUSED: Mapping[tuple[str, str, str], str] = {
    ("demo", "paper", "selection.first_epoch"): "is 30, but training.epochs is 11: no epoch would be tried",
}


@pytest.mark.parametrize("key", TABLE)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base", ["config.yaml", "demo"])
def test_any_key_of_a_protocol_can_be_set_alone(base: str, name: str, key: str) -> None:
    others = TABLE[key][1 - NAMES.index(name)]
    lay = overlaid if base == "config.yaml" else demo
    before, settings = resolved(lay({"protocol": name})), lay({"protocol": name, key: others})
    VALIDATOR.validate(settings)
    if (base, name, key) in REFUSED:
        assert REFUSED[base, name, key] in told(lambda: config.parse(settings))
        return
    assert resolved(settings) == before | {key: others}


def test_only_batches_of_images_that_meet_must_not_be_cut() -> None:
    cut = {"evaluation.batch_size": 7}
    for alone in ({}, {"solver.returned": "lowest_sample", "solver.tolerance": 1.0e-3}):
        config.parse(overlaid({**cut, **alone}))
    for coupling in ({"solver.scope": "batch"}, {"solver.returned": "lowest_batch"}):
        assert "may not cut batches" in told(partial(config.parse, overlaid({**cut, **coupling})))
        config.parse(overlaid({**coupling, "evaluation.batch_size": 7, "attack.images_per_job": 14}))
        config.parse(overlaid({**coupling, "evaluation.batch_size": 7, "attack.images_per_job": 10_000}))  # one job


@pytest.mark.parametrize(
    ("scope", "returned", "coupled"),
    [
        ("sample", "last", False),
        ("sample", "lowest_sample", False),
        ("sample", "lowest_batch", True),
        ("batch", "last", True),
        ("batch", "lowest_sample", True),
    ],
)
def test_images_are_coupled_by_norms_over_the_batch(scope: str, returned: str, coupled: bool) -> None:
    parsed = config.parse(overlaid({"solver.scope": scope, "solver.returned": returned}))
    assert parsed.couples_images == coupled


def test_what_just_fits_the_solver_is_accepted() -> None:
    config.parse(overlaid({"entropy.solver_steps": 8}))
    config.parse(overlaid({"entropy.resolve": "quasi_newton", "solver.name": "anderson", "solver.memory": 2}))
    config.parse(overlaid({"entropy.resolve": "alg1", "solver.name": "fixed_point"}))


nested = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), nested), st.dictionaries(st.sampled_from("abc"), nested))
def test_overlays_are_laid_as_snakemake_lays_them(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    merged = config.merge(base, overlay)
    update_config(base, overlay)
    assert merged == base


@pytest.mark.parametrize(
    ("overlay", "path", "left"),
    [
        ({"data.source": "digits"}, "data", {"source": "digits", "validation": 1000, "augment": "crop_flip"}),
        ({"data.source": "folder"}, "data.root", "data/cifar10"),
        ({"training.gradient.name": "exact"}, "training.gradient", {"name": "exact"}),
        ({"early_state.mode": "fixed"}, "early_state", {"mode": "fixed"}),
        ({"racing.images": 3}, "racing", {"enabled": False, "images": 3}),
        ({"solver.name": "nothing"}, "solver.steps", 8),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_another_variant_takes_along_only_what_it_has_as_well(
    overlay: Mapping[str, object], path: str, left: object
) -> None:
    node: Any = overlaid(overlay)
    for part in path.split("."):
        node = node[part]
    assert node == left


def test_keys_of_a_variant_are_gone_once_another_overlay_chooses_another_one(tmp_path: Path) -> None:
    texts = ("solver: {name: anderson, memory: 3}", "solver: {name: broyden}", "solver: {name: anderson}")
    files = [ROOT / "config.yaml", *(tmp_path / f"{number}.yaml" for number in range(3))]
    for file, text in zip(files[1:], texts, strict=True):
        file.write_text(text)
    assert config.load(files[:2]).solver.model_dump()["memory"] == 3
    assert "memory" not in config.load(files[:3]).solver.model_dump()
    assert "solver.memory is missing, which solver.name: anderson needs" in told(lambda: config.load(files))


def test_a_mode_left_to_the_protocol_takes_no_key_of_another_along() -> None:
    fixed = overlaid({"early_state.mode": "fixed", "early_state.index": 3})
    assert config.parse(config.merge(fixed, nest({"early_state.mode": "protocol"}))).early_state.mode == "select"


def test_settings_that_others_laid_over_each_other_keep_no_key_of_another_variant() -> None:
    merged: dict[str, Any] = {}
    for layer in (DEFAULTS, nest({**DIGITS, "training.gradient.name": "exact", "training.gradient.steps": 3})):
        update_config(merged, layer)
    assert merged["data"]["root"] == "data/cifar10"
    parsed = config.parse(config.fitted(merged))
    assert (parsed.data.source, parsed.training.gradient.name) == ("digits", "exact")


def test_settings_nested_within_themselves_are_refused_in_one_line(tmp_path: Path) -> None:
    loop, deep = tmp_path / "loop.yaml", tmp_path / "deep.yaml"
    loop.write_text("data: &a {b: *a}")
    deep.write_text("data: " + "{a: " * 2000 + "1" + "}" * 2000)
    for file in (loop, deep):
        assert "nested too deeply" in told(partial(config.load, [ROOT / "config.yaml", file]))


def test_a_file_in_json_has_json_numbers_and_every_key_once(tmp_path: Path) -> None:
    file = tmp_path / "overlay.json"
    file.write_text('{"training": {"learning_rate": 2e-3}}')
    assert config.load([ROOT / "config.yaml", file]).training.learning_rate == 0.002
    file.write_text('{"solver": {"steps": 8, "steps": 8}}')
    assert "key steps stands twice" in told(lambda: config.read_yaml(file))
    file.write_text("__use_yte__: true")
    assert "must be plain YAML" in told(lambda: config.read_yaml(file))


def test_laying_over_changes_neither_side() -> None:
    before = json.dumps(DEFAULTS)
    overlay = {"data": {"source": "digits"}, "solver": {"steps": 3}}
    merged = config.merge(DEFAULTS, overlay)
    assert (json.dumps(DEFAULTS), overlay) == (before, {"data": {"source": "digits"}, "solver": {"steps": 3}})
    assert merged["data"] is not DEFAULTS["data"]


PERTURBED: Mapping[str, object] = {
    "weight_perturbation.enabled": True,
    "weight_perturbation.size.pgd_at": 0.01,
    "weight_perturbation.size.trades": 0.005,
    "weight_perturbation.warmup_epochs": 0,
}
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "data.source": ("digits", "cifar10", "folder"),
    "solver.name": ("broyden", "anderson", "fixed_point"),
    "training.gradient.name": ("phantom", "exact"),
    "early_state.mode": ("select", "last", "fixed"),
    "racing.enabled": ("false", "true"),
    "weight_perturbation.enabled": ("false", "true"),
    "suite.enabled": ("false", "true"),
}


def test_every_variant_is_told_apart_by_one_key() -> None:
    assert {
        f"{path}.{variants.tag}": tuple(map(config.shown, variants.sections))
        for path, variants in config.all_variants().items()
    } == VARIANTS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {**DIGITS, "data.root": "here"},
            "data.root belongs to data.source: cifar10 or folder, but data.source is digits",
        ),
        ({"solver.memory": 3}, "solver.memory belongs to solver.name: anderson, but solver.name is broyden"),
        (
            {"training.gradient.steps": 3},
            "training.gradient.steps belongs to training.gradient.name: exact, but training.gradient.name is phantom",
        ),
        (
            {"early_state.index": 3},
            "early_state.index belongs to early_state.mode: fixed, but early_state.mode is select",
        ),
        ({"racing.images": 3}, "racing.images belongs to racing.enabled: true, but racing.enabled is false"),
        ({"solver.name": "anderson"}, "solver.memory is missing, which solver.name: anderson needs"),
        ({"early_state.mode": "fixed"}, "early_state.index is missing, which early_state.mode: fixed needs"),
        (
            {"racing.enabled": True},
            "racing.images is missing, which racing.enabled: true needs (and 1 more)",
        ),
        ({"solver.name": 3}, "solver.name is 3: input should be 'broyden', 'anderson' or 'fixed_point'"),
        ({"solver.stpes": 3}, "unknown key solver.stpes; did you mean steps?"),
        ({"training.gradient.damping": 3}, "unknown key training.gradient.damping; allowed here: name, steps"),
        ({"solver.steps": 0}, "solver.steps is 0: input should be greater than or equal to 1"),
        ({"solver.memry": 3}, "unknown key solver.memry; did you mean memory?"),
        ({"solver": 3}, "solver is 3, but must hold keys and values"),
        ({"training": None}, "training is None, but must hold keys and values"),
        ({"racing.enabled": "true"}, "racing.enabled is 'true': input should be false or true"),
        ({"racing.enabled": 1}, "racing.enabled is 1: input should be a boolean"),
        ({"racing.enabled": 0.0}, "racing.enabled is 0.0: input should be a boolean"),
        (
            {"weight_perturbation.warmup_epochs": 3},
            "weight_perturbation.warmup_epochs belongs to weight_perturbation.enabled: true, but "
            "weight_perturbation.enabled is false",
        ),
        (
            {"weight_perturbation.enabled": True, "weight_perturbation.warmup_epochs": 3},
            "weight_perturbation.size is missing, which weight_perturbation.enabled: true needs",
        ),
        (
            {**PERTURBED, "weight_perturbation.size.trades": 0.0},
            "weight_perturbation.size.trades is 0.0: input should be greater than or equal to 0.000001",
        ),
        (
            {**PERTURBED, "weight_perturbation.size.pgd_at": 1.5},
            "weight_perturbation.size.pgd_at is 1.5: input should be less than or equal to 1",
        ),
        (
            {**PERTURBED, "weight_perturbation.warmup_epochs": -1},
            "weight_perturbation.warmup_epochs is -1: input should be greater than or equal to 0",
        ),
        ({"entropy_sweep.points": "few"}, "entropy_sweep.points is 'few': input should be 'all'"),
        ({"sol\nver": 3}, "unknown key 'sol\\nver'; did you mean solver?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_of_variants_are_refused_by_their_names(settings: Mapping[str, object], message: str) -> None:
    assert told(lambda: config.parse(overlaid(settings))) == f"config: {message}"


def test_a_section_without_the_key_that_chooses_is_refused() -> None:
    without = {**DEFAULTS, "solver": {key: value for key, value in DEFAULTS["solver"].items() if key != "name"}}
    assert told(lambda: config.parse(without)) == "config: solver.name is missing"


@pytest.mark.parametrize(
    ("settings", "now"),
    [
        ({"solver.anderson_memory": 5}, "called solver.memory now, and belongs to solver.name: anderson"),
        (
            {"training.implicit_steps": 7},
            "called training.gradient.steps now, and belongs to training.gradient.name: exact",
        ),
        (
            {"training.gradient": "exact"},
            "'exact', but holds keys now: training.gradient.name is what was training.gradient",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_old_key_is_refused_with_its_name_of_today(settings: Mapping[str, object], now: str) -> None:
    (key,) = settings
    assert told(lambda: config.parse(overlaid(settings))) == f"config: {key} is {now}"


HUGE = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 8)
)
"""Some lines of YAML that stand for ten million numbers."""


def test_files_that_cannot_be_read_are_told_in_one_line(tmp_path: Path) -> None:
    assert "absent.yaml does not exist" in told(lambda: config.load([tmp_path / "absent.yaml"]))
    for text, words in (
        (b"a: [1", "is not YAML"),
        (b"- a", "holds a list"),
        (b"", "holds nothing"),
        (b"a: \xff", "is no text in UTF-8, but has byte 0xff in line 1"),
        (b"a: 2026-13-45", "cannot be read"),
        (b"? [1]\n: 2", "is not YAML"),
        (b"a: 1\nb: {c: 1, d: 2, c: 3}", "key c stands twice"),
        (b"a: 1\n'a': 1", "key a stands twice"),
        (b"a: 0100", "wrong.yaml has 0100 in line 1, which is read as 64: write 64, or 100 if that is meant"),
        (b"\n\na: [-010]", "has -010 in line 3, which is read as -8: write -8, or 10 if that is meant"),
        (b"a: 1:30", "has 1:30 in line 1, which is read as 90: write 90"),
        (b"a: 1:30.5", "has 1:30.5 in line 1, which is read as 90.5: write 90.5"),
        (b"a: " + b"9" * 5001, "has a number of 5001 digits in line 1: 99999999999999999999..."),
        (b"a: 0x" + b"f" * 5000, "has a number of 5002 digits"),
        (b"\ta: 1", "is not YAML"),
        ("a: é".encode("latin-1"), "is no text in UTF-8"),
        ("a: 1".encode("utf-16"), "but in UTF-16: save it as UTF-8"),
        (b"a: " + b"[" * 100_000, "is nested too deeply, or within itself"),
        (b"a: &a [*a]", "is nested too deeply, or within itself"),
        (b"#" * 1_000_001, "has more than 1,000,000 characters"),
        (HUGE.encode(), "holds more than 100,000 values, once aliases are replaced"),
    ):
        (tmp_path / "wrong.yaml").write_bytes(text)
        assert words in told(lambda: config.load([tmp_path / "wrong.yaml"])), text
    assert "has more than 1,000,000 characters" in told(lambda: config.load([Path("/dev/zero")]))
    assert "cannot be read" in told(lambda: config.load([tmp_path]))
    assert "cannot be read" in told(lambda: config.load([tmp_path / "wrong.yaml" / "below"]))


def test_numbers_that_look_as_they_are_read_are_read(tmp_path: Path) -> None:
    (tmp_path / "right.yaml").write_text("[0, 00, 10, -7, 1_000, 0x1F, 0b11, 1.50, 1.0e-3, .inf]".join(["a: ", ""]))
    assert config.read_yaml(tmp_path / "right.yaml")["a"] == [0, 0, 10, -7, 1000, 31, 3, 1.5, 0.001, float("inf")]


@pytest.mark.parametrize("value", ["x" * 100_000, [1.5] * 2_000, [[[[["x" * 99] * 9]] * 9] * 9] * 9], ids=type)
def test_long_values_are_cut_in_messages(value: object) -> None:
    for key in ("device", "protocol", "pathvars.logs", "seeds", "solver.name", "data.source"):
        message = line(told(partial(config.parse, overlaid({key: value}))))
        assert key in message
        assert len(message) < 2_200


def test_a_key_may_stand_in_several_sections_and_be_merged(tmp_path: Path) -> None:
    (tmp_path / "right.yaml").write_text("a: &x {c: 1}\nb: {<<: *x, c: 2}\nc: 3")
    assert config.read_yaml(tmp_path / "right.yaml") == {"a": {"c": 1}, "b": {"c": 2}, "c": 3}


def test_an_image_folder_must_have_classes_in_both_splits(tmp_path: Path) -> None:
    parsed = config.parse(overlaid({"data.source": "folder", "data.root": str(tmp_path)}))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    assert f"no class folders in {tmp_path / 'test'}" in told(lambda: config.check_image_folder(parsed))
    (tmp_path / "test" / "cat").mkdir()
    assert "data.validation is 1000, but" in told(lambda: config.check_image_folder(parsed))


def test_an_image_folder_must_have_the_images_that_are_asked_for(tmp_path: Path) -> None:
    asked = {"data.source": "folder", "data.root": str(tmp_path), "data.validation": 3, "evaluation.images": 4}
    parsed = config.parse(overlaid(asked))
    for split, count in (("train", 3), ("test", 3)):
        for number in range(count):
            (tmp_path / split / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
            (tmp_path / split / f"class{number % 2}" / f"{number}.png").touch()
    (tmp_path / "test" / "class0" / ".hidden").touch()
    wanted = f"data.validation is 3, but {tmp_path}/train has 3 images: at least 4 are needed"
    assert wanted in told(lambda: config.check_image_folder(parsed))
    (tmp_path / "train" / "class0" / "3.png").touch()
    wanted = f"evaluation.images is 4, but {tmp_path}/test has 3 images: at least 4 are needed"
    assert wanted in told(lambda: config.check_image_folder(parsed))
    (tmp_path / "test" / "class1" / "3.png").touch()
    config.check_image_folder(parsed)


def test_a_prepared_dataset_must_have_the_images_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "dataset.safetensors"
    data.save(path, data.prepare("digits", tmp_path, validation=9), provenance={})
    folder = {"data.source": "folder", "data.root": str(tmp_path)}
    config.check_prepared_images(config.parse(overlaid({**folder, "evaluation.images": 360})), path)
    many = config.parse(overlaid({**folder, "evaluation.images": 361}))
    assert f"evaluation.images is 361, but {path} has 360 test images" in told(
        lambda: config.check_prepared_images(many, path)
    )
    path.write_bytes(b"something else")
    config.check_prepared_images(many, path)  # told by whoever reads it


def test_imported_models_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    both = {"imported.deq_trades_base": str(tmp_path / "one"), "imported.deq_pgd_at_base": str(tmp_path / "two")}
    parsed = config.parse(overlaid(both))
    assert f"imported.deq_pgd_at_base is '{tmp_path}/two'" in told(lambda: config.check_imported_files(parsed))
    (tmp_path / "two").touch()
    config.check_imported_files(parsed)


def test_a_prepared_dataset_says_by_which_spec_it_was_made(tmp_path: Path) -> None:
    path, spec = tmp_path / "dataset.safetensors", {"stage": "data", "config": {"data.root": "here"}}
    assert config.prepared_by(path) is None
    data.save(path, data.prepare("digits", tmp_path, validation=9), provenance={"spec": spec})
    assert config.prepared_by(path) == spec
    for content in (b"", path.read_bytes()[:50], b"something else"):
        path.write_bytes(content)
        assert config.prepared_by(path) is None
    checkpoint.write(path, {}, {"kind": "dataset"})
    assert config.prepared_by(path) is None


def test_sources_that_bring_their_images_need_no_folder() -> None:
    config.check_image_folder(config.parse(overlaid({"data.root": "nowhere"})))


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_accepts_the_defaults_resolved_or_not(name: str) -> None:
    """Resolved as the workflow writes them down."""
    settings = overlaid({"protocol": name})
    VALIDATOR.validate(settings)
    VALIDATOR.validate(config.parse(settings).model_dump(mode="json"))


def choices(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | bool]]:
    """Every dotted key of a part of the schema that lists words, with each of them."""
    for name, below in node["properties"].items():
        for option in map(followed, below.get("anyOf", below.get("oneOf", [below]))):
            if "properties" in option:
                yield from choices(option, f"{prefix}{name}.")
            for word in option.get("enum", [option["const"]] if "const" in option else []):
                yield prefix + name, word


def followed(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a part of the schema is, or refers to."""
    found: Mapping[str, Any] = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
    return found


def test_the_parser_accepts_every_word_of_the_schema() -> None:
    listed = list(choices(SCHEMA))
    assert {("random_state.natural", "shared"), ("solver.returned", "lowest_sample"), ("protocol", "release")} <= set(
        listed
    )
    assert {(key, value) for key, values in TABLE.items() for value in values if isinstance(value, str)} <= set(listed)
    needed: Mapping[tuple[str, str | bool], Mapping[str, object]] = {
        ("racing.enabled", True): {"racing.images": 1, "racing.confidence": 0.9},
        ("weight_perturbation.enabled", True): PERTURBED,
        ("data.source", "digits"): DIGITS,
        ("solver.name", "anderson"): {"solver.memory": 2},
        ("training.gradient.name", "exact"): {"training.gradient.steps": 7},
        ("early_state.mode", "fixed"): {"early_state.index": 1},
    }
    for key, word in listed:
        config.parse(overlaid({key: word, **needed.get((key, word), {})}))


@pytest.mark.parametrize(
    "settings",
    [{"surprise": 1}, {"attack.grid.surprise": 1}, {"training.epochs": "many"}, {"solver.name": "protocol"}],
    ids=",".join,
)
def test_the_schema_refuses_what_the_parser_refuses(settings: Mapping[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(overlaid(settings))


def test_the_schema_allows_protocol_exactly_where_a_protocol_has_a_say() -> None:
    VALIDATOR.check_schema(SCHEMA)
    for key, _ in keys(DEFAULTS):
        allowed = key in config.PROTOCOLS["paper"] or key.startswith(("pathvars.", "data.root"))
        assert VALIDATOR.is_valid(overlaid({key: "protocol"})) == allowed, key


def test_groups_may_be_odd_where_half_of_them_rounded_down_fit() -> None:
    """As in the authors' code."""
    model = {**DEFAULTS["model"], "groups": 3, "channels": [30, 60, 90, 120]}
    assert config.parse({**DEFAULTS, "model": model}).model.groups == 3


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"threat_model.epsilon_255": 0.5}, "the smallest radius that is published"),
        ({"threat_model.epsilon_255": 0}, "no attack"),
        ({"attack.pgd.step_size_255": 0.02, "attack.pgd.steps": 1000}, "small steps that reach the radius"),
        ({"entropy.step_size_255": 0.01, "entropy.step": "raw"}, "a gradient's own scale"),
        ({"entropy.step_size_255": 0.01, "entropy.input_steps": 0}, "no steps"),
    ],
)
def test_small_radii_and_steps_that_are_meant_are_taken(settings: Mapping[str, object], key: str) -> None:
    config.parse(overlaid(settings))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("./out", "out"), ("out/", "out"), (".//out/./x//", "out/x"), ("out/../x", "out/../x"), ("./-rf", "./-rf"),
        ("./~/x", "./~/x"), ("log ~", "log ~"), ("~/out", "/home/of/mine/out"), ("$WHERE/x", "/scratch/x"),
        ("${WHERE}/x/", "/scratch/x"), ("5$", "5$"),
    ],
)  # fmt: skip
def test_a_folder_has_one_name_however_it_is_written(written: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    monkeypatch.setenv("WHERE", "/scratch")
    parsed = config.parse(overlaid({"pathvars.state": written, "data.root": written}))
    assert parsed.data.source == "cifar10"
    assert (parsed.pathvars.state, parsed.data.root) == (meant, meant)
    assert config.parse(parsed.model_dump(mode="json")) == parsed


def test_the_protocol_of_a_resolved_configuration_cannot_be_changed(tmp_path: Path) -> None:
    resolved, release = tmp_path / "resolved.yaml", tmp_path / "release.yaml"
    resolved.write_text(json.dumps(config.parse(DEFAULTS).model_dump(mode="json")))
    release.write_text("protocol: release")
    words = f"protocol is release, but {resolved} is resolved: it holds the values of protocol paper"
    for files in ([resolved, release], [ROOT / "config.yaml", resolved, release]):
        assert words in told(partial(config.load, files))
    assert words in told(lambda: config.load([resolved], protocol="release"))
    assert words in told(lambda: config.read([resolved], over={"protocol": "release"}))
    assert config.load([resolved], protocol="paper") == config.load([resolved])
    whole = [ROOT / "config.yaml", ROOT / "config" / "demo.yaml"]
    assert config.load([*whole, release]) == config.load(whole, protocol="release")


def test_an_overlay_alone_says_what_must_lie_underneath() -> None:
    message = told(lambda: config.load([ROOT / "config" / "demo.yaml"]))
    assert "protocol, seeds, device and " in message
    assert "an overlay, which names only what differs. config.yaml of the workflow's folder" in message
    lacking = {key: value for key, value in DEFAULTS.items() if key != "gpu_request"}
    assert told(lambda: config.parse(lacking)) == "config: gpu_request is missing"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\na: 2\n", "is not YAML: key a stands twice in line 2, column 1"),
        (b"data:\n\tvalidation: 90\n", "is not YAML: there is a tab in line 2, where YAML takes spaces only"),
        (b"# good\n# caf\xe9\n", "is no text in UTF-8, but has byte 0xe9 in line 2: save it as UTF-8"),
        ("a: 1".encode("utf-16"), "is no text in UTF-8, but in UTF-16: save it as UTF-8"),
        (b"# nothing yet\n", "holds nothing, but must hold keys and values"),
        (b"- a\n", "holds a list, but must hold keys and values"),
        (b"a: 0100\n", "has 0100 in line 1, which is read as 64: write 64, or 100 if that is meant"),
    ],
)
def test_a_file_that_is_no_overlay_is_told_by_its_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert told(lambda: config.load([path])) == f"config file {path} {words}"


def test_leaves_are_dotted_and_a_mapping_within_sections_is_a_value() -> None:
    assert list(config.leaves({"a": {"b": 1, "c": {}}, "d": [2]})) == [("a.b", 1), ("a.c", {}), ("d", [2])]
    parsed = config.parse(DEFAULTS)
    leaves = dict(config.leaves(parsed))
    assert leaves["statistics.confidence"] == parsed.statistics.confidence
    assert leaves["imported"] == parsed.imported
