"""The jobs that run AutoAttack's attacks: all of them on one decision (Table 1), two of them at many points (Table 4).

The library attacks logits with a gradient: an ordinary network, or the surrogate at a point of the grid. What counts is
the true decision, the class at the early state. With `keep: best_loss` it is shown the image of highest loss, and where
it withstands that one the image that fools the logits, if there is one. In standard mode an image leaves when the true
decision errs.

A piece is one attack on one batch: `autoattack.batch_size` of the images that are left, in order. Where the solver
couples the images of a batch, logits and decision are those of the images that the library's batch is left with at a
time, and `evaluation.batch_size` has no say. The library draws one random stream per batch; its seed is keyed by the
job's seed, the attack, the part's first image and the batch's number: a job started again draws the same numbers. One
that leaves in the middle of a piece keeps what the attack was told (`attack.transcript`), and goes on there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqpipe.attack.autoattack import Crafted, Flags, LibraryAttacks, check, check_square, runnable
from deqpipe.attack.transcript import LogitsOf
from deqpipe.config import AttackName
from deqpipe.errors import UserError
from deqpipe.evaluation.batching import Batching
from deqpipe.evaluation.chosen_points import strongest_points
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import check_range, load_test_images
from deqpipe.evaluation.judge import Judge, Judgement, at
from deqpipe.evaluation.resumable import Part, Piece, PieceResult, file_of, run_pieces, unfinished
from deqpipe.evaluation.scoring import Columns, joined, no_rows, record_rows
from deqpipe.evaluation.transcripts import transcript
from deqpipe.machine.device import upload
from deqpipe.results import records
from deqpipe.solver.base import where_images
from deqpipe.workflow import gridpoints, vocabulary
from deqpipe.workflow.defences import ENTROPY, DefenceName, defence_of
from deqpipe.workflow.library_attacks import APGD_CE, LIBRARY_ATTACKS, SQUARE

PURPOSE = "autoattack"


def autoattack(job: EvaluationJob, part: Part) -> int:
    """All attacks on one decision, at the strongest point against it; returns the exit status."""
    evaluated = _load(job)
    check_range(evaluated, part.images)
    target, mode = _target(evaluated, _defence_of(job.spec)), evaluated.settings["autoattack.mode"]
    asked = tuple(evaluated.settings["autoattack.attacks"])
    able = runnable(asked, classes=len(evaluated.dataset.classes))
    targets = evaluated.settings["autoattack.targets"]
    sequence = AttackSequence(target, part, able, _strength(evaluated, targets=targets), sequential=mode == "standard")
    clean: dict[str, Piece] = {"clean": sequence.clean}
    checks: dict[str, Piece] = {"checks": partial(sequence.checked, asked)}
    return run_pieces(
        evaluated, part, clean | sequence.pieces() | checks, piece_spec=job.spec, batching=_batching(evaluated)
    )


def attack_top(job: EvaluationJob, part: Part) -> int:
    """APGD-CE and Square on the defended decision at the strongest points of damping 0.5; returns the exit status."""
    evaluated = _load(job)
    check_range(evaluated, part.images)
    first, ranked = _target(evaluated, ENTROPY.name), strongest_points(evaluated)
    points = [point for point in ranked.points(ENTROPY.name) if point.damping == gridpoints.FINAL_DAMPING]
    if not points:
        raise UserError(f"{evaluated.job.strongest} ranks no point of damping {gridpoints.FINAL_DAMPING}")
    pieces: dict[str, Piece] = {}
    for point in points[: evaluated.settings["autoattack.top_points"]]:
        target, strength = replace(first, point=point), _strength(evaluated, targets=1)
        pieces |= AttackSequence(target, part, (APGD_CE.name, SQUARE.name), strength, sequential=False).pieces()
    return run_pieces(evaluated, part, pieces, piece_spec=job.spec, batching=_batching(evaluated))


def _load(job: EvaluationJob) -> EvaluatedModel:
    """The model, f as it is called: batches shrink from attack to attack, and each size would be compiled anew."""
    return load_evaluated_model(replace(job, ways=replace(job.ways, compiled=False)))


def _batching(evaluated: EvaluatedModel) -> Batching:
    """The library's batches, which are part of its results."""
    return Batching(evaluated.settings["autoattack.batch_size"], key="autoattack.batch_size")


