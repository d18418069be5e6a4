"""Who may include whom: the tables of the design, as data. layering_test.py applies them to every #include.

Paths and patterns are relative to the repository root; a pattern is a regular expression matched from the start.
"""

import re

# The first row whose pattern matches a file says which files of this project it may include.
MAY_INCLUDE = [
    # The one header through which kernels see the toolkit, or without nvcc the emulator.
    (r"kernels/common/gpu\.h", [r"kernels/", r"tests/cuda_emulator/emulator\.h"]),
    (r"kernels/", [r"kernels/"]),
    # Metrics are printed from an engine's counters.
    (r"engine/util/metrics\.", [r"engine/util/", r"engine/(engine_client|request|config)\.h"]),
    (r"engine/util/", [r"engine/util/"]),
    (r"engine/comm/", [r"engine/(comm|util)/", r"kernels/"]),
    (r"engine/checkpoint/", [r"engine/(checkpoint|util)/", r"kernels/common/"]),
    # Neither executor nor model, and no device: that is why the scheduler is easy to test.
    (r"engine/scheduler/", [r"engine/(scheduler|util)/", r"engine/(config|request|engine_client)\.h",
                            r"kernels/common/check\.h"]),
    # Of the layer above, a model knows only the packed inputs of a step.
    (r"engine/model/", [r"engine/(model|checkpoint|comm|util)/", r"engine/executor/step_inputs\.h",
                        r"engine/(config|request)\.h", r"kernels/"]),
    (r"engine/executor/", [r"engine/(executor|model|checkpoint|comm|util)/", r"engine/scheduler/step_plan(_bytes)?\.h",
                           r"engine/planner/cost_model\.h",
                           r"engine/(config|request|engine_client)\.h", r"kernels/"]),
    (r"engine/process_(main|frames|group)\.", [r"engine/", r"kernels/", r"(proto/)?optserve/internal/"]),
    (r"engine/planner/", [r"engine/(planner|util)/", r"engine/model/(opt_config|opt_sizes)\.h", r"engine/config\.h"]),
    (r"engine/tools/", [r"engine/", r"kernels/"]),
    (r"engine/", [r"engine/", r"kernels/backend\.h"]),
    (r"server/text/", [r"server/text/", r"engine/util/"]),
    (r"server/api/", [r"server/(api|text)/", r"engine/(engine_client|request|config)\.h", r"engine/util/",
                      r"(proto/)?optserve/v1/"]),
    # `serve` starts the engine process and `bench kernels` the engine's own benchmark.
    # What a key may take and what it took are decided where a request begins and ends, whichever protocol it came by.
    (r"server/access/", [r"server/(access|api)/", r"engine/util/"]),
    (r"server/tracing/", [r"server/(tracing|api)/", r"engine/request\.h", r"engine/util/"]),
    (r"server/completion/", [r"server/(access|api|completion|text|tracing)/", r"engine/(engine_client|request|config)\.h", r"engine/util/"]),
    # Spans go to their collector by the client library's HTTP.
    # And `bench` drives a load, at a server through the client library or at an engine in its own process (adr/0010).
    (r"server/(main\.cc|commands/)", [r"server/", r"engine/(engine_client|request|config|process_main|process_group|model/opt_sizes)\.h",
                                      r"engine/(planner|util|tools)/", r"clients/(bench|cli)/",
                                      r"clients/cpp/(http_connection|transport)\.h"]),
    # A plan's inputs are a machine and a model's shape.
    (r"server/doctor/", [r"server/(doctor|access)/", r"server/(server_config|commands/model_path)\.h",
                         r"engine/(planner|util)/", r"engine/tools/plan_inputs\.h"]),
    # The other end of the process border.
    (r"server/replicas/", [r"server/replicas/", r"engine/(engine_client|request|config|process_frames|process_group)\.h",
                           r"engine/util/", r"(proto/)?optserve/internal/"]),
    (r"server/", [r"server/", r"engine/(engine_client|request|config)\.h", r"engine/(planner|util)/",
                  r"(proto/)?optserve/"]),
    # What the command lines of both our programs share.
    (r"clients/cli/", [r"clients/cli/"]),
    # Public headers of the client library are included as its users do: optserve/client/.
    (r"clients/", [r"clients/", r"optserve/client/", r"(proto/)?optserve/v1/"]),
]

