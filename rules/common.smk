# Shared by all rules. In: the config files and settings of a run. Out: CONFIG (validated) and the names below.
import functools
import itertools
import os
import re
import shlex
import sys
import time
import uuid
from pathlib import Path

from deqpipe import config as configuration
from deqpipe import extending
from deqpipe.cluster import check, queue, submission
from deqpipe.errors import UserError, line
from deqpipe.machine import faults, hardware
from deqpipe.results import lock, overwriting, records, validity
from deqpipe.workflow import command_line, defences, endings, expected, gridpoints, inputs, launch, layout, products
from deqpipe.workflow import shards, specs, stages, targets, vocabulary


def base_file():
    """The config.yaml of the folder that Snakemake runs in; where there is none, the one beside the Snakefile."""
    return "config.yaml" if os.path.exists("config.yaml") else str(Path(workflow.basedir, "config.yaml"))


def settings_in_force():
    """The settings of config.yaml, of the files that --configfile names, and of --config, laid over each other.

    Snakemake's own `config` is almost that, but keeps the keys of a variant that another file has replaced. Where this
    workflow is a module of another one, `config` is what that one hands over.
    """
    asked = workflow.config_settings
    if workflow.modifier.skip_configfile:
        return configuration.fitted(config)
    command_line.check_settings(asked.config)
    files = [] if asked.replace_workflow_config and asked.overwrite_config else [Path(base_file())]
    return configuration.read([*files, *asked.configfiles], over=asked.config)


def refuse(told):
    """End with one line."""
    print(f"{endings.PROGRAM}: {line(told)}", file=sys.stderr)
    sys.exit(2)


def refuse_prefix():
    """Refuse `prefix:` and `replace_prefix:` of a module: what commands and jobs read lies at the paths of the config.

    Raises:
        UserError: says what to write instead.
    """
    modifier = workflow.modifier.path_modifier
    if modifier.prefix or modifier.modifies_prefixes:
        prefix = modifier.prefix or "FOLDER/"
        keys = ", ".join(f"{key}: {prefix}{key}" for key in ("results", "logs", "state"))
        raise UserError(f"a module of this workflow takes no prefix; write pathvars: {{{keys}}} in its config instead")


try:
    refuse_prefix()
    faults.refuse_unwritable(Path(".snakemake"))
    CONFIG = configuration.parse(settings_in_force())
    inputs.check_inputs(CONFIG)
    replaced = overwriting.check(CONFIG) if workflow.is_main_process else None
except UserError as error:
    refuse(error)

if replaced:
    logger.warning(replaced)

ENDINGS = endings.Watch(since=time.time())
MODELS, DEQS = vocabulary.evaluated(CONFIG), vocabulary.deqs(CONFIG)
FEEDFORWARD, SUITE_MODELS = vocabulary.feedforward_networks(CONFIG), vocabulary.faces_suite(CONFIG)
TRUNK, TRADES = vocabulary.TRUNK, vocabulary.TRADES
OWN_DEFENCES, OWN_ATTACKS = (  # of the users' files
    tuple(extending.pieces(kind, CONFIG.extensions)) for kind in (extending.Defence, extending.Attack)
)
SWEEP_MODEL, FIGURE2_MODEL = vocabulary.SWEEP_MODEL, vocabulary.FIGURE2_MODEL
OWN_MODELS = stages.STAGES["train_own"].concerns(CONFIG)
TRAINED = tuple(name for name in vocabulary.trained_here(CONFIG) if name not in OWN_MODELS)
IMPORTED = tuple(CONFIG.imported)
ENSEMBLES = tuple(name for name in vocabulary.DEQS if vocabulary.ensembles(CONFIG, name))  # none of one seed
OTHER_JACOBIAN = vocabulary.OTHER_JACOBIAN  # Figure 6 alone
SEEDS = CONFIG.seeds
SHARDS = shards.shard_names(CONFIG)


def file_of(stage):
    """Where the file of a stage's jobs lies."""
    return f"<results>/{stages.STAGES[stage].path}"


def images_of(stage):
    """Where the attacked images of a stage's jobs lie."""
    return f"<results>/{stages.STAGES[stage].beside}"


CHECKPOINT = file_of("train_deq")  # of the ResNets as well
STRONGEST = file_of("strongest")
FIRST_SHARDS = shards.shard_names(CONFIG, below=shards.race_cut(CONFIG))  # of the images that face every attack
FIRST_IMAGES = tuple(f"{a}-{b}" for a, b in shards.image_ranges(CONFIG, below=shards.race_cut(CONFIG)))


