"""Model cards: beside every trained model a page that says what it is, how it came about and what it is worth.

After Mitchell et al. (2019), "Model Cards for Model Reporting". Written with the report, from what it reads too:
headers of weights, early states, and Table 1.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from deqpipe.analysis.decision import Decision
from deqpipe.config import Config
from deqpipe.reporting.cells import Cell, show
from deqpipe.reporting.tables import tables
from deqpipe.results import early_states, records, weights
from deqpipe.results.early_states import EarlyState
from deqpipe.results.weights import Weights
from deqpipe.workflow.defences import DefenceName
from deqpipe.workflow.stages import STAGES
from deqpipe.workflow.vocabulary import MODELS, TrainedModel, with_weights

_logger = logging.getLogger(__name__)

NAME = "README.md"
MARK = "# Written by deqpipe with every report; without this line it is left alone."
_EARLIER = "---\nlicense: mit\nlibrary_name: deqpipe\ntags: [adversarial-robustness]\n---\n\n# "
"""Cards that were written before they had the mark began so."""
_FRONT = """\
---
{mark}
{licence}library_name: deqpipe
tags: [adversarial-robustness]
---
"""
_TRAINED = {
    None: "pretrained on clean images, weight-tied and unrolled: the trunk that every DEQ here starts from",
    "pgd_at": "trained adversarially by PGD-AT (Madry et al., 2018)",
    "trades": "trained adversarially by TRADES (Zhang et al., 2019)",
}


def write_all(config: Config, results: Path) -> tuple[Path, ...]:
    """Write the card of every model that is there; returns their paths. A page that users wrote stays.

    Args:
        config: of the run.
        results: its folder.

    Raises:
        UserError: a file that they are made of is damaged.
    """
    cells = _cells_of_table1(results)
    written = []
    for name in with_weights(config):
        for seed in config.seeds:
            file = results / STAGES["train_deq"].path.format(model=name, seed=seed)
            path = file.with_name(NAME)
            if file.is_file() and _may_write(path):
                of_first = cells if seed == config.seeds[0] else ()
                records.write_text(path, card(MODELS[name], seed, config, results, weights.read(file), of_first))
                written.append(path)
    return tuple(written)


def _may_write(path: Path) -> bool:
    """Whether there is no page yet, or one of ours."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return True
    ours = MARK in text.splitlines() or text.startswith(_EARLIER)
    if not ours:
        _logger.warning("%s was not written by deqpipe: it is left as it is, and its model gets no card", path)
    return ours


def card(model: TrainedModel, seed: int, config: Config, results: Path, file: Weights, cells: tuple[Cell, ...]) -> str:
    """The card of one model.

    Args:
        model: which.
        seed: its repetition.
        config: of the run.
        results: its folder.
        file: the header of its weights.
        cells: of Table 1; empty where there is none of this seed.
    """
    parts = (
        _head(model, seed, file),
        _what(model, config, file),
        _training(model, config, file),
        _chosen(model, seed, config, results, file),
        _evaluation(model, config, cells),
        _USE.format(epsilon=f"{config.threat_model.epsilon_255:g}/255", licence=_licence(file)),
        _loading(model, seed, results),
    )
    return "\n".join(line for part in parts for line in ([part] if isinstance(part, str) else part)).rstrip() + "\n"


def _head(model: TrainedModel, seed: int, file: Weights) -> str:
    front = _FRONT.format(mark=MARK, licence="" if _imported(file) else "license: mit\n")
    return f"{front}\n# {model.name}, seed {seed}\n"


def _imported(file: Weights) -> bool:
    return bool(file.provenance["spec"].get("stage") == "import")


def _licence(file: Weights) -> str:
    """Weights that others trained are under the terms of those."""
    return "that of its origin" if _imported(file) else "MIT, as deqpipe"


def _what(model: TrainedModel, config: Config, file: Weights) -> Iterator[str]:
    yield "## What it is\n"
    if model.architecture.has_states:
        channels = "/".join(map(str, config.model.channels))
        kind = f"A multiscale deep equilibrium model of {len(config.model.channels)} scales ({channels} channels)"
        yield f"{kind}, whose states come from {config.solver.steps} steps of `{config.solver.name}`,"
    else:
        blocks = "/".join(map(str, config.resnet.layers))
        yield f"A ResNet-{2 * sum(config.resnet.layers) + 2} ({blocks} blocks), for comparison,"
    where = " with the loss at random intermediate states (Sec. 3.3)" if model.random_states else ""
    moved = ", at adversarially perturbed weights (Wu, Xia & Wang, 2020)" if model.perturbed_weights else ""
    yield f"{_TRAINED[model.framework]}{where}{moved}."
    yield f"It has {file.parameters:,} parameters. Digest of its tensors: `{file.content[:16]}`.\n"


