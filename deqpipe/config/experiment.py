"""The whole experiment."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    Field,
    field_serializer,
    field_validator,
)

from deqpipe.config.attack import AttackConfig, RacingConfig, ThreatModelConfig
from deqpipe.config.autoattack import AutoAttackConfig
from deqpipe.config.base import DeqName, Section, Seed, Switch
from deqpipe.config.data import DataConfig, own_data
from deqpipe.config.defence import EntropyConfig, EntropySweepConfig
from deqpipe.config.evaluation import EvaluationConfig, FiguresConfig, StatisticsConfig, TimingConfig
from deqpipe.config.model import ModelConfig, ResNetConfig
from deqpipe.config.own import is_own
from deqpipe.config.paths import PathName, PathVars
from deqpipe.config.solver import SolverConfig, couples_images, own_solver
from deqpipe.config.suite import SuiteConfig
from deqpipe.config.training import (
    AnyWeightPerturbation,
    EarlyStateConfig,
    JacobianConfig,
    PretrainConfig,
    RandomStateConfig,
    SelectionConfig,
    TrainingConfig,
)

Handler: TypeAlias = Callable[[Any], Any]
"""What pydantic would make of a value (its own types cannot be checked where tests run)."""


class Config(Section):
    """The whole experiment."""

    protocol: Literal["paper", "release"]
    """What `protocol` stands for where a key says so: the paper's text, or its authors' code."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100, strict=False)]
    """One complete repetition each; tables show the first, and of several the lowest and highest value."""
    device: Literal["auto", "cpu", "cuda"]
    """auto takes CUDA where there is one. Recorded with every result, never a reason to run again."""
    gpu_request: Literal["auto", 0, 1]
    """GPUs that a job that computes asks of the machine or the cluster. auto: one where `device` is CUDA; 1 also for
    jobs that compute on the CPU, as in a rehearsal; 0 where a profile asks in another way."""
    precision: Literal["fp32", "tf32", "bf16"]
    """Of convolutions: fp32; tf32 and bf16 (those of f alone) round their inputs. tf32 is CUDA's, a CPU computes in
    fp32 instead; bf16 is done by hand there, for tests."""
    compile: Switch
    """Whether f is compiled. auto: on CUDA, where a comparison with the plain way on the device itself allows it and it
    is faster. Like the next key of no influence on results, up to rounding, and never a reason to run again."""
    graphs: Switch
    """Whether attack steps are captured in CUDA graphs and replayed; auto: on CUDA, after the same comparison."""
    pathvars: PathVars
    imported: dict[DeqName, PathName]
    """DEQs that are taken from a file instead of being trained: name of the model, and the file that `deqpipe
    import-checkpoint --model` wrote."""
    extensions: Annotated[tuple[PathName, ...], Field(max_length=100, strict=False)]
    """Python files that define pieces of one's own (docs/extending.md). They are run by whoever reads this
    configuration, relative to the folder that Snakemake runs in."""
    data: DataConfig
    model: ModelConfig
    resnet: ResNetConfig
    solver: SolverConfig
    pretrain: PretrainConfig
    training: TrainingConfig
    jacobian: JacobianConfig
    random_state: RandomStateConfig
    weight_perturbation: AnyWeightPerturbation
    selection: SelectionConfig
    early_state: EarlyStateConfig
    threat_model: ThreatModelConfig
    attack: AttackConfig
    entropy: EntropyConfig
    autoattack: AutoAttackConfig
    entropy_sweep: EntropySweepConfig
    racing: RacingConfig
    suite: SuiteConfig
    figures: FiguresConfig
    timing: TimingConfig
    evaluation: EvaluationConfig
    statistics: StatisticsConfig

    @field_validator("solver", mode="wrap")
    @classmethod
    def _own_solver(cls, raw: Any, handler: Handler) -> Any:
        return own_solver(raw) or handler(raw)

    @field_validator("data", mode="wrap")
    @classmethod
    def _own_data(cls, raw: Any, handler: Handler) -> Any:
        return own_data(raw) or handler(raw)

    @field_serializer("solver", "data", mode="wrap")
    def _own_section(self, value: Any, handler: Handler, info: Any) -> Any:
        """Of a section that a user's file has, the keys that it has itself."""
        return value.model_dump(mode=info.mode) if is_own(value) else handler(value)

    @property
    def couples_images(self) -> bool:
        """Whether a decision on an image depends on the images that it is evaluated with."""
        return couples_images(self.solver)
