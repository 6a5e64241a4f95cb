# In: records, early states, <results>/config.yaml. Out: <results>/tables/table<N>.{csv,md,tex,json}.


rule table1:
    """Table 1: all defences under all attacks."""
    input:
        config=rules.write_config.output,
        records=[*CLEAN, *PGD, *decisions(*DEQS)],
    output:
        multiext("<results>/tables/table1", ".csv", ".md", ".tex", ".json"),
    log:
        "<logs>/tables/table1.log",
    benchmark:
        "<logs>/benchmark/tables/table1.tsv"
    params:
        spec=specs.dumps(specs.build_product("table", CONFIG)),
        number=number,
        stem=stem,
        results=results_folder,
    shell:
        "deqpipe table {params.number:q} --config {input.config:q} --results {params.results:q}"
        " --output-stem {params.stem:q} > {log:q} 2>&1"


use rule table1 as table2 with:
    """Table 2: accuracy under ready-made and intermediate-state attacks."""
    input:
        config=rules.write_config.output,
        records=decisions(*DEQS),
    output:
        multiext("<results>/tables/table2", ".csv", ".md", ".tex", ".json"),
    log:
        "<logs>/tables/table2.log",
    benchmark:
        "<logs>/benchmark/tables/table2.tsv"


use rule table1 as table8 with:
    """Table 8: the strongest attack per damping and state on TRADES with Secs. 3.2 and 3.3."""
    input:
        config=rules.write_config.output,
        records=decisions("deq_trades_random_states"),
    output:
        multiext("<results>/tables/table8", ".csv", ".md", ".tex", ".json"),
    log:
        "<logs>/tables/table8.log",
    benchmark:
        "<logs>/benchmark/tables/table8.tsv"


rule tables:
    """All tables."""
    input:
        rules.table1.output,
        rules.table2.output,
        rules.table8.output,
