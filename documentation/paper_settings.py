"""deqpipe/reporting/paper/settings.py: the defaults of config.yaml, which is no part of the package, as a module of it.

Tables compare a run's settings with these, and `deqpipe predict` takes them where no configuration is named.
"""

import json
from pathlib import Path

from deqpipe import config
from deqpipe.reporting import conditions

HEAD = '''\
"""The paper's experiment as settings: Sec. 4 and Appendix A, and where these are silent, its authors' code.

Generated from config.yaml (`make generate`): a new default there is a new default here.
"""

from collections.abc import Mapping

SETTINGS: Mapping[str, object] = {
'''
TAIL = '''\
}
"""Every setting that a number may depend on, by dotted key."""
'''


def module(root: Path) -> str:
    """The source of the module, as the formatter leaves it."""
    defaults = config.load([root / "config.yaml"])
    lines = (f"    {json.dumps(key)}: {_literal(value)},\n" for key, value in conditions.settings(defaults))
    return f"{HEAD}{''.join(lines)}{TAIL}"


def _literal(value: object) -> str:
    """A value in Python, with double quotes."""
    if isinstance(value, tuple):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return json.dumps(value) if isinstance(value, str) else repr(value)