def _strength(evaluated: EvaluatedModel, *, targets: int) -> LibraryAttacks:
    settings = evaluated.settings
    return LibraryAttacks(
        evaluated.ball,
        iterations=settings["autoattack.iterations"],
        restarts=settings["autoattack.restarts"],
        targets=targets,
        queries=settings["autoattack.queries"],
        misclassified=settings["autoattack.keep"] == "best_loss",
    )


def _defence_of(spec: Mapping[str, Any]) -> DefenceName:
    allowed = vocabulary.MODELS[spec["model"]].defences
    for name in allowed:
        if spec.get("defence") == name:
            return name
    raise UserError(
        f"spec has defence {spec.get('defence')!r}, but must have one of {', '.join(allowed)} for {spec['model']}"
    )


@dataclass(frozen=True)
class Target:
    """A decision, and the logits that are attacked in its stead.

    Attributes:
        evaluated: the model.
        judge: of the decision's defence; it looks at the deciding state alone.
        point: of the grid, whose surrogate has the logits; None: the ordinary network itself.
        state: that decides, counted from 1.
    """

    evaluated: EvaluatedModel
    judge: Judge
    point: gridpoints.GridPoint | None
    state: int

    @property
    def name(self) -> str:
        """Part of a file's name: a finished piece stands for the point and the decision that it was made at."""
        return f"{self.point.name}_early{self.state}" if self.point else "network"

    @property
    def logits_of(self) -> LogitsOf:
        """The attacked logits; with a defence those of the defended states, unrolled at the received input."""
        return self.evaluated.logits_of(self.point, through=defence_of(self.judge.defence).name)

    def load(self, images: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Test images in [0, 1] and their labels."""
        return load_test_images(self.evaluated, images)

    def errs(self, predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Whether the decision is wrong; `predicted` is (images, states) as in records."""
        return np.asarray(predicted[:, self.state - 1] != label)

    def facts(self, attack: str, perturbation: np.ndarray) -> dict[str, Any]:
        """What the rows of an attack have in common."""
        point = self.point if attack != "clean" else None
        return {
            "attack": attack,
            "crafted_on": self.evaluated.name if attack != "clean" else "",
            "state": point.state if point else 0,
            "steps": point.steps if point else 0,
            "damping": point.damping if point else 0.0,
            "perturbation": perturbation,
            "lost_gradient": np.nan,
        }


def _target(evaluated: EvaluatedModel, defence: DefenceName) -> Target:
    judge = next(judge for judge in evaluated.judges if judge.defence == defence)
    if not evaluated.is_deq:
        return Target(evaluated, judge, None, 1)
    ranked = strongest_points(evaluated)
    state = ranked.early[defence]
    return Target(evaluated, judge.restricted(at(state)), ranked.points(defence)[0], state)


@dataclass(frozen=True)
class AttackSequence:
    """Attacks on a part of the images, one after the other, each batch by batch.

    Attributes:
        target: what is attacked.
        part: which images.
        attacks: in order.
        strength: how they are run.
        sequential: an image leaves once the decision errs, and does not enter when it errs without an attack.
    """

    target: Target
    part: Part
    attacks: tuple[AttackName, ...]
    strength: LibraryAttacks
    sequential: bool

    @property
    def _size(self) -> int:
        size: int = self.target.evaluated.settings["autoattack.batch_size"]
        return size

    def pieces(self) -> dict[str, Piece]:
        """Each batch of each attack. Which images it takes is known once the attacks before are done."""
        return {
            self._name(attack, number): partial(self._attacked, attack, number)
            for attack in self.attacks
            for number in range(self._batches(attack))
        }

    def clean(self) -> PieceResult:
        """Rows of the images as they are."""
        parts = []
        for first in range(self.part.images.start, self.part.images.stop, self._size):
            images = range(first, min(first + self._size, self.part.images.stop))
            x, y = self.target.load(images)
            facts = self.target.facts("clean", np.zeros(len(images)))
            label = y.cpu().numpy()
            parts.append(record_rows(self.target.judge, self.target.judge(x, y), images, label, facts))
        return PieceResult(joined(parts))

    def checked(self, asked: Sequence[AttackName]) -> PieceResult:
        """No rows, but what the library's checks say of the logits, and of Square beside the other attacks."""
        flags, images = Flags(), self.part.images
        x, y = self.target.load(images[: self._size])
        check(self.target.logits_of, x, y, attacks=asked, flags=flags)
        if SQUARE.name in self.attacks and self._exposed(SQUARE.name):
            check_square(self._accuracy(self._exposed(SQUARE.name)), flags=flags)
        return PieceResult(self._no_rows(), flags.lines)

    def _attacked(self, attack: AttackName, number: int) -> PieceResult:
        images = self._open(attack)[number * self._size : (number + 1) * self._size]
        if not images:
            return PieceResult(self._no_rows())
        x, y = self.target.load(images)
        flags, seed, evaluated = Flags(), self._seed(attack, number), self.target.evaluated
        kept = unfinished(file_of(evaluated, self.part, self._name(attack, number)))
        with transcript(kept, evaluated.job.spec, counted=lambda: evaluated.evaluations) as recorder:
            crafted = self.strength(attack, self.target.logits_of, x, y, seed=seed, flags=flags, recorder=recorder)
            label = y.cpu().numpy()
            judged, shown = self._judged(crafted, y, label)
        facts = self.target.facts(attack, evaluated.ball.distance(shown, x).cpu().numpy())
        rows = record_rows(self.target.judge, judged, images, label, facts)
        return PieceResult(rows, flags.lines, recorder.earlier)

    def _judged(self, crafted: Crafted, y: Tensor, label: np.ndarray) -> tuple[Judgement, Tensor]:
        """The judgement of each image that counts, and these images."""
        judge = self.target.judge
        if self.target.evaluated.settings["autoattack.keep"] == "success":
            return judge(crafted.fooled, y), crafted.fooled
        best = judge(crafted.best, y)
        if self.target.errs(best.columns["predicted"], label).all():
            return best, crafted.best
        fooled = judge(crafted.fooled, y)
        better = ~self.target.errs(best.columns["predicted"], label)
        better &= self.target.errs(fooled.columns["predicted"], label)
        shown = where_images(upload(torch.from_numpy(better), y.device), crafted.fooled, crafted.best)
        return _either(better, fooled, best), shown

    def _seed(self, attack: AttackName, number: int) -> int:
        """Of the library's draws on a batch; points and defences share it."""
        stream = self.target.evaluated.stream(f"{PURPOSE}/{attack}")
        return stream.generator(self.part.images.start, number).initial_seed()

    def _open(self, attack: AttackName) -> list[int]:
        """The images that an attack is run on, in order."""
        before = self.attacks[: self.attacks.index(attack)]
        earlier = ["clean", *(name for other in before for name in self._names(other))]
        fallen = self._fallen(earlier) if self.sequential else set()
        return [image for image in self._exposed(attack) if image not in fallen]

    def _exposed(self, attack: AttackName) -> range:
        """The images that an attack may be run on: Square tests the first ones only."""
        first, stop = self.part.images.start, self.part.images.stop
        if not LIBRARY_ATTACKS[attack].first_images_only:
            return range(first, stop)
        square_images: int = self.target.evaluated.settings["autoattack.square_images"]
        return range(first, min(stop, max(first, square_images)))

    def _batches(self, attack: AttackName) -> int:
        """As many as there can be; some may be without images."""
        return -(-len(self._exposed(attack)) // self._size)

    def _name(self, attack: AttackName, number: int) -> str:
        return f"{attack}_{self.target.name}_batch{number}"

    def _names(self, attack: AttackName) -> list[str]:
        return [self._name(attack, number) for number in range(self._batches(attack))]

    def _fallen(self, pieces: Iterable[str]) -> set[int]:
        """Images that the decision errs on in finished pieces."""
        fallen: set[int] = set()
        for piece in pieces:
            path = file_of(self.target.evaluated, self.part, piece)
            rows = records.read(path, ("image", "label", "predicted"))
            fallen |= set(rows["image"][self.target.errs(rows["predicted"], rows["label"])].tolist())
        return fallen

    def _accuracy(self, images: range) -> dict[AttackName, float]:
        """After each attack (in individual mode: under each) on some images."""
        fallen = self._fallen(["clean"]) if self.sequential else set()
        accuracy: dict[AttackName, float] = {}
        for attack in self.attacks:
            fallen = self._fallen(self._names(attack)) | (fallen if self.sequential else set())
            accuracy[attack] = 1 - len(fallen & set(images)) / len(images)
        return accuracy

    def _no_rows(self) -> Columns:
        final = self.target.evaluated.final_point()
        return no_rows(final.state if final else 0)


def _either(mask: np.ndarray, one: Judgement, other: Judgement) -> Judgement:
    """The judgement of `one` for the images of a mask, of `other` for the rest."""
    columns = {name: np.where(mask[:, None], one.columns[name], other.columns[name]) for name in one.columns}
    return Judgement(columns, np.where(mask, one.status, other.status))
