# In: <results>/data/dataset.safetensors. Out: <results>/models/<model>/seed<S>/{best,last}.safetensors, history.csv.


rule pretrain:
    """The trunk of all DEQs: a weight-tied unrolled network on clean images."""
    input:
        data=given(rules.prepare_data.output),
        outdated=outdated(file_of("pretrain")),
    output:
        best=file_of("pretrain"),
        last=f"<results>/models/{TRUNK}/seed{{seed}}/last.safetensors",
        history=f"<results>/models/{TRUNK}/seed{{seed}}/history.csv",
        handoff=f"<results>/models/{TRUNK}/seed{{seed}}/handoff.safetensors",
    log:
        f"<logs>/pretrain/{TRUNK}/seed{{seed}}.log",
    benchmark:
        f"<logs>/benchmark/pretrain/{TRUNK}/seed{{seed}}.tsv"
    priority: 80
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("pretrain"),
        execution=execution,
        state=state_folder("pretrain"),
        budget=time_budget,
    shell:
        "deqpipe pretrain --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --state {params.state:q} --best {output.best:q} --last {output.last:q}"
        " --history {output.history:q} --handoff {output.handoff:q} > {log:q} 2>&1"


rule train_deq:
    """Adversarial training of a DEQ from the trunk: PGD-AT or TRADES, without or with random states (Sec. 3.3)."""
    input:
        data=given(rules.prepare_data.output),
        trunk=given(rules.pretrain.output.handoff),
        outdated=outdated(CHECKPOINT),
    output:
        best=CHECKPOINT,
        last="<results>/models/{model}/seed{seed}/last.safetensors",
        history="<results>/models/{model}/seed{seed}/history.csv",
    log:
        "<logs>/train_deq/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/train_deq/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of((*TRAINED, *OTHER_JACOBIAN)),
    priority: 70
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("train_deq"),
        execution=execution,
        state=state_folder("train_deq"),
        budget=time_budget,
    shell:
        "deqpipe train-deq --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --trunk {input.trunk:q} --state {params.state:q} --best {output.best:q}"
        " --last {output.last:q} --history {output.history:q} > {log:q} 2>&1"


rule use_imported:
    """A DEQ from a file in place of a training (docs/checkpoints.md)."""
    input:
        data=given(rules.prepare_data.output),
        checkpoint=lambda wildcards: CONFIG.imported[wildcards.model],
        outdated=outdated(CHECKPOINT),
    output:
        CHECKPOINT,
    log:
        "<logs>/use_imported/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/use_imported/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of(IMPORTED),
    priority: 70
    params:
        spec=lambda wildcards: specs.dumps(specs.build_import(CONFIG, wildcards.model)),
    shell:
        "deqpipe use-imported --spec {params.spec:q} --data {input.data:q} --checkpoint {input.checkpoint:q}"
        " --output {output:q} > {log:q} 2>&1"


rule train_feedforward:
    """Adversarial training of the ResNets, which have no states."""
    input:
        data=given(rules.prepare_data.output),
        outdated=outdated(CHECKPOINT),
    output:
        best=CHECKPOINT,
        last="<results>/models/{model}/seed{seed}/last.safetensors",
        history="<results>/models/{model}/seed{seed}/history.csv",
    log:
        "<logs>/train_feedforward/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/train_feedforward/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of(FEEDFORWARD),
    priority: 60
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("train_feedforward"),
        execution=execution,
        state=state_folder("train_feedforward"),
        budget=time_budget,
    shell:
        "deqpipe train-feedforward --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --state {params.state:q} --best {output.best:q} --last {output.last:q}"
        " --history {output.history:q} > {log:q} 2>&1"


rule train_own:
    """Adversarial training of a model that a user's file defines, from scratch."""
    input:
        data=given(rules.prepare_data.output),
        outdated=outdated(CHECKPOINT),
    output:
        best=CHECKPOINT,
        last="<results>/models/{model}/seed{seed}/last.safetensors",
        history="<results>/models/{model}/seed{seed}/history.csv",
    log:
        "<logs>/train_own/{model}/seed{seed}.log",
    benchmark:
        "<logs>/benchmark/train_own/{model}/seed{seed}.tsv"
    wildcard_constraints:
        model=any_of(OWN_MODELS),
    priority: 70
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        spec=spec("train_own"),
        execution=execution,
        state=state_folder("train_own"),
        budget=time_budget,
    shell:
        "deqpipe train-own --spec {params.spec:q} {params.execution:q} {params.budget:q}"
        " --data {input.data:q} --state {params.state:q} --best {output.best:q} --last {output.last:q}"
        " --history {output.history:q} > {log:q} 2>&1"
