import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from harness import Server  # noqa: E402  (the path above comes first)


@pytest.fixture(scope="session")
def server():
    with Server() as running:
        yield running