# Outside libraries: which headers belong to one, and the only places that may include them.
LIBRARY_DOORS = {
    "Boost": (r"boost/", [r"server/http/", r"clients/"]),
    "gRPC": (r"(grpc|grpcpp|grpc\+\+)/|.*\.grpc\.pb\.h", [r"server/grpc/", r"server/api/(proto_codec|error_codec)", r"clients/"]),
    "protobuf": (r"google/|.*\.pb\.h", [r"server/grpc/", r"server/api/(proto_codec|error_codec)", r"server/replicas/",
                                        r"engine/process_(main|frames|group)\.", r"clients/"]),
    "nlohmann_json": (r"nlohmann/", [r"server/(api|text|commands)/", r"server/server_config", r"engine/config\.cc",
                                     r"engine/model/opt_config\.cc", r"engine/(checkpoint|planner|tools)/",
                                     r"clients/"]),
    "PCRE2": (r"pcre2", [r"server/text/pretokenizer\.cc"]),
    "prometheus-cpp": (r"prometheus/", [r"engine/util/metrics\.", r"server/http/admin_routes\.cc"]),
    "CLI11": (r"CLI/", [r"server/main\.cc", r"server/commands/", r"clients/"]),
    "spdlog": (r"spdlog/", [r"engine/util/log\."]),
    "OpenSSL": (r"openssl/", [r"server/(access|http)/", r"engine/checkpoint/file_hash\.", r"clients/"]),
    "NCCL": (r"nccl", [r"engine/comm/nccl_"]),
    "MPI": (r"mpi\.h", [r"engine/comm/mpi_", r"engine/executor/mpi_executor"]),
    "CUDA": (r"cuda|cublas|curand|mma\.h|cooperative_groups", [r"kernels/", r"engine/comm/nccl_"]),
    "BLAS and oneDNN": (r"cblas|openblas|oneapi/|dnnl", [r"kernels/"]),
    "Abseil": (r"absl/", [r"engine/", r"server/", r"clients/", r"kernels/(backend|make_backend)"]),
    "fmt": (r"fmt/", [r"engine/", r"server/", r"clients/"]),
}

# Headers of the C library, the kernel and the compiler: free to use.
SYSTEM_HEADER = re.compile(
    r"[a-z_0-9]+$|(sys|linux|netinet|arpa|asm|bits)/|"
    r"(unistd|fcntl|signal|poll|malloc|pthread|sched|spawn|dlfcn|netdb|errno|dirent|immintrin|x86intrin|cpuid|cxxabi|execinfo)\.h$")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]')


def violations(path, text):
    """Returns a message for every #include in `text`, the contents of the file `path`, that the tables forbid."""
    allowed = next((patterns for files, patterns in MAY_INCLUDE if re.match(files, path)), None)
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = INCLUDE.match(line)
        if match is None or allowed is None:
            continue
        header = match.group(2)
        where = f"{path}:{number}: "
        library = next((name for name, (headers, _) in LIBRARY_DOORS.items() if re.match(headers, header)), None)
        if re.match(r"(server|engine|kernels|proto|clients|tests|deploy|optserve)/", header):
            if not any(re.match(pattern, header) for pattern in allowed):
                found.append(f"{where}{header} is not one of {', '.join(allowed)}")
        elif library is None and not SYSTEM_HEADER.match(header):
            found.append(f"{where}{header} is of no library that LIBRARY_DOORS knows; project includes start at the root")
        if library is not None and not any(re.match(door, path) for door in LIBRARY_DOORS[library][1]):
            found.append(f"{where}{library} is used only in {', '.join(LIBRARY_DOORS[library][1])}")
    return found
