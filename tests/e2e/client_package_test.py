"""The C++ client library as its users get it: the installed package, and a program that knows nothing else of us."""

import subprocess

import pytest

from harness import BINARY, REFERENCE, ROOT, Server, run

CASE = REFERENCE[0]
EXAMPLE = ROOT / "clients/cpp/examples/complete"


def sh(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("prefix")
    sh("cmake", "--install", BINARY.parent, "--component", "optserve_client", "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session")
def complete(package, tmp_path_factory):
    """Runs the example, built against the package alone, and returns its CompletedProcess."""
    build = tmp_path_factory.mktemp("example")
    sh("cmake", "-G", "Ninja", "-S", EXAMPLE, "-B", build, f"-DCMAKE_PREFIX_PATH={package}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
    sh("cmake", "--build", build)

    def run_example(address, text, **env):
        return subprocess.run([build / "complete", address, text], capture_output=True, text=True, timeout=60, env=env)

    return run_example


def test_headers_and_cmake_files_name_nothing_of_the_source_tree(package):
    files = [path for path in package.rglob("*") if path.is_file()]
    texts = [path for path in files if path.suffix in (".h", ".proto", ".cmake")]
    assert {"client.h", "completion.pb.h", "optserve_clientConfig.cmake"} <= {path.name for path in texts}
    for path in texts:
        text = path.read_text()
        assert str(ROOT) not in text, path
        assert '#include "clients/' not in text and '#include "proto/' not in text, path
    assert {path.name for path in files if path.suffix == ".a"} == {
        "liboptserve_client.a", "liboptserve_proto_completion.a", "liboptserve_proto_errors.a"}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_example_says_what_transformers_say(complete, server, protocol):
    address = server.url if protocol == "http" else f"grpc://{server.grpc}"
    done = complete(address, CASE["prompt"])
    assert done.returncode == 0, done.stderr
    text, *scores, count = done.stdout.removesuffix("\n").split("\n")
    expected = server.complete(CASE["prompt"], max_tokens=16, logprobs=0)
    assert text == CASE["prompt"] + expected["choices"][0]["text"]
    logprobs = expected["choices"][0]["logprobs"]
    assert [line.split("\t")[1] for line in scores] == logprobs["tokens"]
    assert [float(line.split("\t")[0]) for line in scores] == pytest.approx(logprobs["token_logprobs"], abs=1e-4)
    assert count == "16 tokens"


def test_the_example_says_what_went_wrong(complete):
    done = complete("http://127.0.0.1:9", "x")
    assert (done.returncode, done.stderr) == (1, "complete: connecting to 127.0.0.1:9: Connection refused\n")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_example_shows_its_key(complete, tmp_path, protocol):
    keys = tmp_path / "keys"
    key = run("keys", "new", "--name", "ana", "--api-key-file", keys).stdout.split()[-1]
    with Server("--api-key-file", keys) as server:
        address = server.url if protocol == "http" else f"grpc://{server.grpc}"
        assert complete(address, "x", OPTSERVE_API_KEY=key).returncode == 0
        refused = complete(address, "x", OPTSERVE_API_KEY="wrong")
        assert (refused.returncode, refused.stdout) == (1, "") and "API key is not one that is known" in refused.stderr
