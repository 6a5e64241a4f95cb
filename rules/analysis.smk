# In: grid records, early states, <results>/config.yaml. Out: <results>/{strongest,race}/... .json: no model is needed.


rule strongest:
    """The points of a DEQ's grid, ranked by the accuracy of each of its decisions."""
    input:
        records=given(
            lambda wildcards: expand(
                rules.attack_grid.output, model=wildcards.model, seed=wildcards.seed, shard=SHARDS
            )
        ),
        race=given(file_of("race") if shards.races(CONFIG) else []),
        early=given(rules.select_early_state.output),
        outdated=outdated(STRONGEST),
    output:
        STRONGEST,
    log:
        "<logs>/strongest/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/strongest/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of(DEQS),
    priority: 45
    params:
        spec=spec("strongest"),
        results=results_folder,
        # Not the file: its every change would run all again that is attacked at the strongest points.
        configuration=merged_config,
    shell:
        "deqpipe strongest --spec {params.spec:q} --model {wildcards.model:q} --seed {wildcards.seed:q} --configuration {params.configuration:q}"
        " --results {params.results:q} --output {output:q} > {log:q} 2>&1"


rule race:
    """The points that could still be the strongest of some decision, by the images that faced all of them (racing)."""
    input:
        records=given(lambda wildcards: expand(rules.attack_grid.output, shard=FIRST_SHARDS, **wildcards)),
        early=given(
            lambda wildcards: expand(rules.select_early_state.output, model=scored_on(wildcards), seed=wildcards.seed)
        ),
        outdated=outdated(file_of("race")),
    output:
        file_of("race"),
    log:
        "<logs>/race/grid/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/race/grid/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of(DEQS),
    priority: 50
    params:
        spec=spec("race"),
        results=results_folder,
        configuration=merged_config,
    shell:
        "deqpipe race --spec {params.spec:q} --of grid --model {wildcards.model:q} --seed {wildcards.seed:q} --configuration {params.configuration:q}"
        " --results {params.results:q} --output {output:q} > {log:q} 2>&1"


rule race_sweep:
    """The same for the attacks of Table 5."""
    input:
        records=given(lambda wildcards: expand(rules.attack_sweep.output, images=FIRST_IMAGES, **wildcards)),
        early=given(rules.select_early_state.output),
        outdated=outdated(file_of("race_sweep")),
    output:
        file_of("race_sweep"),
    log:
        "<logs>/race/sweep/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/race/sweep/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of([SWEEP_MODEL]),
    priority: 40
    params:
        spec=spec("race_sweep"),
        results=results_folder,
        configuration=merged_config,
    shell:
        "deqpipe race --spec {params.spec:q} --of sweep --model {wildcards.model:q} --seed {wildcards.seed:q} --configuration {params.configuration:q}"
        " --results {params.results:q} --output {output:q} > {log:q} 2>&1"
