"""Results of another configuration in the folder that a run would write to. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path

from deqpipe.config import Config, leaves, read_yaml
from deqpipe.errors import UserError
from deqpipe.workflow import specs

_ANOTHER = (
    "data.source", "data.root", "model.channels", "model.head_channels", "model.final_channels", "model.groups",
    "model.expansion",
)  # fmt: skip
"""Keys of which another value is another experiment: nothing that was trained under the former one is of any use."""
_NAMED = 6
"""Keys that are named."""


def check(config: Config) -> str | None:
    """What to say of results that a run would replace; None where there are none of another configuration.

    Changing a key and running again is what the workflow is for: what depends on the key is made again in place of the
    old, and that is said. With other images or another architecture nothing would be kept, and all models were trained
    in vain: most likely two experiments have got into one folder, so that it is refused.

    Raises:
        UserError: the folder holds trained models of other images or of another architecture.
    """
    folder = Path(config.pathvars.results)
    changed = differences(config)
    if not changed:
        return None
    another = [key for key in changed if key in _ANOTHER]
    if another and any(folder.glob("models/*/*/best.safetensors")):
        raise UserError(
            f"config: pathvars.results is {config.pathvars.results!r}, but that folder holds models of another "
            f"experiment ({', '.join(changed[key] for key in another)}): give this one a folder of its own, or delete "
            f"{folder / 'config.yaml'} to have the models replaced"
        )
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return (
        f"{folder} holds results of another configuration: {', '.join([*changed.values()][:_NAMED])}{more}. What "
        "depends on that is made again and replaces them; to keep both, set pathvars.results to another folder"
    )


def differences(config: Config) -> Mapping[str, str]:
    """Keys that have another value in the folder's config.yaml, each with both values in words.

    Keys that an older version did not have, or had more, are no difference. Whether that file is valid is no matter.
    """
    try:
        before = dict(leaves(read_yaml(Path(config.pathvars.results, "config.yaml"))))
    except UserError:
        return {}
    now = dict(leaves(specs.conditions(config)))
    return {
        key: f"{key} {json.dumps(before[key])} there, {json.dumps(value)} now"
        for key, value in now.items()
        if key in before and before[key] != value
    }
