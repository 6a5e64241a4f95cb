"""The training loop: one for all models, resumable at any step with the same bits."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deqpipe.counts import NO_EVALUATIONS, Evaluations
from deqpipe.data import Augmentation, Split, steps_per_epoch
from deqpipe.errors import DamagedFileError, DivergedError, UserError
from deqpipe.machine.stopping import Interrupted, StopRequest
from deqpipe.model.interface import FixedPointModel
from deqpipe.results import checkpoint, integrity, metrics
from deqpipe.training.feed import Feed
from deqpipe.training.forward import draws
from deqpipe.training.meter import NOTHING_KNOWN, Meter
from deqpipe.training.objectives import Batch, TrainingObjective
from deqpipe.training.tally import Reading, Tally, magnitude

HISTORY = (
    "epoch", "step", "phase", "learning_rate", "loss", "train_accuracy", "clean_accuracy", "robust_accuracy",
    "seconds", "f_forward", "f_backward_input", "f_backward_weights",
)  # fmt: skip
"""Columns of history.csv, one row per epoch and phase; a state that was saved and read does not keep their order."""

_STATE = "training state"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validation:
    """Shares of the held-out images, in [0, 1].

    Attributes:
        clean: classified right.
        robust: classified right under an attack; None: none was run.
        undecided: whose logits are not all finite: they predict no class, which counts as wrong.
    """

    clean: float
    robust: float | None = None
    undecided: float = 0.0


@dataclass(frozen=True)
class Setting:
    """A key of the configuration, and its value."""

    key: str
    value: float

    def __str__(self) -> str:
        """Such as `training.learning_rate (0.001)`."""
        return f"{self.key} ({self.value:g})"


@dataclass(frozen=True)
class TrainingPlan:
    """All that decides a training run.

    Attributes:
        phase: name in the history: pretrain or adversarial.
        objective: the loss of a step.
        train: the images.
        augment: what is done to them, anew in every step.
        seed: of data order, augmentation and everything random in a step.
        batch_size: images per step.
        first_step: where it starts; an epoch may have begun before, with another objective.
        last_step: where it ends, exclusive.
        learning_rate: of each step.
        optimizer: built over the model's parameters; a fused one.
        validate: accuracies after each epoch.
        select_from_epoch: no earlier epoch becomes the best one; None: the last one is the best.
        largest_loss: of a step; one above it has exploded.
        pace: what to lower where the training diverges.
        penalty: what to lower as well where the loss is mostly the regularisation of the Jacobian.
        counts_attacked: whether the training accuracy is that of attacked images.
    """

    phase: str
    objective: TrainingObjective
    train: Split
    augment: Augmentation
    seed: int
    batch_size: int
    first_step: int
    last_step: int
    learning_rate: Callable[[int], float]
    optimizer: Callable[[nn.Module], Optimizer]
    validate: Callable[[nn.Module], Validation]
    select_from_epoch: int | None
    largest_loss: float
    pace: Setting
    penalty: Setting | None = None
    counts_attacked: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the last one possibly smaller."""
        return steps_per_epoch(len(self.train), self.batch_size)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch has taken its last step when so many steps of the run are done."""
        return step % self.steps_per_epoch == 0 or step == self.last_step

    def feed(self, device: torch.device) -> Feed:
        """Its batches, on a device."""
        return Feed(self.train, self.augment, seed=self.seed, batch_size=self.batch_size, device=device)


@dataclass(frozen=True)
class Mark:
    """Where the last line of metrics.jsonl ends: what `Progress` said there; sums are over the current epoch."""

    step: int
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    evaluations: Evaluations = NO_EVALUATIONS


@dataclass(frozen=True)
class Progress:
    """What a run remembers beside weights and optimiser.

    Sums are over the current epoch so far; those of losses and right answers are as old as the last look at the device.
    An epoch is over once its model was validated: then there are no images `seen` in the current one. `mark` is where
    the last line of metrics.jsonl ends; None in a state of a version that wrote none.
    """

    step: int
    history: tuple[Mapping[str, Any], ...] = ()
    best_epoch: int = 0
    best_robust: float = -1.0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    evaluations: Evaluations = NO_EVALUATIONS
    mark: Mark | None = None

    @property
    def here(self) -> Mark:
        """A mark at this point."""
        return Mark(self.step, self.loss_sum, self.correct, self.seen, self.seconds, self.evaluations)

    def awaits_validation(self, plan: TrainingPlan) -> bool:
        """Whether an epoch has taken its last step, and nothing else."""
        return bool(self.seen) and plan.ends_epoch(self.step)

    def is_complete(self, plan: TrainingPlan) -> bool:
        """Whether nothing is left to do."""
        return self.step == plan.last_step and not self.awaits_validation(plan)


@dataclass(frozen=True)
class Store:
    """Where a run keeps what makes it resumable, and how often it saves.

    Attributes:
        directory: locked by the caller.
        spec: of the job; a state of another spec is refused.
        inputs: digests of what the run starts from; a state that started from something else is left behind.
        interval: seconds between two saves within an epoch.
        read_every: steps between two looks at what the device has counted.
    """

    directory: Path
    spec: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    interval: float = 300.0
    read_every: int = 50

    @property
    def state_file(self) -> Path:
        """Weights, optimiser and progress."""
        return self.directory / "training.safetensors"

    @property
    def metrics_file(self) -> Path:
        """How the training went so far."""
        return self.directory / metrics.NAME

    @property
    def best_file(self) -> Path:
        """Weights of the best epoch so far."""
        return self.directory / "best.safetensors"

    def save(self, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        """Write the state whole."""
        tensors = checkpoint.prefixed("model", model.state_dict()) | checkpoint.optimizer_tensors(optimizer, model)
        facts = {"spec": dict(self.spec), "inputs": dict(self.inputs), "progress": asdict(progress)}
        checkpoint.write(self.state_file, tensors, facts)

    def progress(self) -> Progress | None:
        """That of the saved state, or None if there is none."""
        if not self.state_file.exists():
            return None
        return self._progress(checkpoint.read_metadata(self.state_file, what=_STATE))

    def is_usable(self) -> bool:
        """Whether there is a state, of this spec and from these inputs."""
        if not self.state_file.exists():
            return False
        metadata = checkpoint.read_metadata(self.state_file, what=_STATE)
        if metadata.get("spec") != json.loads(json.dumps(self.spec)):
            raise UserError(f"training state {self.state_file} belongs to another spec; delete {self.directory}")
        return bool(metadata.get("inputs") == dict(self.inputs))

    def set_aside_damaged(self, plan: TrainingPlan, model: nn.Module, optimizer: Optimizer) -> None:
        """Give a saved state that the run cannot go on from another name; it then starts again.

        Args:
            plan: of the run.
            model: that the state is for; not changed.
            optimizer: over its parameters; not changed.
        """
        try:
            if self.is_usable():
                self._refuse_damaged(plan, model, optimizer)
        except DamagedFileError as why:
            integrity.set_aside(self.state_file, why)

    def _refuse_damaged(self, plan: TrainingPlan, model: nn.Module, optimizer: Optimizer) -> None:
        stored = checkpoint.read(self.state_file, what=_STATE)
        progress = self._progress(stored.metadata)
        if not plan.first_step <= progress.step <= plan.last_step:
            raise DamagedFileError(
                f"training state {self.state_file} is of step {progress.step}, but the training has steps "
                f"{plan.first_step} to {plan.last_step}"
            )
        try:
            checkpoint.refuse_misfit(model, stored.part("model"), source=f"training state {self.state_file}")
            checkpoint.optimizer_state(optimizer, model, stored.tensors, source=f"training state {self.state_file}")
        except UserError as error:
            raise DamagedFileError(str(error)) from None
        if progress.best_epoch:
            self._refuse_without_best()

    def _refuse_without_best(self) -> None:
        """The best weights so far can only be had again from the start."""
        try:
            if self.best_file.exists():
                checkpoint.read(self.best_file, what="best weights so far")
                return
        except DamagedFileError as why:
            integrity.set_aside(self.best_file, why)
        raise DamagedFileError(f"training state {self.state_file} has lost the best weights so far, {self.best_file}")

    def load(self, model: nn.Module, optimizer: Optimizer) -> Progress | None:
        """Bring back the saved state, or None if there is none to go on from."""
        if not self.is_usable():
            if self.state_file.exists():
                _logger.warning("data or trunk are not those that %s started from: starting again", self.directory)
            return None
        stored = checkpoint.read(self.state_file, what=_STATE)
        progress = self._progress(stored.metadata)
        checkpoint.load_module(model, stored.part("model"), source=str(self.state_file))
        checkpoint.restore_optimizer(optimizer, model, stored.tensors, source=str(self.state_file))
        return progress

    def _progress(self, metadata: Mapping[str, Any]) -> Progress:
        try:
            kept = metadata["progress"]
            evaluations = Evaluations(**kept["evaluations"])
            mark = _mark(kept.get("mark"))
            progress = Progress(**{**kept, "history": tuple(kept["history"]), "evaluations": evaluations, "mark": mark})
            numbers = (progress.step, progress.best_epoch, progress.correct, progress.seen)
        except (KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise DamagedFileError(
                f"training state {self.state_file} lacks a part of its progress ({reason})"
            ) from None
        if not all(type(number) is int for number in numbers):
            raise DamagedFileError(f"training state {self.state_file} counts {numbers}, but must count whole numbers")
        return progress

    def origin(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """The provenance of the finished run: the one stored when it was first published, or `now`, which is stored."""
        stored = checkpoint.read(self.state_file, what=_STATE)
        known = stored.metadata.get("origin")
        if isinstance(known, dict) and (known.get("spec"), known.get("seed")) == (now["spec"], now["seed"]):
            return known
        checkpoint.write(self.state_file, stored.tensors, {**stored.metadata, "origin": dict(now)})
        return dict(now)


def _mark(kept: Mapping[str, Any] | None) -> Mark | None:
    """A mark as it was saved; None in a state of a version that had none."""
    return None if kept is None else Mark(**{**kept, "evaluations": Evaluations(**kept["evaluations"])})


def train(
    plan: TrainingPlan,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    store: Store,
    stop: StopRequest,
    meter: Meter = NOTHING_KNOWN,
) -> Progress:
    """Train until the plan's last step, or until asked to stop; the state is saved either way.

    A step or a validation that is under way when somebody asks is left, and done again by whoever goes on.

    The host looks at what the device has counted every `store.read_every` steps and before every save. Where the loss
    of a step exploded, or it or its gradient was not finite, that update and all later ones were withheld on the
    device, and nothing was saved since.

    Args:
        plan: what to do.
        model: changed in place; on its device.
        optimizer: over the model's parameters, possibly with a history of its own.
        store: where to resume from and to save.
        stop: asked before every step, and within it.
        meter: of the device, for metrics.jsonl.

    Raises:
        DivergedError: a step, the weights after it or all that they predict are of no use; names the step, the last
            good state and what to change.
    """
    trained, device = (model, optimizer), next(model.parameters()).device
    progress, feed = _taken_up(plan, trained, store), plan.feed(device)
    tally = Tally.start(device, loss_sum=progress.loss_sum, correct=progress.correct)
    saved_at, unsaved = time.monotonic(), False
    while not progress.is_complete(plan) and not stop.should_stop():
        closing, before = progress.awaits_validation(plan), progress
        try:
            with stop.interruptible():
                if closing:
                    progress, validation = _validate(plan, model, progress)
                else:
                    progress, tally = _one_step(plan, model, optimizer, feed, (progress, tally))
        except Interrupted:
            break
        overdue, unsaved = time.monotonic() - saved_at > store.interval, True
        if closing:
            progress, tally = _end_epoch(plan, model, progress, validation, store), Tally.start(device)
            progress = _told(plan, progress, before, store, meter, validation)
        elif overdue or progress.awaits_validation(plan) or _is_read(progress, store):
            progress = _looked_at(plan, trained, (progress, tally), store, meter)
        if closing or (overdue and not progress.awaits_validation(plan)):
            store.save(model, optimizer, progress)
            saved_at, unsaved = time.monotonic(), False
    if unsaved:
        progress = _read_back(plan, trained, progress, tally, store)
        store.save(model, optimizer, progress)
    return progress


def _taken_up(plan: TrainingPlan, trained: tuple[nn.Module, Optimizer], store: Store) -> Progress:
    """Where the run goes on, and metrics end; those of a state of a version without them begin here."""
    progress = store.load(*trained) or Progress(step=plan.first_step)
    if progress.step > plan.first_step:
        _logger.info("continuing at step %d of %d", progress.step, plan.last_step)
    mark = progress.mark or progress.here
    metrics.cut_back(store.metrics_file, after=mark.step)
    return replace(progress, mark=mark)


def _is_read(progress: Progress, store: Store) -> bool:
    """Whether it is one of the steps after which the host looks at the device."""
    return progress.step % store.read_every == 0


def _looked_at(
    plan: TrainingPlan,
    trained: tuple[nn.Module, Optimizer],
    so_far: tuple[Progress, Tally],
    store: Store,
    meter: Meter,
) -> Progress:
    """The progress with the sums that the device has; the last ones of an epoch are told with its validation."""
    progress = _read_back(plan, trained, *so_far, store)
    if _is_read(progress, store) and not progress.awaits_validation(plan):
        return _told(plan, progress, progress, store, meter)
    return progress


def _told(
    plan: TrainingPlan,
    progress: Progress,
    counted: Progress,
    store: Store,
    meter: Meter,
    validation: Validation | None = None,
) -> Progress:
    """The progress, once what was `counted` since its mark is a line of metrics.jsonl; no images make no line.

    There are none where a state of a version without metrics awaited its validation: its epoch began no line here.
    """
    if counted.mark is not None and counted.seen == counted.mark.seen:
        return replace(progress, mark=progress.here)
    metrics.append(store.metrics_file, _interval(plan, counted, meter, validation))
    return replace(progress, mark=progress.here)


def _interval(plan: TrainingPlan, counted: Progress, meter: Meter, validation: Validation | None) -> metrics.Interval:
    since = counted.mark or counted.here
    images, seconds = counted.seen - since.seen, counted.seconds - since.seconds
    accuracy = (counted.correct - since.correct) / images
    return metrics.Interval(
        model=meter.model,
        seed=meter.seed,
        phase=plan.phase,
        step=counted.step,
        epoch=-(-counted.step // plan.steps_per_epoch),
        steps=counted.step - since.step,
        images=images,
        loss=(counted.loss_sum - since.loss_sum) / images,
        clean_accuracy=None if plan.counts_attacked else accuracy,
        robust_accuracy=accuracy if plan.counts_attacked else None,
        learning_rate=plan.learning_rate(counted.step - 1),
        images_per_second=round(images / seconds, 3) if seconds > 0 else None,
        peak_share=meter.share(counted.evaluations - since.evaluations, seconds),
        memory_mib=meter.memory,
        validation_clean_accuracy=None if validation is None else validation.clean,
        validation_robust_accuracy=None if validation is None else validation.robust,
        elapsed=round(counted.seconds, 3),
    )


def _one_step(
    plan: TrainingPlan, model: nn.Module, optimizer: Optimizer, feed: Feed, so_far: tuple[Progress, Tally]
) -> tuple[Progress, Tally]:
    """One step more; where it is left, the model is as it was before."""
    started, before = time.monotonic(), _counted(model)
    progress, tally = so_far
    batch = feed(progress.step)
    with _running_means_kept(model):
        tally = descend(plan, model, optimizer, batch, step=progress.step, tally=tally)
    progress = replace(
        progress,
        step=progress.step + 1,
        seen=progress.seen + len(batch.y),
        seconds=progress.seconds + time.monotonic() - started,
        evaluations=progress.evaluations + _counted(model) - before,
    )
    return progress, tally


@contextmanager
def _running_means_kept(model: nn.Module) -> Iterator[None]:
    """Undo what a step has done to a model when it is left: batch norms gather their means forward, before the update.

    Nothing is left behind the update, which evaluates nothing.
    """
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    except Interrupted:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        raise


def _counted(model: nn.Module) -> Evaluations:
    return model.counter.counted if isinstance(model, FixedPointModel) else NO_EVALUATIONS


def descend(
    plan: TrainingPlan, model: nn.Module, optimizer: Optimizer, batch: Batch, *, step: int, tally: Tally | None = None
) -> Tally:
    """One training step on a batch that is ready: attack, loss, gradient, update. Nobody waits for the device.

    Args:
        plan: what to do.
        model: changed in place.
        optimizer: over the model's parameters; a fused one.
        batch: on the model's device.
        step: its number, which draws and learning rate depend on.
        tally: of the steps before; None: there were none.

    Returns:
        The tally with this step. Where it found a loss that exploded, or a loss or gradient that is not finite, now or
        before, parameters and optimiser stayed as they were; running means of batch norms did not, and nothing of them
        is kept.
    """
    tally = tally or Tally.start(batch.x.device)
    loss = plan.objective(model, batch, draws(plan.seed, step))
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss.value)
    value, gradients = loss.value.detach(), [p.grad for p in model.parameters() if p.grad is not None]
    penalty = None if loss.penalty is None else loss.penalty.detach()
    tally = tally.judged(value, magnitude(gradients), penalty=penalty, bound=plan.largest_loss, step=step)
    _update(optimizer, plan.learning_rate(step), withheld=tally.withheld)
    return tally.added(value, (loss.logits.argmax(1) == batch.y).sum(), images=len(batch.y))


def _update(optimizer: Optimizer, learning_rate: float, *, withheld: Tensor) -> None:
    """One step of the optimiser, unless it is withheld; which it is, is known on the device alone."""
    for group in optimizer.param_groups:
        assert group["fused"], "only fused optimisers know how to leave everything as it is"
        group["lr"] = learning_rate
    optimizer.found_inf = withheld  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells it
    optimizer.step()


def _read_back(
    plan: TrainingPlan, trained: tuple[nn.Module, Optimizer], progress: Progress, tally: Tally, store: Store
) -> Progress:
    """The progress with the sums that the device has.

    Raises:
        DivergedError: a step was bad, or what it left behind is not finite.
    """
    started = time.monotonic()
    reading = tally.read()
    check(reading, plan, good=store.state_file)
    if not _are_finite(*trained):
        raise _diverged(plan, f"weights or optimiser are not finite after step {progress.step - 1}", store.state_file)
    seconds = progress.seconds + time.monotonic() - started
    return replace(progress, loss_sum=reading.loss_sum, correct=reading.correct, seconds=seconds)


def _are_finite(model: nn.Module, optimizer: Optimizer) -> bool:
    """Whether a training can go on from these numbers: a last update may have overflowed, whatever its loss was."""
    numbers = [*model.state_dict().values(), *(n for state in optimizer.state.values() for n in state.values())]
    return bool(magnitude([n for n in numbers if isinstance(n, Tensor) and n.is_floating_point()]).isfinite())


def check(reading: Reading, plan: TrainingPlan, *, good: Path | None = None) -> None:
    """Refuse to go on where a step was bad.

    Args:
        reading: what the device has counted.
        plan: of the training.
        good: where the last good state would be, for the message.

    Raises:
        DivergedError: names the first such step.
    """
    if reading.bad_step is None:
        return
    loss = reading.bad_loss
    what = f"loss is {loss:,.6g} at step {reading.bad_step}"
    if abs(loss) <= plan.largest_loss:
        what = f"gradient is not finite (loss {loss:,.6g}) at step {reading.bad_step}"
    elif math.isfinite(loss):
        what = f"loss is {loss:,.6g}, above {plan.largest_loss:,.0f}, at step {reading.bad_step}"
    penalised = not math.isfinite(reading.bad_penalty) or reading.bad_penalty > loss / 2
    raise _diverged(plan, what, good, penalised=penalised)


def _diverged(plan: TrainingPlan, what: str, good: Path | None, *, penalised: bool = False) -> DivergedError:
    """The error that says what happened, and what to change."""
    last = f"; last good state: {good}" if good is not None and good.exists() else ""
    lower = [str(plan.pace), *([str(plan.penalty)] if penalised and plan.penalty else [])]
    return DivergedError(f"{what} of {plan.last_step}: the training diverged{last}; lower {' or '.join(lower)}")


def _validate(plan: TrainingPlan, model: nn.Module, progress: Progress) -> tuple[Progress, Validation]:
    started, before = time.monotonic(), _counted(model)
    validation = plan.validate(model)
    progress = replace(
        progress,
        seconds=progress.seconds + time.monotonic() - started,
        evaluations=progress.evaluations + _counted(model) - before,
    )
    return progress, validation


def _end_epoch(
    plan: TrainingPlan, model: nn.Module, progress: Progress, validation: Validation, store: Store
) -> Progress:
    _refuse_undecided(validation, plan, progress, store)
    row = _history_row(plan, progress, validation)
    _logger.info("%s", _line(row, plan))
    progress = replace(progress, history=(*progress.history, row), loss_sum=0.0, correct=0, seen=0)
    if not _is_better(plan, progress, validation, epoch=row["epoch"]):
        return progress
    checkpoint.write(store.best_file, model.state_dict(), {"epoch": row["epoch"]})
    return replace(
        progress, best_epoch=row["epoch"], best_robust=validation.robust if validation.robust is not None else -1.0
    )


def _refuse_undecided(validation: Validation, plan: TrainingPlan, progress: Progress, store: Store) -> None:
    """A model without a class for any held-out image goes no further; without one for some, it is said."""
    if validation.undecided == 1:
        what = f"no held-out image has finite logits after step {progress.step - 1}"
        raise _diverged(plan, what, store.state_file)
    if validation.undecided:
        _logger.warning("%.1f %% of the held-out images have logits that are not finite", 100 * validation.undecided)


def _is_better(plan: TrainingPlan, progress: Progress, validation: Validation, *, epoch: int) -> bool:
    if plan.select_from_epoch is None or (progress.step == plan.last_step and not progress.best_epoch):
        return True
    return (
        epoch >= plan.select_from_epoch and validation.robust is not None and validation.robust > progress.best_robust
    )


def _history_row(plan: TrainingPlan, progress: Progress, validation: Validation) -> dict[str, Any]:
    return {
        "epoch": -(-progress.step // plan.steps_per_epoch),
        "step": progress.step,
        "phase": plan.phase,
        "learning_rate": plan.learning_rate(progress.step - 1),
        "loss": progress.loss_sum / progress.seen,
        "train_accuracy": progress.correct / progress.seen,
        "clean_accuracy": validation.clean,
        "robust_accuracy": validation.robust,
        "seconds": round(progress.seconds, 3),
        **{f"f_{way}": number for way, number in asdict(progress.evaluations).items()},
    }


def _line(row: Mapping[str, Any], plan: TrainingPlan) -> str:
    epochs = -(-plan.last_step // plan.steps_per_epoch)
    robust = "" if row["robust_accuracy"] is None else f", under PGD {row['robust_accuracy']:.1%}"
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, validation {row['clean_accuracy']:.1%}{robust}, "
        f"{row['seconds']:.0f} s"
    )


def cosine(step: int, *, total: int, start: float, end: float) -> float:
    """Cosine decay of the learning rate from `start` at step 0 to `end` at step `total`."""
    return end + (start - end) * (1 + math.cos(math.pi * step / total)) / 2


def multistep(step: int, *, steps_per_epoch: int, start: float, milestones: tuple[int, ...], factor: float) -> float:
    """`start` times `factor` for every milestone, in epochs, that has passed."""
    return start * factor ** sum(step >= milestone * steps_per_epoch for milestone in milestones)
