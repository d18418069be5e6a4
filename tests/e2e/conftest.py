import importlib
import pathlib
import sys

import grpc_tools
import pytest
from grpc_tools import protoc

from harness import ROOT, Server


@pytest.fixture(scope="session")
def server():
    """One server for all tests that leave it as they found it."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def pb(tmp_path_factory):
    """The modules that grpc_tools makes of our .proto: (messages, stubs)."""
    out = tmp_path_factory.mktemp("stubs")
    standard = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{standard}", f"--python_out={out}", f"--grpc_python_out={out}",
                 "optserve/v1/completion.proto"]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, str(out))
    return (importlib.import_module("optserve.v1.completion_pb2"),
            importlib.import_module("optserve.v1.completion_pb2_grpc"))
