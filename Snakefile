# Everything from images to tables: config.yaml says what, profiles/ says how to run it.
#     snakemake                                        the full reproduction
#     snakemake --configfile config/demo.yaml          minutes on a CPU
#     snakemake results/tables/table2.csv              one target, and only what it needs
#     snakemake --list                                 all rules
from deqpipe.machine import streams
from snakemake.logging import logger
from snakemake.utils import min_version

min_version("9.19")  # older ones do not read profile.yaml

# What only prints ends in silence when its reader leaves (`| head`); a run outlives whoever looks at it.
streams.degrade()
if workflow.is_main_process and workflow.output_settings.dryrun:
    streams.leave_with_reader()
elif workflow.is_main_process:
    streams.leave_with_reader_of_output()


include: "rules/common.smk"  # reads the configuration: what is wrong with it is told before Snakemake reads it, too


configfile: base_file()


report: "report/workflow.rst"


use_folders()


include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/select.smk"
include: "rules/attack.smk"
include: "rules/analysis.smk"
include: "rules/timing.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/report.smk"


# These take seconds or need the network: they run where Snakemake runs, not on a cluster's nodes.
localrules:
    write_config,
    prepare_data,
    use_imported,
    strongest,
    race,
    race_sweep,
    report,


# To keep to a rate of starts, Snakemake looks for work again a second after every look, each time anew: that adds up to a
# look per second and finished job, and to a second at the end. Nothing here needs a rate; clusters have `jobs`.
# Where a job failed in a way that would repeat, its retries are left out.
onstart:
    workflow.scheduler.job_rate_limiter = None
    hold_results()
    tell_expected()
    ask_cluster()
    ENDINGS.attach(workflow.scheduler)
    ENDINGS.keep_logs(workflow.dag.needrun_jobs())


onerror:
    if told := ENDINGS.summary(workflow.scheduler):
        logger.error(told)


rule all:
    """Everything: models, attacks, tables, figures and the report."""
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.report.output,


rule train_all:
    """All models: the trunk, the DEQs and the ResNets."""
    input:
        expand(CHECKPOINT, model=MODELS, seed=SEEDS),


rule select_all:
    """The early state of every DEQ."""
    input:
        every("select"),


rule suite_all:
    """Attacks that know the defence: the suite, its images on every decision, and other radii (Table 11, Figure 7)."""
    input:
        every("attack_suite", "attack_transferred", "attack_radius", "attack_ensemble"),


rule attack_all:
    """All evaluations: clean images, the grid of Eq. (11), PGD, AutoAttack, the attacks of Tables 3 to 5, the suite."""
    input:
        every("clean", "attack_grid", "attack_pgd", "autoattack", "attack_top", "attack_in_loop", "attack_sweep"),
        rules.suite_all.input,


refuse_unknown_targets()
keep_logs_of_requeued()
