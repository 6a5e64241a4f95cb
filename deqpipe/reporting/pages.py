"""Pages: how templates are filled, and a table as a page of its own."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from deqpipe.reporting.cells import Table
from deqpipe.reporting.tables import formats


def template(name: str) -> Template:
    """A template of this package: all values are escaped, and one that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("deqpipe.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def body(table: Table) -> Markup:
    """The blocks of a table, whose cells `formats` has escaped."""
    return Markup(formats.to_html(table))


def page(table: Table) -> str:
    """A table with caption, notes and conditions, as a page that needs nothing else."""
    return template("table.html").render(table=table, body=body(table)) + "\n"
