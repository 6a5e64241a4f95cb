"""The configuration: typed, frozen, complete. Defaults stand in config.yaml and nowhere else.

`load` merges YAML files, `parse` resolves `protocol` and validates. Unknown and missing keys are refused at every
level. The JSON schema in schemas/ and docs/configuration.md are generated from these types.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deqpipe.errors import UserError

Framework = Literal["pgd_at", "trades"]
AttackName = Literal["apgd_ce", "apgd_t", "fab_t", "square"]
DeqName = Literal["deq_pgd_at_base", "deq_pgd_at_random_states", "deq_trades_base", "deq_trades_random_states"]

Count = Annotated[int, Field(ge=1)]
Switch = Literal["auto", True, False]
DEFAULT_BATCH = 192
"""Images at once where nothing speaks for another number."""
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Damping = Annotated[float, Field(gt=0, le=1)]
Pixels255 = Annotated[float, Field(ge=0, le=255)]

# `key: protocol` in a config file takes the value that stands here: every place where the paper's text and its authors'
# code differ, so that one word sets them together. docs/differences.md says what each of them means.
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "solver.returned": "last",
        "solver.tolerance": 0.0,
        "solver.scope": "sample",
        "training.unroll.lead_step": False,
        "attack.unroll.lead_step": False,
        "evaluation.final_unroll_steps": 5,
        "evaluation.batch_size": DEFAULT_BATCH,
        "training.epochs": 210,
        "training.learning_rate_min": 0.0,
        "random_state.pick": "iterate",
        "random_state.natural": "final",
        "selection.split": "validation",
        "selection.first_epoch": 1,
        "selection.attack_random_state": False,
        "selection.freeze_fooled": False,
        "early_state.mode": "select",
        "attack.pgd.clamp_start": True,
        "autoattack.mode": "standard",
        "autoattack.keep": "best_loss",
        "autoattack.restarts": 1,
        "entropy.resolve": "alg1",
        "entropy.last_update": "resolve",
        "entropy.state": "last",
        "entropy.final_input": "updated",
    },
    "release": {
        "solver.returned": "lowest_batch",
        "solver.tolerance": 1.0e-3,
        "solver.scope": "batch",
        "training.unroll.lead_step": True,
        "attack.unroll.lead_step": True,
        "evaluation.final_unroll_steps": 9,
        "evaluation.batch_size": 96,
        "training.epochs": 220,
        "training.learning_rate_min": 1.0e-6,
        "random_state.pick": "prefix_lowest",
        "random_state.natural": "independent",
        "selection.split": "test",
        "selection.first_epoch": 30,
        "selection.attack_random_state": True,
        "selection.freeze_fooled": True,
        "early_state.mode": "fixed",
        "attack.pgd.clamp_start": False,
        "autoattack.mode": "individual",
        "autoattack.keep": "success",
        "autoattack.restarts": 5,
        "entropy.resolve": "quasi_newton",
        "entropy.last_update": "dead",
        "entropy.state": "lowest",
        "entropy.final_input": "original",
    },
}


@dataclass(frozen=True)
class KnownImages:
    """A source whose images are known before they are read."""

    name: str
    train: int
    """Training images, those held out included."""
    test: int
    size: int
    """Height and width."""


KNOWN_IMAGES: Mapping[str, KnownImages] = {
    "digits": KnownImages("digits", train=1437, test=360, size=8),
    "cifar10": KnownImages("CIFAR-10", train=50_000, test=10_000, size=32),
}


class Section(BaseModel):
    """A part of the configuration: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True,
        defer_build=True,  # most commands validate a few sections only
    )  # fmt: skip


class PathVars(Section):
    """Where the workflow writes (Snakemake's path variables)."""

    results: str
    """Folder of everything that is kept: models, records, tables, figures, report."""
    logs: str
    """Folder of one log and one benchmark file per job."""
    state: str
    """Folder of what makes jobs resumable: training states and finished attack points."""