def any_of(names):
    """A regular expression for a closed vocabulary; of none, one that nothing matches."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def spec(stage):
    """The job's spec: the one parameter that decides about running again."""

    def resolve(wildcards):
        seed = wildcards.get("seed")
        built = specs.build(
            stage,
            CONFIG,
            model=wildcards.get("model"),
            seed=None if seed is None else int(seed),
            defence=wildcards.get("defence"),
            attack=wildcards.get("attack"),
        )
        return specs.dumps(built)

    return resolve


def valid(name):
    """Whether a file of the results folder says that it was made by the spec that its job has now."""
    return validity.state_of_output(name, CONFIG) is validity.State.VALID


def given(files):
    """Inputs of a job. Those that are valid by what they say are no reason to run, whenever they were written.

    Snakemake goes by times, which copies, clones and backups change. All others (missing ones, or of another spec) it
    will make first, and then whatever is made of them.
    """

    def resolve(wildcards):
        paths = files(wildcards) if callable(files) else expand(files, **wildcards)  # wildcards not in it are no matter
        return [
            ancient(path) if valid(_name(path)) else path for path in ([paths] if isinstance(paths, str) else paths)
        ]

    return resolve


def outdated(files):
    """An input that is newer than an output that is there but of another spec; none where there is no such output."""

    def resolve(wildcards):
        states = {validity.state_of_output(_name(path), CONFIG) for path in expand(files, **wildcards)}
        return [mark_of_today()] if states & {validity.State.STALE, validity.State.UNREADABLE} else []

    return resolve


def _name(path):
    """A path relative to the results folder."""
    return path.removeprefix("<results>/").removeprefix(f"{CONFIG.pathvars.results}/")


def hold_results():
    """Keep other workflows out of the results folder: with another configuration, they would overwrite what this reads."""
    try:
        lock.hold(Path(CONFIG.pathvars.results, ".workflow"))
    except UserError as error:
        refuse(error)


def use_folders():
    """Have Snakemake write to the folders of CONFIG, in which ~ and $NAME are filled in; it has them as they stand."""
    folders, handed_over = CONFIG.pathvars.model_dump(), workflow.modifier.skip_configfile
    workflow.pathvars.update(type(workflow.pathvars).from_config({"pathvars": folders}, module_level=handed_over))


def refuse_unknown_targets():
    """Say of a target that no rule makes what was probably meant. As a module, other rules are not known yet."""
    names = [rule.name for rule in workflow.rules]
    asked = [] if workflow.modifier.skip_configfile else command_line.targets(sys.argv)
    if told := targets.refusal(asked, rules=names, results=CONFIG.pathvars.results):
        refuse(told)


def tell_expected():
    """Tell the progress bar how long jobs take here, where `deqpipe plan` has measured it."""
    if seconds := expected.seconds_of_rules(CONFIG):
        told = f"Times of jobs are known from deqpipe plan ({expected.path(CONFIG)})"
        logger.info(told, extra={expected.EXPECTED: seconds})


def keep_logs_of_requeued():
    """Keep the log of a job that SLURM itself has started again: no Snakemake heard of its end, and the next removes it."""
    if "SLURM_RESTART_COUNT" not in os.environ or "--target-jobs" not in sys.argv:
        return
    try:  # settings are not known while the rules are read
        from snakemake.target_jobs import parse_target_jobs_cli_args

        words = sys.argv[sys.argv.index("--target-jobs") + 1 :]
        jobs = parse_target_jobs_cli_args(list(itertools.takewhile(lambda word: not word.startswith("-"), words)))
        logs = [
            log.apply_wildcards(dict(job.wildcards_dict)) for job in jobs for log in workflow.get_rule(job.rulename).log
        ]
    except Exception:  # of another Snakemake: a job is worth more than its logs
        return
    for log in logs:
        endings.keep(Path(log))


def ask_cluster():
    """Submit nothing to SLURM that it would refuse, or that a job of an earlier run in this folder is computing."""
    if not type(workflow.executor_settings).__module__.startswith("snakemake_executor_plugin_slurm"):
        return
    dag, settings = workflow.dag, workflow.executor_settings
    asked = [
        submission.Request.of_job(one, settings)
        for one in dag.get_jobs_or_groups()
        if not one.is_local and any(map(dag.needrun, one if one.is_group() else [one]))
    ]
    refused = [str(one) for one in submission.check_submission(asked) if one.verdict is check.Verdict.WRONG]
    if told := queue.refusal(Path.cwd()):
        refused.append(told)
    if refused:
        print(*(f"{endings.PROGRAM}: {line(one)}" for one in refused), sep="\n", file=sys.stderr)
        sys.exit(2)


