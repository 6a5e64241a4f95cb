"""docs/differences.md: where paper, authors' code and deqpipe differ."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deqpipe import config
from documentation.differences import DIFFERENCES, FINDINGS, NO_RESULT, Difference
from documentation.keys import allowed, by_protocol, cell, leaves, look_up, shown

HEAD = """\
# Paper, authors' code, deqpipe

The paper and the code that its authors released disagree in places, and each leaves open what the other settles. Here
is every choice known to touch a result: what the paper says, what the authors' code does, what deqpipe does, and the
key that decides. Equations, sections and tables are the paper's; states are counted from 1.

"The authors' code" is the repository minicheshire/DEQ-Regulating-Neural-Dynamics at commit 862034f: its training code
in `random-intermediate-states/`, its evaluation code in `input-entropy-reduction/`. "The earlier repository" is
minicheshire/DEQ-White-Box-Robustness at commit b99ab3f, the code of Yang et al. (2022).

## Two protocols

* `protocol: paper` takes what the paper's text and equations say, wherever they say something definite; where the paper
  is silent (initialisation, dropout, when the Jacobian is regularised), what the authors' code does.
* `protocol: release` takes what the authors' code does, as far as there is a key for it.

The word sets the keys of the first table below, as long as their value in the configuration is `protocol`. All other
keys are the same in both. Any key can be set alone, on top of either protocol. Laid over config.yaml, this file

    protocol: paper
    attack:
      unroll:
        lead_step: true

runs the paper's text, but for the authors' unroll in attacks and to the final state. Few mixtures are refused: those in
which one value takes away the meaning of another, and jobs that would cut batches of coupled images.

What ran is recorded, not what was asked for: the provenance of every result holds the resolved values of the keys that
its job depends on, and fingerprints of the jobs before it; `config.yaml` in the results folder holds those of all keys.
Every table names the protocol and the keys that depart from it.

**Coupled images.** The authors' solver takes norms over a whole batch: they decide when a solve stops and which of its
states is z*. A prediction then depends on the images beside it. `solver.scope: batch` and `solver.returned:
lowest_batch` do the same here. With one of them the size of a batch is part of what results depend on, and
`attack.images_per_job` must be a multiple of it, or no less than all images. (Training couples the images of a batch in
any case, by BatchNorm; a selecting attack at random states draws one of them per batch.)
"""

FINDINGS_HEAD = """\
## What to know first

What is *verified* was seen by running the authors' code on a CPU, what is *read* stands in it, what is *inferred*
follows from numbers in the paper and may be wrong.

"""

PROTOCOL_KEYS = """\
## Keys that the protocols set

| key | paper | release | allowed | config.yaml | items |
| --- | --- | --- | --- | --- | --- |
"""

SHARED_KEYS = """\
## Keys that decide something below and are the same in both

| key | config.yaml | allowed | items |
| --- | --- | --- | --- |
"""

SECTION_HEAD = """\
| item | what | paper | authors' code | here | key: paper / release, or config.yaml |
| --- | --- | --- | --- | --- | --- |
"""

NO_RESULT_HEAD = """\
## Items that touch no result

| item | what |
| --- | --- |
"""

END = """\
This page is generated from `documentation/differences.py` and the types in `deqpipe/config/` (`make generate`).
"""


def page(root: Path) -> str:
    """The page that says where paper, authors' code and deqpipe differ."""
    defaults = config.read_yaml(root / "config.yaml")
    parts = [HEAD, _findings(), _protocol_keys(defaults), _shared_keys(defaults)]
    parts += [_section(title, differences, defaults) for title, differences in DIFFERENCES.items()]
    parts += [NO_RESULT_HEAD + "".join(f"| {item} | {cell(why)} |\n" for item, why in sorted(NO_RESULT.items()))]
    return "\n".join([*parts, END])


def _findings() -> str:
    lines = [
        f"{number}. {finding.text} (*{', '.join(finding.evidence)}*; "
        f"item{'s' if len(finding.items) > 1 else ''} {', '.join(map(str, finding.items))})\n"
        for number, finding in enumerate(FINDINGS, 1)
    ]
    return FINDINGS_HEAD + "".join(lines)


def _protocol_keys(defaults: Mapping[str, Any]) -> str:
    schemas = dict(leaves(config.Config, "", nested=True))
    rows = []
    for key in config.PROTOCOLS["paper"]:
        cells = (*by_protocol(key), allowed(schemas[key]), shown(look_up(defaults, key)), _named_by(key))
        rows.append(f"| `{key}` | {' | '.join(cells)} |\n")
    return PROTOCOL_KEYS + "".join(rows)


def _shared_keys(defaults: Mapping[str, Any]) -> str:
    rows = [
        f"| `{key}` | {_shared(key, defaults)} | {allowed(schema)} | {_named_by(key)} |\n"
        for key, schema in leaves(config.Config, "", nested=True)
        if key not in config.PROTOCOLS["paper"] and _named_by(key)
    ]
    return SHARED_KEYS + "".join(rows)


def _named_by(key: str) -> str:
    """The items that name a key."""
    found = {item for section in DIFFERENCES.values() for one in section if key in one.keys for item in one.items}
    return ", ".join(map(str, sorted(found)))


def _section(title: str, differences: Iterable[Difference], defaults: Mapping[str, Any]) -> str:
    rows = []
    for one in differences:
        cells = (", ".join(map(str, one.items)), *map(cell, (one.topic, one.paper, one.release, one.here)))
        keys = "<br>".join(f"`{key}`: {_resolved(key, defaults)}" for key in one.keys)
        rows.append(f"| {' | '.join(cells)} | {keys} |\n")
    return f"## {title}\n\n{SECTION_HEAD}{''.join(rows)}"


def _resolved(key: str, defaults: Mapping[str, Any]) -> str:
    """What a key is under each protocol, if they differ about it; otherwise what config.yaml says.

    Raises:
        KeyError: there is no such key.
    """
    return " / ".join(by_protocol(key)) if key in config.PROTOCOLS["paper"] else _shared(key, defaults)


def _shared(key: str, defaults: Mapping[str, Any]) -> str:
    """What config.yaml says of a key, or which variant it belongs to.

    Raises:
        KeyError: there is no such key.
    """
    value = look_up(defaults, key)
    section, _, name = key.rpartition(".")
    variants = config.all_variants().get(section)
    values = () if variants is None else variants.with_key(name)
    if value is None and variants is not None and values:
        return f"with {variants.tag}: {' or '.join(values)}"
    if value is None:
        raise KeyError(key)
    return shown(value)
