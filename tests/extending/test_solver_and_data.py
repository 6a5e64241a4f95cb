"""A solver and a data source of one's own: keys, specs, and what they compute."""

from pathlib import Path

import pytest
import torch

from deqpipe import build, config, extending
from deqpipe.config import Config
from deqpipe.data import prepare
from deqpipe.errors import UserError
from deqpipe.settings import Settings
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.solve import reach
from deqpipe.workflow import layout, specs
from tests import tiny

HERE = Path(__file__).parent
SOLVER, DATA = str(HERE / "solver.py"), str(HERE / "data.py")


def damped(**keys: object) -> Config:
    """The tiny experiment with the solver."""
    section = {"name": "damped_anderson", "memory": 3, "mixing": 0.5} | keys
    return tiny.settings({"extensions": [SOLVER], "solver": section})


def test_its_keys_are_those_of_its_dataclass() -> None:
    told = damped().model_dump(mode="json")["solver"]
    assert told["memory"] == 3
    assert told["mixing"] == 0.5
    assert told["steps"] == 4
    assert config.parse(damped().model_dump(mode="json")) == damped()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"mixing": "much"}, "solver.mixing is 'much': input should be a valid number"),
        ({"mixing": 0.5, "damping": 1}, "unknown key solver.damping"),
        ({"name": "undamped"}, "solver.name is 'undamped': input should be 'broyden', 'anderson'"),
    ],
)
def test_a_wrong_key_is_refused_by_its_name(keys: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as refused:
        damped(**keys)
    assert told in str(refused.value)


def test_without_damping_it_is_the_method_that_it_is_derived_from() -> None:
    target = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = {}
    for mixing in (1.0, 0.5):
        settings = Settings(specs.pick(damped(mixing=mixing).model_dump(mode="json"), "solver"))
        dynamics = build.plain_dynamics(settings)
        states[mixing] = reach(
            dynamics.solver,
            lambda z: target + 0.3 * z.sin(),
            torch.zeros_like(target),
            termination=dynamics.termination,
        )
    plain = reach(
        Anderson(memory=3), lambda z: target + 0.3 * z.sin(), torch.zeros_like(target), termination=dynamics.termination
    )
    assert torch.allclose(states[1.0], plain, rtol=0, atol=1e-14)
    assert not torch.allclose(states[0.5], plain)


def test_the_file_of_a_solver_decides_what_is_solved_and_of_images_everything() -> None:
    both = tiny.settings(
        {"extensions": [SOLVER, DATA], "solver": {"name": "damped_anderson", "memory": 3, "mixing": 0.5}}
        | {"data": {"source": "shapes", "validation": 9}}
    )
    names = layout.asked_for(both)
    told = {name: specs.of_job(job, both).get("extensions", {}) for name in names if (job := layout.job_of(name, both))}
    assert set(told["data/dataset.safetensors"]) == {DATA}
    assert not told["models/deq_pretrain/seed0/best.safetensors"]
    assert set(told["models/deq_trades_base/seed0/best.safetensors"]) == {SOLVER}
    assert not told["models/resnet18_trades/seed0/best.safetensors"]


def test_its_images_are_split_as_all_are() -> None:
    extending.activate([DATA])
    dataset = prepare("shapes", None, validation=9)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (51, 9, 24)
    assert dataset.classes == ("square", "cross", "bar")


def test_images_that_are_not_as_the_file_says_are_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text((HERE / "data.py").read_text().replace("test=TEST", "test=TEST + 1"))
    extending.activate([str(wrong)])
    with pytest.raises(
        UserError,
        match=r"^extension .*wrong\.py, line 27: data source shapes: test images are torch.uint8 of",
    ):
        prepare("shapes", None, validation=9)


def test_what_are_no_images_at_all_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text((HERE / "data.py").read_text().replace("return images[:TRAIN]", "return list(map(str, images))"))
    extending.activate([str(wrong)])
    with pytest.raises(
        UserError, match=r"^extension .*wrong\.py, line 27: data source shapes: prepare gives what is no"
    ):
        prepare("shapes", None, validation=9)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x = Solver('s', 'S', build=dict)", "solver s: build is <class 'dict'>, but must be a dataclass"),
        (
            "import dataclasses as d\n@d.dataclass(frozen=True)\nclass A:\n    pass\nx = Solver('s', 'S', build=A)",
            "line 6: solver s: A lacks init, propose, step",
        ),
    ],
)
def test_a_solver_that_lacks_something_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"from deqpipe.extending import Solver\n{content}\n")
    with pytest.raises(UserError) as refused:
        extending.activate([str(path)])
    assert told in str(refused.value)
