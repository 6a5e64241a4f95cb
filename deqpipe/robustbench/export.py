"""`deqpipe export-robustbench`: the folder of a hand-in, whole or not at all."""

import argparse
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deqpipe.api import Model, WhichState, load, settings_of
from deqpipe.config import ThreatModelConfig
from deqpipe.errors import UserError
from deqpipe.model.architecture import Loaded, load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.interface import FixedPointModel
from deqpipe.results import records
from deqpipe.robustbench import contents
from deqpipe.robustbench.contents import DATASETS, Claim, Subject
from deqpipe.robustbench.decision import Decision, decision_of, refuse_without_gradient
from deqpipe.robustbench.standalone import reproduce
from deqpipe.settings import Settings
from deqpipe.workflow.defences import PLAIN, DefenceName

ISSUE = "new-model.md"


@dataclass(frozen=True)
class Measurement:
    """How the accuracies are measured.

    Attributes:
        images: how many, the first of the test set.
        data: where they are; see `reproduce.images_of`.
        batch_size: images at once.
        device: where it is computed.
    """

    images: int
    data: Path
    batch_size: int
    device: str


def export(
    checkpoint: Path,
    folder: Path,
    claim: Claim,
    *,
    configuration: Path | None = None,
    state: WhichState | None = None,
    defence: DefenceName = PLAIN.name,
    measurement: Measurement | None = None,
) -> Iterator[str]:
    """Write a hand-in; yields lines on what was written.

    Args:
        checkpoint: a DEQ or a network without states.
        folder: to be made.
        claim: what the checkpoint does not say.
        configuration: as for `deqpipe.api.load`.
        state: that decides, counted from 1, or "final"; None: the early state that was chosen.
        defence: whose decision; others than the undefended one are refused.
        measurement: None: model_info stays without accuracies.

    Raises:
        UserError: the decision is none that RobustBench takes, the folder exists, or the images are not there.
    """
    if folder.exists() or folder.is_symlink():
        raise UserError(f"folder {folder} exists: name a new one")
    loaded, settings = load_model(checkpoint, torch.device("cpu")), settings_of(checkpoint, configuration=configuration)
    if configuration is None:
        _refuse_other_training(loaded, settings, checkpoint)
    decision = _decision(loaded, checkpoint, configuration, state, defence)
    subject, tensors = _subject(loaded, settings, decision), contents.weights(loaded.model)
    refuse_without_gradient(_network(subject, claim.name, tensors), tuple(loaded.architecture["image_shape"]))
    with _new_folder(folder) as staged:
        _write(staged, subject, claim, tensors)
        if measurement is not None:
            _measure(staged, measurement)
        info = _info(staged)
        (staged / ISSUE).write_text(contents.issue(info, claim.name), encoding="utf-8")
    yield from _lines(folder, subject, info)


def _refuse_other_training(loaded: Loaded, settings: Settings, checkpoint: Path) -> None:
    """Refuse settings that nobody chose, and that are not those of the training."""
    trained = loaded.provenance["spec"].get("config", {})
    for key in ("solver", "threat_model"):
        if key in trained and trained[key] != settings[key]:
            raise UserError(
                f"checkpoint {checkpoint} was trained with {key} {_plain(trained[key])}, but would be exported with "
                f"{_plain(settings[key])}: name the run's config.yaml with --configuration"
            )


def _plain(section: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in section.items())


def _decision(
    loaded: Loaded, checkpoint: Path, configuration: Path | None, state: WhichState | None, defence: DefenceName
) -> Decision | None:
    if isinstance(loaded.model, DEQClassifier):
        model = load(checkpoint, configuration=configuration)
        return decision_of(model.settings, state=_state(model, state, checkpoint), defence=defence)
    if isinstance(loaded.model, FixedPointModel):
        raise UserError(f"checkpoint {checkpoint} is a model of a user's file, and the exported module holds none")
    if state is not None or defence != PLAIN.name:
        raise UserError(f"checkpoint {checkpoint} is a network without states: it has neither --state nor --defence")
    return None


def _state(model: Model, state: WhichState | None, checkpoint: Path) -> WhichState:
    chosen = model.early_states.get(PLAIN.name) if state is None else state
    if chosen is None:
        raise UserError(f"no early state of {checkpoint} is known: give --state, from 1 on or final")
    return chosen


def _subject(loaded: Loaded, settings: Settings, decision: Decision | None) -> Subject:
    imported = "import" in loaded.provenance
    return Subject(
        architecture=loaded.architecture,
        decision=decision,
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        origin="Converted from a checkpoint of the authors' code" if imported else "Trained anew with deqpipe",
        epsilon_255=settings.section("threat_model", ThreatModelConfig).epsilon_255,
    )


def _network(subject: Subject, name: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network as the exported file makes it."""
    names: dict[str, Any] = {"__name__": contents.class_name(name)}
    exec(compile(contents.source(subject, name), f"{name}.py", "exec"), names)  # what we have just written
    network: nn.Module = names[contents.class_name(name)]()
    network.load_state_dict(tensors, strict=True)
    return network.eval().requires_grad_(False)


def _write(folder: Path, subject: Subject, claim: Claim, tensors: Mapping[str, Tensor]) -> None:
    (folder / f"{claim.name}.py").write_text(contents.source(subject, claim.name), encoding="utf-8")
    (folder / "reproduce.py").write_text(contents.reproduce(), encoding="utf-8")
    buffer = io.BytesIO()  # torch.save does not say what the operating system refused
    torch.save(tensors, buffer)
    (folder / f"{claim.name}.pt").write_bytes(buffer.getbuffer())
    file = folder / "model_info" / subject.dataset / "Linf" / f"{claim.name}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(contents.model_info(subject, claim), indent=2) + "\n", encoding="utf-8")


def _measure(folder: Path, how: Measurement) -> None:
    """As the script itself would: the same code, the exported files."""
    options = argparse.Namespace(
        images=how.images, data=how.data, device=how.device, batch_size=how.batch_size,
        attacks=",".join(reproduce.STANDARD),
    )  # fmt: skip
    try:
        reproduce.write(folder, reproduce.counted(folder, options), device=how.device)
    except reproduce.Missing as error:
        raise UserError(str(error)) from None
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # of the module that was measured


def _info(folder: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(reproduce.model_info_of(folder).read_text(encoding="utf-8"))
    return info


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """As `records.atomic_folder`; where the block fails, folders that were made to hold it are removed as well."""
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        with records.atomic_folder(folder) as staged:
            yield staged
    except BaseException:
        with suppress(OSError):  # somebody else has put something there
            for parent in made:
                parent.rmdir()
        raise


def _lines(folder: Path, subject: Subject, info: Mapping[str, Any]) -> Iterator[str]:
    yield f"{folder}: {subject.in_words}, {info['dataset']}, eps {info['eps']}"
    if subject.decision is not None:
        yield f"decides at {subject.decision.in_words}, f evaluated {subject.decision.evaluations} times"
    if info["clean_acc"] is None:
        yield "not measured: clean_acc and autoattack_acc are null until `python reproduce.py --write` puts them there"
    else:
        yield f"clean_acc {info['clean_acc']}, autoattack_acc {info['autoattack_acc']}"
    if subject.dataset not in DATASETS.values():
        yield f"a rehearsal: RobustBench has no leaderboard for {subject.dataset}"
