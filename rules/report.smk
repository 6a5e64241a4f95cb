# In: all tables and figures. Out: <results>/report.html, the picture at its top (overview.png, .svg), results.json.


rule report:
    """One self-contained page of all tables and figures with their conditions; and all numbers as JSON."""
    input:
        given(rules.tables.input),
        given(rules.figures.input),
        config=given(rules.write_config.output),
        outdated=outdated(["<results>/report.html", "<results>/results.json"]),
    output:
        page=report(
            "<results>/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "all tables and figures, with what they amount to"},
        ),
        overview=multiext("<results>/overview", ".png", ".svg"),
        numbers="<results>/results.json",
    log:
        "<logs>/report.log",
    benchmark:
        "<logs>/benchmark/report.tsv"
    params:
        spec=specs.dumps(specs.build_product("report", CONFIG)),
        results=results_folder,
    shell:
        "deqpipe report --spec {params.spec:q} --config {input.config:q} --results {params.results:q} --output {output.page:q}"
        " --numbers {output.numbers:q} > {log:q} 2>&1"
