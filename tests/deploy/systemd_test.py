"""The unit as systemd's own programs read it, and its command lines against a socket that plays systemd."""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time

import pytest
import requests

import harness
from bare_root import completed, wait_for
from harness import ROOT

UNITS = ROOT / "deploy" / "systemd"
UNIT = (UNITS / "optserve.service").read_text()
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def setting(name):
    """The values of a setting of the unit, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def exposure(unit):
    printed = completed(["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)])
    return float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", printed).group(1))


def test_the_unit_is_hardened():
    assert exposure(UNITS / "optserve.service") <= 3.0


def test_the_unit_with_the_drop_in_is_hardened_too(tmp_path):
    (tmp_path / "optserve.service").write_text(UNIT + (UNITS / "reloadable-keys.conf").read_text())
    assert exposure(tmp_path / "optserve.service") <= 3.0


def test_without_its_hardening_the_unit_would_not_pass(tmp_path):
    plain = re.sub(r"^(Protect|Restrict|SystemCall|Private|Capab|NoNew|Dynamic|Device|Lock)\w*=.*\n", "", UNIT,
                   flags=re.MULTILINE)
    (tmp_path / "optserve.service").write_text(plain)
    assert exposure(tmp_path / "optserve.service") > 3.0


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    unit = tmp_path / "optserve.service"
    unit.write_text(UNIT.replace("ExecStart=optserve ", f"ExecStart={harness.BINARY} "))
    assert completed(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]) == ""


def test_the_service_s_times_fit_the_server_s():
    shipped = json.loads((UNITS / "optserve.json").read_text())
    assert int(setting("TimeoutStopSec")[0]) > shipped["shutdown_timeout"] + 15
    assert setting("RestartPreventExitStatus") == ["2"]


class FakeSystemd:
    """Starts the unit's ExecStart with a notification socket, a watchdog and credentials, as systemd would."""

    def __init__(self, folder, config, watchdog_seconds, abstract=False):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"\0optserve-test-{os.getpid()}-{time.monotonic_ns()}" if abstract else str(folder / "notify")
        self.socket.bind(name)
        self.socket.settimeout(30)
        credentials = folder / "credentials"
        credentials.mkdir()
        [credential] = setting("LoadCredential")
        assert credential == "api-keys:/etc/optserve/api-keys"
        new = harness.run("keys", "new", "--api-key-file", credentials / "api-keys")
        self.key = re.search(r"\b(sk-\S+|opt\S+)", new.stdout).group(1)
        (folder / "optserve.json").write_text(json.dumps(config))
        [command] = setting("ExecStart")
        words = shlex.split(command.replace("/etc/optserve", str(folder)))
        assert words[0] == "optserve"
        variables = [value.replace("%d", str(credentials)).split("=", 1) for value in setting("Environment")]
        environment = {**os.environ, **dict(variables), "NOTIFY_SOCKET": name.replace("\0", "@"),
                       "WATCHDOG_USEC": str(watchdog_seconds * 1_000_000)}
        self.process = subprocess.Popen([harness.BINARY, *words[1:]], env=environment, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.socket.close()

    def next(self, but=("WATCHDOG=1",)):
        """The next message that is none of `but`, as a dictionary."""
        while (message := self.socket.recv(4096).decode()) in but:
            pass
        return dict(line.split("=", 1) for line in message.split("\n"))

    def wait_until_ready(self):
        seen = []
        while (message := self.next()).get("READY") != "1":
            seen.append(message)
        return seen, message

    def url(self):
        return harness.READY.fullmatch(self.process.stdout.readline().strip()).group(1)


@pytest.fixture
def config():
    shipped = json.loads((UNITS / "optserve.json").read_text())
    assert shipped["model"] == "/usr/share/optserve/demo-model"
    return {**shipped, "model": str(harness.MODEL), "port": 0, "grpc_port": 0}


def test_the_service_from_start_to_stop(tmp_path, config):
    with FakeSystemd(tmp_path, config, watchdog_seconds=1) as systemd:
        loading, ready = systemd.wait_until_ready()
        url = systemd.url()
        # Ready is when it answers, at once; keys come from the credential.
        body = {"prompt": "The sea", "max_tokens": 2}
        keyed = {"Authorization": f"Bearer {systemd.key}"}
        assert requests.post(url + "/v1/completions", json=body, headers=keyed, timeout=10).status_code == 200
        assert requests.post(url + "/v1/completions", json=body, timeout=10).status_code == 401
        assert ready["STATUS"] == "serving demo-model"
        assert loading and all(re.fullmatch(r"loading demo-model: \d+ %", message["STATUS"]) for message in loading)
        assert all(int(message["EXTEND_TIMEOUT_USEC"]) >= 30_000_000 for message in loading)

        systemd.socket.settimeout(1)  # the watchdog's time
        for _ in range(4):
            assert systemd.next(but=()) == {"WATCHDOG": "1"}
        systemd.socket.settimeout(30)

        [reload] = setting("ExecReload")
        assert reload == "/bin/kill -HUP $MAINPID"
        completed(["/bin/sh", "-c", f"MAINPID={systemd.process.pid}; {reload}"])
        assert systemd.next().keys() == {"RELOADING", "MONOTONIC_USEC"}
        assert systemd.next()["READY"] == "1"

        systemd.process.send_signal(signal.SIGTERM)
        stopping = systemd.next()
        assert stopping["STOPPING"] == "1"
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > config["shutdown_timeout"] * 1_000_000
        assert systemd.process.wait(timeout=30) == 0


def test_an_abstract_socket_is_found_too(tmp_path, config):
    with FakeSystemd(tmp_path, config, watchdog_seconds=60, abstract=True) as systemd:
        systemd.wait_until_ready()


def test_the_engine_does_not_inherit_the_socket(tmp_path, config):
    with FakeSystemd(tmp_path, config, watchdog_seconds=60) as systemd:
        systemd.wait_until_ready()
        children = pathlib.Path(f"/proc/{systemd.process.pid}/task").glob("*/children")
        pids = " ".join(path.read_text() for path in children).split()
        assert pids
        for pid in pids:
            assert b"NOTIFY_SOCKET" not in pathlib.Path(f"/proc/{pid}/environ").read_bytes()


def test_a_large_model_s_load_is_told_in_percent(tmp_path, config):
    """1.2 GB of zeros that are nowhere on the disk: a load long enough to be told of."""
    model = tmp_path / "large"
    sparse_model(model)
    with FakeSystemd(tmp_path, {**config, "model": str(model), "kv_cache_memory": "512MiB"}, 60) as systemd:
        loading, _ = systemd.wait_until_ready()
    percents = [int(re.search(r"(\d+) %", message["STATUS"]).group(1)) for message in loading]
    assert percents == sorted(percents) and any(0 < percent < 100 for percent in percents), percents


def sparse_model(folder):
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(harness.MODEL / name, folder / name)
    config = json.loads((harness.MODEL / "config.json").read_text())
    hidden, layers, ffn = 2048, 12, 8192
    config.update(hidden_size=hidden, word_embed_proj_dim=hidden, num_hidden_layers=layers, ffn_dim=ffn,
                  num_attention_heads=32)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.decoder.embed_tokens.weight": [config["vocab_size"], hidden],
              "model.decoder.embed_positions.weight": [config["max_position_embeddings"] + 2, hidden]}
    norm = lambda name: {f"{name}.weight": [hidden], f"{name}.bias": [hidden]}
    linear = lambda name, out, into: {f"{name}.weight": [out, into], f"{name}.bias": [out]}
    shapes.update(norm("model.decoder.final_layer_norm"))
    for layer in range(layers):
        at = f"model.decoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes.update(linear(at + "self_attn." + part, hidden, hidden))
        shapes.update(norm(at + "self_attn_layer_norm") | norm(at + "final_layer_norm")
                      | linear(at + "fc1", ffn, hidden) | linear(at + "fc2", hidden, ffn))
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