def _training(model: TrainedModel, config: Config, file: Weights) -> Iterator[str]:
    told = file.provenance
    yield "## Data and training\n"
    of = "an image folder" if config.data.source == "folder" else config.data.source
    yield f"* Data: {of}; {config.data.validation:,} training images held out, augmentation {config.data.augment}."
    if _imported(file):
        yield "* It was trained elsewhere and imported.\n"
        return
    if model.framework:
        yield f"* Threat model: l-infinity, epsilon {config.threat_model.epsilon_255:g}/255 of the pixel range."
    protocol = "the paper's text" if config.protocol == "paper" else "the authors' code"
    yield f"* Settings where the paper and its authors' code differ: {protocol} (`protocol: {config.protocol}`)."
    took = f"{told['seconds'] / 60:,.1f} minutes on {told['device']}"
    yield f"* Seed {told['seed']}; {took}; torch {told['versions']['torch']}."
    yield "* Every key that it depends on stands in the file itself (its *spec*), all keys in `config.yaml`.\n"


def _chosen(model: TrainedModel, seed: int, config: Config, results: Path, file: Weights) -> Iterator[str]:
    yield "## How it was chosen\n"
    yield f"* Weights: {_kept(model, config, file)}."
    for defence, early in _early_states(model, seed, results).items():
        share = early.accuracy[early.state - 1]
        name = Decision(model.name, defence).row
        yield (
            f"* State that decides, {name}: z^[{early.state}] of {len(early.accuracy)}, right on {share:.1%} of "
            f"{early.n:,} images under ready-made PGD."
        )
    yield ""


def _kept(model: TrainedModel, config: Config, file: Weights) -> str:
    """Why these weights: pretraining keeps the last epoch's, training those that were right most often."""
    if _imported(file) or not file.epoch:
        return f"as imported, after epoch {file.epoch} by their own account" if file.epoch else "as imported"
    if model.framework is None:
        return f"those of its last epoch, {file.epoch}"
    leaks = config.selection.split == "test"
    split = "the test images (as the authors' code does: this leaks)" if leaks else "held-out images"
    return f"those after epoch {file.epoch}, the best on {split}"


def _early_states(model: TrainedModel, seed: int, results: Path) -> dict[DefenceName, EarlyState]:
    path = results / STAGES["select"].path.format(model=model.name, seed=seed)
    deciding = model.architecture.has_states and model.framework is not None and path.is_file()
    return early_states.read(path, model.defences)[0] if deciding else {}


def _cells_of_table1(results: Path) -> tuple[Cell, ...]:
    path = results / "tables" / "table1.json"
    return tables.read(path).table.cells if path.is_file() else ()


def _evaluation(model: TrainedModel, config: Config, cells: tuple[Cell, ...]) -> Iterator[str]:
    yield "## Evaluation\n"
    rows = [Decision(model.name, defence).row for defence in model.defences]
    own = [cell for cell in cells if cell.row in rows and cell.here is not None]
    if not own:
        yield "Nothing has been evaluated yet, or only the first seed's models: see Table 1 of the run.\n"
        return
    confidence = f"{100 * config.statistics.confidence:g}%"
    yield f"Accuracy in per cent of {own[0].n:,} test images, with {confidence} intervals (Table 1).\n"
    yield "| decision | attack | here |\n| --- | --- | --- |"
    for cell in own:
        shown = show(cell, signed="gain" in cell.column)
        interval = f" [{shown.interval}]" if shown.interval else ""
        yield f"| {cell.row} | {cell.column} | {shown.value}{interval} |"
    yield ""


_USE = """\
## Use and limits

For research on adversarial robustness: to repeat, attack and compare. Not for decisions about people or things.

* Every robust accuracy above is an upper bound: attacks that were not tried may do better, above all on decisions with
  Sec. 3.2, which most attacks here have not seen.
* It holds for epsilon {epsilon} in the l-infinity norm, and says nothing of other perturbations or other images.
* One training with one seed. Another seed gives another model; intervals are of the test images alone.

Licence: {licence}. The images have licences of their own.
"""


def _loading(model: TrainedModel, seed: int, results: Path) -> Iterator[str]:
    yield "## In Python\n"
    named, comment = _named(results / STAGES["train_deq"].path.format(model=model.name, seed=seed))
    if model.architecture.has_states:
        use = "logits = model.logits(images)  # (B, classes), of images in [0, 1]"
        code = f"import deqpipe\n\n{comment}model = deqpipe.load({named})\n{use}"
    else:
        code = (
            "from pathlib import Path\n\nimport torch\n\nfrom deqpipe.model.architecture import load_model\n\n"
            f'{comment}model = load_model(Path({named}), torch.device("cpu")).model\nlogits = model(images)'
        )
    yield f"```python\n{code}\n```"


def _named(file: Path) -> tuple[str, str]:
    """A file in Python, from the folder where the workflow runs, and a comment: a card names no place of a machine."""
    place, here = Path(os.path.abspath(file)), Path.cwd()
    if place.is_relative_to(here):
        return repr(str(place.relative_to(here))), ""
    return repr(file.name), "# The file that lies beside this card.\n"
