"""deqpipe in Python: a trained model, what it decides along its dynamics, and attacks on it, in a few lines.

`deqpipe.load` and `deqpipe.images` are these functions. Everything below is theirs to combine: the parts themselves
(`deqpipe.dynamics`, `deqpipe.attack`, `deqpipe.solver`, ...) take and return the same tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from deqpipe import build, config, data
from deqpipe.attack.pgd import PGD, cross_entropy_objective, uniform_start
from deqpipe.attack.surrogate import IntermediateState
from deqpipe.compute.precision import Precision
from deqpipe.config import PgdConfig
from deqpipe.defence.rule import DecisionRule, decided_along, decision_at
from deqpipe.dynamics import Trajectory
from deqpipe.errors import UserError
from deqpipe.evaluation.images import STARTS
from deqpipe.gradient import Unrolled
from deqpipe.machine import device as devices
from deqpipe.model.architecture import Loaded, load_deq
from deqpipe.model.classifier import DEQClassifier
from deqpipe.reporting.paper import experiment
from deqpipe.results import early_states
from deqpipe.seeding import Stream
from deqpipe.settings import Settings
from deqpipe.shapes import Images, Labels, Logits
from deqpipe.threat_model import LinfBall, ball_of
from deqpipe.workflow import specs, vocabulary
from deqpipe.workflow.defences import DefenceName

FINAL: Literal["final"] = "final"
"""The final state: z*, unrolled as the configuration says."""
WhichState: TypeAlias = int | Literal["final"]

_KEYS = (
    "solver", "entropy", "threat_model", "attack.unroll", "attack.pgd", "evaluation.final_unroll_steps", "precision",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A trained DEQ with the settings that it is run and attacked with.

    Tensors that go in may lie anywhere; those that come out lie on the model's device.

    Attributes:
        network: f, stem and head, in evaluation mode, its parameters frozen.
        classes: names; class k is classes[k].
        early_states: the state that decides, chosen on held-out images, by defence; empty for a file that lies in no
            results folder.
        provenance: of the training.
        settings: solver, defence, threat model and PGD.
    """

    network: DEQClassifier
    classes: tuple[str, ...]
    early_states: Mapping[DefenceName, int]
    provenance: Mapping[str, Any]
    settings: Settings

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def ball(self) -> LinfBall:
        """The threat model of its settings."""
        return ball_of(self.settings)

    def trajectory(self, images: Images, *, defence: DefenceName = "plain") -> Trajectory:
        """The states z^[1] .. z^[N] of images in [0, 1] (Eq. 3), with `defence="entropy"` those of Sec. 3.2."""
        return build.dynamics(self.settings, defence)(self.network, images.to(self.device))

    @torch.no_grad()
    def logits(self, images: Images, *, state: WhichState = FINAL, defence: DefenceName = "plain") -> Logits:
        """What the head reads off one state.

        Args:
            images: in [0, 1].
            state: counted from 1, or "final".
            defence: whose dynamics the state is of.

        Raises:
            IndexError: there is no such state.
        """
        along, rule = self.trajectory(images, defence=defence), self._rule(defence)
        if state != FINAL:
            return decision_at(self.network, along, state, rule)
        final = self.network.logits(along.final_state(build.final_unroll(self.settings)))
        read = [] if rule is None else [*self.network.trajectory_logits(along.solution.states)]
        return final if rule is None else rule.at_final(torch.stack([*read, final]))

    @torch.no_grad()
    def logits_along(self, images: Images, *, defence: DefenceName = "plain") -> Float[Tensor, "step batch classes"]:
        """What the head reads off z^[1], z^[2], .. z^[N]."""
        states = self.trajectory(images, defence=defence).solution.states
        read = torch.stack([self.network.logits(z) for z in states])
        return decided_along(read, self._rule(defence))

    def _rule(self, defence: DefenceName) -> DecisionRule | None:
        return build.rule(self.settings, defence, classes=len(self.classes))

    def accuracy(
        self, images: Images, labels: Labels, *, state: WhichState = FINAL, defence: DefenceName = "plain"
    ) -> float:
        """The share of images that are classified right; arguments as for `logits`.

        As in the workflow, logits that are not finite are wrong, whatever their largest is.
        """
        logits = self.logits(images, state=state, defence=defence)
        right = (logits.argmax(1) == labels.to(self.device)) & logits.isfinite().all(1)
        return float(right.double().mean())

    def attack(
        self,
        images: Images,
        labels: Labels,
        *,
        state: int,
        steps: int = 5,
        damping: float = 0.5,
        pgd_steps: int | None = None,
        epsilon_255: float | None = None,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Images:
        """Images near the given ones that PGD on an intermediate state makes (Eq. 11): inside the ball and [0, 1].

        The undefended dynamics are attacked. The first test images, with the seed of a run and its settings, become the
        images of that run.

        Args:
            images: in [0, 1].
            labels: their classes.
            state: i, counted from 1.
            steps: K_a.
            damping: lambda.
            pgd_steps: gradient steps; None: as configured.
            epsilon_255: radius of the ball in 1/255 of the pixel range; None: as configured.
            seed: of the random starts.
            numbers: the key of each image's random start; None: 0, 1, 2, ...

        Raises:
            IndexError: there is no such state.
            ValueError: no steps, a damping that is none, or a negative radius.
        """
        x, y = images.to(self.device), labels.to(self.device)
        pgd = self.settings.section("attack.pgd", PgdConfig)
        ball = self.ball if epsilon_255 is None else LinfBall(epsilon_255 / 255)
        surrogate = self._surrogate(state, steps, damping)
        stream, keys = Stream(seed, STARTS), range(len(x)) if numbers is None else numbers
        start = uniform_start(x, ball=ball, stream=stream, images=keys, clamp=pgd.clamp_start)
        ascent = PGD(ball, steps=pgd.steps if pgd_steps is None else pgd_steps, step_size=pgd.step_size_255 / 255)
        objective = cross_entropy_objective(lambda images: surrogate(self.network, images), y)
        return ascent(objective, x, start=start).images

    def _surrogate(self, state: int, steps: int, damping: float) -> IntermediateState:
        lead = self.settings["attack.unroll"]["lead_step"]
        return IntermediateState(state, Unrolled(steps, damping, lead_step=lead), build.plain_dynamics(self.settings))


def load(
    path: str | Path,
    *,
    configuration: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Model:
    """A DEQ that the workflow trained, or that was imported.

    Args:
        path: of the weights, such as results/demo/models/deq_trades_base/seed0/best.safetensors.
        configuration: a resolved config.yaml whose solver, defence, threat model and PGD are used; None: that of the
            results folder which the weights lie in, and where they lie in none, the paper's settings.
        device: where it computes; auto: CUDA where there is one.
        dtype: what it computes in.

    Raises:
        UserError: a file is missing or damaged, or holds no DEQ of deqpipe's own architecture.
    """
    path, where = Path(path), devices.choose(device)
    loaded = load_deq(path, where, dtype, taker="deqpipe.load")
    assert isinstance(loaded.model, DEQClassifier)
    settings = settings_of(path, configuration=configuration)
    loaded.model.compute_with(Precision(settings["precision"]))
    return Model(
        loaded.model, tuple(loaded.architecture["classes"]), _early_states(path, loaded), loaded.provenance, settings
    )


def images(
    path: str | Path, *, count: int | None = None, split: Literal["train", "validation", "test"] = "test"
) -> tuple[Images, Labels]:
    """The first images of a prepared dataset, in [0, 1], and their classes.

    Args:
        path: such as results/demo/data/dataset.safetensors.
        count: how many; None: all.
        split: of which split.

    Raises:
        UserError: the file is missing, damaged, or holds fewer images.
    """
    found = getattr(data.load(Path(path)), split)
    if count is not None and not 1 <= count <= len(found):
        raise UserError(f"count is {count}, but must be 1 to {len(found)}: so many images has the {split} split")
    chosen = slice(0, count)
    return found.float_images(chosen), found.labels[chosen]


def _results_of(path: Path) -> Path | None:
    """The results folder of weights that lie in one: RESULTS/models/MODEL/seedS/best.safetensors."""
    above = path.absolute().parents  # as named: links to weights lie where their name says
    inside = len(above) > 3 and above[2].name == "models" and (above[3] / "config.yaml").is_file()
    return above[3] if inside else None


def settings_of(path: Path, *, configuration: str | Path | None = None) -> Settings:
    """Solver, defence, threat model and PGD of weights; arguments as for `load`."""
    results = _results_of(path)
    if configuration is None and results is None:
        return Settings(specs.pick(experiment.nested("paper"), *_KEYS))
    chosen = Path(configuration) if configuration is not None else Path(str(results), "config.yaml")
    return Settings(specs.pick(config.load([chosen]).model_dump(mode="json"), *_KEYS))


def _early_states(path: Path, loaded: Loaded) -> dict[DefenceName, int]:
    """The states that were chosen for these weights.

    Raises:
        UserError: they were chosen for other weights of the same name.
    """
    results, spec = _results_of(path), loaded.provenance["spec"]
    name, file = spec.get("model"), None if results is None else results / "select"
    chosen = None if file is None else file / str(name) / f"seed{spec.get('seed')}.json"
    if chosen is None or name not in vocabulary.MODELS or not chosen.is_file():
        return {}
    told, origin = early_states.read(chosen, vocabulary.MODELS[name].defences)
    if origin["spec"].get("upstream", {}).get("model") != specs.fingerprint(spec):
        raise UserError(f"early states {chosen} were chosen for other weights than {path}: run their rule again")
    return {defence: one.state for defence, one in told.items()}
