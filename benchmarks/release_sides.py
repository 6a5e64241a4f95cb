"""The authors' own code as a side of operations, and our side with the keys that make the two equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks import operations as ours
from benchmarks.dealt import deal, to_release
from benchmarks.operations import METHODS, SETTINGS, Method, Operation, Shown, Side
from benchmarks.release_code import PAPERS, Dice, Release, Shape, TradesStep, surrogate_name
from benchmarks.world import World
from deqpipe.build import build_solver, build_termination
from deqpipe.compute.evaluations import Counter, Evaluations
from deqpipe.model.release.names import names_of
from deqpipe.solver.solve import solve
from deqpipe.workflow.gridpoints import GridPoint

AUTHORS = "the authors' code"
PAPERS_KEYS = "ours, the paper's keys"


@dataclass(frozen=True)
class Counted:
    """A network of the release, its evaluations of f counted.

    Attributes:
        network: the model.
        release: its code, of the network's type and device.
        shape: as the release was told it.
        counter: of its evaluations.
    """

    network: Any
    release: Release
    shape: Shape
    counter: Counter


def counted(world: World, folder: Path, tree: str, numbers: tuple[int, int] = PAPERS) -> Counted:
    """The model of a world in the authors' code: the same weights."""
    config, release = world.config, Release(folder, world.dtype, world.device)
    shape = Shape(
        channels=config.model.channels,
        head=config.model.head_channels,
        final=config.model.final_channels,
        groups=config.model.groups,
        expansion=config.model.expansion,
        weight_norm=config.model.weight_norm,
        classes=world.shape.classes,
        steps=config.solver.steps,
    )
    found = Counted(release.network(shape, tree, numbers), release, shape, Counter())
    state = world.network().state_dict()
    found.network.load_state_dict({theirs: state[name] for theirs, name in names_of(config.model).items()})
    _watch(found.network.fullstage, found.counter)
    return found


def _watch(f: Any, counter: Counter) -> None:
    """Count the evaluations of the release's f as `BoundMap` counts those of ours: by its value and one weight."""
    convolution, weights = f.post_fuse_layers[0].conv, list[Tensor]()

    def before(module: Any, inputs: Any) -> None:
        weights.append(convolution.weight)
        convolution.weight = counter.watched(convolution.weight, images=len(inputs[0][0]))

    def after(module: Any, inputs: Any, values: Sequence[Tensor]) -> None:
        convolution.weight = weights.pop()
        counter.count(values[0])

    f.register_forward_pre_hook(before)
    f.register_forward_hook(after)


def their_attack(world: World, folder: Path, points: Sequence[GridPoint]) -> Side:
    """One step of PGD at some points of the grid."""
    theirs, (x, y) = counted(world, folder, "evaluation"), world.images
    step_size = world.config.attack.pgd.step_size_255 / 255
    pgd, network = theirs.release.loop("evaluation").pgd, theirs.network.eval()

    def attack(point: GridPoint) -> Tensor:
        name = surrogate_name(point.state, point.steps, point.damping)
        with theirs.release.stand_ins(), Dice(uniforms=[world.start_noise]).thrown():
            made: Tensor = pgd(network, x, y, F.cross_entropy, world.ball.epsilon, step_size, 1, AttackGrad=name)
        return made

    def run(number: int) -> Shown:
        return {"images": torch.stack([attack(point) for point in points])}

    def more() -> Shown:
        return ours.surrogates([_logits_of(theirs, point) for point in points], world.start, y)

    return Side(AUTHORS, run, len(x) * len(points), theirs.counter, more)


def _logits_of(theirs: Counted, point: GridPoint) -> Callable[[Tensor], Tensor]:
    name = surrogate_name(point.state, point.steps, point.damping)

    def logits_of(x: Tensor) -> Tensor:
        with theirs.release.stand_ins():
            logits: Tensor = theirs.network(x, train_step=-1, compute_jac_loss=False, AttackGrad=name, for_attack=True)[
                0
            ]
        return logits

    return logits_of


def attack_step(folder: Path, points: int) -> Operation:
    """One step of PGD, mean over (a spread of) the grid: with the authors' keys, and as the paper has it."""

    def sides(world: World) -> list[Side]:
        paper, at = replace(world, protocol="paper"), world.points(points)
        return [
            their_attack(world, folder, at),
            ours.our_attack(world, at),
            ours.our_attack(paper, at, name=PAPERS_KEYS, compared=False),
        ]

    return Operation("attack step, mean over the grid", sides, ours.cell)


def their_decision(world: World, folder: Path, setting: tuple[int, int] | None) -> Side:
    """Inference as their evaluation does it: the whole forward pass, then the head at z^[N]."""
    theirs, (x, _) = counted(world, folder, "evaluation", setting or PAPERS), world.images
    network, last = theirs.network.eval(), world.config.solver.steps

    def run(number: int) -> Shown:
        with theirs.release.stand_ins(), torch.no_grad():
            _, _, scales = network(x, train_step=-1, compute_jac_loss=False, for_attack=setting is None)
            logits: Tensor = network.predict(scales[last - 1])
        return {"logits": logits, "classes": logits.argmax(1).cpu()}

    return Side(AUTHORS, run, len(x), theirs.counter)


