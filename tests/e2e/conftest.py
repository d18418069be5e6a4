import pytest

from harness import Server


@pytest.fixture(scope="session")
def server():
    """One server for all tests that leave it as they found it."""
    with Server() as running:
        yield running
