"""Is `protocol: release` what the authors' code computes? Runs their code beside ours on models that nobody recorded.

    python -m benchmarks.against_release --release FOLDER [--only NAME ...]

FOLDER is a work tree of github.com/minicheshire/DEQ-Regulating-Neural-Dynamics at commit 862034f. It is imported as it
stands and never written to: what it lacks gets a stand-in, and other T_f and R, constants in its source, are put in as
it is compiled. Weights and images are random; both sides compute in float64 on one thread of the CPU. Ours get the
weights as a user would bring them in: `deqpipe import-checkpoint` of a file that the release's own model filled, then
`deqpipe predict`. One line per model and quantity; exit status 1 if a difference is above its limit, or if a model does
not do what it is there for.
"""

import argparse
import contextlib
import io
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from benchmarks.differences import difference
from benchmarks.release_code import (
    CPU,
    PAPERS,
    Dice,
    Release,
    Shape,
    TradesStep,
    stand_ins,
    surrogate_name,
    without_progress,
)
from deqpipe import build, cli, config
from deqpipe.attack.pgd import PGD, cross_entropy_objective, unfooled_objective
from deqpipe.attack.surrogate import surrogate_of
from deqpipe.build import build_solver, build_termination
from deqpipe.gradient import Unrolled
from deqpipe.model.architecture import load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import checkpoint
from deqpipe.seeding import Stream
from deqpipe.settings import Settings
from deqpipe.solver.solve import lowest_of
from deqpipe.threat_model import LinfBall
from deqpipe.training.forward import (
    DEQForward,
    DEQPass,
    LossStates,
    Output,
    RandomStates,
    StateChoice,
    UnrolledForward,
    draws,
)
from deqpipe.training.jacobian import JacobianRegularisation
from deqpipe.training.objectives import Batch, TradesAdversarial
from deqpipe.workflow import gridpoints, specs

VALUES, GRADIENTS = 1e-8, 1e-6
"""Limits of relative differences: of what a forward pass gives; of gradients and of all that comes after them."""
JACOBIAN_WEIGHT, START_NOISE = 0.4, 0.001
CONFIG = Path(__file__).parents[1] / "config.yaml"
SETTINGS = ("solver", "entropy", "threat_model", "attack.unroll", "training.unroll", "random_state",
            "jacobian.length_jitter", "jacobian.probes")  # fmt: skip
STREAM = Stream(0, "training/attack")
PGD_10 = PGD(LinfBall(8 / 255), steps=10, step_size=2 / 255)
Arrays: TypeAlias = dict[str, np.ndarray]
Line: TypeAlias = tuple[str, float, float]
"""A quantity, the difference in it and the limit."""


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surrogate:
    """i (from 1), K_a and lambda of Eq. (11)."""

    state: int
    steps: int
    damping: float

    @property
    def ours(self) -> str:
        """As `deqpipe predict --surrogate` takes it."""
        return f"{self.state},{self.steps},{self.damping:g}"

    @property
    def theirs(self) -> str:
        """As the release takes it."""
        return surrogate_name(self.state, self.steps, self.damping)


SURROGATES = (Surrogate(3, 5, 0.5), Surrogate(1, 1, 0.5), Surrogate(8, 9, 0.5), Surrogate(4, 2, 1), Surrogate(7, 1, 1))


