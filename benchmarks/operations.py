"""What is measured: operations, and the sides that do each of them. All sides of an operation give equal results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks import plain
from benchmarks.dealt import deal
from benchmarks.world import World
from deqpipe import build
from deqpipe.attack.pgd import PGD, cross_entropy_objective
from deqpipe.attack.surrogate import stacked_surrogate_of, surrogate_of
from deqpipe.build import build_solver, build_termination
from deqpipe.compute.evaluations import Counter
from deqpipe.config import EntropyConfig
from deqpipe.dynamics import Dynamics
from deqpipe.evaluation.evaluated_model import LogitsOf
from deqpipe.evaluation.judge import DEQJudge
from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.solve import solve
from deqpipe.training.forward import DEQForward
from deqpipe.training.loop import TrainingPlan, descend
from deqpipe.training.objectives import Batch, PGDAdversarial, TradesAdversarial
from deqpipe.workflow import gridpoints, vocabulary
from deqpipe.workflow.gridpoints import GridPoint

Shown: TypeAlias = Mapping[str, Tensor]
"""What came out, by name."""
Run: TypeAlias = Callable[[int], Shown]
"""Does an operation for the so-manieth time, which its random draws depend on."""


def _nothing() -> Shown:
    return {}


@dataclass(frozen=True)
class Side:
    """Somebody's way of doing an operation.

    Attributes:
        name: plain, ours, or the authors'.
        run: does it once.
        images: that it is done on, times how often: what a run's speed is the number of.
        counter: of its evaluations of f.
        more: what else must agree, though it is not part of the operation.
        compared: whether its results are those of the first side; other keys give others.
    """

    name: str
    run: Run
    images: int
    counter: Counter
    more: Callable[[], Shown] = _nothing
    compared: bool = True


@dataclass(frozen=True)
class Prices:
    """Seconds of one evaluation of f per image: forward, and what each kind of gradient adds."""

    forward: float
    backward_input: float
    backward_weights: float


@dataclass(frozen=True)
class Operation:
    """Something that takes time.

    Attributes:
        name: in tables.
        sides: those that do it in a world; the first one is what the others are compared with.
        f: what f is in it, for the bound.
    """

    name: str
    sides: Callable[[World], Sequence[Side]]
    f: Callable[[World], "Evaluated"]


@dataclass(frozen=True)
class Evaluated:
    """A function whose evaluations bound an operation.

    Attributes:
        forward: evaluates it, without a graph.
        with_input: evaluates it and takes the gradient to its inputs.
        with_weights: the same, to its weights as well.
        images: at once.
    """

    forward: Callable[[], object]
    with_input: Callable[[], object] | None
    with_weights: Callable[[], object] | None
    images: int


READ = ("predicted", "margin", "entropy")
PLAIN, OURS, STACKED = "plain", "ours", "ours, stacked"
SOLVER_ALONE = "solver alone, f next to free"


# --- f alone ---------------------------------------------------------------------------------------------------------


def cell(world: World) -> Evaluated:
    """Our f in the way of the world, as a function of tensors: no stem, no weight normalisation."""
    network, (x, _) = world.network().requires_grad_(False), world.images
    with torch.no_grad():
        f = network.bind(x)
        z = f(network.initial_state(x))
    weights = f.frozen.weights
    trained = _asking(weights)

    def forward() -> Tensor:
        with torch.no_grad():
            return f.evaluate(z, f.injection, weights, ())

    def with_input() -> object:
        at = z.detach().requires_grad_()
        return torch.autograd.grad(f.evaluate(at, f.injection, weights, ()).sum(), at)

    def with_weights() -> object:
        at = z.detach().requires_grad_()
        return torch.autograd.grad(f.evaluate(at, f.injection, trained, ()).sum(), [at, *_leaves(trained)])

    return Evaluated(forward, with_input, with_weights, len(x))


def _leaves(weights: Any) -> list[Tensor]:
    return [weights] if isinstance(weights, Tensor) else [leaf for part in weights for leaf in _leaves(part)]


def _asking(weights: Any) -> Any:
    """The same tensors, which ask for gradients."""
    if isinstance(weights, Tensor):
        return weights.detach().clone().requires_grad_()
    parts = [_asking(part) for part in weights]
    return tuple(parts) if type(weights) is tuple else type(weights)(*parts)


def _cell_alone() -> Operation:
    def sides(world: World) -> list[Side]:
        ours, deq = world.network(), plain_deq(world)
        slow, (x, _) = deq.network, world.images

        def our_run(number: int) -> Shown:
            return _f_and_gradients(ours.bind(x), ours, x)

        def plain_run(number: int) -> Shown:
            return _f_and_gradients(deq.of(x, deq.weights()), slow, x)

        return [Side(PLAIN, plain_run, len(x), slow.counter), Side(OURS, our_run, len(x), ours.counter)]

    return Operation("f and all its gradients", sides, cell)


def _f_and_gradients(fn: plain.Map, network: DEQClassifier, x: Tensor) -> Shown:
    z = network.initial_state(x).requires_grad_()
    value = fn(fn(z))
    parameters = dict(network.cell.named_parameters())
    to_state, *gradients = torch.autograd.grad(value.square().sum(), [z, *parameters.values()])
    states = {"f": value.detach(), "gradient to the state": to_state}
    return {name: network.in_channel_order(each) for name, each in states.items()} | dict(
        zip(parameters, gradients, strict=True)
    )


# --- the solver ------------------------------------------------------------------------------------------------------


def cheap(world: World) -> tuple[plain.Map, Tensor]:
    """A map of states that costs next to nothing, z -> w z + b number by number, and where a solve of it starts."""
    generator, shape = torch.Generator().manual_seed(world.seed), (world.batch, world.state_size)
    w, b = (torch.randn(shape, generator=generator).to(world.device, world.dtype) for _ in range(2))
    w = 0.8 * torch.tanh(w)
    return lambda z: torch.addcmul(b, w, z), torch.zeros_like(b)


def counting(fn: plain.Map, counter: Counter) -> plain.Map:
    """The same map, its evaluations counted."""

    def f(z: Tensor) -> Tensor:
        value = fn(z)
        counter.count(value)
        return value

    return f


def cheap_evaluated(world: World) -> Evaluated:
    """That map, as what bounds a solve."""
    fn, z = cheap(world)
    return Evaluated(lambda: fn(z), None, None, world.batch)


def _solver_alone() -> Operation:
    def sides(world: World) -> list[Side]:
        config, (fn, z0), counters = world.config.solver, cheap(world), (Counter(), Counter())
        solver, termination = build_solver(config), build_termination(config)
        slow, fast = (counting(fn, counter) for counter in counters)

        @torch.no_grad()
        def our_run(number: int) -> Shown:
            solution, _ = solve(solver, fast, solver.init(fast, z0), termination=termination)
            return {"states": solution.states, "residuals": solution.residuals}

        def plain_run(number: int) -> Shown:
            states, residuals = plain.solved(slow, z0, config.steps)
            return {"states": torch.stack(states), "residuals": torch.stack(residuals)}

        return [
            Side(PLAIN, plain_run, world.batch, counters[0]),
            Side(OURS, our_run, world.batch, counters[1]),
        ]

    return Operation(SOLVER_ALONE, sides, cheap_evaluated)


# --- attacks ---------------------------------------------------------------------------------------------------------


def our_attack(world: World, points: Sequence[GridPoint], *, name: str = OURS, compared: bool = True) -> Side:
    """One step of PGD at some points of the grid."""
    network, dynamics = world.network().requires_grad_(False), build.plain_dynamics(world.settings)
    lead_step: bool = world.config.attack.unroll.lead_step
    logits_of = [LogitsOf(network, surrogate_of(point, dynamics=dynamics, lead_step=lead_step)) for point in points]
    (x, y), start, attack = world.images, world.start, _one_step(world, network)

    def run(number: int) -> Shown:
        made = [attack(cross_entropy_objective(each, y), x, start=start).images for each in logits_of]
        return {"images": torch.stack(made)}

    def more() -> Shown:
        return surrogates(logits_of, start, y)

    return Side(name, run, len(x) * len(points), network.counter, more, compared)


def _one_step(world: World, network: DEQClassifier) -> PGD:
    step_size = world.config.attack.pgd.step_size_255 / 255
    return PGD(world.ball, steps=1, step_size=step_size, run=world.computed.runner(network))


def our_stacked_attack(world: World, points: Sequence[GridPoint]) -> Side:
    """The same at points that differ in K_a only, all of them at once; the largest K_a first."""
    network, count = world.network().requires_grad_(False), len(points)
    lead_step: bool = world.config.attack.unroll.lead_step
    stacked = stacked_surrogate_of(points, dynamics=build.plain_dynamics(world.settings), lead_step=lead_step)
    (x, y), attack = world.images, _one_step(world, network)
    many, start = x.repeat(count, 1, 1, 1), world.start.repeat(count, 1, 1, 1)
    objective = cross_entropy_objective(LogitsOf(network, stacked), y.repeat(count))

    def run(number: int) -> Shown:
        return {"images": torch.stack([part.images for part in attack(objective, many, start=start).parts(count)])}

    return Side(STACKED, run, len(many), network.counter)


def surrogates(logits_of: Sequence[Callable[[Tensor], Tensor]], start: Tensor, y: Tensor) -> Shown:
    """Logits of surrogates, and the gradients of their summed cross-entropy."""
    found, gradients = list[Tensor](), list[Tensor]()
    for each in logits_of:
        x = start.detach().requires_grad_()
        logits = each(x)
        gradients += torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
        found.append(logits.detach())
    return {"logits": torch.stack(found), "gradients": torch.stack(gradients)}


def threat(world: World, step_size_255: float) -> plain.Threat:
    """The threat model, and a step in it."""
    return plain.Threat(world.ball.epsilon, step_size_255 / 255)


def plain_deq(world: World) -> plain.PlainDEQ:
    """The same model, computed plainly."""
    config = world.config
    return plain.PlainDEQ(world.network(ours=False), config.solver.steps, config.evaluation.final_unroll_steps)


def plain_attack(world: World, points: Sequence[GridPoint], *, compared: bool = True) -> Side:
    """The same step, plainly."""
    deq, (x, y), start = plain_deq(world), world.images, world.start
    attacks = [plain.Surrogate(point.state, point.steps, point.damping) for point in points]
    stepping = threat(world, world.config.attack.pgd.step_size_255)

    def run(number: int) -> Shown:
        made = [plain.attacked(deq, each, (x, y), start, threat=stepping, steps=1) for each in attacks]
        return {"images": torch.stack(made)}

    def more() -> Shown:
        return surrogates([partial(each, deq) for each in attacks], start, y)

    return Side(PLAIN, run, len(x) * len(points), deq.network.counter, more, compared)


def attack_step(points: int) -> Operation:
    """One step of PGD, mean over (a spread of) the grid."""

    def sides(world: World) -> list[Side]:
        return [plain_attack(world, world.points(points)), our_attack(world, world.points(points))]

    return Operation("attack step, mean over the grid", sides, cell)


def stacked_attack_step() -> Operation:
    """One step of PGD at all K_a of a state in the middle."""

    def sides(world: World) -> list[Side]:
        state, damping = (world.config.solver.steps + 1) // 2, gridpoints.FINAL_DAMPING
        steps = sorted(world.config.attack.grid.steps, reverse=True)[: world.most_points]
        points = [GridPoint(damping=damping, state=state, steps=k) for k in steps]
        alone, stacked = our_attack(world, points), our_stacked_attack(world, points)
        return [replace(plain_attack(world, points), more=_nothing), replace(alone, more=_nothing), stacked]

    return Operation("attack step, every K_a of one state", sides, cell)


# --- decisions -------------------------------------------------------------------------------------------------------


def entropy_of(world: World, solver_steps: int, input_steps: int) -> EntropyConfig:
    """Sec. 3.2 with another T_f and R."""
    return world.config.entropy.model_copy(update={"solver_steps": solver_steps, "input_steps": input_steps})


def dynamics_of(world: World, setting: tuple[int, int] | None) -> Dynamics:
    """The dynamics with these T_f and R; None: the undefended ones."""
    settings = world.settings
    return (
        build.plain_dynamics(settings)
        if setting is None
        else build.entropy_dynamics(settings, entropy_of(world, *setting))
    )


def reduction_of(world: World, setting: tuple[int, int] | None) -> plain.Reduction | None:
    """The same, plainly."""
    if setting is None:
        return None
    return plain.Reduction(*setting, threat(world, world.config.entropy.step_size_255))


def our_scoring(world: World, setting: tuple[int, int] | None) -> Side:
    """Everything that a record holds, of every state and the final one."""
    network, (x, y) = world.network().requires_grad_(False), world.images
    judge = DEQJudge(network, dynamics_of(world, setting), "", build.final_unroll(world.settings))

    def run(number: int) -> Shown:
        columns = {name: torch.from_numpy(column).T for name, column in judge(x, y).columns.items()}
        # records have no residual of the final state
        return {name: columns[name] for name in READ} | {"residual": columns["residual"][:-1]}

    return Side(OURS, run, len(x), network.counter)


def plain_scoring(world: World, setting: tuple[int, int] | None) -> Side:
    """The same, plainly."""
    deq, (x, y), reduction = plain_deq(world), world.images, reduction_of(world, setting)
    return Side(PLAIN, lambda number: plain.scored(deq, x, y, reduction), len(x), deq.network.counter)


def our_decision(world: World, setting: tuple[int, int] | None, *, name: str = OURS) -> Side:
    """What it takes to get one class per image, as `time-inference` has it."""
    network, (x, _) = world.network().requires_grad_(False), world.images
    dynamics, last = dynamics_of(world, setting), world.config.solver.steps

    @torch.no_grad()
    def run(number: int) -> Shown:
        z = dynamics.up_to(last)(network, x, last_residual=False).solution.z
        logits = network.logits(z)
        return {"logits": logits, "classes": logits.argmax(1).cpu()}

    return Side(name, run, len(x), network.counter)


def plain_decision(world: World, setting: tuple[int, int] | None) -> Side:
    """The same, plainly."""
    deq, (x, _), reduction = plain_deq(world), world.images, reduction_of(world, setting)

    def run(number: int) -> Shown:
        logits = plain.decided(deq, x, reduction)
        return {"logits": logits, "classes": logits.argmax(1).cpu()}

    return Side(PLAIN, run, len(x), deq.network.counter)


def in_words(setting: tuple[int, int] | None) -> str:
    """A setting of Sec. 3.2."""
    return "undefended" if setting is None else f"Sec. 3.2, T_f {setting[0]}, R {setting[1]}"


def scoring(setting: tuple[int, int] | None) -> Operation:
    """Scoring images at all states."""

    def sides(world: World) -> list[Side]:
        return [plain_scoring(world, setting), our_scoring(world, setting)]

    return Operation(f"scoring, {in_words(setting)}", sides, cell)


def decision(setting: tuple[int, int] | None) -> Operation:
    """Inference (Table 10)."""

    def sides(world: World) -> list[Side]:
        return [plain_decision(world, setting), our_decision(world, setting)]

    return Operation(f"inference, {in_words(setting)}", sides, cell)


# --- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """One of the trainings.

    Attributes:
        name: in tables.
        model: in `vocabulary.MODELS`.
        regularised: whether every step carries the Jacobian term, or none.
    """

    name: str
    model: str
    regularised: bool = False

    @property
    def framework(self) -> str:
        """pgd_at or trades."""
        framework = vocabulary.MODELS[self.model].framework
        assert framework is not None
        return framework


METHODS = (
    Method("PGD-AT", "deq_pgd_at_base"),
    Method("PGD-AT, Sec. 3.3", "deq_pgd_at_random_states"),
    Method("TRADES", "deq_trades_base"),
    Method("TRADES, Sec. 3.3", "deq_trades_random_states"),
    Method("TRADES, Sec. 3.3, Jacobian term", "deq_trades_random_states", regularised=True),
)


def objective_of(plan: TrainingPlan) -> PGDAdversarial | TradesAdversarial:
    """The objective of an adversarial training."""
    assert isinstance(plan.objective, PGDAdversarial | TradesAdversarial)
    return plan.objective


def our_training(world: World, method: Method) -> Side:
    """A training step: attack, loss, gradient, update."""
    network, (x, y) = world.network().train(), world.images
    runner = world.computed.runner(network)
    plan = world.plan(method.model, regularised=method.regularised, run_steps=runner)
    optimizer = plan.optimizer(network)

    def run(number: int) -> Shown:
        descend(plan, network, optimizer, Batch(x, y), step=number)
        return trained(network)

    return Side(OURS, run, len(x), network.counter)


def trained(network: nn.Module) -> Shown:
    """Gradients, weights and statistics that a step left."""
    gradients = {f"gradient of {name}": each.grad for name, each in network.named_parameters() if each.grad is not None}
    return gradients | dict(network.state_dict())


def plain_training(world: World, method: Method) -> Side:
    """The same, plainly."""
    images, plan, numbers = (
        world.images,
        world.plan(method.model, regularised=method.regularised),
        world.config.training,
    )
    objective, slow = objective_of(plan), world.network(ours=False).train()
    forward = objective.forward
    assert isinstance(forward, DEQForward)
    deq = plain.PlainDEQ(slow, world.config.solver.steps, numbers.unroll.steps, numbers.unroll.damping)
    training = plain.Training(
        threat=threat(world, numbers.attack.step_size_255),
        attack_steps=numbers.attack.steps,
        start_noise=numbers.trades.start_noise,
        inverse_lambda=numbers.trades.inverse_lambda,
        jacobian=forward.jacobian.weight,
        probes=forward.jacobian.probes,
    )
    step = plain.Step(deq, training, Adam(slow.parameters(), world.learning_rate, betas=numbers.betas))
    one = step.pgd_at if method.framework == "pgd_at" else step.trades

    def run(number: int) -> Shown:
        one(images, deal(objective, images[0], seed=world.seed, step=number))
        return trained(slow)

    return Side(PLAIN, run, len(images[0]), slow.counter)


def training_step(method: Method) -> Operation:
    """A training step of a framework and method."""

    def sides(world: World) -> list[Side]:
        return [plain_training(world, method), our_training(world, method)]

    return Operation(f"training step, {method.name}", sides, cell)


# --- all of them -----------------------------------------------------------------------------------------------------

SETTINGS = ((1, 1), (2, 10), (4, 5), (8, 20))
"""Pairs of T_f and R in which each value of Table 10 stands once, and those of the paper's main results."""


def operations(world: World, *, points: int, all_settings: bool = False) -> list[Operation]:
    """Everything that is measured, the most telling first."""
    sweep, default = world.config.entropy_sweep, (world.config.entropy.solver_steps, world.config.entropy.input_steps)
    settings = [(t, r) for t in sweep.solver_steps for r in sweep.input_steps] if all_settings else SETTINGS
    return [
        attack_step(points),
        stacked_attack_step(),
        *(training_step(method) for method in METHODS),
        scoring(None),
        scoring(default),
        *(decision(setting) for setting in (None, *settings)),
        _solver_alone(),
        _cell_alone(),
    ]