class Data(Section):
    """Which images, and how they are split."""

    source: Literal["digits", "cifar10", "folder"]
    """digits: scikit-learn's 8x8 digits (embedded); cifar10: torchvision's (downloaded); folder: train/<class>/* and
    test/<class>/*."""
    root: str
    """Folder of the images; where CIFAR-10 is downloaded to; unused by digits. Images are read once: after a change
    within the same folder, delete the folder `data` in pathvars.results to have them read again, or give another root.
    """
    validation: Count
    """How many training images are held out for model selection and early states (by index, never trained on)."""
    augment: Literal["none", "crop_flip"]
    """crop_flip: random crop after padding by 4, and horizontal flip; done on the device."""


class Model(Section):
    """The multiscale DEQ (MDEQ). The default is MDEQ-Large."""

    channels: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    """Channels of each scale; every scale has half the resolution of the one before."""
    head_channels: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    """Bottleneck channels of the classification head, one per scale; the head is four times as wide."""
    final_channels: Count
    """Channels before global average pooling."""
    groups: Count
    """Groups of every GroupNorm in f; half of them, rounded down, after fusing."""
    expansion: Count
    """Width of the residual blocks in f, relative to the scale's channels."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Variational dropout in f: one mask per image and channel for a whole forward pass, training only."""
    weight_norm: bool
    """Weight normalisation of the block and post-fuse convolutions of f."""
    init: Literal["release", "normal_all"]
    """release: weight-normed convolutions keep PyTorch's initialisation, the others N(0, 0.01^2); normal_all: all
    N(0, 0.01^2)."""


class ResNetTraining(Section):
    """Recipe of Pang et al. (2021) for the ResNet-18 rows."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    momentum: Fraction
    weight_decay: NonNegative
    milestones: Annotated[tuple[Count, ...], Field(strict=False)]
    """Epochs after which the learning rate is multiplied by `factor`."""
    factor: Positive


class ResNet(Section):
    """The deep-network baseline: torchvision's ResNet with a 3x3 stem and no max-pooling."""

    layers: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4, strict=False)]
    """Basic blocks per stage; [2, 2, 2, 2] is ResNet-18."""
    training: ResNetTraining


class Solver(Section):
    """The fixed-point solver of Eq. (3)."""

    name: Literal["broyden", "anderson", "fixed_point"]
    steps: Count
    """N: the states are z^[1] .. z^[N]."""
    anderson_memory: Annotated[int, Field(ge=2)]
    """How many past states Anderson mixing keeps (only with name: anderson)."""
    tolerance: NonNegative
    """A solve stops at this relative residual; 0: always N steps."""
    scope: Literal["sample", "batch"]
    """Over what a residual's norm is taken where it decides (tolerance; lowest state of a round or a prefix). sample:
    every image by itself; batch: one norm over all images at once, which couples them. With batch a solve also ends
    when that norm has grown a thousandfold."""
    returned: Literal["last", "lowest_sample", "lowest_batch"]
    """Which state is z*: z^[N], or the one of lowest residual, of every image by itself or judged by one norm over
    the batch (which couples its images)."""


class Pretrain(Section):
    """The shared trunk: a weight-tied unrolled network trained on clean images."""

    layers: Count
    """How often f is applied."""
    steps: Count
    """Training steps, counted within training.epochs, which must leave some for the adversarial training."""


class Unroll(Section):
    """The damped steps of Eq. (11) behind the final state."""

    steps: Count
    damping: Damping
    lead_step: bool
    """One undamped f before the damped steps."""


class TrainingAttack(Section):
    """The attack inside adversarial training."""

    steps: Count
    step_size_255: Pixels255
    """Step size alpha, in 1/255 of the pixel range."""


class Trades(Section):
    """TRADES (Zhang et al., 2019)."""

    inverse_lambda: NonNegative
    """1/lambda: weight of the KL term."""
    start_noise: NonNegative
    """Standard deviation of the Gaussian start of its attack, in units of the pixel range."""


class Training(Section):
    """Training of the DEQs (Appendix A)."""

    epochs: Count
    """All epochs, pretraining included; the cosine schedule spans them."""
    batch_size: Count
    learning_rate: Positive
    learning_rate_min: NonNegative
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)]
    """Adam's."""
    weight_decay: NonNegative
    gradient: Literal["phantom", "exact"]
    """phantom: unroll behind z* or the random state; exact: implicit function theorem, solved with implicit_steps."""
    implicit_steps: Count
    """Solver steps of the adjoint equation (only with gradient: exact)."""
    unroll: Unroll
    attack: TrainingAttack
    trades: Trades