@functools.cache
def mark_of_today():
    """A file that this run has just written, and no run before."""
    mark = Path(CONFIG.pathvars.state, expected.MARK)
    records.write_text(mark, f"{uuid.uuid4()}\n")  # Snakemake takes a file for the same whose content is
    return str(mark)


# The functions below take `output`, `threads` or `resources`: what such functions return is never compared with the last
# run, so that none of it is a reason to run again.
def state_folder(stage):
    """Folder of what makes the job resumable; no output, because Snakemake deletes the outputs of a failed job."""

    def resolve(wildcards, output):
        return str(Path(CONFIG.pathvars.state, stage, specs.state_key(specs.loads(spec(stage)(wildcards)))))

    return resolve


def execution(wildcards, threads):
    """Where a job computes, and which faster ways to the same numbers it may take."""
    switches = {True: "true", False: "false"}
    ways = [word for key in ("compile", "graphs") for word in (f"--{key}", switches.get(getattr(CONFIG, key), "auto"))]
    verdicts = Path(CONFIG.pathvars.state, "verdicts")
    return ["--threads", threads, "--device", CONFIG.device, *ways, "--verdicts", verdicts]


def timed_execution(wildcards, threads):
    """As `execution`, with the threads that other jobs have: the job holds the cores so that nothing runs beside it."""
    return execution(wildcards, THREADS)


def time_budget(wildcards, resources):
    """Stop, resumably, before the scheduler's time limit, if there is one."""
    return launch.budget_options(resources.get("runtime"))


def batch_size(wildcards, output):
    """How many images are evaluated at once."""
    return CONFIG.evaluation.batch_size


def results_folder(wildcards, output):
    """Where the records lie that a table, figure or report is made of."""
    return CONFIG.pathvars.results


def merged_config(wildcards, output):
    """The whole configuration as JSON."""
    return specs.dumps(CONFIG.model_dump(mode="json"))


def number(wildcards, output):
    """The 2 of table2.csv."""
    return re.search(r"(\d+)$", stem(wildcards, output)).group()


def stem(wildcards, output):
    """Path of a table or figure without ending."""
    return str(Path(output[0]).with_suffix(""))


def table_files(stem, about):
    """The csv (first) and the page, which Snakemake's own report holds, and the files beside them."""
    return [
        in_report(f"{stem}.csv", kind="table", about=about),
        in_report(f"{stem}.html", kind="table", about=about),
        *multiext(stem, ".md", ".tex", ".json"),
    ]


def figure_files(stem, about):
    """The picture (first), which Snakemake's own report holds, and the files beside it."""
    return [in_report(f"{stem}.png", kind="figure", about=about), *multiext(stem, ".pdf", ".csv", ".json")]


def in_report(path, kind, about):
    """A file of a table or figure, marked for Snakemake's own report."""
    number = re.search(r"\d+", Path(path).name).group()
    labels = {kind: f"{kind.capitalize()} {number}", "about": about, "file": Path(path).suffix}
    return report(path, caption=f"../report/{kind}.rst", category=f"{kind.capitalize()}s", labels=labels)


def shard_option(name):
    """The states or the images of a grid job, from its name: states1-8_images0-999."""

    def resolve(wildcards, output):
        return re.search(rf"{name}(\d+-\d+)", wildcards.shard).group(1)

    return resolve


def checkpoint(wildcards):
    """The weights that are evaluated: of a defence of one's own those that it is put on."""
    return expand(
        CHECKPOINT, model=vocabulary.MODELS[wildcards.model].weights_of or wildcards.model, seed=wildcards.seed
    )


def other_trades(wildcards):
    """The model that the images of a grid job are scored on as well, if any."""
    other = vocabulary.transfers_to(CONFIG, wildcards.model)
    return [] if other is None else expand(CHECKPOINT, model=other, seed=wildcards.seed)


def other_trades_always(wildcards):
    """The other TRADES DEQ."""
    return expand(CHECKPOINT, model=vocabulary.other_trades(wildcards.model), seed=wildcards.seed)


def strongest_of_deqs(wildcards):
    """The ranked points of the grid; networks without states have none."""
    return expand(STRONGEST, **wildcards) if wildcards.model in DEQS else []