def decision(folder: Path, setting: tuple[int, int] | None) -> Operation:
    """Inference (Table 10)."""

    def sides(world: World) -> list[Side]:
        return [their_decision(world, folder, setting), ours.our_decision(world, setting)]

    return Operation(f"inference, {ours.in_words(setting)}", sides, ours.cell)


def their_training(world: World, folder: Path, method: Method) -> Side:
    """A training step. TRADES is their loop; PGD-AT is put together of their attack and their forward pass."""
    theirs, plan = counted(world, folder, "training"), world.plan(method.model, regularised=method.regularised)
    objective, images, network = ours.objective_of(plan), world.images, theirs.network.train()
    optimizer = Adam(network.parameters(), world.learning_rate, betas=world.config.training.betas)
    trades = method.framework == "trades"
    step = _trades_step(world, theirs, method) if trades else _pgd_at_step(world, theirs)
    names = names_of(world.config.model)

    def run(number: int) -> Shown:
        dealt = deal(objective, images[0], seed=world.seed, step=number)
        step(images, optimizer, to_release(objective, dealt, images[0], state_size=world.state_size))
        gradients = {f"gradient of {names[name]}": each.grad for name, each in network.named_parameters()}
        return gradients | {ours_: network.state_dict()[name] for name, ours_ in names.items()}

    return Side(AUTHORS, run, len(images[0]), theirs.counter)


_Step = Callable[[tuple[Tensor, Tensor], Adam, Dice], None]


def _trades_step(world: World, theirs: Counted, method: Method) -> _Step:
    numbers = world.config.training.attack
    weight = world.config.jacobian.weight.trades if method.regularised else 0.0
    step = TradesStep(
        theirs.release, theirs.shape, world.ball.epsilon, numbers.step_size_255 / 255, numbers.steps, weight
    )
    # What goes back through the gradients of the Jacobian term, in both branches (`Counter.count_differentiated`).
    probes = world.config.jacobian.probes
    unseen = Evaluations(backward_input=probes + 1, backward_weights=probes) * (2 * world.batch * method.regularised)

    def run(images: tuple[Tensor, Tensor], optimizer: Adam, dice: Dice) -> None:
        step(theirs.network, images, criterion=F.cross_entropy, optimizer=optimizer, dice=dice)
        theirs.counter.add(unseen)

    return run


class Uploading(nn.Module):
    """A network on a device that takes images from the CPU, as in the release, whose attack leaves them there."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self.device = network, device

    def forward(self, x: Tensor, **options: Any) -> Any:
        """What the network makes of them."""
        return self.network(x.to(self.device), **options)


def _pgd_at_step(world: World, theirs: Counted) -> _Step:
    numbers, pgd, network = world.config.training.attack, theirs.release.loop("training").pgd, theirs.network
    attacked = network if world.device.type == "cpu" else Uploading(network, world.device)
    epsilon, step_size = world.ball.epsilon, numbers.step_size_255 / 255
    behind_pretraining = 10**9

    def run(images: tuple[Tensor, Tensor], optimizer: Adam, dice: Dice) -> None:
        x, y = images
        with theirs.release.stand_ins(), dice.thrown():
            start = x if attacked is network else x.cpu()
            made = pgd(attacked, start, y, F.cross_entropy, epsilon, step_size, numbers.steps, isTrain=True)
            network.train()
            logits, _, _ = network(made.to(x.device), train_step=behind_pretraining, compute_jac_loss=False)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def training_step(folder: Path, method: Method) -> Operation:
    """A training step of a framework and method."""

    def sides(world: World) -> list[Side]:
        return [their_training(world, folder, method), ours.our_training(world, method)]

    return Operation(f"training step, {method.name}", sides, ours.cell)


def solver_alone(folder: Path) -> Operation:
    """Broyden's method on a function that costs next to nothing."""

    def sides(world: World) -> list[Side]:
        config, counters = world.config.solver, (Counter(), Counter())
        fn, z0 = ours.cheap(world)
        slow, fast = (ours.counting(fn, counter) for counter in counters)
        release = Release(folder, world.dtype, world.device)
        broyden = release.solvers().broyden
        solver, termination = build_solver(config), build_termination(config)

        @torch.no_grad()
        def their_run(number: int) -> Shown:
            def flat(z: Tensor) -> Tensor:
                return slow(z[:, :, 0])[:, :, None]

            with release.stand_ins():
                found = broyden(flat, z0[:, :, None], threshold=config.steps, stop_mode="rel")
            return {"states": torch.stack(found["results_list"])[:, :, :, 0]}

        @torch.no_grad()
        def our_run(number: int) -> Shown:
            solution, _ = solve(solver, fast, solver.init(fast, z0), termination=termination)
            return {"states": solution.states}

        return [
            Side(AUTHORS, their_run, world.batch, counters[0]),
            Side(ours.OURS, our_run, world.batch, counters[1]),
        ]

    return Operation(ours.SOLVER_ALONE, sides, ours.cheap_evaluated)


def operations(folder: Path, *, points: int) -> list[Operation]:
    """Everything that the release has, the most telling first."""
    return [
        attack_step(folder, points),
        *(training_step(folder, method) for method in METHODS),
        *(decision(folder, setting) for setting in (None, *SETTINGS) if setting is None or setting in (PAPERS, (1, 1))),
        solver_alone(folder),
    ]
