"""For all tests."""

import gc
import signal

import pytest
from hypothesis import settings

# For builds of Python beside the first, which has tried more.
settings.register_profile("brief", max_examples=20)


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """What is there before the tests of a file is no garbage of theirs, and many of them collect it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """A shell lets what it runs in the background ignore SIGINT, which is then no KeyboardInterrupt."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)
