"""For all tests."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="session")
def quick_collections():
    """What is there before the tests is no garbage of theirs, and many of them collect it."""
    gc.freeze()
    yield
    gc.unfreeze()