class PerFramework(Section):
    """One value for each adversarial training framework."""

    pgd_at: NonNegative
    trades: NonNegative


class Jacobian(Section):
    """Jacobian regularisation (Bai et al., 2021)."""

    weight: PerFramework
    other_weight: PerFramework
    """What the models of Figure 6 are trained with instead (deq_pgd_at_jac_low, deq_trades_jac_high)."""
    frequency: Fraction
    """Share of training steps that carry the term."""
    stop_epoch: Whole
    """No Jacobian term after this epoch."""
    probes: Count
    """Gaussian probes of Hutchinson's estimate."""
    length_jitter: Annotated[tuple[int, int], Field(strict=False)]
    """On a regularised step the solver takes N plus a uniform draw from this range (both ends included)."""
    trades_terms: Literal["both", "adversarial"]
    """Which branches of TRADES carry the term."""


class RandomState(Section):
    """Loss from random intermediate states (Sec. 3.3)."""

    pick: Literal["iterate", "prefix_lowest"]
    """i ~ U[1, N]; iterate: z^[i] (Eq. 10); prefix_lowest: the state with the lowest residual among z^[1] .. z^[i], by
    solver.scope."""
    natural: Literal["final", "independent", "shared"]
    """State of the natural TRADES branch: the final one, a draw of its own, or the adversarial branch's."""
    in_attack: bool
    """Training attacks see random states too, a new draw per step."""


class Selection(Section):
    """Choice of the best epoch by PGD at the final state."""

    split: Literal["validation", "test"]
    """validation: held-out training images; test: leaks, for comparison only."""
    first_epoch: Count
    """No epoch before this one is tried; at most training.epochs. A ResNet of fewer epochs keeps its last one."""
    attack_random_state: bool
    """Whether the selecting attack on a model that is trained with random states is crafted at random states, too."""
    freeze_fooled: bool
    """Whether the selecting attack leaves an image alone while it is classified wrong."""
    attack: TrainingAttack


class EarlyState(Section):
    """Which intermediate state decides (early-state defence)."""

    mode: Literal["select", "fixed"]
    """select: the state with the best accuracy under ready-made PGD on the images of selection.split; fixed:
    `index`."""
    index: Count
    """The state when mode is fixed; counted from 1."""


class ThreatModel(Section):
    """What an attacker may change: every pixel by at most epsilon (l-infinity), within [0, 1]."""

    epsilon_255: Pixels255
    """Radius, in 1/255 of the pixel range."""


class Pgd(Section):
    """PGD at evaluation."""

    steps: Count
    step_size_255: Pixels255
    clamp_start: bool
    """Whether the uniform random start is clamped into [0, 1]."""


class Grid(Section):
    """The intermediate-state attacks of Eq. (11): every combination, and always the ready-made point."""

    states: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    """i: unrolled states."""
    steps: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    """K_a: unroll steps."""
    damping: Annotated[tuple[Damping, ...], Field(min_length=1, strict=False)]
    """lambda: damping of the unroll."""


class AttackUnroll(Section):
    """How surrogates, and the final states that are judged, are unrolled."""

    lead_step: bool
    """One undamped f before the damped ones; Eq. (11) as written has none."""


class Attack(Section):
    """The attacks that models are evaluated under."""

    pgd: Pgd
    grid: Grid
    unroll: AttackUnroll
    defence_in_loop: Literal["none"]
    """none: images are crafted on the undefended dynamics and scored on every decision."""
    transfer: bool
    """Whether images of one TRADES DEQ are scored on the other as well (Table 3); a change crafts them again."""
    in_loop_points: Count
    """Table 3's second block: so many of the strongest points are crafted again through Sec. 3.2 (forward through the
    defended dynamics, gradient of the unroll at the original input)."""
    states_per_job: Count
    """How many states one grid job takes; no influence on results."""
    images_per_job: Count
    """How many images one grid job takes; no influence on results."""


