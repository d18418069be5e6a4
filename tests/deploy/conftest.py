import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import bare_root
import packages


@pytest.fixture(scope="session")
def root_archive():
    """A bare Debian 12 as a tar archive."""
    return bare_root.archive()


@pytest.fixture(scope="session")
def release():
    """The packages of this build: see packages.py."""
    return packages.Release()


@pytest.fixture
def bare(root_archive, tmp_path):
    """A bare Debian 12 root with a loopback device for a network."""
    with bare_root.BareRoot(root_archive, tmp_path / "root") as root:
        yield root
