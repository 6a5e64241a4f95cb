"""The configuration: typed, frozen, complete. Defaults stand in config.yaml and nowhere else.

`load` merges YAML files, `parse` resolves `protocol` and validates. Unknown and missing keys are refused at every
level. The JSON schema in schemas/ and docs/configuration.md are generated from these types.

One module per section holds its types; what is imported from here is all of it.
"""

from deqpipe.config.attack import (
    READY_MADE_DAMPING,
    AttackConfig,
    AttackUnroll,
    GridConfig,
    PgdConfig,
    RaceConfig,
    ThreatModelConfig,
)
from deqpipe.config.autoattack import AutoAttackConfig
from deqpipe.config.base import (
    DEFAULT_BATCH,
    AttackName,
    Batch,
    Count,
    Damping,
    Decay,
    Depth,
    DeqName,
    Epochs,
    Fraction,
    Framework,
    NonNegative,
    Pixels255,
    Positive,
    Rounds,
    Section,
    Seed,
    StepSize255,
    Switch,
    Width,
)
from deqpipe.config.checks import check
from deqpipe.config.data import KNOWN_IMAGES, DataConfig, ImageFolderConfig, KnownImages, known_images
from deqpipe.config.defence import EntropyConfig, EntropySweepConfig
from deqpipe.config.evaluation import EvaluationConfig, FiguresConfig, StatisticsConfig, TimingConfig
from deqpipe.config.experiment import Config
from deqpipe.config.files import load, parse, read
from deqpipe.config.flat import leaves
from deqpipe.config.inputs import check_image_folder, check_imported_files, check_prepared_images, prepared_by
from deqpipe.config.model import MOST_BLOCKS, FeedforwardConfig, FeedforwardTrainingConfig, ModelConfig, ResNetConfig
from deqpipe.config.paths import PathVars
from deqpipe.config.protocols import PROTOCOLS, resolve_protocol
from deqpipe.config.reader import read_yaml
from deqpipe.config.schema import json_schema
from deqpipe.config.solver import (
    AndersonConfig,
    AnySolverConfig,
    BroydenConfig,
    FixedPointConfig,
    SolverConfig,
    couples_images,
    parse_solver,
)
from deqpipe.config.suite import AttackSuiteConfig, NoSuiteConfig, SuiteConfig
from deqpipe.config.training import (
    EarlyStateConfig,
    GradientConfig,
    JacobianConfig,
    PerFramework,
    PretrainConfig,
    RandomStateConfig,
    SelectionConfig,
    TradesConfig,
    TrainingAttackConfig,
    TrainingConfig,
    Unroll,
    parse_early_state,
    parse_gradient,
)
from deqpipe.config.variants import Variants, all_variants, fitted, merge, shown, variants_of

__all__ = [
    "DEFAULT_BATCH",
    "KNOWN_IMAGES",
    "MOST_BLOCKS",
    "PROTOCOLS",
    "READY_MADE_DAMPING",
    "AndersonConfig",
    "AnySolverConfig",
    "AttackConfig",
    "AttackName",
    "AttackSuiteConfig",
    "AttackUnroll",
    "AutoAttackConfig",
    "Batch",
    "BroydenConfig",
    "Config",
    "Count",
    "Damping",
    "DataConfig",
    "Decay",
    "Depth",
    "DeqName",
    "EarlyStateConfig",
    "EntropyConfig",
    "EntropySweepConfig",
    "Epochs",
    "EvaluationConfig",
    "FeedforwardConfig",
    "FeedforwardTrainingConfig",
    "FiguresConfig",
    "FixedPointConfig",
    "Fraction",
    "Framework",
    "GradientConfig",
    "GridConfig",
    "ImageFolderConfig",
    "JacobianConfig",
    "KnownImages",
    "ModelConfig",
    "NoSuiteConfig",
    "NonNegative",
    "PathVars",
    "PerFramework",
    "PgdConfig",
    "Pixels255",
    "Positive",
    "PretrainConfig",
    "RaceConfig",
    "RandomStateConfig",
    "ResNetConfig",
    "Rounds",
    "Section",
    "Seed",
    "SelectionConfig",
    "SolverConfig",
    "StatisticsConfig",
    "StepSize255",
    "SuiteConfig",
    "Switch",
    "ThreatModelConfig",
    "TimingConfig",
    "TradesConfig",
    "TrainingAttackConfig",
    "TrainingConfig",
    "Unroll",
    "Variants",
    "Width",
    "all_variants",
    "check",
    "check_image_folder",
    "check_imported_files",
    "check_prepared_images",
    "couples_images",
    "fitted",
    "json_schema",
    "known_images",
    "leaves",
    "load",
    "merge",
    "parse",
    "parse_early_state",
    "parse_gradient",
    "parse_solver",
    "prepared_by",
    "read",
    "read_yaml",
    "resolve_protocol",
    "shown",
    "variants_of",
]