class Entropy(Section):
    """Input entropy reduction along the neural dynamics (Sec. 3.2, Algorithm 1)."""

    solver_steps: Count
    """T_f: the input is updated after every so many solver steps."""
    input_steps: Whole
    """R: entropy descent steps per update; with resolve: alg1, 0 equals the undefended dynamics bit for bit."""
    step_size_255: Pixels255
    """beta, in 1/255 of the pixel range."""
    step: Literal["sign", "raw"]
    """Whether Eq. (8) steps along the sign of the gradient or the gradient itself."""
    resolve: Literal["alg1", "quasi_newton"]
    """What a new input does to the solve. alg1: the last state is solved again (Algorithm 1, line 13); quasi_newton: no
    state is, the newest entry of the solver's memory is corrected, and the memory starts anew every T_f steps."""
    last_update: Literal["resolve", "dead"]
    """The update after z^[N]. resolve: z^[N] is solved again, as in alg1; dead: left out, as no state follows it."""
    state: Literal["last", "lowest"]
    """The state of a round (the steps since the update before) that the entropy is taken at, and with quasi_newton that
    the next round starts from: its last one, or that with the lowest residual, by solver.scope."""
    final_input: Literal["updated", "original"]
    """The input that the final state is unrolled with."""
    controls: bool
    """Whether the control rows are scored as well: without entropy descent, with the restarts only, and with one round
    only (T_f = N); the latter two with the authors' code's keys. They need the attacked images, so that a change
    crafts them again."""


class AutoAttack(Section):
    """AutoAttack (Croce and Hein, 2020) on the surrogate at the strongest (i, K_a, lambda) of each decision."""

    mode: Literal["standard", "individual"]
    """standard: one attack after the other, an image leaves once the true decision errs; individual: every attack on
    every image, and the lowest accuracy counts."""
    keep: Literal["best_loss", "success"]
    """The image that an attack is judged by. best_loss: the one of highest loss, whether or not it fools the surrogate
    (FAB-T: where it succeeds, else the clean image); success: one that fools the surrogate, else the clean image."""
    defence_in_loop: Literal["original"]
    """original: with Sec. 3.2 the surrogate is computed through the defended dynamics, its gradient is that of the
    unroll at the original input."""
    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1, strict=False)]
    """In the order in which they run."""
    iterations: Count
    """Steps of APGD-CE, APGD-T and FAB-T."""
    restarts: Count
    """Random starts of APGD-CE."""
    targets: Count
    """Wrong classes that APGD-T and FAB-T aim at, the most likely first; never more than there are."""
    queries: Count
    """Queries of Square per image."""
    square_images: Count
    """Square attacks the first so many test images only."""
    top_points: Count
    """Table 4: so many points (i, K_a) with the lowest accuracy under PGD face APGD-CE and Square."""
    batch_size: Count
    """Images at once. The library draws one random stream per batch, so that it belongs to the result."""
    images_per_job: Count
    """Images of a job. In standard mode the batches are made of those left in it: it belongs to the result."""


class EntropySweep(Section):
    """Table 5: Sec. 3.2 with other T_f and R, on the weights of TRADES with random states."""

    solver_steps: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    """T_f; those above solver.steps never update the input."""
    input_steps: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    """R; R = 0 and the restarts alone are added as controls."""
    points: Literal["all"] | Count
    """all: minimum over the whole grid; a number: over so many of its strongest points."""


