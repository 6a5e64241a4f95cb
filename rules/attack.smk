# In: dataset, a trained model. Out: <results>/attacks/{clean,grid,pgd,points}/<model>/seed<S>...parquet, one row per image.


rule clean:
    """Decisions of one model on clean test images."""
    input:
        data=rules.prepare_data.output,
        checkpoint=CHECKPOINT,
    output:
        "<results>/attacks/clean/{model}/seed{seed}.parquet",
    log:
        "<logs>/clean/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/clean/{model}/seed{seed}.tsv"
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("clean"),
        execution=execution,
        batch_size=batch_size,
    shell:
        "deqpipe clean --spec {params.spec:q} {params.execution:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --batch-size {params.batch_size:q}"
        " --output {output:q} > {log:q} 2>&1"


rule attack_grid:
    """Intermediate-state attacks (Eq. 11) on one DEQ: some states, some images, every unroll; scored on every decision."""
    input:
        data=rules.prepare_data.output,
        checkpoint=CHECKPOINT,
    output:
        "<results>/attacks/grid/{model}/seed{seed}/{shard}.parquet",
    log:
        "<logs>/attack_grid/{model}/seed{seed}/{shard}.log",
    benchmark:
        "<logs>/benchmark/attack_grid/{model}/seed{seed}/{shard}.tsv"
    wildcard_constraints:
        model=any_of(DEQS),
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_grid"),
        execution=execution,
        batch_size=batch_size,
        states=shard_option("states"),
        images=shard_option("images"),
        state=state_folder("attack_grid"),
        budget=time_budget,
    shell:
        "deqpipe attack-grid --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --states {params.states:q} --images {params.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_pgd:
    """PGD on the trunk and the ResNets, which have no grid."""
    input:
        data=rules.prepare_data.output,
        checkpoint=CHECKPOINT,
    output:
        "<results>/attacks/pgd/{model}/seed{seed}.parquet",
    log:
        "<logs>/attack_pgd/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/attack_pgd/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of((TRUNK, *RESNETS)),
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_pgd"),
        execution=execution,
        batch_size=batch_size,
    shell:
        "deqpipe attack-pgd --spec {params.spec:q} {params.execution:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --batch-size {params.batch_size:q}"
        " --output {output:q} > {log:q} 2>&1"


rule attack_point:
    """One grid point on some images, for a closer look; part of no other target."""
    input:
        data=rules.prepare_data.output,
        checkpoint=CHECKPOINT,
    output:
        "<results>/attacks/points/{model}/seed{seed}/{point}_images{images}.parquet",
    log:
        "<logs>/attack_point/{model}/seed{seed}/{point}_images{images}.log",
    benchmark:
        "<logs>/benchmark/attack_point/{model}/seed{seed}/{point}_images{images}.tsv"
    wildcard_constraints:
        model=any_of(DEQS),
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_grid"),
        execution=execution,
        batch_size=batch_size,
    shell:
        "deqpipe attack-point --spec {params.spec:q} {params.execution:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --point {wildcards.point:q}"
        " --images {wildcards.images:q} --batch-size {params.batch_size:q} --output {output:q}"
        " > {log:q} 2>&1"


# What tables and figures are made of.
CLEAN = expand(rules.clean.output, model=MODELS, seed=SEEDS)
GRID = expand(rules.attack_grid.output, model=DEQS, seed=SEEDS, shard=SHARDS)
PGD = expand(rules.attack_pgd.output, model=(TRUNK, *RESNETS), seed=SEEDS)
