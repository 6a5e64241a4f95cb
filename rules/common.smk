# Shared by all rules. In: the merged config. Out: CONFIG (validated) and the names below.
import os
import re
import shlex
import sys
from pathlib import Path

from deqpipe import config as configuration
from deqpipe import hardware, specs
from deqpipe.errors import UserError

try:
    CONFIG = configuration.parse(config)
    prepared = configuration.prepared_by(Path(CONFIG.pathvars.results, "data", "dataset.safetensors"))
    if prepared != specs.build("data", CONFIG):  # the images will be read
        configuration.check_image_folder(CONFIG)
    configuration.check_imported_files(CONFIG)
except UserError as error:
    print(f"deqpipe: {error}", file=sys.stderr)
    sys.exit(2)

MODELS, DEQS, RESNETS, TRUNK = tuple(specs.MODELS), specs.DEQS, specs.RESNETS, specs.TRUNK
TRAINED, IMPORTED = specs.trained_here(CONFIG), tuple(CONFIG.imported)
SEEDS = CONFIG.seeds
SHARDS = specs.shard_names(CONFIG)
CHECKPOINT = "<results>/models/{model}/seed{seed}/best.safetensors"


def any_of(names):
    """A regular expression for a closed vocabulary; of none, one that nothing matches."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def spec(stage):
    """The job's spec: the one parameter that decides about running again."""

    def resolve(wildcards):
        seed = wildcards.get("seed")
        built = specs.build(stage, CONFIG, model=wildcards.get("model"), seed=None if seed is None else int(seed))
        return specs.dumps(built)

    return resolve


# The functions below take `output`, `threads` or `resources`: what such functions return is never compared with the last
# run, so that none of it is a reason to run again.
def state_folder(stage):
    """Folder of what makes the job resumable; no output, because Snakemake deletes the outputs of a failed job."""

    def resolve(wildcards, output):
        return str(Path(CONFIG.pathvars.state, stage, specs.state_key(specs.loads(spec(stage)(wildcards)))))

    return resolve


def execution(wildcards, threads):
    """Where a job computes."""
    return ["--threads", threads, "--device", CONFIG.device]


def time_budget(wildcards, resources):
    """Stop, resumably, five minutes before the scheduler's time limit, if there is one."""
    runtime = resources.get("runtime")
    return ["--time-budget-minutes", max(1, runtime - 5)] if runtime else []


def batch_size(wildcards, output):
    """How many images are evaluated at once."""
    return CONFIG.evaluation.batch_size


def results_folder(wildcards, output):
    """Where the records lie that a table, figure or report is made of."""
    return CONFIG.pathvars.results


def number(wildcards, output):
    """The 2 of table2.csv."""
    return re.search(r"(\d+)$", stem(wildcards, output)).group()


def stem(wildcards, output):
    """Path of a table or figure without ending."""
    return str(Path(output[0]).with_suffix(""))


def shard_option(name):
    """The states or the images of a grid job, from its name: states1-8_images0-999."""

    def resolve(wildcards, output):
        return re.search(rf"{name}(\d+-\d+)", wildcards.shard).group(1)

    return resolve


def decisions(*models):
    """Grid records and early states of some DEQs."""
    grid = expand(rules.attack_grid.output, model=models, seed=SEEDS, shard=SHARDS)
    return grid + expand(rules.select_early_state.output, model=models, seed=SEEDS)


GPUS = hardware.gpus_per_job(CONFIG.device)
THREADS = 4 if GPUS else 1


wildcard_constraints:
    model=any_of(MODELS),
    seed=r"0|[1-9]\d*",
    shard=any_of(SHARDS),
    point=any_of(point.name for point in specs.grid_points(CONFIG)),
    images=r"\d+-\d+",


# One job per GPU on this machine; a cluster counts for itself.
resource_scopes:
    gpu="local",


# `deqpipe` is the one beside the running Snakemake, activated or not; `exec` lets a signal reach it and not a shell.
BIN = shlex.quote(os.path.dirname(sys.executable))
shell.prefix('set -euo pipefail; export PATH={BIN}:"$PATH"; exec ')
