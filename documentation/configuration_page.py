"""docs/configuration.md: every key with its default, what it may hold, and what it means."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deqpipe import config
from documentation.keys import Leaf, allowed, cell, leaves, look_up, shown

HEAD = """\
# Configuration

`config.yaml` holds every key with its default: the paper's experiment on CIFAR-10. Another experiment is an overlay
that names only what differs, as `config/demo.yaml` does:

    snakemake --configfile my.yaml
    snakemake results/tables/table2.csv --configfile my.yaml

A target stands before `--configfile`, which takes everything behind it for a config file. Several files are laid over
each other, the last on top, in one option; so a change of the demo is laid over the demo:

    snakemake --configfile config/demo.yaml my.yaml

config.yaml lies underneath: that of the folder that Snakemake runs in, or, where there is none (`-s`, `--directory`),
the one beside the Snakefile. Other commands are told all files, config.yaml first: `deqpipe check-config config.yaml
my.yaml`.

Unknown and missing keys, wrong types and impossible values are refused when the Snakefile is read, in one line and
with exit status 2; so are a key that stands twice, a file that is empty, no YAML, or no UTF-8, and more test images
than an image folder has. `check-config` does only that. Snakemake itself reads the files of `--configfile` earlier
and would not name a broken one: the package's logger plugin, which it imports at every start, reads them before it.
Where that plugin is not installed, Snakemake's own message is what one sees, with exit status 1. Numbers in lists and
sections cannot be given with `--config`, which makes text of them.

In paths, `~` and `$NAME` are filled in; `./x`, `x/` and `x` are one folder. Values of keys that end in `_255` are
counted in 255ths of the pixel range (8 for 8/255): a radius of at most 0.1 is refused, and so are such steps that do
not add up to the radius.

`results/x/config.yaml` is resolved: the protocol's values stand in place of the word `protocol`. Another `protocol`
over it is refused, as nothing would follow it: lay that over the files that the run was made from.

A run whose results folder holds results of another configuration names the keys that differ, and makes what depends on
them again in place of the old. With other images or another `model.channels`, where models are there, it is refused.

Some keys choose a variant ({tags}),
and some others belong to one variant only. An overlay that chooses another variant states the keys of that one; those
of the variant before are gone with it.

`protocol` as a value means: what the key `protocol` at the top says of this key; that value follows in brackets.

The column "allowed" gives types and bounds; values that make no sense together are refused too, with the reason.

This page is generated from the types in `deqpipe/config/` (`make generate`).
"""


def page(root: Path) -> str:
    """The page that explains every key."""
    defaults = config.read_yaml(root / "config.yaml")
    demo = config.read_yaml(root / "config" / "demo.yaml")
    tags = ", ".join(f"`{path}.{variants.tag}`" for path, variants in config.all_variants().items())
    lines = [HEAD.replace("{tags}", tags), "## Top level", ""]
    every = list(leaves(config.Config, "", nested=True))
    lines += _table((leaf for leaf in every if "." not in leaf[0]), defaults, demo)
    for name, field in config.Config.model_fields.items():
        if kinds := config.variants_of(field):
            lines += ["", f"## {name}", "", _described(kinds), ""]
            lines += _table((leaf for leaf in every if leaf[0].startswith(f"{name}.")), defaults, demo)
    return "\n".join(lines) + "\n"


def _described(kinds: Sequence[type[config.Section]]) -> str:
    """What a section is; of several variants, what they have in common."""
    above = kinds[0] if len(kinds) == 1 else kinds[0].__mro__[1]
    return (above.__doc__ or "").strip()


def _table(keys: Iterable[Leaf], defaults: Mapping[str, Any], demo: Mapping[str, Any]) -> list[str]:
    rows = ["| key | default | demo | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    for key, schema in keys:
        meaning = cell(" ".join(schema.get("description", "").split()))
        default, reduced = _default(key, defaults), shown(look_up(demo, key))
        rows.append(f"| `{key}` | {default} | {reduced} | {allowed(schema)} | {meaning} |")
    return rows


def _default(key: str, defaults: Mapping[str, Any]) -> str:
    value = look_up(defaults, key)
    if value != "protocol":
        return shown(value)
    return f"`protocol` ({', '.join(f'{name}: {shown(of[key])}' for name, of in config.PROTOCOLS.items())})"