@dataclass(frozen=True)
class Case:
    """A model with random weights, images for it, and what of them is compared.

    Attributes:
        name: in the output.
        channels: per scale.
        head: bottleneck channels of the head, per scale.
        final: channels before global average pooling.
        groups: of the GroupNorms in f.
        expansion: of the residual blocks.
        seed: of weights, images and labels.
        size: height and width of the images.
        classes: how many.
        batch: how many images.
        weight_norm: of f.
        steps: N.
        coupling: factor on the gain of each block's first GroupNorm, and divisor of the second's: small numbers make a
            contraction of f.
        gain: factor on the gain of each block's last GroupNorm: large numbers make the solver's way rough.
        offsets: standard deviation of biases and running means.
        first_image: factor on the first image.
        surrogates: of Eq. (11).
        rounds: T_f and R of Sec. 3.2.
        lengths: thresholds that the solver is trained with.
        loops: whether attacks and a whole training step are compared as well.
        shows: what the solve must show, of `EVENTS`.
        lost: whether numbers are lost, so that the two sides cannot agree; then it is said how they differ.
    """

    name: str
    channels: tuple[int, ...]
    head: tuple[int, ...]
    final: int
    groups: int
    expansion: int
    seed: int
    size: int = 32
    classes: int = 10
    batch: int = 3
    weight_norm: bool = True
    steps: int = 8
    coupling: float = 1.0
    gain: float = 1.0
    offsets: float = 0.3
    first_image: float = 1.0
    surrogates: tuple[Surrogate, ...] = SURROGATES
    rounds: tuple[tuple[int, int], ...] = (PAPERS,)
    lengths: tuple[int, ...] = (1, 3, 8)
    loops: bool = True
    shows: str = "all states"
    lost: bool = False

    @property
    def shape(self) -> Shape:
        """As the release is told it."""
        return Shape(
            self.channels,
            self.head,
            self.final,
            self.groups,
            self.expansion,
            self.weight_norm,
            self.classes,
            self.steps,
        )

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """Images in [0, 1], and labels."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        x = torch.rand(self.batch, 3, self.size, self.size, generator=generator, dtype=torch.float64)
        x[0] *= self.first_image
        return x, torch.randint(self.classes, (self.batch,), generator=generator)

    @property
    def described(self) -> str:
        """In words."""
        widths = "/".join(map(str, self.channels))
        norm = "weight norm" if self.weight_norm else "no weight norm"
        return (
            f"{widths} channels, head {'/'.join(map(str, self.head))}, final {self.final}, {self.groups} groups, "
            f"expansion {self.expansion}, {norm}, {self.classes} classes, {self.batch} of {self.size}x{self.size}"
        )


CASES = (
    Case("two scales", (8, 16), (4, 8), 24, 4, 3, seed=1),
    Case("three scales, one image", (6, 9, 15), (3, 5, 4), 20, 3, 1, seed=2, size=16, classes=7, batch=1),
    Case("four scales", (8, 16, 24, 32), (4, 5, 6, 9), 40, 8, 2, seed=3, classes=100),
    Case("five scales", (4, 8, 8, 12, 16), (2, 3, 2, 4, 5), 30, 4, 4, seed=4, size=48, batch=2),
    Case("5 groups, all shortcuts convolved", (10, 20, 30), (3, 6, 8), 16, 5, 2, seed=5, size=16),
    Case("7 groups, some shortcuts", (21, 42), (6, 10), 25, 7, 1, seed=6, size=8, batch=5),
    Case("6 groups, no shortcuts", (12, 24, 24), (3, 6, 6), 32, 6, 3, seed=7, size=24),
    Case("no weight norm", (8, 12, 20), (4, 3, 5), 18, 4, 5, seed=8, weight_norm=False, classes=2),
    Case("locuslab's CIFAR TINY", (24, 24), (8, 16), 200, 8, 5, seed=9, steps=18, lengths=(8, 18)),
    Case(
        "other T_f and R", (6, 12), (3, 5), 20, 2, 3, seed=10, rounds=((1, 3), (4, 2), (8, 2), (2, 1), (2, 20), (3, 2)),
    ),
    Case("lowest is not last", (6, 12), (3, 5), 20, 2, 3, seed=47, rounds=(PAPERS, (4, 3)), shows="lowest is not last"),
    Case(
        "tolerance reached", (6, 12), (3, 5), 20, 2, 3, seed=10, coupling=0.03, rounds=(PAPERS, (4, 3), (1, 2), (8, 2)),
        shows="tolerance reached",
    ),
    Case(
        "exploded", (4, 8), (2, 2), 8, 2, 2, seed=570722, size=8, batch=1, steps=32, gain=100.0, coupling=3.0,
        offsets=3.0, rounds=((16, 2), (8, 3)), lengths=(8, 16), shows="exploded",
    ),
    Case(
        "tolerance reached at once", (6, 12), (3, 5), 20, 2, 3, seed=20, coupling=0.001, rounds=(PAPERS, (4, 3)),
        lengths=(1, 3), surrogates=SURROGATES[1:], shows="tolerance reached",
    ),
    Case("a black image", (6, 12), (3, 5), 20, 2, 3, seed=1, offsets=0.0, first_image=0.0),
    Case(
        "numbers lost in one image", (6, 12), (3, 5), 20, 2, 3, seed=1, offsets=0.0, first_image=1e-200, lost=True
    ),
    Case("numbers lost in all images", (6, 12), (3, 5), 20, 2, 3, seed=1, gain=1e200, lost=True),
    Case(
        "MDEQ-Large", (32, 64, 128, 256), (14, 28, 56, 112), 1680, 8, 5, seed=11, batch=2, surrogates=SURROGATES[:1],
        lengths=(8,), loops=False,
    ),
)  # fmt: skip


# --- the release -----------------------------------------------------------------------------------------------------


def randomise(network: nn.Module, case: Case) -> None:
    """Give all parameters and running statistics random values."""
    generator = torch.Generator().manual_seed(case.seed)
    for name, tensor in network.state_dict().items():
        normal = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        tensor.copy_(_random(name, normal, case))


def _random(name: str, normal: Tensor, case: Case) -> Tensor:
    *_, module, leaf = name.split(".")
    positive: Tensor = (normal / 4).exp()
    if leaf == "num_batches_tracked":
        return positive * 1000
    if leaf in ("bias", "running_mean"):
        return case.offsets * normal
    if leaf in ("running_var", "weight_g") or normal.ndim == 1:
        factors = {"gn1": case.coupling, "gn2": 1 / case.coupling, "gn3": case.gain}
        return positive * factors.get(module, 1.0)
    return normal / math.sqrt(normal[0].numel())


@dataclass(frozen=True)
class Passed:
    """What a training pass leaves.

    Attributes:
        logits: of the natural images.
        loss: the whole loss, where it is known.
        penalty: the Jacobian term in it, where there is one.
        gradients: of the parameters, by name.
        statistics: of the batch normalisations, by name.
    """

    logits: Tensor
    loss: Tensor | None
    penalty: Tensor | None
    gradients: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor]


Solves: TypeAlias = list[dict[str, Any]]


def _watched(network: Any) -> Solves:
    """Everything that the network's solver returns from now on."""
    solves: Solves = []
    solver = network.f_solver

    def watch(*arguments: Any, **options: Any) -> Any:
        solves.append(solver(*arguments, **options))
        return solves[-1]

    network.f_solver = watch
    return solves


