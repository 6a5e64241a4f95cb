"""The configuration: typed, frozen, complete. Defaults stand in config.yaml and nowhere else.

`load` merges YAML files, `parse` resolves `protocol` and validates. Unknown and missing keys are refused at every
level. The JSON schema in schemas/ and docs/configuration.md are generated from these types.

One module per section holds its types; what is imported from here is all of it.
"""

from deqpipe.config.attack import Attack, AttackUnroll, Grid, Pgd, Racing, ThreatModel
from deqpipe.config.autoattack import AutoAttack
from deqpipe.config.base import (
    DEFAULT_BATCH,
    AttackName,
    Count,
    Damping,
    Decay,
    DeqName,
    Fraction,
    Framework,
    NonNegative,
    Pixels255,
    Positive,
    Section,
    Switch,
    Whole,
    merge,
)
from deqpipe.config.checks import check, check_image_folder, check_imported_files, prepared_by
from deqpipe.config.data import KNOWN_IMAGES, Data, KnownImages
from deqpipe.config.defence import Entropy, EntropySweep
from deqpipe.config.evaluation import Evaluation, Figures, Statistics, Timing
from deqpipe.config.experiment import Config
from deqpipe.config.files import load, parse, read_yaml
from deqpipe.config.model import Model, ResNet, ResNetTraining
from deqpipe.config.paths import PathVars
from deqpipe.config.protocols import PROTOCOLS, resolve_protocol
from deqpipe.config.schema import json_schema
from deqpipe.config.solver import Solver, couples_images
from deqpipe.config.training import (
    EarlyState,
    Jacobian,
    PerFramework,
    Pretrain,
    RandomState,
    Selection,
    Trades,
    Training,
    TrainingAttack,
    Unroll,
)

__all__ = [
    "DEFAULT_BATCH",
    "KNOWN_IMAGES",
    "PROTOCOLS",
    "Attack",
    "AttackName",
    "AttackUnroll",
    "AutoAttack",
    "Config",
    "Count",
    "Damping",
    "Data",
    "Decay",
    "DeqName",
    "EarlyState",
    "Entropy",
    "EntropySweep",
    "Evaluation",
    "Figures",
    "Fraction",
    "Framework",
    "Grid",
    "Jacobian",
    "KnownImages",
    "Model",
    "NonNegative",
    "PathVars",
    "PerFramework",
    "Pgd",
    "Pixels255",
    "Positive",
    "Pretrain",
    "Racing",
    "RandomState",
    "ResNet",
    "ResNetTraining",
    "Section",
    "Selection",
    "Solver",
    "Statistics",
    "Switch",
    "ThreatModel",
    "Timing",
    "Trades",
    "Training",
    "TrainingAttack",
    "Unroll",
    "Whole",
    "check",
    "check_image_folder",
    "check_imported_files",
    "couples_images",
    "json_schema",
    "load",
    "merge",
    "parse",
    "prepared_by",
    "read_yaml",
    "resolve_protocol",
]
