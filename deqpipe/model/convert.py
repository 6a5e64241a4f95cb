"""Checkpoints of the authors' release, and of the CIFAR models of locuslab/deq, in and out of deqpipe.

Both come as `torch.save` files: a training checkpoint `{"state_dict": ..., "epoch": ..., ...}` or a bare state_dict.
Tensors keep their precision and their bytes in both directions, and reading a file runs no code that it brings along.
"""

import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from deqpipe.config import ModelConfig
from deqpipe.errors import UserError
from deqpipe.model import architecture
from deqpipe.model.release import inference, reader
from deqpipe.model.release.inference import ImportOptions
from deqpipe.model.release.names import Spelling, WeightNormNames, names_of, read_spelling
from deqpipe.model.release.reader import FormName
from deqpipe.results import checkpoint, records
from deqpipe.results.provenance import file_hash, provenance

REVISION = 1  # of what an import writes


@dataclass(frozen=True)
class ImportOrigin:
    """What a file of the release says beside its tensors, so that it can be written again.

    Attributes:
        form: whether it is a training checkpoint or a bare state_dict.
        spelling: of the names.
        epoch: of the training, where that is said.
        perf: accuracy on the images that chose the checkpoint, where that is said.
    """

    form: FormName = "checkpoint"
    spelling: Spelling = field(default_factory=Spelling)
    epoch: int | None = None
    perf: int | float | None = None


def import_checkpoint(source: Path, target: Path, told: ImportOptions) -> list[str]:
    """Write a checkpoint of the release as one of ours; returns lines on what was understood and what was left out.

    Raises:
        UserError: `source` cannot be read or is no MDEQ like ours, or what was told does not fit it.
    """
    _check_apart(source, target)
    contents = reader.read(source)
    with _naming(source):
        tensors, spelling, doubles = read_spelling(contents.state)
        described = inference.describe(tensors, told)
    settings = ModelConfig.model_validate(described["model"])
    ours = {name: tensors[theirs] for theirs, name in names_of(settings).items()}
    model = architecture.assemble(described, ours, dtype=torch.float32, source=str(source))
    origin, left_out = (
        ImportOrigin(contents.form, spelling, contents.epoch, contents.perf),
        [*contents.others, *doubles],
    )
    facts = {"kind": architecture.KIND, "architecture": described, "epoch": origin.epoch}
    made = _provenance(source, told, described) | {"import": {**asdict(origin), "left_out": left_out}}
    checkpoint.write(target, ours, {**facts, "provenance": made})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    line = f"{target}: {_in_words(settings)}, {parameters:,} parameters; read from {_form_in_words(origin, settings)}"
    return [line, f"left out: {', '.join(left_out)}"] if left_out else [line]


def from_release(
    tensors: Mapping[str, torch.Tensor], *, groups: int, image_size: int, classes: tuple[str, ...] | None = None
) -> torch.nn.Module:
    """The MDEQ that tensors of the release's names are the weights of, in evaluation mode and frozen.

    Args:
        tensors: of a checkpoint's state_dict.
        groups: of the GroupNorms in f, which no name or shape tells.
        image_size: height and width of the images.
        classes: their names; None: CIFAR-10's where it can be CIFAR-10, else numbers.

    Raises:
        UserError: it is no MDEQ like ours, or what is told does not fit it.
    """
    renamed, _, _ = read_spelling(tensors)
    told = ImportOptions(groups=groups, image_size=image_size, dropout=0.0, classes=classes, model=None, seed=None)
    described = inference.describe(renamed, told)
    settings = ModelConfig.model_validate(described["model"])
    ours = {name: renamed[theirs] for theirs, name in names_of(settings).items()}
    return architecture.assemble(described, ours, dtype=torch.float32, source="the checkpoint")


def export_checkpoint(source: Path, target: Path, *, form: FormName | None, weight_norm: WeightNormNames | None) -> str:
    """Write one of our checkpoints as the release does; returns a line on what was written.

    Args:
        source: a DEQ that was trained here or imported.
        target: the file of torch.save.
        form: None: that which the model was imported from; of one that was trained here, a training checkpoint.
        weight_norm: how g and v are called; None: as in the file that the model was imported from.

    Raises:
        UserError: `source` is no DEQ of two scales or more.
    """
    _check_apart(source, target)
    stored = architecture.read_model(source)
    settings = _exportable(stored, source)
    origin = _origin(stored, source)
    spelling = replace(origin.spelling, weight_norm=weight_norm or origin.spelling.weight_norm)
    origin = replace(origin, form=form or origin.form, spelling=spelling)
    state = OrderedDict((spelling.of(theirs), stored.tensors[ours]) for theirs, ours in names_of(settings).items())
    around = {"epoch": origin.epoch or 0, "model": "mdeq", "state_dict": state, "perf": origin.perf or 0.0}
    _save(target, around if origin.form == "checkpoint" else state)
    return f"{target}: {_in_words(settings)}, {len(state)} tensors; written as {_form_in_words(origin, settings)}"


def _check_apart(source: Path, target: Path) -> None:
    if source.exists() and target.exists() and source.samefile(target):
        raise UserError(f"{target} is the file that is read: give another name")


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _provenance(source: Path, told: ImportOptions, described: Mapping[str, Any]) -> dict[str, Any]:
    spec = {
        "stage": "import",
        "revision": REVISION,
        "model": told.model,
        "seed": told.seed,
        "config": dict(described),
        "upstream": {"checkpoint": file_hash(source)},
    }
    # No seconds: the same import gives the same file.
    return provenance(spec, device="CPU", inputs={"checkpoint": source}, seconds=0.0)


def _exportable(stored: checkpoint.Checkpoint, source: Path) -> ModelConfig:
    """The settings of a model that the release has, too."""
    described, where = stored.metadata["architecture"], f"checkpoint {source}"
    architecture.assemble(described, stored.tensors, dtype=torch.float32, source=where)
    if described["type"] != "deq":
        raise UserError(f"{where} is a network without states, and the release has none")
    settings = ModelConfig.model_validate(described["model"])
    if len(settings.channels) == 1:
        raise UserError(f"{where} is a DEQ of one scale, which the release does not run as deqpipe does")
    return settings


def _origin(stored: checkpoint.Checkpoint, source: Path) -> ImportOrigin:
    said = stored.metadata["provenance"].get("import", {"epoch": stored.metadata.get("epoch")})
    try:
        return TypeAdapter(ImportOrigin).validate_python(said)
    except ValidationError:
        raise UserError(f"checkpoint {source} does not say in which form it was imported") from None


def _save(target: Path, content: object) -> None:
    buffer = io.BytesIO()  # torch.save would write the temporary file's name into the file
    torch.save(content, buffer)
    with records.atomic(target) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _in_words(settings: ModelConfig) -> str:
    channels = "/".join(map(str, settings.channels))
    norm = "" if settings.weight_norm else ", no weight norm"
    return f"MDEQ, {len(settings.channels)} scales of {channels} channels, {settings.groups} groups{norm}"


def _form_in_words(origin: ImportOrigin, settings: ModelConfig) -> str:
    epoch = "" if origin.epoch is None else f" of epoch {origin.epoch}"
    form = f"a training checkpoint{epoch}" if origin.form == "checkpoint" else "a bare state_dict"
    example = next(name for name in names_of(settings) if name.startswith("fullstage."))
    return f"{form} with names such as {origin.spelling.of(example)}"
