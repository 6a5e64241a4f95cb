"""Changes of JSON files by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