@contextlib.contextmanager
def stopped_thread(tid):
    """Stops one thread of another process, as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_ATTACH, tid, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(tid, 0x40000000)  # __WALL
    try:
        yield
    finally:
        libc.ptrace(PTRACE_DETACH, tid, None, None)


def test_the_watchdog_is_not_told_that_all_is_well_while_an_io_thread_hangs(tmp_path, config):
    with FakeSystemd(tmp_path, config, watchdog_seconds=1) as systemd:
        systemd.wait_until_ready()
        threads = pathlib.Path(f"/proc/{systemd.process.pid}/task").iterdir()
        [first, *_] = [int(path.name) for path in threads if (path / "comm").read_text() == "http-io\n"]
        with stopped_thread(first):
            time.sleep(7)
            systemd.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    systemd.socket.recv(4096)  # what came before it was found out
            time.sleep(2)
            with pytest.raises(BlockingIOError):
                systemd.socket.recv(4096)
        systemd.socket.setblocking(True)
        systemd.socket.settimeout(5)
        assert systemd.next(but=()) == {"WATCHDOG": "1"}


def test_a_summary_is_logged_every_ten_seconds_of_work(tmp_path):
    log = tmp_path / "log"
    with harness.Server("--log-format", "json", log=log) as server:
        server.complete("The sea", max_tokens=8)
        lines = wait_for(lambda: [line for line in map(json.loads, log.read_text().splitlines())
                                  if line["event"] == "summary"], 15, "a summary")
        assert lines[0]["generated_tokens_per_second"] > 0
        assert lines[0]["running"] == 0 and lines[0]["waiting"] == 0
