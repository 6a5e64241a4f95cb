"""What pyproject.toml cannot say: a wheel holds the revision that it was built from (`deqpipe --version`)."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithRevision(build_py):
    """Adds deqpipe/REVISION to what is built; an editable install asks git instead."""

    def run(self) -> None:
        """Build, and write the revision beside the package's modules."""
        super().run()
        sys.path.insert(0, str(ROOT))
        from deqpipe.machine.revision import revision

        target = Path(self.build_lib, "deqpipe")
        if not self.editable_mode and target.is_dir():
            (target / "REVISION").write_text(f"{revision() or ''}\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildWithRevision})
