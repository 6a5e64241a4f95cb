# In: records, early states, training histories, <results>/config.yaml. Out: <results>/figures/figure<N>.{png,pdf,csv,json}.


rule figure3:
    """Figure 3: accuracy along the states under every attack, TRADES."""
    input:
        config=rules.write_config.output,
        records=decisions("deq_trades_base", "deq_trades_random_states"),
    output:
        multiext("<results>/figures/figure3", ".png", ".pdf", ".csv", ".json"),
    log:
        "<logs>/figures/figure3.log",
    benchmark:
        "<logs>/benchmark/figures/figure3.tsv"
    params:
        spec=specs.dumps(specs.build_product("figure", CONFIG)),
        number=number,
        stem=stem,
        results=results_folder,
    shell:
        "deqpipe figure {params.number:q} --config {input.config:q} --results {params.results:q}"
        " --output-stem {params.stem:q} > {log:q} 2>&1"


use rule figure3 as figure4 with:
    """Figure 4: validation accuracy under PGD along the training."""
    input:
        config=rules.write_config.output,
        records=[
            *expand(rules.train_deq.output.history, model=TRAINED, seed=SEEDS),
            *expand(CHECKPOINT, model=DEQS, seed=SEEDS),
        ],
    output:
        multiext("<results>/figures/figure4", ".png", ".pdf", ".csv", ".json"),
    log:
        "<logs>/figures/figure4.log",
    benchmark:
        "<logs>/benchmark/figures/figure4.tsv"


use rule figure3 as figure5 with:
    """Figure 5: Table 8 drawn."""
    input:
        config=rules.write_config.output,
        records=decisions("deq_trades_random_states"),
    output:
        multiext("<results>/figures/figure5", ".png", ".pdf", ".csv", ".json"),
    log:
        "<logs>/figures/figure5.log",
    benchmark:
        "<logs>/benchmark/figures/figure5.tsv"


rule figures:
    """All figures."""
    input:
        rules.figure3.output,
        rules.figure4.output,
        rules.figure5.output,
