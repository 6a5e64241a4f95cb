"""Parameter names of the authors' release, translated to ours."""

import re
from collections.abc import Callable

RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^downsample\.", "stem."),
    (r"^stage0\.(\d)", lambda match: f"stem.{6 + int(match[1])}"),
    (r"^fullstage\.branches\.(\d)\.blocks\.0\.", r"cell.branches.\1."),
    (r"^fullstage\.post_fuse_layers\.", "cell.post."),
    (r"^fullstage\.fuse_layers\.(\d)\.(\d)\.net\.conv\.", r"cell.fuse.\2to\1.conv."),
    (r"^fullstage\.fuse_layers\.(\d)\.(\d)\.net\.gnorm\.", r"cell.fuse.\2to\1.gn."),
    (r"^fullstage\.fuse_layers\.(\d)\.(\d)\.net\.(\d)\.conv\.", lambda match: _in_chain(match, 0)),
    (r"^fullstage\.fuse_layers\.(\d)\.(\d)\.net\.(\d)\.gnorm\.", lambda match: _in_chain(match, 1)),
    (r"^incre_modules\.(\d)\.0\.downsample\.", r"head.incre.\1.short."),
    (r"^incre_modules\.(\d)\.0\.", r"head.incre.\1."),
    (r"^downsamp_modules\.", "head.down."),
    (r"^final_layer\.", "head.final."),
    (r"^classifier\.", "head.fc."),
    (r"\.weight_(g|v)$", r".\1"),
)


def _in_chain(match: re.Match[str], offset: int) -> str:
    target, source, block = match.groups()
    return f"cell.fuse.{source}to{target}.{3 * int(block) + offset}."


def rename(key: str) -> str:
    """Our name of a parameter or buffer."""
    for pattern, replacement in RULES:
        key = re.sub(pattern, replacement, key)
    return key
