"""A fabricated results tree."""

import shutil
from pathlib import Path

import pytest

from deqpipe.config import Config
from tests.reporting import fabricate


@pytest.fixture(scope="session")
def config() -> Config:
    return fabricate.small()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    """A whole tree that tests only read."""
    return fabricate.tree(tmp_path_factory.mktemp("finished") / "results with spaces; and more", config)


@pytest.fixture
def results(tmp_path: Path, finished: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "results"))
