# In: records, early states, timings, <results>/config.yaml. Out: <results>/tables/table<N>.{csv,html,md,tex,json}.


rule table1:
    """Table 1: all defences under all attacks."""
    input:
        config=rules.write_config.output,
        records=[*CLEAN, *PGD, *AUTOATTACK, *decisions(*DEQS)],
    output:
        table_files("<results>/tables/table1", "all defences, all attacks"),
    log:
        "<logs>/tables/table1.log",
    benchmark:
        "<logs>/benchmark/tables/table1.tsv"
    priority: 20
    params:
        spec=specs.dumps(specs.build_product("table", CONFIG)),
        number=number,
        stem=stem,
        results=results_folder,
    shell:
        "deqpipe table {params.number:q} --config {input.config:q} --results {params.results:q}"
        " --output-stem {params.stem:q} > {log:q} 2>&1"


ENTROPIES = [*decisions(*DEQS), *expand(rules.clean.output, model=DEQS, seed=SEEDS)]


use rule table1 as table2 with:
    """Table 2: accuracy under ready-made and intermediate-state attacks."""
    input:
        config=rules.write_config.output,
        records=decisions(*DEQS),
    output:
        table_files("<results>/tables/table2", "intermediate-state attacks"),
    log:
        "<logs>/tables/table2.log",
    benchmark:
        "<logs>/benchmark/tables/table2.tsv"


use rule table1 as table3 with:
    """Table 3: attacks of one TRADES method on another, and attacks through Sec. 3.2."""
    input:
        config=rules.write_config.output,
        records=[*decisions(*TRADES), *IN_LOOP],
    output:
        table_files("<results>/tables/table3", "transferred attacks"),
    log:
        "<logs>/tables/table3.log",
    benchmark:
        "<logs>/benchmark/tables/table3.tsv"


use rule table1 as table4 with:
    """Table 4: APGD-CE and Square at the strongest points of TRADES with Secs. 3.2 and 3.3."""
    input:
        config=rules.write_config.output,
        records=[*decisions(SWEPT), *TOP, *expand(STRONGEST, model=SWEPT, seed=SEEDS)],
    output:
        table_files("<results>/tables/table4", "APGD-CE and Square"),
    log:
        "<logs>/tables/table4.log",
    benchmark:
        "<logs>/benchmark/tables/table4.tsv"


use rule table1 as table5 with:
    """Table 5: Sec. 3.2 with other T_f and R."""
    input:
        config=rules.write_config.output,
        records=[*expand(rules.select_early_state.output, model=SWEPT, seed=SEEDS), *SWEEP, *RACED_SWEEP],
    output:
        table_files("<results>/tables/table5", "T_f and R"),
    log:
        "<logs>/tables/table5.log",
    benchmark:
        "<logs>/benchmark/tables/table5.tsv"


use rule table1 as table6 with:
    """Table 6: how often a clean image's entropy is below that of its attacked one."""
    input:
        config=rules.write_config.output,
        records=ENTROPIES,
    output:
        table_files("<results>/tables/table6", "entropies: P"),
    log:
        "<logs>/tables/table6.log",
    benchmark:
        "<logs>/benchmark/tables/table6.tsv"


use rule table1 as table7 with:
    """Table 7: by how much."""
    input:
        config=rules.write_config.output,
        records=ENTROPIES,
    output:
        table_files("<results>/tables/table7", "entropies: Delta H"),
    log:
        "<logs>/tables/table7.log",
    benchmark:
        "<logs>/benchmark/tables/table7.tsv"


use rule table1 as table8 with:
    """Table 8: the strongest attack per damping and state on TRADES with Secs. 3.2 and 3.3."""
    input:
        config=rules.write_config.output,
        records=decisions(SWEPT),
    output:
        table_files("<results>/tables/table8", "damping and state"),
    log:
        "<logs>/tables/table8.log",
    benchmark:
        "<logs>/benchmark/tables/table8.tsv"


use rule table1 as table9 with:
    """Table 9: speed of training."""
    input:
        config=rules.write_config.output,
        records=TIMED_TRAINING,
    output:
        table_files("<results>/tables/table9", "speed of training"),
    log:
        "<logs>/tables/table9.log",
    benchmark:
        "<logs>/benchmark/tables/table9.tsv"
    priority: 5


use rule table1 as table10 with:
    """Table 10: speed of inference."""
    input:
        config=rules.write_config.output,
        records=TIMED_INFERENCE,
    output:
        table_files("<results>/tables/table10", "speed of inference"),
    log:
        "<logs>/tables/table10.log",
    benchmark:
        "<logs>/benchmark/tables/table10.tsv"
    priority: 5


rule tables:
    """All tables."""
    input:
        rules.table1.output,
        rules.table2.output,
        rules.table3.output,
        rules.table4.output,
        rules.table5.output,
        rules.table6.output,
        rules.table7.output,
        rules.table8.output,
        rules.table9.output,
        rules.table10.output,
