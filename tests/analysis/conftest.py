"""The fabricated results tree that tables are tested with."""

from tests.reporting.conftest import config, finished, results

__all__ = ["config", "finished", "results"]