class Racing(Section):
    """All attacks on a part of the images, then only those that could still be the strongest on the rest.

    Serves minima of mean accuracies only. What needs every attack on every image (worst cases per image, Tables 6 to 8,
    Figures 3 and 5) is absent then, with this reason.
    """

    enabled: bool
    images: Count
    """The first so many test images face every attack."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    """Probability that the strongest attack of a decision stays in the race."""


class Figures(Section):
    """What figures may cost."""

    jacobian: bool
    """Whether Figure 6, which needs two trainings of its own, is part of `figures` and the report."""


class Timing(Section):
    """Tables 9 and 10: speed of training steps and of inference."""

    batch_size: Count
    """Images at once."""
    warmup: Whole
    """Passes before the clock starts; of a training, steps."""
    repeats: Annotated[int, Field(ge=3)]
    """Timed passes; the median counts, lowest and highest stand beside it."""


class Evaluation(Section):
    """What is evaluated, and how many images at once."""

    images: Count
    """Test images, the first ones of the test split."""
    batch_size: Count | Literal["auto"]
    """Images at once; no influence on results, up to rounding, unless solver.scope or solver.returned couples them.
    auto: as many as the device's memory holds, fewer when that runs out; on a CPU 192."""
    final_unroll_steps: Count
    """Damped steps (lambda 0.5) from z* to the final state."""

    @property
    def expected_batch_size(self) -> int:
        """Images at once, as far as the configuration tells."""
        return DEFAULT_BATCH if self.batch_size == "auto" else self.batch_size


