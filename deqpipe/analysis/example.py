"""The image of Figure 2 (c), of the configuration."""

from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.results import example
from deqpipe.results.example import Example
from deqpipe.workflow.vocabulary import FIGURE2_MODEL


def read(tree: Tree) -> tuple[Example, Source]:
    """The example of a seed, and its file.

    Raises:
        UserError: the file is missing, not ours, or of another configuration.
    """
    path = tree.example(FIGURE2_MODEL)
    shown, provenance = example.read(path)
    return shown, tree.checked_source("attack_example", FIGURE2_MODEL, path, provenance)
