# In: records, early states, training histories, <results>/config.yaml. Out: <results>/figures/figure<N>.{png,pdf,csv,json}.
# Which files a figure is made of says its value in deqpipe/workflow/products.py.


for figure in products.FIGURES.values():

    rule:
        name:
            figure.name
        input:
            config=given(rules.write_config.output),
            records=given(made_of(figure)),
            outdated=outdated(f"<results>/figures/{figure.name}.json"),
        output:
            figure_files(f"<results>/figures/{figure.name}", figure.about),
        log:
            f"<logs>/figures/{figure.name}.log",
        benchmark:
            f"<logs>/benchmark/figures/{figure.name}.tsv"
        priority: figure.priority
        localrule: True
        params:
            spec=specs.dumps(specs.build_product("figure", CONFIG)),
            number=number,
            stem=stem,
            results=results_folder,
        shell:
            "deqpipe figure {params.number:q} --spec {params.spec:q} --config {input.config:q} --results {params.results:q}"
            " --output-stem {params.stem:q} > {log:q} 2>&1"

    describe(figure)


rule figures:
    """All figures; Figure 6, with its own trainings, if `figures.jacobian` asks for it."""
    input:
        [getattr(rules, figure.name).output for figure in products.FIGURES.values() if figure.wanted(CONFIG)],