class Statistics(Section):
    """Intervals."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    resamples: Annotated[int, Field(ge=100)]
    """Bootstrap resamples of the images."""


class Config(Section):
    """The whole experiment."""

    protocol: Literal["paper", "release"]
    """What `protocol` stands for where a key says so: the paper's text, or its authors' code."""
    seeds: Annotated[tuple[Whole, ...], Field(min_length=1, strict=False)]
    """One complete repetition each; tables use the first."""
    device: Literal["auto", "cpu", "cuda"]
    """auto takes CUDA where there is one. Recorded with every result, never a reason to run again."""
    precision: Literal["fp32", "tf32", "bf16"]
    """Of convolutions: fp32; tf32 and bf16 (those of f alone) round their inputs. tf32 is CUDA's, a CPU computes in
    fp32 instead; bf16 is done by hand there, for tests."""
    compile: Switch
    """Whether f is compiled. auto: on CUDA, where a comparison with the plain way on the device itself allows it and it
    is faster. Like the next key of no influence on results, up to rounding, and never a reason to run again."""
    graphs: Switch
    """Whether attack steps are captured in CUDA graphs and replayed; auto: on CUDA, after the same comparison."""
    pathvars: PathVars
    imported: dict[DeqName, str]
    """DEQs that are taken from a file instead of being trained: name of the model, and the file that `deqpipe
    import-checkpoint --model` wrote."""
    data: Data
    model: Model
    resnet: ResNet
    solver: Solver
    pretrain: Pretrain
    training: Training
    jacobian: Jacobian
    random_state: RandomState
    selection: Selection
    early_state: EarlyState
    threat_model: ThreatModel
    attack: Attack
    entropy: Entropy
    autoattack: AutoAttack
    entropy_sweep: EntropySweep
    racing: Racing
    figures: Figures
    timing: Timing
    evaluation: Evaluation
    statistics: Statistics

    @property
    def couples_images(self) -> bool:
        """Whether a decision on an image depends on the images that it is evaluated with."""
        return couples_images(self.solver)


def couples_images(solver: Solver) -> bool:
    """Whether a solve of several images at once is something else than a solve of each."""
    return solver.scope == "batch" or solver.returned == "lowest_batch"


def load(paths: Sequence[Path], *, protocol: str | None = None) -> Config:
    """The configuration in YAML files, later ones laid over earlier ones.

    Args:
        paths: the files.
        protocol: the protocol in force, whatever the files say of it.

    Raises:
        UserError: a file is missing or no YAML mapping, or the result is not a valid configuration.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path))
    return parse(merged if protocol is None else merged | {"protocol": protocol})


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, in which every key stands once.

    Raises:
        UserError: the file cannot be read, is no YAML, or holds something else than keys and values.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist") from None
    except yaml.YAMLError as error:
        raise UserError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from None
    except (OSError, ValueError) as error:  # a folder, no permission; not UTF-8, the 32nd of a month
        raise UserError(f"config file {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UserError(f"config file {path} holds a {type(value).__name__}, but must hold keys and values")
    return value


# The one of libyaml, which PyYAML is usually built with, is ten times as fast; their types are not related.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """YAML's safe loader, which otherwise takes the last of several equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        constructed: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return constructed


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`overlay` laid over `base`: sections are merged, everything else is replaced (as Snakemake does it)."""
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse(raw: Mapping[str, Any]) -> Config:
    """The configuration that a mapping describes, with `protocol` resolved and every key checked.

    Raises:
        UserError: one line that names the first wrong key, its value and what was allowed.
    """
    try:
        config = Config.model_validate(resolve_protocol(raw))
    except ValidationError as error:
        raise UserError(_one_line(error)) from None
    check(config)
    return config


def resolve_protocol(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with every `key: protocol` replaced by what the protocol in force says of that key."""
    name = raw.get("protocol", "paper")
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise UserError(f"config: protocol is {name!r}, but must be one of {', '.join(sorted(PROTOCOLS))}")
    resolved: dict[str, Any] = merge({}, raw)
    for key, value in PROTOCOLS[name].items():
        *sections, last = key.split(".")
        resolved = _replace_sentinel(resolved, sections, last, value)
    return resolved


def _replace_sentinel(node: dict[str, Any], sections: list[str], key: str, value: object) -> dict[str, Any]:
    if sections:
        below = node.get(sections[0])
        if not isinstance(below, Mapping):
            return node
        return {**node, sections[0]: _replace_sentinel(dict(below), sections[1:], key, value)}
    return {**node, key: value} if node.get(key) == "protocol" else node


def _one_line(error: ValidationError) -> str:
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        return f"config: unknown key {key}{_closest(first['loc'])}{more}"
    if first["type"] == "missing":
        return f"config: {key} is missing{more}"
    return f"config: {key} is {first['input']!r}: {first['msg'].lower()}{_number_hint(first['input'])}{more}"


def _number_hint(value: object) -> str:
    """What is wrong with a number that YAML takes for text, such as 1e-3."""
    try:
        text = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        text = False
    return "; this is text: YAML wants numbers without quotes, and 1.0e-3 instead of 1e-3" if text else ""


def _closest(loc: tuple[int | str, ...]) -> str:
    import difflib

    section: Any = Config
    for part in loc[:-1]:
        section = section.model_fields[str(part)].annotation
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed here: {', '.join(names)}"


def check(config: Config) -> None:
    """Refuse values that make no sense together.

    Raises:
        UserError: names the keys and the values.
    """
    _check_folders(config.pathvars)
    _check_imported(config)
    _check_model(config.model)
    _check_lists(config)
    _check_states(config)
    _check_schedule(config)
    _check_protocol(config)
    _check_library(config)
    if config.data.source in KNOWN_IMAGES:
        _check_images(config, KNOWN_IMAGES[config.data.source])


def _check_folders(folders: PathVars) -> None:
    for name, folder in folders.model_dump().items():
        if not folder.strip() or set(folder) & set("{}<>"):
            raise UserError(f"config: pathvars.{name} is {folder!r}, but must name a folder, without any of {{}}<>")
        if os.path.abspath(folder) == os.getcwd():  # results/config.yaml would be config.yaml itself
            raise UserError(f"config: pathvars.{name} is {folder!r}, but must not be the folder of the workflow itself")
    if len({os.path.abspath(folder) for folder in folders.model_dump().values()}) < 3:
        raise UserError("config: pathvars.results, pathvars.logs and pathvars.state must be three different folders")


def _check_imported(config: Config) -> None:
    if config.imported and len(config.seeds) > 1:
        raise UserError(
            f"config: seeds is {list(config.seeds)}, but must be one seed where models are imported "
            f"({', '.join(config.imported)})"
        )
    for model, file in config.imported.items():
        if not file.strip() or set(file) & set("{}<>"):
            raise UserError(f"config: imported.{model} is {file!r}, but must name a file, without any of {{}}<>")
        models = os.path.abspath(os.path.join(config.pathvars.results, "models"))
        if os.path.commonpath([models, os.path.abspath(file)]) == models:
            raise UserError(
                f"config: imported.{model} is {file!r}, but must not lie where the workflow writes its models"
            )


def _check_model(model: Model) -> None:
    if len(model.channels) != len(model.head_channels):
        raise UserError(
            f"config: model.head_channels has {len(model.head_channels)} entries, "
            f"but model.channels has {len(model.channels)} scales"
        )
    if model.groups < 2:
        raise UserError(f"config: model.groups is {model.groups}, but must be at least 2 (half of them after fusing)")
    for channels in model.channels:
        for groups in (model.groups, model.groups // 2):
            if channels % groups:
                raise UserError(
                    f"config: model.channels has {channels}, which {groups} groups do not divide "
                    f"(model.groups = {model.groups}, half of them after fusing)"
                )


def _check_lists(config: Config) -> None:
    grid = config.attack.grid
    lists = {f"attack.grid.{name}": getattr(grid, name) for name in ("states", "steps", "damping")}
    sweep = config.entropy_sweep
    lists |= {f"entropy_sweep.{name}": getattr(sweep, name) for name in ("solver_steps", "input_steps")}
    lists |= {"autoattack.attacks": config.autoattack.attacks, "seeds": config.seeds}
    for key, values in lists.items():
        if len(set(values)) != len(values):
            raise UserError(f"config: {key} is {list(values)}: every value may stand there once")


def _check_states(config: Config) -> None:
    steps = config.solver.steps
    if max(config.attack.grid.states) > steps:
        raise UserError(
            f"config: attack.grid.states has {max(config.attack.grid.states)}, but the solver has states 1 to {steps}"
        )
    if config.early_state.mode == "fixed" and config.early_state.index > steps:
        raise UserError(
            f"config: early_state.index is {config.early_state.index}, but the solver has states 1 to {steps}"
        )
    if config.entropy.solver_steps > steps:
        raise UserError(
            f"config: entropy.solver_steps is {config.entropy.solver_steps}, but must be 1 to {steps}: "
            f"the solver has {steps} steps, and the input would never be updated"
        )
    low, high = config.jacobian.length_jitter
    if low > high or steps + low < 1:
        raise UserError(
            f"config: jacobian.length_jitter is [{low}, {high}], but must ascend "
            f"and leave at least one of {steps} steps"
        )


def _check_schedule(config: Config) -> None:
    training = config.training
    if training.learning_rate_min > training.learning_rate:
        raise UserError(
            f"config: training.learning_rate_min is {training.learning_rate_min}, "
            f"but training.learning_rate is {training.learning_rate}"
        )
    if config.selection.first_epoch > training.epochs:
        raise UserError(
            f"config: selection.first_epoch is {config.selection.first_epoch}, "
            f"but training.epochs is {training.epochs}: no epoch would be tried"
        )


def _check_protocol(config: Config) -> None:
    """Refuse values whose meaning another value takes away."""
    size, job = config.evaluation.batch_size, config.attack.images_per_job
    if not config.couples_images:
        size = 1
    if size == "auto":
        raise UserError(
            "config: evaluation.batch_size is auto, but must be a number with this solver.scope and solver.returned: "
            "images of a batch influence each other"
        )
    if config.couples_images and job % size and config.evaluation.images > job:
        coupling = {"solver.scope": config.solver.scope, "solver.returned": config.solver.returned}
        why = " and ".join(f"{key}: {value}" for key, value in coupling.items() if value in ("batch", "lowest_batch"))
        raise UserError(
            f"config: attack.images_per_job is {job}, but with {why} it must be a multiple of evaluation.batch_size "
            f"({size}): images of a batch influence each other, so jobs may not cut batches"
        )
    if config.racing.enabled and config.couples_images and config.racing.images % size:
        raise UserError(
            f"config: racing.images is {config.racing.images}, but must be a multiple of evaluation.batch_size "
            f"({size}): images of a batch influence each other"
        )
    if config.entropy.resolve == "quasi_newton" and config.solver.name == "fixed_point":
        raise UserError(
            "config: entropy.resolve is quasi_newton, but solver.name is fixed_point: it corrects the solver's memory, "
            "and fixed-point iteration has none"
        )


def _check_library(config: Config) -> None:
    """Refuse a run of single attacks of which none meets all images: there would be no minimum to take."""
    library = config.autoattack
    part = library.square_images < config.evaluation.images
    if library.mode == "individual" and part and set(library.attacks) == {"square"}:
        raise UserError(
            f"config: autoattack.attacks is {list(library.attacks)}, but with autoattack.mode: individual one must "
            f"stand beside square, which meets the first {library.square_images} of {config.evaluation.images} images"
        )


def _check_images(config: Config, images: KnownImages) -> None:
    """Refuse what cannot work with the images of a source; for an image folder the jobs themselves do."""
    if config.data.validation >= images.train:
        raise UserError(
            f"config: data.validation is {config.data.validation}, but must be 1 to {images.train - 1} "
            f"({images.name} has {images.train} training images)"
        )
    if config.evaluation.images > images.test:
        raise UserError(
            f"config: evaluation.images is {config.evaluation.images}, but {images.name} has {images.test} test images"
        )
    scales = len(config.model.channels)
    if images.size % 2 ** (scales - 1):
        raise UserError(
            f"config: model.channels has {scales} scales, but images of {images.size}x{images.size} pixels "
            f"({images.name}) allow {images.size.bit_length()}"
        )
    train = images.train - config.data.validation
    _check_pretraining(config, train)
    _check_batch("training.batch_size", config.training.batch_size, train, pixels=images.size >> scales - 1)
    recipe = config.resnet.training  # three of its stages halve the resolution
    _check_batch("resnet.training.batch_size", recipe.batch_size, train, pixels=images.size >> 3)


def _check_pretraining(config: Config, train: int) -> None:
    total = config.training.epochs * math.ceil(train / config.training.batch_size)
    if config.pretrain.steps >= total:
        raise UserError(
            f"config: pretrain.steps is {config.pretrain.steps}, but must be 1 to {total - 1}: "
            f"the {config.training.epochs} epochs have {total} steps"
        )


def _check_batch(key: str, size: int, train: int, *, pixels: int) -> None:
    """Refuse a batch of one image where one pixel is left of it: batch normalisation has nothing to average over."""
    if pixels == 1 and (train % size or size) == 1:
        raise UserError(
            f"config: {key} is {size}, which leaves one of {train} training images for the last batch: "
            "batch normalisation needs two"
        )


def check_image_folder(config: Config) -> None:
    """Refuse an image folder that is not there. Other sources need none.

    Raises:
        UserError: data.source is folder and train/<class>/ or test/<class>/ is missing.
    """
    if config.data.source != "folder":
        return
    for split in ("train", "test"):
        folder = Path(config.data.root, split)
        if not folder.is_dir() or not any(child.is_dir() for child in folder.iterdir()):
            raise UserError(
                f"config: data.root is {config.data.root!r}, but must hold train/<class>/* and test/<class>/*: "
                f"no class folders in {folder}"
            )


def check_imported_files(config: Config) -> None:
    """Refuse imported models whose files are not there.

    Raises:
        UserError: names the first one.
    """
    for model, file in config.imported.items():
        if not Path(file).is_file():
            raise UserError(f"config: imported.{model} is {file!r}, which is no file (docs/checkpoints.md)")


def prepared_by(dataset: Path) -> object:
    """The spec that a prepared dataset was made by; None where there is no such file. Needs no torch."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(dataset, framework="np") as file:
            metadata = json.loads((file.metadata() or {})["deqpipe"])
        return metadata["provenance"]["spec"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def json_schema() -> dict[str, Any]:
    """JSON schema of a config file: the types' own, with `protocol` allowed where a protocol has a say."""
    schema = Config.model_json_schema()
    for key in PROTOCOLS["paper"]:
        node = schema
        for part in key.split(".")[:-1]:
            node = _resolve_reference(schema, node["properties"][part])
        name = key.rsplit(".", 1)[-1]
        plain = dict(node["properties"][name])
        if {"const": "protocol"} in plain.get("anyOf", ()):
            continue  # a section used twice (Unroll) is reached twice
        text = {word: plain.pop(word) for word in ("title", "description") if word in plain}
        node["properties"][name] = {**text, "anyOf": [plain, {"const": "protocol"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _resolve_reference(schema: Mapping[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return found
    return node
