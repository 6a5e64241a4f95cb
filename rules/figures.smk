# In: records, early states, training histories, <results>/config.yaml. Out: <results>/figures/figure<N>.{png,pdf,csv,json}.


rule figure2:
    """Figure 2: residuals and entropies of clean and attacked images, and one example along the states."""
    input:
        config=rules.write_config.output,
        records=[*decisions(EXAMPLE), *expand(rules.clean.output, model=EXAMPLE, seed=SEEDS), *EXAMPLES],
    output:
        figure_files("<results>/figures/figure2", "residuals and entropies"),
    log:
        "<logs>/figures/figure2.log",
    benchmark:
        "<logs>/benchmark/figures/figure2.tsv"
    priority: 20
    params:
        spec=specs.dumps(specs.build_product("figure", CONFIG)),
        number=number,
        stem=stem,
        results=results_folder,
    shell:
        "deqpipe figure {params.number:q} --config {input.config:q} --results {params.results:q}"
        " --output-stem {params.stem:q} > {log:q} 2>&1"


use rule figure2 as figure3 with:
    """Figure 3: accuracy, entropy and deviation along the states, TRADES."""
    input:
        config=rules.write_config.output,
        records=decisions(*TRADES),
    output:
        figure_files("<results>/figures/figure3", "attacks, entropy and deviation"),
    log:
        "<logs>/figures/figure3.log",
    benchmark:
        "<logs>/benchmark/figures/figure3.tsv"


use rule figure2 as figure4 with:
    """Figure 4: validation accuracy under PGD along the training."""
    input:
        config=rules.write_config.output,
        records=[
            *expand(rules.train_deq.output.history, model=TRAINED, seed=SEEDS),
            *expand(CHECKPOINT, model=DEQS, seed=SEEDS),
        ],
    output:
        figure_files("<results>/figures/figure4", "robustness while training"),
    log:
        "<logs>/figures/figure4.log",
    benchmark:
        "<logs>/benchmark/figures/figure4.tsv"


use rule figure2 as figure5 with:
    """Figure 5: Table 8 drawn."""
    input:
        config=rules.write_config.output,
        records=decisions("deq_trades_random_states"),
    output:
        figure_files("<results>/figures/figure5", "damping and state"),
    log:
        "<logs>/figures/figure5.log",
    benchmark:
        "<logs>/benchmark/figures/figure5.tsv"


use rule figure2 as figure6 with:
    """Figure 6: validation accuracy along the training with other weights of the Jacobian term."""
    input:
        config=rules.write_config.output,
        records=[
            *expand(
                rules.train_deq.output.history,
                model=[model for model in (*TRAINED, *OTHER_JACOBIAN) if not specs.MODELS[model].random_states],
                seed=SEEDS,
            ),
            *expand(CHECKPOINT, model=[*specs.BASELINES, *OTHER_JACOBIAN], seed=SEEDS),
        ],
    output:
        figure_files("<results>/figures/figure6", "Jacobian weight"),
    log:
        "<logs>/figures/figure6.log",
    benchmark:
        "<logs>/benchmark/figures/figure6.tsv"


rule figures:
    """All figures; Figure 6, with its own trainings, if `figures.jacobian` asks for it."""
    input:
        rules.figure2.output,
        rules.figure3.output,
        rules.figure4.output,
        rules.figure5.output,
        rules.figure6.output if CONFIG.figures.jacobian else [],
