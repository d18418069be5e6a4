"""`optserve doctor` on a healthy DGX-2 made of a fake NVML and a fake /proc, /sys and /dev, and on the same with one fault.

Every planted fault must be found by its own check, and change no other line."""

import contextlib
import datetime
import json
import os
import pathlib
import shutil
import socket
import subprocess

import pytest

import harness
from bare_root import completed

HERE = pathlib.Path(__file__).parent
OPT_175B = {"model_type": "opt", "architectures": ["OPTForCausalLM"], "num_hidden_layers": 96, "hidden_size": 12288,
            "word_embed_proj_dim": 12288, "num_attention_heads": 96, "ffn_dim": 49152, "vocab_size": 50272,
            "max_position_embeddings": 2048, "do_layer_norm_before": True, "activation_function": "relu"}
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 {files}               files
Max locked memory         65536                {locked}               bytes
"""
WEIGHT_BYTES = 350 * 10**9


@pytest.fixture(scope="module")
def nvml(tmp_path_factory):
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    completed(["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(HERE / "fake_nvml.c")])
    return library


class Node:
    """A healthy node. Faults change its members or files before `examine`."""

    def __init__(self, folder, nvml):
        self.folder, self.root, self.model = folder, folder / "node", folder / "opt-175b"
        self.nvml, self.nvml_faults, self.environment = nvml, "", {}
        self.arguments = ["--tensor-parallel-size", 16, "--port", 0, "--grpc-port", 0, "--load-seconds", 1000000]
        self.prefix = []
        for path, text in {
            "proc/meminfo": "MemTotal: 1583000000 kB\nMemAvailable:   1500000000 kB\n",
            "proc/cpuinfo": "processor : 0\nflags : fpu vme avx2\n",
            "proc/self/limits": LIMITS.format(files=65536, locked="unlimited"),
            "proc/sys/kernel/numa_balancing": "0\n",
            "proc/driver/nvidia-nvswitch/devices/0000:34:00.0": "",
            "proc/1000/comm": "nv-fabricmanage\n",
            "proc/1001/comm": "chronyd\n",
            "dev/kmsg": "6,1,1,-;usb 1-1: new device\n3,9,2,-;NVRM: Xid (PCI:0000:34:00): 31, pid=77, a program's fault\n",
            "dev/shm/.keep": "",
        }.items():
            self.write(path, text)
        for node in (0, 1):
            (self.root / f"sys/devices/system/node/node{node}").mkdir(parents=True)
        for gpu in range(16):
            for name, text in (("vendor", "0x10de"), ("class", "0x030200"), ("numa_node", str(gpu // 8))):
                self.write(f"sys/bus/pci/devices/0000:{0xa0 + gpu:02x}:00.0/{name}", text + "\n")
        self.model.mkdir()
        (self.model / "config.json").write_text(json.dumps(OPT_175B))
        with open(self.model / "model.safetensors", "wb") as file:
            file.truncate(WEIGHT_BYTES)  # nothing on the disk

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def examine(self, model=True):
        """From check to its verdict and text; and the exit code."""
        command = [*self.prefix, harness.BINARY, "doctor", *([self.model] if model else []), *self.arguments,
                   "--host-root", self.root, "--nvml", self.nvml, "--json"]
        environment = {**os.environ, "FAKE_NVML": ";" + self.nvml_faults, **self.environment}
        ended = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=60)
        answer = json.loads(ended.stdout)
        assert (ended.returncode == 0) == answer["ok"] and ended.returncode in (0, 1), ended.stderr
        for check in answer["checks"]:
            assert bool(check["fix"]) == (check["verdict"] != "OK"), check
        checks = {check["check"]: (check["verdict"], check["text"]) for check in answer["checks"]}
        assert len(checks) == len(answer["checks"])
        return checks


@pytest.fixture
def node(tmp_path, nvml):
    return Node(tmp_path, nvml)


def test_a_healthy_dgx_2_has_nothing_to_complain_of(node):
    checks = node.examine()
    assert {verdict for verdict, _ in checks.values()} == {"OK"}, checks
    assert len(checks) >= 25
    assert checks["driver"][1] == "driver 535.129.03, CUDA 12.2"
    assert checks["gpus"][1] == "16 x Tesla V100-SXM3-32GB"


# --- the faults: what is planted, the check that finds it, how bad it is, and words that say what ----------------------

def nvml_fault(settings):
    return lambda node: setattr(node, "nvml_faults", settings)


def file_fault(path, text):
    return lambda node: node.write(path, text)


def argument_fault(*arguments):
    return lambda node: node.arguments.extend(arguments)


def other_argument(flag, value):
    def plant(node):
        node.arguments[node.arguments.index(flag) + 1] = value
    return plant


def no_fabric_manager(node):
    shutil.rmtree(node.root / "proc/1000")


def kernel_log(line):
    return file_fault("dev/kmsg", f"6,1,1,-;usb\n3,2,2,-;NVRM: Xid (PCI:0000:a5:00): {line}\n")


def virtual_machine(node):
    node.nvml_faults = "no_links=1"
    node.write("proc/cpuinfo", "flags : fpu hypervisor avx2\n")


def small_shared_memory(node):
    # As Docker gives it, in a mount namespace of the doctor's own.
    node.prefix = ["unshare", "--mount", "sh", "-c",
                   f"mount -t tmpfs -o size=64m tmpfs {node.root}/dev/shm && exec \"$@\"", "sh"]


def early_clock(node):
    node.prefix = ["env", "NO_FAKE_STAT=1", "faketime", "2001-01-01 00:00:00"]


def taken_port(node):
    listener = socket.create_server(("127.0.0.1", 0))
    node.keep = listener
    other_argument("--port", listener.getsockname()[1])(node)


def keys(mode=0o600, text=None):
    def plant(node):
        file = node.folder / "keys"
        if text is None:
            harness.run("keys", "new", "--api-key-file", file)
        else:
            file.write_text(text)
        file.chmod(mode)
        node.arguments += ["--api-key-file", file]
    return plant


def certificate(days=365, key_mode=0o600, began_days_ago=1):
    def plant(node):
        cert, key = node.folder / "cert.pem", node.folder / "key.pem"
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
                "-keyout", str(key), "-out", str(cert), "-days", str(days + began_days_ago)]
        begin = datetime.datetime.now() - datetime.timedelta(days=began_days_ago)
        completed(["faketime", begin.strftime("%Y-%m-%d %H:%M:%S"), *make])
        key.chmod(key_mode)
        node.arguments += ["--tls-cert", cert, "--tls-key", key]
    return plant


def without_weights(node):
    (node.model / "model.safetensors").unlink()


def broken_config(node):
    (node.model / "config.json").write_text("{")


FAULTS = {
    "driver_not_loaded": (nvml_fault("init=9"), "driver", "FAIL", "not loaded"),
    "driver_of_two_versions": (nvml_fault("init=18"), "driver", "FAIL", "different versions"),
    "gpu_off_the_bus": (nvml_fault("handle@5=15"), "driver", "FAIL", "fallen off the bus"),
    "no_driver_installed": (lambda node: setattr(node, "nvml", "libnothing.so"), "driver", "FAIL", "no driver"),
    "old_cuda": (nvml_fault("cuda=11040"), "driver", "FAIL", "CUDA 11.4: CUDA 12 is needed"),
    "gpu_missing": (nvml_fault("count=15"), "gpus", "FAIL", "15 visible, 16 needed"),
    "gpu_hidden": (lambda node: node.environment.update(CUDA_VISIBLE_DEVICES="0,1,2"), "gpus", "FAIL", "3 visible"),
    "gpus_named_by_uuid": (lambda node: node.environment.update(CUDA_VISIBLE_DEVICES="GPU-1234"), "visible_devices", "WARN",
                           "names"),
    "mixed_gpus": (nvml_fault("other_name@9=1"), "gpus", "WARN", "P100 and Tesla V100"),
    "old_gpu": (nvml_fault("capability@9=60"), "compute_capability", "FAIL", "GPU 9"),
    "compute_prohibited": (nvml_fault("compute_mode@2=2"), "compute_mode", "FAIL", "GPU 2"),
    "ecc_off": (nvml_fault("ecc@3=0"), "ecc", "WARN", "GPU 3"),
    "uncorrected_errors": (nvml_fault("uncorrected@4=2"), "ecc_errors", "FAIL", "GPU 4"),
    "row_remap_failed": (nvml_fault("remap_pending=0;remap_failed@6=1"), "remap_failed", "FAIL", "GPU 6"),
    "row_remap_pending": (nvml_fault("remap_pending@6=1"), "remap_pending", "WARN", "GPU 6"),
    "page_retirement_pending": (nvml_fault("retire_pending@7=1"), "remap_pending", "WARN", "GPU 7"),
    "xid_79": (kernel_log("79, pid='<unknown>', GPU has fallen off the bus."), "xid", "FAIL", "Xid 79"),
    "xid_74": (kernel_log("74, pid=12, NVLink: fatal error"), "xid", "FAIL", "Xid 74"),
    "kernel_log_is_secret": (lambda node: (node.root / "dev/kmsg").unlink(), "xid", "WARN", "may not be read"),
    "mig_on": (nvml_fault("mig@1=1"), "mig", "FAIL", "GPU 1"),
    "persistence_off": (nvml_fault("persistence=0"), "persistence", "WARN", "GPU 0, 1, 2"),
    "too_hot": (nvml_fault("slow@8=64"), "heat", "WARN", "GPU 8"),
    "power_brake": (nvml_fault("slow@8=128"), "power_brake", "FAIL", "GPU 8"),
    "power_limit": (nvml_fault("power@8=200000"), "power_limit", "WARN", "GPU 8"),
    "link_down": (nvml_fault("link2@11=0"), "nvlink", "FAIL", "GPU 11"),
    "no_link_between_two": (nvml_fault("no_nvlink@0=5"), "nvlink", "WARN", "0 and 5"),
    "no_links": (nvml_fault("no_links=1"), "nvlink", "WARN", "over PCIe"),
    "virtual_machine_without_links": (virtual_machine, "nvlink", "FAIL", "virtual machine"),
    "no_peer_access": (nvml_fault("no_peer@3=12"), "peer_access", "FAIL", "3 and 12"),
    "no_fabric_manager": (no_fabric_manager, "fabric_manager", "FAIL", "error 802"),
    "shared_memory_64_mib": (small_shared_memory, "shared_memory", "FAIL", "64 MiB"),
    "few_descriptors": (file_fault("proc/self/limits", LIMITS.format(files=1024, locked="unlimited")), "open_files", "WARN", "1024"),
    "little_locked_memory": (file_fault("proc/self/limits", LIMITS.format(files=65536, locked=65536)), "locked_memory", "WARN",
                             "64 KiB"),
    "numa_balancing": (file_fault("proc/sys/kernel/numa_balancing", "1\n"), "numa", "WARN", "moves pages"),
    "numa_unknown": (file_fault("sys/bus/pci/devices/0000:a3:00.0/numa_node", "-1\n"), "numa", "WARN", "0000:a3:00.0"),
    "clock_of_2001": (early_clock, "clock", "FAIL", "before the day"),
    "gpu_memory_in_use": (nvml_fault("free_mib@10=12000"), "memory", "FAIL", "room for 0 tokens"),
    "ranks_do_not_divide": (other_argument("--tensor-parallel-size", 5), "ranks", "FAIL", "5 ranks"),
    "slow_disk": (other_argument("--load-seconds", 1), "disk", "WARN", "1 s are promised"),
    "no_model": (lambda node: shutil.rmtree(node.model), "model", "FAIL", "opt-175b"),
    "no_weights": (without_weights, "model", "FAIL", "no weights"),
    "broken_config": (broken_config, "model", "FAIL", "config.json"),
    "port_taken": (taken_port, "http_port", "FAIL", "in use"),
    "open_to_everybody": (argument_fault("--host", "0.0.0.0"), "keys", "FAIL", "everybody"),
    "keys_readable": (keys(mode=0o644), "keys", "WARN", "every user"),
    "keys_broken": (keys(text="secret\n"), "keys", "FAIL", "line"),
    "keys_empty": (keys(text="# none\n"), "keys", "FAIL", "no key"),
    "certificate_expired": (certificate(days=-2, began_days_ago=30), "tls", "FAIL", "not valid now"),
    "certificate_ends_soon": (certificate(days=10), "tls", "WARN", "days"),
    "certificate_key_readable": (certificate(key_mode=0o644), "tls", "WARN", "every user"),
}
# What else must change with a fault: without a driver nothing of a GPU is there to look at; without a model, no size.
ALSO = {"driver": None, "gpus": {"ranks", "memory"}, "model": {"memory", "disk"}, "ranks": {"memory"}, "keys": {"tls"}}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(node, name):
    plant, check, verdict, words = FAULTS[name]
    healthy = {check for check in node.examine()}
    plant(node)
    checks = node.examine()
    with contextlib.suppress(AttributeError):
        node.keep.close()
    assert checks[check][0] == verdict and words in checks[check][1], checks[check]
    if ALSO.get(check, set()) is not None:
        others = {name: found for name, found in checks.items() if found[0] != "OK" and name != check}
        assert others.keys() <= ALSO.get(check, set()), others
        assert healthy - checks.keys() <= ALSO.get(check, set())


def test_a_machine_without_a_gpu_is_none_to_complain_of(tmp_path):
    """The real machine's files, no NVML: what a laptop says."""
    ended = harness.run("doctor", harness.MODEL, "--device", "cpu", "--port", 0, "--grpc-port", 0)
    assert ended.returncode == 0, ended.stdout
    lines = ended.stdout.splitlines()
    assert all(line.startswith(("OK ", "WARN ")) for line in lines[:-1])
    assert lines[-1].endswith("0 failed")


def test_the_lines_say_what_json_says(node):
    node.nvml_faults = "mig@1=1;ecc@3=0"
    command = [harness.BINARY, "doctor", node.model, *node.arguments, "--host-root", node.root, "--nvml", node.nvml]
    environment = {**os.environ, "FAKE_NVML": ";" + node.nvml_faults}
    ended = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "FAIL  mig                 cut up by MIG: its parts have no peer access and less memory: GPU 1; fix: nvidia-smi" in ended.stdout
    assert "WARN  ecc  " in ended.stdout


def test_usage_is_told_from_failure(node):
    assert harness.run("doctor", "--port", "many").returncode == 2
