"""An evaluation from end to end: a model and images in; a card, its numbers, and per-image records out."""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deqpipe.counts import NO_EVALUATIONS
from deqpipe.errors import DamagedFileError, UserError
from deqpipe.foreign import fingerprint
from deqpipe.foreign import outcome as outcomes
from deqpipe.foreign.description import Defence, Description, named_defence
from deqpipe.foreign.fingerprint import Fingerprint
from deqpipe.foreign.loading import digest, source_of, weights_of
from deqpipe.foreign.outcome import Outcome
from deqpipe.foreign.plan import EFFORTS, plan
from deqpipe.foreign.running import Evaluation
from deqpipe.foreign.subject import described_dynamics, subject_of
from deqpipe.machine.device import describe
from deqpipe.model.interface import FixedPointModel
from deqpipe.reporting import evaluation_card
from deqpipe.results import document, integrity, lock, records
from deqpipe.results.provenance import provenance

REVISION = 2
CARD, PAGE, ROWS, STATE = "card.json", "card.html", "images.parquet", "state"
"""Files of an output folder."""
SPEC = "spec.json"
"""In the state folder: what the pieces there depend on."""
MODES = ("standard", "individual")


@dataclass(frozen=True)
class Options:
    """How a model is evaluated.

    Attributes:
        effort: how much is spent.
        mode: standard: an image leaves once the decision errs; individual: every attack meets every image that is right
            when clean.
        seed: of random numbers.
        batch_size: images at once; part of the result.
        budget_minutes: how long all tries together may compute.
    """

    effort: str = "standard"
    mode: str = "standard"
    seed: int = 0
    batch_size: int = 64
    budget_minutes: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what is no such value.

        Raises:
            UserError: it is none.
        """
        if self.effort not in EFFORTS:
            raise UserError(f"effort is {self.effort!r}, but must be one of {', '.join(EFFORTS)}")
        if self.mode not in MODES:
            raise UserError(f"mode is {self.mode!r}, but must be one of {', '.join(MODES)}")
        for name in ("seed", "batch_size"):
            if type(getattr(self, name)) is not int:
                raise UserError(f"{name} is {getattr(self, name)!r}, but must be a whole number")
        if self.seed < 0 or self.batch_size < 1:
            raise UserError(f"seed is {self.seed} and batch_size {self.batch_size}, but must be at least 0 and 1")
        if not (isinstance(self.budget_minutes, int | float) and self.budget_minutes > 0):
            raise UserError(f"budget_minutes is {self.budget_minutes!r}, but must be a number above 0")


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What came of an evaluation.

    Attributes:
        card: everything that the card says, as JSON values.
        columns: per image and attack, as records have it.
    """

    card: Mapping[str, Any]
    columns: Mapping[str, Any]

    @property
    def clean_accuracy(self) -> float:
        """Share of images that are right as they are."""
        return float(self.card["clean"]["value"])

    @property
    def robust_accuracy(self) -> float:
        """Share of images that are right under every attack that ran: an upper bound."""
        return float(self.card["union"]["value"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before any number."""
        return tuple(self.card["warnings"])

    def section(self, name: str) -> float | None:
        """Share of images that are left after a section of attacks, such as "autoattack"; None: none of them ran."""
        left = {one["name"]: one["left"] for one in self.card["sections"]}.get(name)
        return None if left is None else float(left["value"])


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    output: str | Path | None = None,
    solver: Mapping[str, Any] | None = None,
    defence: Defence = None,
    state: int | None = None,
    epsilon_255: float | int = 8,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = "model",
    effort: str = "standard",
    mode: str = "standard",
    seed: int = 0,
    batch_size: int = 64,
    budget_minutes: float = math.inf,
) -> Evaluated:
    """How robust a model is: clean accuracy, AutoAttack, attacks that know its solver and defence, sanity checks.

    Args:
        model: with states (bind, initial_state, logits: see docs/evaluate.md), or a network images -> logits.
        x: images in [0, 1], float32; the evaluation computes where they lie.
        y: their classes.
        output: folder for card.html, card.json and images.parquet, where an evaluation that was stopped goes on; None:
            nothing is kept.
        solver: of a model with states, such as {"name": "broyden", "steps": 30}; None: 20 steps of Anderson mixing.
        defence: other dynamics than the solver's, or keys of Sec. 3.2.
        state: that decides, counted from 1; None: the last.
        epsilon_255: radius of the l-infinity ball, in 1/255 of the pixel range.
        mean: is subtracted from the images before the model sees them, per channel.
        std: what is left is divided by.
        name: of the model, on the card.
        effort: quick, standard or thorough.
        mode: standard: an image leaves once the decision errs; individual: every attack meets every image.
        seed: of random numbers.
        batch_size: images at once; part of the result, as AutoAttack draws one random stream per batch.
        budget_minutes: how long all tries together may compute; the strongest attacks come first.

    Raises:
        UserError: one line on a mistake in the model, the images or the settings; nothing is written.
        Interrupted: a signal asked to leave; with `output` it can go on.
    """
    described = Description(model, solver, defence, state, epsilon_255, mean, std, name)
    described = replace(described, source=source_of(model))
    options = Options(effort, mode, seed, batch_size, budget_minutes)
    if output is not None:
        return run(described, x, y, options, Path(output))
    with tempfile.TemporaryDirectory(prefix="deqpipe-") as folder:
        return run(described, x, y, options, Path(folder) / "evaluation")


def run(described: Description, x: Tensor, y: Tensor, options: Options, output: Path) -> Evaluated:
    """Evaluate, and write card and records into a folder, where it goes on if it was stopped.

    Raises:
        UserError: as `evaluate`; or another evaluation lies in the folder.
        Interrupted: a signal asked to leave.
    """
    with _left_as_it_was(described.model):
        return _run(described, x, y, options, output)


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Give a model back in the mode that it came in, and with the parameters trainable that were."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in trainable:
            parameter.requires_grad_(wanted)


def _run(described: Description, x: Tensor, y: Tensor, options: Options, output: Path) -> Evaluated:
    settings = fingerprint.settings_of(described)
    subject = subject_of(described, x, y)
    marks = fingerprint.taken(settings, fingerprint.settings_of(described), subject.logits)
    y = y.to(torch.int64)
    spec = _spec(described, x, y, options)
    victim = subject.victim
    states = victim.dynamics.termination.max_steps if victim.dynamics else 0
    undefended = victim.undefended.termination.max_steps if victim.undefended else 0
    entries = plan(victim.kind, subject.classes, undefended, effort=options.effort, epsilon=described.ball.epsilon)
    _refuse_other(output, spec, marks)
    with lock.locked(output / STATE, waits=False):
        _refuse_other(output, spec, marks)  # again: another process may have been quicker
        records.remove_leftovers(output / STATE)  # of a piece that was in place when its writer was killed
        if not (output / STATE / SPEC).is_file():
            records.write_text(output / STATE / SPEC, document.sealed_text({**spec, "fingerprint": marks}))
        evaluation = Evaluation(
            subject, entries, x, y, options.seed, options.batch_size, options.mode == "standard", output / STATE
        )
        progress = evaluation.run(options.budget_minutes)
        outcome = Outcome(evaluation, progress)
        evaluated = _evaluated(described, options, outcome, spec, states=states)
        _write(output, evaluated)
    return evaluated


def _spec(described: Description, x: Tensor, y: Tensor, options: Options) -> dict[str, Any]:
    """All that the results depend on."""
    said = {
        "solver": None if described.solver is None else dict(described.solver),
        "defence": named_defence(described.defence),
        "state": described.state, "epsilon_255": described.epsilon_255,
        "mean": None if described.mean is None else list(described.mean),
        "std": None if described.std is None else list(described.std),
    }  # fmt: skip
    asked = {name: value for name, value in vars(options).items() if name != "budget_minutes"}
    made_of = {
        "weights": weights_of(described.model),
        "code": described.source,
        "data": digest(x, y),
        "revision": REVISION,
    }
    spec: dict[str, Any] = json.loads(
        json.dumps({"stage": "evaluate", **made_of, "model": said, "options": asked}, default=repr)
    )
    return spec


def _refuse_other(output: Path, spec: Mapping[str, Any], marks: Fingerprint) -> None:
    """Refuse a folder in which another evaluation lies, or something else."""
    file = output / STATE / SPEC
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file, but must be a folder")
    if not file.is_file():
        if output.is_dir() and any(entry.name != STATE for entry in output.iterdir()):
            raise UserError(f"{output} holds other files, and no evaluation to go on with: give another folder")
        if any((output / STATE).glob("*.npz")):
            raise UserError(
                f"{output} holds pieces of an evaluation, but no {STATE}/{file.name} that says of which: give another "
                f"folder, or delete the folder {output}"
            )
        return
    before = _spec_before(file)
    differing = [name for name in spec if before.get(name) != spec[name]]
    differing = differing or fingerprint.differing(before["fingerprint"], marks)
    if differing:
        raise UserError(
            f"{output} holds an evaluation of other {' and '.join(differing)}: give another folder, or delete the "
            f"folder {output}"
        )


def _spec_before(file: Path) -> dict[str, Any]:
    """What the evaluation depends on that lies in a folder."""
    try:
        return integrity.unsealed(document.read_object(file), str(file))
    except DamagedFileError:
        folder = file.parents[1]
        raise UserError(
            f"{file} is damaged, so it is unknown which evaluation {folder} holds: give another folder, or delete the "
            f"folder {folder}"
        ) from None


def _evaluated(
    described: Description, options: Options, outcome: Outcome, spec: Mapping[str, Any], *, states: int
) -> Evaluated:
    facts, subject = outcome.facts(), outcome.evaluation.subject
    victim = subject.victim
    model = victim.model
    counted = model.counter.counted if isinstance(model, FixedPointModel) else NO_EVALUATIONS
    device = describe(outcome.evaluation.x.device)
    made = provenance(
        spec, device=device, inputs={}, seconds=outcome.progress.seconds, evaluations=counted, weights=spec["weights"]
    )
    del made["evaluations"]  # of this try alone
    solver = described_dynamics(victim.dynamics, victim.blind) if victim.dynamics else None
    card = {
        "name": described.name,
        "kind": victim.kind,
        "parameters": sum(parameter.numel() for parameter in described.model.parameters()),
        "images": len(outcome.evaluation.x),
        "image_shape": list(outcome.evaluation.x.shape[1:]),
        "classes": subject.classes,
        "epsilon_255": described.epsilon_255,
        "solver": solver,
        "state": victim.state if states else None,
        "states": states,
        "residual": subject.residual,
        "options": {**spec["options"], "confidence": outcomes.CONFIDENCE},
        "warnings": outcomes.warnings(facts, subject.residual),
        **facts,
    }
    return Evaluated({**card, "provenance": made}, outcome.columns())


def _write(output: Path, evaluated: Evaluated) -> None:
    card = dict(evaluated.card)
    made = card.pop("provenance")
    timeless = {**made, "seconds": 0.0}  # so that the rows of a stopped evaluation are those of one that was not
    records.write(output / ROWS, evaluated.columns, provenance=timeless)
    records.write_text(output / PAGE, evaluation_card.page(evaluated.card))
    document.write(output / CARD, card, made, sort_keys=False)


def with_epsilon(described: Description, epsilon_255: float | None) -> Description:
    """The same within another ball, where one is asked for."""
    return described if epsilon_255 is None else replace(described, epsilon_255=epsilon_255)


def to_device(x: Tensor, y: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and classes on a device."""
    return x.to(device), y.to(device)
