"""schemathesis over /openapi.json: whatever it makes of it, no answer is our fault, and all are as the document says."""

import json
import pathlib
import re
import subprocess
import sys

import requests

HERE = pathlib.Path(__file__).parent
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance", "unsupported_method", "allow_header_conformance"]


def run(folder, url, schema, *args):
    command = [pathlib.Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml",
               "run", schema, "--url", url, "--checks", ",".join(CHECKS), "--seed", "1", "--no-color",
               "--suppress-health-check", "all", *args]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300,
                          cwd=folder)


def test_every_answer_is_as_the_document_says(server, tmp_path):
    ended = run(tmp_path, server.url, server.url + "/openapi.json", "--phases", "coverage,fuzzing", "-n", "15")
    assert ended.returncode == 0, ended.stdout[-20_000:]
    routes = requests.get(server.url + "/openapi.json", timeout=10).json()["paths"]
    counts = re.search(r"Operations: +(\d+) selected / (\d+) total", ended.stdout)
    assert counts and counts[1] == counts[2] and int(counts[1]) >= len(routes) - 1, ended.stdout[-20_000:]


def test_an_answer_that_is_not_is_found(server, tmp_path):
    """So that the test above can fail."""
    document = requests.get(server.url + "/openapi.json", timeout=10).json()
    document["components"]["schemas"]["Completion"]["properties"]["created"]["type"] = "string"
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    ended = run(tmp_path, server.url, tmp_path / "openapi.json", "--phases", "fuzzing", "-n", "10",
                "--include-operation-id", "complete")
    assert ended.returncode == 1 and "created" in ended.stdout
