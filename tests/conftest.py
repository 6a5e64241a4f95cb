import signal
from collections.abc import Iterator

import pytest
import torch

from deqpipe.machine import environment
from tests import tiny

environment.shield()  # before matplotlib: a terminal of a notebook names a backend that only the notebook has


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """As jobs run by default; sums in another order have other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _signals_are_heard() -> Iterator[None]:
    """Whoever starts the tests by `nohup`, or by a script's `&`, would have their processes ignore some."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def _broken_pipes_end_no_process_of_tests() -> Iterator[None]:
    """A dry run within this process reads the Snakefile, which lets the process end when its reader has gone."""
    yield
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trained:
    """Tiny trained models, made by the real commands; tests read them and change nothing."""
    return tiny.train_all(tmp_path_factory.mktemp("trained"))