def released_dynamics(network: Any, x: Tensor, *, defended: bool) -> Arrays:
    """What `Ours.dynamics` gives, of the release, and whether it gave its (last) solve up."""
    solves = _watched(network)
    with stand_ins(), torch.no_grad():
        final, _, scales = network(x, train_step=-1, compute_jac_loss=False, for_attack=not defended)
        states = [state.squeeze(2) for solve in solves for state in solve["results_list"]]
        found = {
            "states": torch.stack(states),
            "state_logits": torch.stack([network.predict(each) for each in scales[:-1]]),
            "batch_residual": torch.tensor([one for s in solves for one in s["rel_trace"][: len(s["results_list"])]]),
            "returned": solves[-1]["result"].squeeze(2),
            "final_logits": final,
        }
        if not defended:
            found["relative_residual"] = _residuals(network.get_func(x)[0], states)
    return {name: tensor.detach().numpy() for name, tensor in found.items()} | {
        "exploded": np.array(solves[-1]["prot_break"])
    }


def _residuals(fn: Callable[[Tensor], Tensor], states: Sequence[Tensor]) -> Tensor:
    values = [fn(state.unsqueeze(2)).squeeze(2) for state in states]
    pairs = zip(values, states, strict=True)
    return torch.stack([(value - state).norm(dim=1) / (value.norm(dim=1) + 1e-9) for value, state in pairs])


def released_surrogate(network: Any, case: Case, surrogate: Surrogate, *, defended: bool) -> Arrays:
    """Logits, and the gradient of their summed cross-entropy."""
    x, y = case.images
    x.requires_grad_()
    options = {"AttackGrad": surrogate.theirs, "for_attack": not defended}
    with stand_ins():
        logits = network(x, train_step=-1, compute_jac_loss=False, **options)[0]
        F.cross_entropy(logits, y, reduction="sum").backward()
    assert x.grad is not None
    return {"logits": logits.detach().numpy(), "gradient": x.grad.numpy()}


