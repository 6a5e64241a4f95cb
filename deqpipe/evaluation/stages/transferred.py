"""The job that judges all images of the suite, whatever model, seed and decision they were made against, on one model.

A piece is one file of saved images: what the suite made of a part of the images against one decision. A decision is
not asked again about what was made against itself. In standard mode it is asked about the images alone that it was
still right on after its own suite; in individual mode about all that it is right on when clean.

Where the solver couples the images of a batch, batches are whole: images without a change stand in as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqpipe.errors import UserError
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob
from deqpipe.evaluation.resumable import Part, Piece, PieceResult, run_pieces
from deqpipe.evaluation.scoring import Columns, joined
from deqpipe.evaluation.suite_target import OF_TRANSFER, SuiteTarget, evaluated_for, targets_of
from deqpipe.results import records, saved_images
from deqpipe.results.saved_images import Saved
from deqpipe.workflow import specs
from deqpipe.workflow.defences import DefenceName
from deqpipe.workflow.stages import role_of_suite
from deqpipe.workflow.suite_attacks import CONTROLS
from deqpipe.workflow.vocabulary import MODELS

CLEAN = "clean"


@dataclass(frozen=True)
class Origin:
    """Whose saved images a file has.

    Attributes:
        model: that they were made against.
        seed: of it.
        defence: the decision.
    """

    model: str
    seed: int
    defence: DefenceName

    @property
    def role(self) -> str:
        """In the spec."""
        return role_of_suite(self.model, self.seed, self.defence)

    @property
    def piece(self) -> str:
        """The name of its piece."""
        return self.role.replace("/", "_")


def attack_transferred(
    job: EvaluationJob, part: Part, select: Path | None, saved: Sequence[Path], own: Sequence[Path]
) -> int:
    """Judge the saved images on every decision of a model; returns the exit status.

    Args:
        job: the call.
        part: which images.
        select: the states at which decisions are taken; networks without states have none.
        saved: the images of every decision that the spec names, of all seeds.
        own: the records of this model's and seed's decisions.
    """
    decisions = tuple(job.spec.get("decisions", MODELS[job.spec["model"]].defences))
    evaluated = evaluated_for(job, decisions, part.images)
    sources = sources_of(saved, job.spec)
    targets = targets_of(evaluated, decisions, select)
    transfer = Transfer(evaluated, targets, _open(job.spec, targets, own), part)
    pieces: dict[str, Piece] = {
        origin.piece: partial(transfer.judged, origin, path) for origin, path in sources.items()
    }
    return run_pieces(evaluated, part, pieces, piece_spec=job.spec)


def sources_of(saved: Sequence[Path], spec: Mapping[str, Any]) -> dict[Origin, Path]:
    """The files of saved images, of whom the spec wants each once.

    Args:
        saved: the files.
        spec: of the job that judges them.

    Raises:
        UserError: one is missing, stands twice, or was made by another spec.
    """
    found: dict[Origin, Path] = {}
    for path in saved:
        told = saved_images.provenance_of(path)["spec"]
        origin = Origin(str(told.get("model")), int(told.get("seed", -1)), str(told.get("defence")))
        if spec["upstream"].get(origin.role) != specs.fingerprint(told):
            raise UserError(f"saved images {path} were made by another spec than the ones that this job depends on")
        if origin in found:
            raise UserError(f"saved images {path} are of the same decision as {found[origin]}")
        found[origin] = path
    roles = {origin.role: origin for origin in found}
    wanted = [role for role in spec["upstream"] if role.partition("/")[0] not in ("model", "select")]
    if lacking := [role for role in wanted if role not in roles]:
        raise UserError(f"--saved has {len(found)} of {len(wanted)} files: those of {', '.join(lacking)} are missing")
    return {roles[role]: found[roles[role]] for role in sorted(wanted)}


def _open(
    spec: Mapping[str, Any], targets: Mapping[DefenceName, SuiteTarget], own: Sequence[Path]
) -> dict[DefenceName, np.ndarray]:
    """The images that each decision is asked about.

    Raises:
        UserError: the records of one are missing, or were made by another spec.
    """
    open_: dict[DefenceName, np.ndarray] = {}
    for path in own:
        rows = records.read(path, ("image", "label", "attack", "predicted"))
        told = rows.provenance[0]["spec"]
        defence = str(told.get("defence"))
        role = role_of_suite(spec["model"], spec["seed"], defence)
        if spec["upstream"].get(role) != specs.fingerprint(told):
            raise UserError(f"records {path} were made by another spec than the ones that this job depends on")
        counts = rows["attack"] == CLEAN if spec["config"]["suite.mode"] == "individual" else ~_is_noise(rows["attack"])
        wrong = counts & targets[defence].errs(rows["predicted"], rows["label"])
        open_[defence] = np.setdiff1d(rows["image"], rows["image"][wrong])
    if lacking := [name for name in targets if name not in open_]:
        raise UserError(f"--own lacks the records of the decision {', '.join(lacking)}")
    return open_


@dataclass(frozen=True)
class Transfer:
    """Images of others, judged on the decisions of a model.

    Attributes:
        evaluated: the model.
        targets: its decisions.
        open: the images that each is asked about.
        part: the images of the job.
    """

    evaluated: EvaluatedModel
    targets: Mapping[DefenceName, SuiteTarget]
    open: Mapping[DefenceName, np.ndarray]
    part: Part

    def judged(self, origin: Origin, path: Path) -> PieceResult:
        """What all decisions make of what one file has.

        Args:
            origin: whose images they are.
            path: of the file.
        """
        attacks, _ = saved_images.read(path)
        seed = self.evaluated.job.spec.get("seed", -1)  # an ensemble has none of its own
        parts = [
            rows
            for name, target in self.targets.items()
            if origin != Origin(self.evaluated.name, seed, name)
            for rows in self._rows(target, self.open[name], origin, attacks)
        ]
        nothing = next(iter(self.targets.values())).no_rows(OF_TRANSFER)
        return PieceResult(joined(parts) if parts else nothing)

    def _rows(
        self, target: SuiteTarget, open_: np.ndarray, origin: Origin, attacks: Mapping[str, Saved]
    ) -> list[Columns]:
        before, found = self.evaluated.evaluations, []
        for shown in self._shown(attacks, open_, coupled=target.victim.couples_images):
            x, y = target.load(shown.images.tolist())
            of = (origin.model, origin.seed, origin.defence)
            rows = target.transferred_rows(shown.attack, shown.images, x, y, x + shown.delta.to(x.device), of=of)
            found.append({name: column[shown.counted] for name, column in rows.items()})
        judged, spent = sum(len(rows["image"]) for rows in found), self.evaluated.evaluations - before
        per_step = spent.total / judged if judged and self.evaluated.evaluates_f else np.nan
        return [rows | {"per_step": np.full(len(rows["image"]), per_step)} for rows in found]

    def _shown(self, attacks: Mapping[str, Saved], open_: np.ndarray, *, coupled: bool) -> list["_Shown"]:
        """What is judged at once."""
        kept = {
            attack: made.part(torch.from_numpy(np.isin(made.image.numpy(), open_)))
            for attack, made in attacks.items()
            if attack not in CONTROLS
        }
        size = self.evaluated.batch_size
        if coupled:
            batches = [self.part.images[first : first + size] for first in range(0, len(self.part.images), size)]
            return [_whole(attack, made, batch) for attack, made in kept.items() for batch in batches]
        every = [_Shown.of(attack, made) for attack, made in kept.items() if len(made.image)]
        return _Shown.joined(every).cut(size) if every else []


@dataclass(frozen=True, eq=False)
class _Shown:
    """Attacked images that are judged at once.

    Attributes:
        attack: that made each.
        images: indices.
        delta: their changes.
        counted: which of them have a row.
    """

    attack: np.ndarray
    images: np.ndarray
    delta: Tensor
    counted: np.ndarray

    @classmethod
    def of(cls, attack: str, made: Saved) -> "_Shown":
        """All of an attack's."""
        count = len(made.image)
        return cls(np.full(count, attack, dtype=object), made.image.numpy(), made.delta, np.ones(count, bool))

    @classmethod
    def joined(cls, parts: Sequence["_Shown"]) -> "_Shown":
        """All of several."""
        attack, images, counted = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("attack", "images", "counted")
        )
        return cls(attack, images, torch.cat([part.delta for part in parts]), counted)

    def cut(self, size: int) -> list["_Shown"]:
        """So many at once."""
        parts = [slice(first, first + size) for first in range(0, len(self.images), size)]
        return [_Shown(self.attack[one], self.images[one], self.delta[one], self.counted[one]) for one in parts]


def _whole(attack: str, made: Saved, batch: range) -> _Shown:
    """A whole batch; those without a change are as they are."""
    delta = torch.zeros(len(batch), *made.delta.shape[1:])
    mine = torch.from_numpy(np.isin(made.image.numpy(), list(batch)))
    delta[(made.image[mine] - batch.start).long()] = made.delta[mine]
    images = np.array(batch)
    return _Shown(np.full(len(batch), attack, dtype=object), images, delta, np.isin(images, made.image[mine].numpy()))


def _is_noise(attack: np.ndarray) -> np.ndarray:
    return np.isin(attack.astype(str), CONTROLS)