def select_of_deqs(wildcards):
    """The states at which decisions are taken; networks without states have none."""
    return expand(file_of("select"), **wildcards) if wildcards.model in DEQS else []


def lent_images(wildcards):
    """What the suite has made of some test images, against every decision whose images a model's are asked about."""
    return [
        images_of("attack_suite").format(
            model=made.model, seed=made.seed, defence=made.defence, images=wildcards.images
        )
        for made in stages.lent(CONFIG, wildcards.model).values()
    ]


def of_all_seeds(file):
    """The same file of every seed."""
    return lambda wildcards: expand(file, model=wildcards.model, seed=SEEDS)


def suite_of_model(wildcards):
    """The records of the suite against a model's decisions, for the same test images."""
    decisions = vocabulary.suite_decisions(CONFIG, wildcards.model)
    return expand(file_of("attack_suite"), defence=decisions, **wildcards)


def radius_images(wildcards, output):
    """The test images of Figure 7."""
    return f"0-{shards.radius_images(CONFIG) - 1}"


def race_of_grid(wildcards):
    """What is left of the race, for jobs whose images come after it."""
    ahead = wildcards.shard in FIRST_SHARDS
    return [] if ahead else expand(file_of("race"), model=wildcards.model, seed=wildcards.seed)


def race_of_sweep(wildcards):
    """The same for the attacks of Table 5; where these are few, they do not race."""
    ahead = wildcards.images in FIRST_IMAGES or not shards.races_in_sweep(CONFIG)
    return [] if ahead else expand(file_of("race_sweep"), model=wildcards.model, seed=wildcards.seed)


def optional(*names):
    """Options for the inputs that a job has."""

    def resolve(wildcards, input, output):
        return [word for name in names if input.get(name) for word in (f"--{name}", input.get(name))]

    return resolve


def made_of(product):
    """The files that a table or figure is made of."""
    return [f"<results>/{path}" for path in layout.all_needed(product.needs(CONFIG), CONFIG)]


def every(*names):
    """The files of all jobs of some stages."""
    needs = [products.Need(name, stages.STAGES[name].concerns(CONFIG)) for name in names]
    return [f"<results>/{path}" for path in layout.all_needed(needs, CONFIG)]


def describe(product):
    """Say what the last rule, of a table or figure, makes, as the docstrings of other rules do (`snakemake --list`)."""
    *_, last = workflow.rules  # not by its name, to which a workflow that takes this one as a module may add
    last.docstring = f"{product.kind.capitalize()} {product.number}: {product.about}."


def scored_on(wildcards):
    """The DEQs whose decisions the images of a grid are scored on."""
    other = vocabulary.transfers_to(CONFIG, wildcards.model)
    return [wildcards.model] if other is None else [wildcards.model, other]


GPUS = hardware.gpus_per_job(CONFIG.device, CONFIG.gpu_request)
THREADS = 4 if hardware.gpus_per_job(CONFIG.device) else 1
ALL_CORES = workflow.cores or 4  # a cluster knows no cores of its own: there, ask for a whole node (docs/cluster.md)


wildcard_constraints:
    model=any_of(vocabulary.MODELS),
    defence=any_of((*defences.DECIDING, *OWN_DEFENCES)),
    attack=any_of(OWN_ATTACKS),
    seed=r"0|[1-9]\d*",
    shard=any_of(SHARDS),
    point=any_of(point.name for point in gridpoints.grid_points(CONFIG)),
    images=r"\d+-\d+",


# Priorities of rules: what has the longest way to the end starts first, so that small jobs are left to fill the gaps of
# the cores; timing jobs, which need the whole machine, come when nothing else is left.


# One job per GPU on this machine; a cluster counts for itself. Jobs that share a submission take turns.
resource_scopes:
    gpu="local",
    turn="local",


# `deqpipe` is the one beside the running Snakemake, activated or not; `exec` lets a signal reach it and not a shell, and
# on a cluster's node the launcher lets those of the scheduler.
LAUNCHER = launch.launcher(os.environ, submitted=not workflow.is_main_process)
BIN = shlex.quote(os.path.dirname(sys.executable))
# glibc would give every large block back to the system, and have it cleared page by page at the next call: of the time
# of a small model's solve, a tenth.
MALLOC = "MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864"
shell.prefix('set -euo pipefail; export PATH={BIN}:"$PATH" {MALLOC}; exec {LAUNCHER} ')
