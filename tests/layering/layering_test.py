"""Every #include in the tree obeys the tables in rules.py, and the rules can tell."""

import pathlib
import re
import subprocess

import pytest

from rules import MAY_INCLUDE, violations

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ["kernels", "engine", "server", "clients"]


def sources(folder):
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *(f"{folder}/*.{e}" for e in ("h", "cc", "cu", "cuh"))],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return [name for name in names if (ROOT / name).exists()]


@pytest.mark.parametrize("folder", FOLDERS)
def test_includes_follow_the_tables(folder):
    found = [v for name in sources(folder) for v in violations(name, (ROOT / name).read_text(encoding="utf-8"))]
    assert not found, "\n" + "\n".join(found)


def test_the_search_sees_sources():
    assert sources("kernels") and sources("engine") and sources("server")


@pytest.mark.parametrize("path, include", [
    ("kernels/linear/linear.h", '"engine/request.h"'),
    ("kernels/linear/linear_cpu.cc", '"absl/status/status.h"'),
    ("kernels/linear/linear_cpu.cc", "<nlohmann/json.hpp>"),
    ("engine/engine.cc", '"server/text/tokenizer.h"'),
    ("engine/engine.cc", '"kernels/linear/linear.h"'),
    ("engine/engine.cc", "<spdlog/spdlog.h>"),
    ("engine/scheduler/scheduler.cc", '"engine/executor/executor.h"'),
    ("engine/scheduler/scheduler.cc", '"engine/model/opt_config.h"'),
    ("engine/scheduler/scheduler.cc", '"kernels/backend.h"'),
    ("engine/model/opt_model.cc", '"engine/engine.h"'),
    ("engine/model/opt_model.cc", '"engine/scheduler/scheduler.h"'),
    ("engine/executor/rank_worker.cc", '"engine/scheduler/scheduler.h"'),
    ("engine/checkpoint/safetensors.cc", '"engine/model/opt_weights.h"'),
    ("server/http/routes.cc", '"engine/scheduler/scheduler.h"'),
    ("server/http/routes.cc", '"kernels/backend.h"'),
    ("server/http/routes.cc", "<pcre2.h>"),
    ("server/api/json_codec.cc", "<boost/beast.hpp>"),
    ("server/api/json_codec.cc", '"server/http/routes.h"'),
    ("server/text/tokenizer.cc", '"server/api/json_codec.h"'),
    ("server/text/tokenizer.cc", "<grpcpp/grpcpp.h>"),
    ("clients/cpp/client.cc", '"engine/request.h"'),
    ("server/main.cc", '"clients/cpp/cli/terminal.h"'),
    ("clients/cli/completion_script.cc", '"clients/cpp/transport.h"'),
    ("server/text/tokenizer.cc", '"tokenizer.h"'),
    ("server/text/tokenizer.cc", '"tests/support/test_data.h"'),
    ("engine/engine.cc", "<unheardof/library.h>"),
])
def test_a_forbidden_include_is_seen(path, include):
    assert len(violations(path, f"#pragma once\n#  include {include}  // why\n")) == 1


@pytest.mark.parametrize("path, include", [
    ("kernels/linear/linear_cpu.cc", "<immintrin.h>"),
    ("engine/engine.cc", '"engine/scheduler/scheduler.h"'),
    ("engine/executor/rank_worker.cc", '"engine/scheduler/step_plan.h"'),
    ("server/http/routes.cc", "<boost/beast.hpp>"),
    ("server/text/pretokenizer.cc", "<pcre2.h>"),
    ("server/grpc/completion_service.cc", '"optserve/v1/completion.grpc.pb.h"'),
    ("engine/util/status.h", "<fmt/format.h>"),
    ("engine/engine.cc", "<sys/socket.h>"),
])
def test_an_allowed_include_passes(path, include):
    assert violations(path, f"#include {include}\n") == []


def test_every_folder_has_a_row():

    for folder in FOLDERS:
        assert any(re.match(pattern, f"{folder}/x.cc") for pattern, _ in MAY_INCLUDE), folder
