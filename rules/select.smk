# In: dataset, a trained DEQ. Out: <results>/select/<model>/seed<S>.json.


rule select_early_state:
    """The intermediate state that decides: the best one on the validation split under ready-made PGD."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        outdated=outdated(file_of("select")),
    output:
        file_of("select"),
    log:
        "<logs>/select_early_state/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/select_early_state/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of(DEQS),
    priority: 50
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("select"),
        execution=execution,
        batch_size=batch_size,
        state=state_folder("select"),
        budget=time_budget,
    shell:
        "deqpipe select-early-state --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --checkpoint {input.checkpoint:q} --batch-size {params.batch_size:q}"
        " --state {params.state:q} --output {output:q} > {log:q} 2>&1"
