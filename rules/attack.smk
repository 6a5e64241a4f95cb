# In: dataset, trained models. Out: <results>/attacks/<kind>/<model>/seed<S>...parquet, one row per image and decision.


rule clean:
    """Decisions of one model on clean test images."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        outdated=outdated(file_of("clean")),
    output:
        file_of("clean"),
    log:
        "<logs>/clean/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/clean/{model}/seed{seed}.tsv"
    priority: 30
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("clean"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("clean"),
        budget=time_budget,
    shell:
        "deqpipe clean --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --batch-size {params.batch_size:q}"
        " --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_grid:
    """Intermediate-state attacks (Eq. 11) on one DEQ: some states, some images, every unroll; scored on every decision."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        other=given(other_trades),
        race=given(race_of_grid),
        outdated=outdated(file_of("attack_grid")),
    output:
        file_of("attack_grid"),
    log:
        "<logs>/attack_grid/{model}/seed{seed}/{shard}.log",
    benchmark:
        "<logs>/benchmark/attack_grid/{model}/seed{seed}/{shard}.tsv"
    wildcard_constraints:
        model=any_of(DEQS),
    priority: 50
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
        optional=optional("other", "race"),
    shell:
        "deqpipe attack-grid --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --states {params.states:q} --images {params.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_pgd:
    """PGD on the trunk and the ResNets, which have no grid."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        outdated=outdated(file_of("attack_pgd")),
    output:
        file_of("attack_pgd"),
    log:
        "<logs>/attack_pgd/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/attack_pgd/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of((TRUNK, *FEEDFORWARD)),
    priority: 30
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_pgd"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("attack_pgd"),
        budget=time_budget,
    shell:
        "deqpipe attack-pgd --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --batch-size {params.batch_size:q}"
        " --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_point:
    """One grid point on some images, for a closer look; part of no other target."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        outdated=outdated("<results>/attacks/points/{model}/seed{seed}/{point}_images{images}.parquet"),
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


rule autoattack:
    """AutoAttack on one decision of a DEQ, at its strongest point of the grid, or on a ResNet."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        strongest=given(strongest_of_deqs),
        outdated=outdated(file_of("autoattack")),
    output:
        file_of("autoattack"),
    log:
        "<logs>/autoattack/{model}/seed{seed}/{defence}_images{images}.log",
    benchmark:
        "<logs>/benchmark/autoattack/{model}/seed{seed}/{defence}_images{images}.tsv"
    wildcard_constraints:
        model=any_of((*DEQS, *FEEDFORWARD)),
    priority: 40
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("autoattack"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("autoattack"),
        budget=time_budget,
        optional=optional("strongest"),
    shell:
        "deqpipe autoattack --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --images {wildcards.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_top:
    """APGD-CE and Square at the strongest points of TRADES with Secs. 3.2 and 3.3 (Table 4)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        strongest=given(STRONGEST),
        outdated=outdated(file_of("attack_top")),
    output:
        file_of("attack_top"),
    log:
        "<logs>/attack_top/{model}/seed{seed}/images{images}.log",
    benchmark:
        "<logs>/benchmark/attack_top/{model}/seed{seed}/images{images}.tsv"
    wildcard_constraints:
        model=any_of([SWEEP_MODEL]),
    priority: 40
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_top"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("attack_top"),
        budget=time_budget,
        optional=optional("strongest"),
    shell:
        "deqpipe attack-top --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --images {wildcards.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_in_loop:
    """The strongest points of a TRADES DEQ, crafted again through Sec. 3.2 (Table 3)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        strongest=given(STRONGEST),
        other=given(other_trades_always),
        outdated=outdated(file_of("attack_in_loop")),
    output:
        file_of("attack_in_loop"),
    log:
        "<logs>/attack_in_loop/{model}/seed{seed}/images{images}.log",
    benchmark:
        "<logs>/benchmark/attack_in_loop/{model}/seed{seed}/images{images}.tsv"
    wildcard_constraints:
        model=any_of(TRADES),
    priority: 40
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_in_loop"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("attack_in_loop"),
        budget=time_budget,
        optional=optional("strongest", "other"),
    shell:
        "deqpipe attack-in-loop --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --images {wildcards.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_sweep:
    """Attacks on TRADES with Sec. 3.3, scored on Sec. 3.2 with every T_f and R (Table 5)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        strongest=given([] if CONFIG.entropy_sweep.points == "all" else STRONGEST),
        race=given(race_of_sweep),
        outdated=outdated(file_of("attack_sweep")),
    output:
        file_of("attack_sweep"),
    log:
        "<logs>/attack_sweep/{model}/seed{seed}/images{images}.log",
    benchmark:
        "<logs>/benchmark/attack_sweep/{model}/seed{seed}/images{images}.tsv"
    wildcard_constraints:
        model=any_of([SWEEP_MODEL]),
    priority: 40
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_sweep"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("attack_sweep"),
        budget=time_budget,
        optional=optional("strongest", "race"),
    shell:
        "deqpipe attack-sweep --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --images {wildcards.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_example:
    """The images of Figure 2 (c), crafted again from their random streams."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        select=given(rules.select_early_state.output),
        clean=given(rules.clean.output),
        grid=given(
            lambda wildcards: expand(
                rules.attack_grid.output, model=wildcards.model, seed=wildcards.seed, shard=READY_MADE_SHARDS
            )
        ),
        outdated=outdated(file_of("attack_example")),
    output:
        file_of("attack_example"),
    log:
        "<logs>/attack_example/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/attack_example/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of([FIGURE2_MODEL]),
    priority: 30
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_example"),
        execution=execution,
        batch_size=batch_size,
        # Results of the other points are not needed; the folder tells where the shards are.
        grid=lambda wildcards, input, output: os.path.dirname(input.grid[0]),
    shell:
        "deqpipe attack-example --spec {params.spec:q} {params.execution:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --select {input.select:q} --clean {input.clean:q}"
        " --grid {params.grid:q} --batch-size {params.batch_size:q} --output {output:q} > {log:q} 2>&1"


# The shards that hold the ready-made attack.
READY_MADE_SHARDS = [shard for shard in SHARDS if re.match(rf"states\d+-{gridpoints.ready_made(CONFIG).state}_", shard)]


rule attack_suite:
    """Every attack of the suite on one decision of a DEQ or a ResNet, or on a control (Table 11, Figure 8)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        select=given(select_of_deqs),
        outdated=outdated([file_of("attack_suite"), images_of("attack_suite")]),
    output:
        rows=file_of("attack_suite"),
        images=images_of("attack_suite"),
    log:
        "<logs>/attack_suite/{model}/seed{seed}/{defence}_images{images}.log",
    benchmark:
        "<logs>/benchmark/attack_suite/{model}/seed{seed}/{defence}_images{images}.tsv"
    wildcard_constraints:
        model=any_of(SUITE_MODELS),
        defence=any_of((*defences.DEFENCES, *OWN_DEFENCES)),
    priority: 40
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_suite"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("attack_suite"),
        budget=time_budget,
        optional=optional("select"),
    shell:
        "deqpipe attack-suite --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --images {wildcards.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output.rows:q} > {log:q} 2>&1"