def released_pass(network: Any, case: Case, *, step: int, length: int, probes: Sequence[Tensor] = ()) -> Passed:
    """A pass in training mode, and backwards; with probes the Jacobian term is part of the loss."""
    x, y = case.images
    network.train().zero_grad()
    with stand_ins(), Dice(normals=probes).thrown():
        logits, penalty, _ = network(x, train_step=step, compute_jac_loss=bool(probes), f_thres=length, isEval=True)
        penalty = JACOBIAN_WEIGHT * penalty.mean()
        loss = F.cross_entropy(logits, y) + penalty
        loss.backward()
    return Passed(
        logits.detach(), loss.detach(), penalty.detach() if probes else None, _gradients(network), _statistics(network)
    )


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: _there(parameter.grad) for name, parameter in module.named_parameters()}


def _there(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.detach().clone()


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def released_step(release: Release, network: Any, case: Case, dice: Dice) -> Passed:
    """A step of TRADES with the loss from random states and the Jacobian term, by the release's own loop."""
    natural: list[Tensor] = []

    def criterion(logits: Tensor, y: Tensor) -> Tensor:
        natural.append(logits.detach())
        return F.cross_entropy(logits, y)

    step = TradesStep(release, case.shape, jacobian=JACOBIAN_WEIGHT)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    step(network, case.images, criterion=criterion, optimizer=optimizer, dice=dice)
    return Passed(natural[0], None, None, _gradients(network), _statistics(network))


def released_attack(release: Release, network: Any, x: Tensor, y: Tensor, dice: Dice, **options: str) -> np.ndarray:
    """Images of PGD-10: of the evaluation, or, without options, of the selection of the best epoch."""
    pgd = release.loop("evaluation" if options else "training").pgd
    with stand_ins(), dice.thrown():
        attacked: Tensor = pgd(network, x, y, F.cross_entropy, 8 / 255, 2 / 255, 10, **options)
    return attacked.numpy()


# --- ours ------------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> int:
    """Run `deqpipe`, what it prints left out but for errors; returns its exit status."""
    with contextlib.redirect_stdout(io.StringIO()):
        return cli.main([str(argument) for argument in arguments])


@dataclass(frozen=True)
class Ours:
    """A case in our hands.

    Attributes:
        case: the model.
        folder: of its files.
    """

    case: Case
    folder: Path

    def bring_in(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """Import a state_dict of the release."""
        source, target = self.folder / f"{name}.pth.tar", self.folder / f"{name}.safetensors"
        torch.save({"state_dict": dict(tensors), "epoch": 1, "perf": 0.0}, source)
        options = ("--groups", self.case.groups, "--image-size", self.case.size, "--dropout", 0)
        assert command("import-checkpoint", source, target, *options) == 0
        return target

    @property
    def model(self) -> DEQClassifier:
        """The imported model, anew."""
        model = load_model(self.folder / "weights.safetensors", CPU, torch.float64).model
        assert isinstance(model, DEQClassifier)
        return model

    def config(self, numbers: tuple[int, int]) -> Path:
        """The config file of a run with these T_f and R."""
        path, steps = self.folder / "config.yaml", self.case.steps
        changes = {
            "solver": {"steps": steps},
            "entropy": {"solver_steps": numbers[0], "input_steps": numbers[1]},
            "attack": {"grid": {"states": [1]}},
        }
        path.write_text(yaml.safe_dump(changes), encoding="utf-8")
        return path

    def settings(self, numbers: tuple[int, int] = PAPERS) -> Settings:
        """The settings of such a run."""
        loaded = config.load([CONFIG, self.config(numbers)], protocol="release").model_dump(mode="json")
        return Settings(specs.pick(loaded, *SETTINGS))

    def predict(self, *options: str, numbers: tuple[int, int] = PAPERS) -> Arrays | None:
        """The arrays that `deqpipe predict` writes; None if it refuses."""
        x, y = self.case.images
        images, output = self.folder / "images.npz", self.folder / "predicted.npz"
        np.savez(images, allow_pickle=False, x=x.numpy(), y=y.numpy())
        configs = ("--config", CONFIG, "--config", self.config(numbers), "--protocol", "release")
        files = (self.folder / "weights.safetensors", images, output)
        with contextlib.redirect_stderr(io.StringIO()):
            status = command("predict", *files, *configs, "--dtype", "float64", "--device", "cpu", "--states", *options)
        if status:
            return None
        with np.load(output) as file:
            return dict(file)

    def dynamics(self, *, defended: bool, numbers: tuple[int, int] = PAPERS) -> Arrays:
        """States, what is read off them, residuals, z* and the final state's logits."""
        predicted = self.predict("--defence", "entropy" if defended else "none", numbers=numbers)
        assert predicted is not None
        dynamics = build.dynamics(self.settings(numbers), "entropy" if defended else "plain")
        trajectory = dynamics(self.model, self.case.images[0])
        moved = trajectory.solution.moved.any(1)
        return predicted | {
            "batch_residual": trajectory.solution.batch_residuals[moved].numpy(),
            "returned": trajectory.equilibrium.numpy(),
        }


def our_forward(settings: Settings) -> DEQForward:
    """Adversarial training as configured, every step with the Jacobian term."""
    solver, unroll = settings.variant("solver", config.parse_solver), settings.section("training.unroll", config.Unroll)
    random = settings.section("random_state", config.RandomStateConfig)
    low, high = settings["jacobian.length_jitter"]
    probes: int = settings["jacobian.probes"]
    return DEQForward(
        solver=build_solver(solver),
        termination=build_termination(solver),
        gradient=Unrolled(steps=unroll.steps, damping=unroll.damping, lead_step=unroll.lead_step),
        random_states=RandomStates(random.in_attack, random.natural, returned=lowest_of(solver.scope)),
        jacobian=JacobianRegularisation(JACOBIAN_WEIGHT, 1.0, 10**9, probes, (low, high)),
        returned=solver.returned,
    )


def our_pass(ours: Ours, forward: DEQForward, *, length: int | None, penalised: bool) -> Passed:
    """A pass in training mode, and backwards; `length` None: the weight-tied network of pretraining."""
    model, (x, y) = ours.model.train().requires_grad_(True), ours.case.images
    if length is None:
        output = Output(UnrolledForward(layers=8).logits(model, x, draws(0, 0)), torch.zeros(()))
    else:
        choice = StateChoice(length, forward.returned)
        passes = DEQPass(forward, model, draws(0, 0), regularised=True, loss_states=LossStates(choice, choice))
        output = passes.training(x, choice, penalised=penalised)
    loss = F.cross_entropy(output.logits, y) + output.penalty
    loss.backward()
    return Passed(output.logits.detach(), loss.detach(), output.penalty.detach(), _gradients(model), _statistics(model))


def our_step(ours: Ours, forward: DEQForward) -> Passed:
    """A step of TRADES with the loss from random states and the Jacobian term."""
    model = ours.model.train().requires_grad_(True)
    objective = TradesAdversarial(forward, PGD_10, STREAM, inverse_lambda=6.0, start_noise=START_NOISE)
    loss = objective(model, Batch(*ours.case.images), draws(0, 0))
    loss.value.backward()
    return Passed(loss.logits.detach(), loss.value.detach(), None, _gradients(model), _statistics(model))


def our_attack(ours: Ours, surrogate: Surrogate, y: Tensor, noise: Tensor) -> np.ndarray:
    """Images of PGD-10 on Eq. (11)."""
    settings, model, x = ours.settings(), ours.model, ours.case.images[0]
    point = gridpoints.GridPoint(state=surrogate.state, steps=surrogate.steps, damping=surrogate.damping)
    lead_step: bool = settings["attack.unroll"]["lead_step"]
    logits_of = surrogate_of(point, dynamics=build.plain_dynamics(settings), lead_step=lead_step)
    return PGD_10(cross_entropy_objective(lambda x: logits_of(model, x), y), x, start=x + noise).images.numpy()


def our_selecting_attack(
    ours: Ours, forward: DEQForward, y: Tensor, noise: Tensor, lengths: Sequence[int]
) -> np.ndarray:
    """Images of PGD-10 on random states, image by image until it is misclassified."""
    model, x, left = ours.model, ours.case.images[0], iter(lengths)
    objective = unfooled_objective(lambda x: forward.logits(model, x, StateChoice(next(left), forward.returned)), y)
    return PGD_10(objective, x, start=(x + noise).clamp(0, 1)).images.numpy()


def dice_of_our_step(case: Case, forward: DEQForward, state_size: int) -> Dice:
    """The random numbers of `our_step`, in the order in which the release asks for them."""
    sources = draws(0, 0)
    torch.rand((), generator=sources.jacobian)  # whether the step is regularised
    extra = forward.jacobian.extra_steps(sources.jacobian)
    adversarial, natural = _two_lengths(sources.states, forward.final.steps + extra)
    crafting = [length for _ in range(10) for length in _two_lengths(sources.states, forward.final.steps)]
    noise = torch.randn(case.images[0].shape, generator=STREAM.generator(0))
    start = (START_NOISE * noise).double() / START_NOISE  # ours rounds the product to float32
    probes = _probes(case, state_size, 2 * forward.jacobian.probes, sources.jacobian)
    return Dice([extra, *crafting, natural, adversarial], [start, *probes])


def _two_lengths(generator: torch.Generator, longest: int) -> list[int]:
    """What the two branches draw, the adversarial one first."""
    return [int(torch.randint(1, longest + 1, (), generator=generator)) for _ in range(2)]


def _probes(case: Case, state_size: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Our next probes of the Jacobian, in the release's shape."""
    shape = (case.batch, state_size)
    return [torch.randn(shape, generator=generator).double().unsqueeze(2) for _ in range(count)]


# --- comparisons -----------------------------------------------------------------------------------------------------


EVENTS: Mapping[str, Callable[[Arrays, Case], bool]] = {
    "all states": lambda found, case: len(found["states"]) == case.steps and not found["exploded"],
    "tolerance reached": lambda found, case: len(found["states"]) < case.steps and not found["exploded"],
    "lowest is not last": lambda found, case: _returned_step(found) < len(found["states"]) and _disagree(found),
    "exploded": lambda found, case: bool(found["exploded"]),
}


def _returned_step(found: Arrays) -> int:
    """The step whose state is z*; 0 if it is none of them."""
    same = [index for index, state in enumerate(found["states"], 1) if np.array_equal(state, found["returned"])]
    return min(same, default=0)


def _disagree(found: Arrays) -> bool:
    """Whether images by themselves have their lowest residuals at different steps."""
    return len(set(found["relative_residual"].argmin(0))) > 1


def compare_dynamics(release: Release, ours: Ours, numbers: tuple[int, int] | None) -> Iterator[Line]:
    """The plain dynamics, or those of Sec. 3.2 with T_f and R."""
    case, defended = ours.case, numbers is not None
    network = _filled(release.network(case.shape, "evaluation", numbers or PAPERS), ours).eval()
    theirs = released_dynamics(network, case.images[0], defended=defended)
    found = ours.dynamics(defended=defended, numbers=numbers or PAPERS)
    limit, prefix = (GRADIENTS, f"Sec. 3.2, T_f {numbers[0]}, R {numbers[1]}: ") if numbers else (VALUES, "")
    steps = len(theirs["states"]), _returned_step(theirs)
    if numbers and case.steps % numbers[0]:
        yield f"{prefix}{steps[0]} states there, {len(found['states'])} here", 0.0, math.inf
        apart = difference(found["states"][: steps[0]], theirs["states"], rows=2)
        yield f"{prefix}the first {steps[0]} states", apart, limit
        return
    yield f"{prefix}states ({steps[0]})", difference(found["states"], theirs["states"], rows=2), limit
    for name, rows in (("state_logits", 2), ("batch_residual", 1), ("relative_residual", 2), ("final_logits", 1)):
        if name in theirs:
            yield f"{prefix}{name}", difference(found[name], theirs[name], rows=rows), limit
    yield f"{prefix}returned state (z^[{steps[1]}])", difference(found["returned"], theirs["returned"]), limit
    if not defended:
        yield f"shows: {case.shows}", 0.0 if EVENTS[case.shows](theirs, case) else math.inf, VALUES


def describe_lost(release: Release, ours: Ours, *, defended: bool) -> Iterator[Line]:
    """Where numbers are lost on either side, and whether the other images agree; only the latter is judged."""
    network = _filled(release.network(ours.case.shape, "evaluation"), ours).eval()
    theirs = released_dynamics(network, ours.case.images[0], defended=defended)
    found, prefix = ours.dynamics(defended=defended), "Sec. 3.2: " if defended else ""
    for side, arrays in (("there", theirs), ("here", found)):
        for image in range(ours.case.batch):
            lost = [str(n) for n, state in enumerate(arrays["states"][:, image], 1) if not np.isfinite(state).all()]
            yield f"{prefix}lost states {side}, image {image + 1}: {', '.join(lost) or 'none'}", 0.0, math.inf
        returned = _returned_step(arrays)
        which = f"z^[{returned}]" if returned else "z^[0]" if not arrays["returned"].any() else "not a number"
        yield f"{prefix}returned {side}: {which}", 0.0, math.inf
    whole = np.isfinite(theirs["states"]).all((0, 2))
    if whole.any() and not defended:  # with Sec. 3.2 images influence each other through the lowest state of a round
        apart = difference(found["states"][:, whole], theirs["states"][:, whole], rows=2)
        yield f"states of images {', '.join(map(str, np.flatnonzero(whole) + 1))}", apart, VALUES


def _filled(network: Any, ours: Ours) -> Any:
    """The network with the weights of the case."""
    network.load_state_dict(torch.load(ours.folder / "weights.pth.tar", weights_only=True)["state_dict"])
    return network


def compare_surrogates(release: Release, ours: Ours, *, defended: bool) -> Iterator[Line]:
    """Eq. (11), behind Sec. 3.2 for the first surrogate only; a state that does not exist both sides must refuse."""
    network = _filled(release.network(ours.case.shape, "evaluation"), ours).eval()
    for surrogate in ours.case.surrogates[: 1 if defended else None]:
        name = f"{'Sec. 3.2: ' if defended else ''}surrogate {surrogate.ours}"
        found = ours.predict("--surrogate", surrogate.ours, "--defence", "entropy" if defended else "none")
        try:
            theirs = released_surrogate(network, ours.case, surrogate, defended=defended)
        except IndexError:
            yield f"{name}: refused", 0.0 if found is None else math.inf, VALUES
            continue
        key = surrogate.ours.replace(",", "_")
        for what, prefix, limit in (("logits", "surrogate_logits", VALUES), ("gradient", "gradient", GRADIENTS)):
            array = found[f"{prefix}_{key}"] if found else np.empty(0)
            yield f"{name}: {what}", difference(array, theirs[what], rows=1), limit


def compare_attacks(release: Release, ours: Ours) -> Iterator[Line]:
    """Images that PGD makes, of the same start: of the first surrogate, and while an epoch is selected."""
    case, forward = ours.case, our_forward(ours.settings())
    generator, x = torch.Generator().manual_seed(case.seed), case.images[0]
    noise = (2 * torch.rand(x.shape, generator=generator) - 1) * (8 / 255)
    y = forward.logits(ours.model, x, forward.final).argmax(1)  # images that are wrong are not attacked there
    for surrogate in case.surrogates[:1]:
        network = _filled(release.network(case.shape, "evaluation"), ours)
        theirs = released_attack(release, network, x, y, Dice(uniforms=[noise]), AttackGrad=surrogate.theirs)
        found = our_attack(ours, surrogate, y, noise)
        yield f"PGD-10 at {surrogate.ours}: images", difference(found, theirs, rows=1), GRADIENTS
    lengths = torch.randint(1, case.steps + 1, (10,), generator=generator).tolist()
    network = _filled(release.network(case.shape, "training"), ours)
    theirs = released_attack(release, network, x, y, Dice(lengths, uniforms=[noise]))
    found = our_selecting_attack(ours, forward, y, noise, lengths)
    yield "PGD-10 of the selection: images", difference(found, theirs, rows=1), GRADIENTS


def compare_training(release: Release, ours: Ours) -> Iterator[Line]:
    """Passes in training mode: pretraining, and thresholds without and with the Jacobian term."""
    case, forward = ours.case, our_forward(ours.settings())
    network = release.network(case.shape, "training")
    found = our_pass(ours, forward, length=None, penalised=False)
    yield from compare_passes("pretraining", ours, found, released_pass(_filled(network, ours), case, step=0, length=8))
    probes = _probes(case, ours.model.state_size, forward.jacobian.probes, draws(0, 0).jacobian)
    for length, given in (*((length, probes[:0]) for length in case.lengths), (max(case.lengths), probes)):
        found = our_pass(ours, forward, length=length, penalised=bool(given))
        theirs = released_pass(_filled(network, ours), case, step=16000, length=length, probes=given)
        yield from compare_passes(f"threshold {length}{', Jacobian' if given else ''}", ours, found, theirs)


def compare_step(release: Release, ours: Ours) -> Iterator[Line]:
    """A step of TRADES with random states and the Jacobian term, of the same random numbers."""
    forward = our_forward(ours.settings())
    dice = dice_of_our_step(ours.case, forward, ours.model.state_size)
    theirs = released_step(release, _filled(release.network(ours.case.shape, "training"), ours), ours.case, dice)
    yield from compare_passes("TRADES step, Sec. 3.3", ours, our_step(ours, forward), theirs)


def compare_passes(name: str, ours: Ours, found: Passed, theirs: Passed) -> Iterator[Line]:
    """What two training passes left. The release's names become ours as weights do: by import."""
    brought = checkpoint.read(ours.bring_in("pass", {**theirs.gradients, **theirs.statistics})).tensors
    yield f"{name}: logits", difference(found.logits.numpy(), theirs.logits.numpy(), rows=1), VALUES
    for what, one, other in (("loss", found.loss, theirs.loss), ("Jacobian term", found.penalty, theirs.penalty)):
        if one is not None and other is not None:
            yield f"{name}: {what}", difference(one.numpy(), other.numpy()), VALUES
    assert brought.keys() == found.gradients.keys() | found.statistics.keys()
    for what, tensors, limit in (("gradients", found.gradients, GRADIENTS), ("statistics", found.statistics, VALUES)):
        apart = [difference(one.double().numpy(), brought[key].double().numpy()) for key, one in tensors.items()]
        yield f"{name}: {what}", max(apart), limit


def compare(release: Release, case: Case) -> Iterator[Line]:
    """All quantities of a case."""
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(case, Path(folder))
        network = release.network(case.shape, "evaluation")
        randomise(network, case)
        ours.bring_in("weights", network.state_dict())
        if case.lost:
            for defended in (False, True):
                yield from describe_lost(release, ours, defended=defended)
            return
        yield from compare_dynamics(release, ours, None)
        yield from compare_surrogates(release, ours, defended=False)
        for numbers in case.rounds:
            yield from compare_dynamics(release, ours, numbers)
        yield from compare_surrogates(release, ours, defended=True)
        yield from compare_training(release, ours)
        if case.loops:
            yield from compare_step(release, ours)
            yield from compare_attacks(release, ours)


@without_progress()
def main() -> int:
    """Print all lines; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--release", type=Path, required=True, metavar="FOLDER")
    names = [case.name for case in CASES]
    parser.add_argument("--only", choices=names, action="append", metavar="NAME", help=f"of {', '.join(names)}")
    options = parser.parse_args()
    release = Release(options.release)
    if release.missing:
        parser.error(release.missing)
    torch.set_num_threads(1)
    failed = 0
    for case in CASES:
        if options.only and case.name not in options.only:
            continue
        print(f"{case.name}: {case.described}", flush=True)
        for quantity, apart, limit in compare(release, case):
            good = apart <= limit
            failed += not good
            figure = "" if limit == math.inf else f"{apart:8.1e}" + ("" if good else f"  above {limit:.0e}")
            print(f"  {quantity:<48} {figure}".rstrip(), flush=True)
    print(f"{failed} above their limits" if failed else "All within their limits.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
