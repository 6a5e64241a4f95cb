# In: dataset, trunk, a trained DEQ. Out: <results>/timing/... .json. Timing jobs take every core and GPU: they run alone.


rule time_training:
    """Speed of a training step of the four methods (Table 9)."""
    input:
        data=given(rules.prepare_data.output),
        trunk=given(rules.pretrain.output.handoff),
        outdated=outdated(file_of("time_training")),
    output:
        file_of("time_training"),
    log:
        "<logs>/time_training/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/time_training/seed{seed}.tsv"
    priority: 10
    threads: ALL_CORES
    resources:
        gpu=GPUS,
    params:
        spec=spec("time_training"),
        execution=timed_execution,
        state=state_folder("time_training"),
        budget=time_budget,
    shell:
        "deqpipe time-training --spec {params.spec:q} {params.execution:q} {params.budget:q} --data {input.data:q}"
        " --trunk {input.trunk:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"


rule time_inference:
    """Speed of inference with every T_f and R of Sec. 3.2 (Table 10)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=given(checkpoint),
        outdated=outdated(file_of("time_inference")),
    output:
        file_of("time_inference"),
    log:
        "<logs>/time_inference/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/time_inference/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of([SWEEP_MODEL]),
    priority: 10
    threads: ALL_CORES
    resources:
        gpu=GPUS,
    params:
        spec=spec("time_inference"),
        execution=timed_execution,
        state=state_folder("time_inference"),
        budget=time_budget,
    shell:
        "deqpipe time-inference --spec {params.spec:q} {params.execution:q} {params.budget:q} --data {input.data:q}"
        " --checkpoint {input.checkpoint:q} --state {params.state:q} --output {output:q} > {log:q} 2>&1"