rule attack_transferred:
    """All images of the suite, of every model, seed and decision, judged on every decision of one model."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        select=given(select_of_deqs),
        saved=given(lent_images),
        own=given(suite_of_model),
        outdated=outdated(file_of("attack_transferred")),
    output:
        file_of("attack_transferred"),
    log:
        "<logs>/attack_transferred/{model}/seed{seed}/images{images}.log",
    benchmark:
        "<logs>/benchmark/attack_transferred/{model}/seed{seed}/images{images}.tsv"
    wildcard_constraints:
        model=any_of(SUITE_MODELS),
    priority: 30
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_transferred"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("attack_transferred"),
        budget=time_budget,
        optional=optional("select"),
    shell:
        "deqpipe attack-transferred --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --images {wildcards.images:q}"
        " --saved {input.saved:q} --own {input.own:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_radius:
    """One attack and random noise on one decision, within balls of other radii (Figure 7)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        select=given(select_of_deqs),
        outdated=outdated(file_of("attack_radius")),
    output:
        file_of("attack_radius"),
    log:
        "<logs>/attack_radius/{model}/seed{seed}/{defence}.log",
    benchmark:
        "<logs>/benchmark/attack_radius/{model}/seed{seed}/{defence}.tsv"
    wildcard_constraints:
        model=any_of(SUITE_MODELS),
    priority: 30
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_radius"),
        execution=execution,
        batch_size=batch_size,
        images=radius_images,
        state=state_folder("attack_radius"),
        budget=time_budget,
        optional=optional("select"),
    shell:
        "deqpipe attack-radius --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --images {params.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule attack_ensemble:
    """Every attack of the suite on what the undefended networks of all seeds decide together (Table 11)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(of_all_seeds(CHECKPOINT)),
        select=given(of_all_seeds(file_of("select"))),
        saved=given(lent_images),
        outdated=outdated([file_of("attack_ensemble"), images_of("attack_ensemble")]),
    output:
        rows=file_of("attack_ensemble"),
        images=images_of("attack_ensemble"),
    log:
        "<logs>/attack_ensemble/{model}/images{images}.log",
    benchmark:
        "<logs>/benchmark/attack_ensemble/{model}/images{images}.tsv"
    wildcard_constraints:
        model=any_of(ENSEMBLES),
    priority: 30
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_ensemble"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("attack_ensemble"),
        budget=time_budget,
    shell:
        "deqpipe attack-ensemble --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --select {input.select:q} --saved {input.saved:q}"
        " --images {wildcards.images:q} --batch-size {params.batch_size:q} --state {params.state:q}"
        " --output {output.rows:q} > {log:q} 2>&1"


rule attack_own:
    """An attack that a user's file defines, on one decision (a column of Table 1)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        select=given(select_of_deqs),
        outdated=outdated(file_of("attack_own")),
    output:
        file_of("attack_own"),
    log:
        "<logs>/attack_own/{attack}/{model}/seed{seed}/{defence}.log",
    benchmark:
        "<logs>/benchmark/attack_own/{attack}/{model}/seed{seed}/{defence}.tsv"
    wildcard_constraints:
        model=any_of(SUITE_MODELS),
    priority: 30
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("attack_own"),
        execution=execution,
        batch_size=batch_size,
        images=f"0-{CONFIG.evaluation.images - 1}",
        state=state_folder("attack_own"),
        budget=time_budget,
        optional=optional("select"),
    shell:
        "deqpipe attack-own --spec {params.spec:q} {params.execution:q} {params.budget:q} {params.optional:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --images {params.images:q}"
        " --batch-size {params.batch_size:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"
