"""Ends the processes that a test of training has started."""

import pytest

from tests.train import runs


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    runs.stop_all()
