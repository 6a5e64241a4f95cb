"""Checkpoints of the release in and out: every byte comes back, and the models are the same."""

import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torchvision.models import resnet18

from deqpipe.config import ModelConfig
from deqpipe.model import architecture, convert
from deqpipe.model.cell import NormedConv2d
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.release.names import Spelling
from deqpipe.results import checkpoint, records
from deqpipe.results.provenance import file_hash
from deqpipe.workflow import specs, vocabulary
from tests import tiny
from tests.reference import tiny as small
from tests.reference.released import (
    GOLDEN,
    GOLDEN_GROUPS,
    copies_of,
    refused,
    same_bytes,
    state_of,
    tiny_state,
    told,
)
from tests.reference.tiny import CLASSES, images, states, tiny_model
from tests.sampling import one_in
from tests.tiny import Trained

CPU = torch.device("cpu")
BASE = "deq_pgd_at_base"


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "source.pth.tar")
    return folder / "source.pth.tar"


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(GOLDEN / f"{name}.pth.tar", weights_only=True)
    return content


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert same_bytes(found[name], tensor), name


@pytest.mark.parametrize("name", GOLDEN_GROUPS)
def test_checkpoints_of_the_release_come_back_byte_for_byte(tmp_path: Path, name: str) -> None:
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth.tar"
    source = GOLDEN / f"{name}.pth.tar"
    assert tiny.run("import-checkpoint", source, ours, "--groups", GOLDEN_GROUPS[name]) == 0
    assert tiny.run("export-checkpoint", ours, back) == 0
    expected, found = golden(name), torch.load(back, weights_only=True)
    assert_same_tensors(found["state_dict"], expected["state_dict"])
    assert {tensor.dtype for tensor in found["state_dict"].values()} == {torch.float64, torch.int64}
    assert list(found) == ["epoch", "model", "state_dict", "perf"]
    assert (found["epoch"], found["model"], found["perf"]) == (expected["epoch"], "mdeq", float(expected["perf"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", GOLDEN_GROUPS)
def test_imported_checkpoint_is_a_model_in_the_precision_asked_for(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    ours = tmp_path / "ours.safetensors"
    assert tiny.run("import-checkpoint", GOLDEN / f"{name}.pth.tar", ours, "--groups", GOLDEN_GROUPS[name]) == 0
    model = architecture.load_model(ours, CPU, dtype).model
    assert {one.dtype for one in model.state_dict().values() if one.is_floating_point()} == {dtype}
    state = {key.removeprefix("module."): tensor for key, tensor in golden(name)["state_dict"].items()}
    assert torch.equal(model.state_dict()["head.fc.weight"], state["classifier.weight"].to(dtype))
    v = state["fullstage.fuse_layers.1.0.net.0.conv.weight"]
    assert torch.equal(model.state_dict()["cell.fuse.0to1.0.weight"], v.to(dtype))


def test_import_says_what_it_understood(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "ours.safetensors"
    assert tiny.run("import-checkpoint", GOLDEN / "contractive.pth.tar", target, "--groups", 2) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{target}: MDEQ, 2 scales of 6/12 channels, 2 groups, 15,222 parameters; read from a training checkpoint of "
        "epoch 7 with names such as module.fullstage.branches.0.blocks.0.conv1.weight_g",
        "left out: optimizer, lr_scheduler, train_global_steps",
    ]


def test_export_says_what_it_wrote(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state = tiny_state(3, weight_norm=False)
    convert.import_checkpoint(saved(tmp_path, state), tmp_path / "ours.safetensors", told())
    capsys.readouterr()
    assert tiny.run("export-checkpoint", tmp_path / "ours.safetensors", tmp_path / "back.pth") == 0
    assert capsys.readouterr().out == (
        f"{tmp_path / 'back.pth'}: MDEQ, 3 scales of 4/8/12 channels, 4 groups, no weight norm, {len(state)} tensors; "
        "written as a bare state_dict with names such as fullstage.branches.0.blocks.0.conv1.weight\n"
    )


def test_provenance_says_where_an_import_comes_from(tmp_path: Path) -> None:
    source, target = GOLDEN / "rough.pth.tar", tmp_path / "ours.safetensors"
    options = ("--groups", 2, "--model", BASE, "--seed", 3)
    assert tiny.run("import-checkpoint", source, target, *options) == 0
    metadata = checkpoint.read_metadata(target)
    made = metadata["provenance"]
    assert made["spec"] == {
        "stage": "import",
        "revision": convert.REVISION,
        "model": BASE,
        "seed": 3,
        "config": metadata["architecture"],
        "upstream": {"checkpoint": file_hash(source)},
    }
    assert made["inputs"] == {"checkpoint": file_hash(source)}
    assert made["import"] == {
        "form": "checkpoint",
        "spelling": {"prefix": "", "cell": "fullstage.", "weight_norm": "weight_g"},
        "epoch": 7,
        "perf": 0.0,
        "left_out": ["optimizer", "lr_scheduler", "train_global_steps"],
    }
    assert (metadata["kind"], metadata["epoch"]) == (architecture.KIND, 7)
    specs.fingerprint(made["spec"])


def test_both_directions_always_write_the_same_file(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        ours = tmp_path / folder / "ours.safetensors"
        assert tiny.run("import-checkpoint", GOLDEN / "rough.pth.tar", ours, "--groups", 2) == 0
        assert tiny.run("export-checkpoint", ours, tmp_path / folder / f"{folder}.pth.tar") == 0
    assert file_hash(tmp_path / "one" / "ours.safetensors") == file_hash(tmp_path / "two" / "ours.safetensors")
    assert file_hash(tmp_path / "one" / "one.pth.tar") == file_hash(tmp_path / "two" / "two.pth.tar")


SPELLINGS = (
    Spelling(),
    Spelling(prefix="module."),
    Spelling(prefix="model.", weight_norm="parametrizations"),
    Spelling(cell="deq.func."),
    Spelling(prefix="module.", cell="deq.func.", weight_norm="parametrizations"),
)


@pytest.mark.parametrize("form", ["checkpoint", "state_dict"])
@pytest.mark.parametrize("spelling", one_in(2, SPELLINGS), ids=str)
def test_every_form_and_spelling_is_read_and_written_again(tmp_path: Path, spelling: Spelling, form: str) -> None:
    plain = tiny_state(3)
    state = OrderedDict((spelling.of(name), tensor) for name, tensor in plain.items())
    content = {"state_dict": state, "epoch": 4, "perf": 0.5} if form == "checkpoint" else state
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    convert.import_checkpoint(saved(tmp_path, content), ours, told())
    convert.import_checkpoint(saved(tmp_path, plain), tmp_path / "plain.safetensors", told())
    digests = {checkpoint.digest(checkpoint.read(tmp_path / f"{one}.safetensors").tensors) for one in ("ours", "plain")}
    assert len(digests) == 1
    convert.export_checkpoint(ours, back, form=None, weight_norm=None)
    found = torch.load(back, weights_only=True)
    assert_same_tensors(found["state_dict"] if form == "checkpoint" else found, state)
    if form == "checkpoint":
        assert (found["epoch"], found["perf"]) == (4, 0.5)


def test_form_and_spelling_can_be_chosen(tmp_path: Path) -> None:
    plain, ours, back = tiny_state(), tmp_path / "ours.safetensors", tmp_path / "back.pth"
    convert.import_checkpoint(saved(tmp_path, plain), ours, told())
    assert tiny.run("export-checkpoint", ours, back, "--form", "checkpoint", "--names", "parametrizations") == 0
    found = torch.load(back, weights_only=True)
    assert (found["epoch"], found["perf"]) == (0, 0.0)  # the file did not say
    other = Spelling(weight_norm="parametrizations")
    assert_same_tensors(found["state_dict"], {other.of(name): tensor for name, tensor in plain.items()})
    convert.import_checkpoint(back, tmp_path / "again.safetensors", told())
    assert tiny.run("export-checkpoint", tmp_path / "again.safetensors", tmp_path / "bare.pth", "--form", "state_dict",
                    "--names", "weight_g") == 0  # fmt: skip
    assert_same_tensors(torch.load(tmp_path / "bare.pth", weights_only=True), plain)


def test_names_of_torchs_own_weight_norm_are_those_read(tmp_path: Path) -> None:
    convolution = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3, bias=False), dim=0)
    model = tiny_model()
    state = state_of(model)
    prefix = "fullstage.branches.0.blocks.0.conv1."
    g, v = state[f"{prefix}weight_g"], state[f"{prefix}weight_v"]
    spelled = {
        Spelling(weight_norm="parametrizations").of(name).removeprefix(prefix): one for name, one in state.items()
    }
    convolution.double().load_state_dict({name: spelled[name] for name in convolution.state_dict()})
    assert torch.equal(convolution.state_dict()["parametrizations.weight.original0"], g)
    assert torch.equal(convolution.state_dict()["parametrizations.weight.original1"], v)
    ours = model.get_submodule("cell.branches.0.conv1")
    assert isinstance(ours, NormedConv2d)
    torch.testing.assert_close(convolution.weight, ours.effective_weight())


def test_doubles_of_older_code_are_left_out_and_said(tmp_path: Path) -> None:
    model = tiny_model()
    state = state_of(model)
    old = {name.replace("fullstage.", "deq.func."): tensor for name, tensor in state.items()}
    content = {**state, **copies_of(model, state, "fullstage_copy."), **old}
    lines = convert.import_checkpoint(saved(tmp_path, content), tmp_path / "ours.safetensors", told())
    assert len(lines) == 2
    assert lines[1].startswith("left out: fullstage_copy.* (")
    assert "deq.func.* (" in lines[1]
    convert.export_checkpoint(tmp_path / "ours.safetensors", tmp_path / "back", form=None, weight_norm=None)
    assert_same_tensors(torch.load(tmp_path / "back", weights_only=True), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, None])
def test_precision_of_every_tensor_is_kept(tmp_path: Path, dtype: torch.dtype | None) -> None:
    state = tiny_state()
    for number, (name, tensor) in enumerate(state.items()):
        mixed = (torch.float16, torch.float32, torch.float64)[number % 3]
        if tensor.is_floating_point():
            state[name] = tensor.to(mixed if dtype is None else dtype)
    ours = tmp_path / "ours.safetensors"
    convert.import_checkpoint(saved(tmp_path, state), ours, told())
    convert.export_checkpoint(ours, tmp_path / "back", form=None, weight_norm=None)
    assert_same_tensors(torch.load(tmp_path / "back", weights_only=True), state)
    loaded = architecture.load_model(ours, CPU)
    assert {one.dtype for one in loaded.model.parameters()} == {torch.float32}
    assert loaded.weights == checkpoint.digest(checkpoint.read(ours).tensors)


def test_tensors_of_any_layout_come_back(tmp_path: Path) -> None:
    state = tiny_state()
    name = "fullstage.branches.1.blocks.0.conv2.weight_v"
    shared = torch.stack([state[name], state[name]]).transpose(0, 1)
    changed = state | {name: shared[:, 1].contiguous(memory_format=torch.channels_last)}
    convert.import_checkpoint(saved(tmp_path, changed), tmp_path / "ours.safetensors", told())
    convert.export_checkpoint(tmp_path / "ours.safetensors", tmp_path / "back", form=None, weight_norm=None)
    assert_same_tensors(torch.load(tmp_path / "back", weights_only=True), state)


def described_for(model: ModelConfig, *, size: int) -> dict[str, Any]:
    """As an import of it describes a tiny model."""
    classes = tuple(str(number) for number in range(CLASSES))
    return architecture.deq_for(model, image_shape=(3, size, size), classes=classes, dataset="unknown")


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Any]:
    """Of the release: two scales or more, and groups that half of them divide the channels, too."""
    scales, groups = draw(st.integers(2, 5)), draw(st.sampled_from([2, 3, 4, 5, 6]))
    unit = int(np.lcm(groups, groups // 2))
    channels = [unit * draw(st.integers(1, 3)) for _ in range(scales)]
    widths = [draw(st.sampled_from([1, 2, 3, 5, *([c // 4] if c % 4 == 0 else [])])) for c in channels]
    return {
        "channels": channels,
        "head_channels": widths,
        "final_channels": draw(st.integers(1, 9)),
        "groups": groups,
        "expansion": draw(st.integers(1, 3)),
        "weight_norm": draw(st.booleans()),
    }


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(architectures())
def test_every_architecture_is_found_again_and_gives_the_same_logits(drawn: dict[str, Any]) -> None:
    scales = len(drawn["channels"])
    model = tiny_model(scales, size=16, **drawn)
    described = described_for(small.architecture(scales, **drawn), size=16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metadata = {"kind": architecture.KIND, "architecture": described, "provenance": {"spec": {}}, "epoch": 5}
        checkpoint.write(folder / "ours", model.state_dict(), metadata)
        convert.export_checkpoint(folder / "ours", folder / "theirs", form=None, weight_norm=None)
        convert.import_checkpoint(folder / "theirs", folder / "again", told(groups=drawn["groups"], image_size=16))
        stored = checkpoint.read(folder / "again")
        again = architecture.load_model(folder / "again", CPU, torch.float64).model
    assert stored.metadata["architecture"] == described
    assert checkpoint.digest(stored.tensors) == checkpoint.digest(model.state_dict())
    assert isinstance(again, DEQClassifier)
    x, z = images(2, size=16), states(model, 2)
    with torch.no_grad():
        assert torch.equal(again.logits(again.bind(x)(z)), model.logits(model.bind(x)(z)))


def named(folder: Path, trained: Trained, model: str, *options: object) -> Path:
    """A model that was trained here, exported and imported."""
    exported, target = folder / "exported.pth.tar", folder / "imported.safetensors"
    assert tiny.run("export-checkpoint", trained.file(model), exported) == 0
    line = ("--groups", 4, "--image-size", 8, "--classes", ",".join(tiny.CLASSES), "--dropout", 0.2)
    assert tiny.run("import-checkpoint", exported, target, *line, *options) == 0
    return target


def evaluated(trained: Trained, checkpoint_file: Path, verb: str, output: Path, **options: object) -> list[object]:
    stage = {"select-early-state": "select"}.get(verb, verb.replace("-", "_"))
    files = ("--data", trained.data, "--checkpoint", checkpoint_file, "--output", output, "--batch-size", 5)
    options = {"state": output.with_suffix(".state"), **options}
    more = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [verb, "--spec", tiny.spec(stage, model=BASE), *files, *more]


def test_model_trained_here_is_exported_and_comes_back(tmp_path: Path, trained: Trained) -> None:
    for name in (BASE, vocabulary.TRUNK):
        (tmp_path / name).mkdir()
        target = named(tmp_path / name, trained, name)
        before, after = (checkpoint.read(file) for file in (trained.file(name), target))
        assert checkpoint.digest(after.tensors) == checkpoint.digest(before.tensors)
        assert after.metadata["architecture"] == before.metadata["architecture"] | {"dataset": "unknown"}
        assert after.metadata["epoch"] == before.metadata["epoch"]
        content = torch.load(tmp_path / name / "exported.pth.tar", weights_only=True)
        assert (content["model"], content["perf"]) == ("mdeq", 0.0)


@pytest.mark.slow
def test_named_import_is_evaluated_as_the_model_that_it_is(tmp_path: Path, trained: Trained) -> None:
    imported = named(tmp_path, trained, BASE, "--model", BASE, "--seed", 0)
    for number, file in enumerate((trained.file(BASE), imported)):
        assert tiny.run(*evaluated(trained, file, "clean", tmp_path / f"clean{number}")) == 0
        assert tiny.run(*evaluated(trained, file, "select-early-state", tmp_path / f"select{number}")) == 0
        options = {"states": "3-3", "images": "0-3", "state": tmp_path / f"state{number}"}
        assert tiny.run(*evaluated(trained, file, "attack-grid", tmp_path / f"grid{number}", **options)) == 0
    for name in ("clean", "grid"):
        trained_here, came_back = (records.read(tmp_path / f"{name}{number}") for number in (0, 1))
        for column in trained_here.columns:
            np.testing.assert_array_equal(trained_here[column], came_back[column])
        entries = [found.provenance[0] for found in (trained_here, came_back)]
        assert entries[0]["weights"] == entries[1]["weights"]


@pytest.mark.parametrize(
    "options", [(), ("--model", BASE, "--seed", 1), ("--model", vocabulary.TRUNK, "--seed", 0)], ids=str
)
@pytest.mark.parametrize("verb", ["clean", "select-early-state"])
def test_import_of_another_name_or_none_is_not_evaluated(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], verb: str
) -> None:
    imported = named(tmp_path, trained, BASE, *options)
    line = refused(capsys, tmp_path, *evaluated(trained, imported, verb, tmp_path / "out"))
    assert "imported.safetensors" in line
    assert f"the spec is of {BASE} of seed 0" in line


def test_what_the_release_does_not_have_is_not_exported(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(source: Path, *options: object) -> str:
        return refused(capsys, tmp_path, "export-checkpoint", source, tmp_path / "out.pth.tar", *options)

    said = "best.safetensors is a network without states, and the release has none"
    assert said in refusal(trained.file("resnet18_pgd_at"))
    assert "holds no model: its kind is 'handoff'" in refusal(trained.file(vocabulary.TRUNK, "handoff"))
    assert "is cut short, damaged or no safetensors file" in refusal(GOLDEN / "small.pth.tar")
    assert "none does not exist" in refusal(tmp_path / "none")
    assert "invalid choice: 'onnx'" in refusal(trained.file(BASE), "--form", "onnx")
    assert "invalid choice: 'gv'" in refusal(trained.file(BASE), "--names", "gv")
    source = tmp_path / "copy.safetensors"
    source.write_bytes(trained.file(BASE).read_bytes())
    assert "is the file that is read" in refused(capsys, tmp_path, "export-checkpoint", source, source)
    assert "cannot be written" in refused(capsys, tmp_path, "export-checkpoint", source, tmp_path)


def test_model_of_one_scale_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(1).float()
    described = described_for(small.architecture(1), size=8)
    metadata = {"kind": architecture.KIND, "architecture": described, "provenance": {"spec": {}}, "epoch": 5}
    checkpoint.write(tmp_path / "ours", model.state_dict(), metadata)
    line = refused(capsys, tmp_path, "export-checkpoint", tmp_path / "ours", tmp_path / "out")
    assert "is a DEQ of one scale" in line


@pytest.mark.parametrize(
    "said",
    [
        "text",
        {"form": "tar"},
        {"spelling": {"prefix": "../"}},
        {"spelling": {"cell": "f."}},
        {"spelling": {"weight_norm": "gv"}},
        {"epoch": "seven"},
    ],
)
def test_file_that_says_nonsense_of_its_import_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: object
) -> None:
    convert.import_checkpoint(saved(tmp_path, tiny_state()), tmp_path / "ours", told())
    stored = checkpoint.read(tmp_path / "ours")
    made = stored.metadata["provenance"] | {"import": said}
    checkpoint.write(tmp_path / "ours", stored.tensors, {**stored.metadata, "provenance": made})
    line = refused(capsys, tmp_path, "export-checkpoint", tmp_path / "ours", tmp_path / "out")
    assert "ours does not say in which form it was imported" in line


class Touches:
    """Is pickled as a command that makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda folder: {"state_dict": tiny_state(), "perf": Touches(folder / "mark")}, "holds posix.system, but only"),
        (lambda folder: [1], "holds a list, but must hold tensors by name"),
        (lambda folder: {"state_dict": {}}, "its state_dict is empty"),
        (lambda folder: resnet18().state_dict(), "source.pth.tar: no MDEQ: fullstage.branches.0 is missing"),
        (lambda folder: resnet18(), "holds torchvision.models.resnet.ResNet, but only"),
        (lambda folder: tiny_state() | {"x": torch.zeros(1)}, "source.pth.tar: x has no place in the model"),
        (lambda folder: tiny_state() | {"classifier.bias": torch.zeros(6)}, "classifier.bias is [6], but must be [5]"),
        (lambda folder: tiny_state() | {"classifier.bias": torch.full((5,), np.nan)}, "values that are not finite"),
        (lambda folder: tiny_state() | {"module.x": torch.zeros(1)}, "1 of 89 names start with module."),
    ],
)
def test_wrong_file_is_answered_with_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    source = saved(tmp_path, content(tmp_path))
    line = ("import-checkpoint", source, tmp_path / "out.safetensors", "--groups", 4, "--image-size", 8)
    assert message in refused(capsys, tmp_path, *line)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            (),
            "source.pth.tar: --groups: no name or shape tells the number of groups: give one of 2, 4 for 4/8 channels",
        ),
        (("--groups", 8), "source.pth.tar: --groups: is 8, but must be one of 2, 4 for 4/8 channels"),
        (("--groups", 0), "argument --groups: '0' is not a positive whole number"),
        (("--groups", 4, "--image-size", 9), "source.pth.tar: images of 9x9 pixels do not fit a model of 2 scales"),
        (("--groups", 4, "--dropout", 1), "--dropout is 1, but must be at least 0 and less than 1"),
        (("--groups", 4, "--classes", "a,b"), "source.pth.tar: --classes has 2 names, but the model has 5 classes"),
        (("--groups", 4, "--classes", "a,b,c,d,a"), "every class needs a name of its own"),
        (("--groups", 4, "--model", BASE), "--model and --seed name a model together: give both or none"),
        (("--groups", 4, "--model", "resnet18_trades", "--seed", 0), "invalid choice: 'resnet18_trades'"),
        (("--groups", 4, "--seed", -1, "--model", BASE), "--seed is -1, but must be at least 0"),
    ],
)
def test_wrong_options_are_answered_with_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], message: str
) -> None:
    source = saved(tmp_path, tiny_state())
    assert message in refused(capsys, tmp_path, "import-checkpoint", source, tmp_path / "out.safetensors", *options)


def test_target_that_is_the_source_or_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path, tiny_state())
    (tmp_path / "link").symlink_to(source)
    for target, message in ((source, "is the file that is read"), (tmp_path / "link", "is the file that is read"),
                            (tmp_path, "cannot be written")):  # fmt: skip
        assert message in refused(capsys, tmp_path, "import-checkpoint", source, target, "--groups", 4)


def test_what_names_and_shapes_do_not_tell_is_stored_as_told(tmp_path: Path) -> None:
    options = told(groups=2, image_size=16, dropout=0.5, classes=tuple("vwxyz"))
    convert.import_checkpoint(saved(tmp_path, tiny_state()), tmp_path / "ours", options)
    described = checkpoint.read_metadata(tmp_path / "ours")["architecture"]
    assert described["model"]["groups"] == options.groups
    assert described["model"]["dropout"] == options.dropout
    assert described["image_shape"] == [3, 16, 16]
    assert described["classes"] == list("vwxyz")
