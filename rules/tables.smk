# In: records, early states, timings, <results>/config.yaml. Out: <results>/tables/table<N>.{csv,html,md,tex,json}.
# Which files a table is made of says its value in deqpipe/workflow/products.py.


for table in products.tables(CONFIG).values():

    rule:
        name:
            table.name
        input:
            config=given(rules.write_config.output),
            records=given(made_of(table)),
            outdated=outdated(f"<results>/tables/{table.name}.json"),
        output:
            table_files(f"<results>/tables/{table.name}", table.about),
        log:
            f"<logs>/tables/{table.name}.log",
        benchmark:
            f"<logs>/benchmark/tables/{table.name}.tsv"
        priority: table.priority
        localrule: True
        params:
            spec=specs.dumps(specs.build_product("table", CONFIG, table)),
            number=number,
            stem=stem,
            results=results_folder,
        shell:
            "deqpipe table {params.number:q} --spec {params.spec:q} --config {input.config:q} --results {params.results:q}"
            " --output-stem {params.stem:q} > {log:q} 2>&1"

    describe(table)


rule tables:
    """All tables."""
    input:
        [getattr(rules, table.name).output for table in products.tables(CONFIG).values() if table.wanted(CONFIG)],
