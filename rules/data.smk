# In: config. Out: <results>/config.yaml, <results>/data/dataset.safetensors.


rule write_config:
    """The merged and resolved configuration."""
    input:
        outdated=outdated("<results>/config.yaml"),
    output:
        "<results>/config.yaml",
    log:
        "<logs>/write_config.log",
    benchmark:
        "<logs>/benchmark/write_config.tsv"
    params:
        spec=specs.dumps(specs.conditions(CONFIG)),
        config=merged_config,
    shell:
        "deqpipe write-config --spec {params.config:q} --output {output:q} > {log:q} 2>&1"


rule prepare_data:
    """Images and splits as one file; downloads CIFAR-10."""
    input:
        outdated=outdated(file_of("data")),
    output:
        file_of("data"),
    log:
        "<logs>/prepare_data.log",
    benchmark:
        "<logs>/benchmark/prepare_data.tsv"
    priority: 90
    params:
        spec=spec("data"),
        root=lambda wildcards, output: ["--root", CONFIG.data.root] if hasattr(CONFIG.data, "root") else [],
    shell:
        "deqpipe prepare-data --spec {params.spec:q} {params.root:q} --output {output:q} > {log:q} 2>&1"
