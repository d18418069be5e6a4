"""The shipped snippets under the real nginx and HAProxy, in front of a real server."""

import contextlib
import subprocess
import time

import pytest
import requests

from bare_root import completed, wait_for
from harness import ROOT, Server
from monitoring_test import free_port

PROXIES = ROOT / "deploy" / "proxies"


def certificate(folder):
    completed(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
               "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
               "-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")])
    (folder / "tls.pem").write_text((folder / "tls.crt").read_text() + (folder / "tls.key").read_text())


def shipped(name, folder, port, target):
    """The shipped file with its certificate's folder, its port and the server's address changed."""
    text = (PROXIES / name).read_text()
    for old, new in (("/etc/optserve", str(folder)), ("8443", str(port)), ("127.0.0.1:8000", target)):
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(folder, port, target):
    (folder / "optserve.conf").write_text(shipped("nginx.conf", folder, port, target))
    (folder / "nginx.conf").write_text(f"""
        daemon off; user root; pid {folder}/pid; error_log {folder}/log; worker_processes 1;
        events {{ }}
        http {{ access_log off; client_body_temp_path {folder}/body; include {folder}/optserve.conf; }}""")
    completed(["nginx", "-t", "-c", str(folder / "nginx.conf")])
    return ["nginx", "-c", folder / "nginx.conf"]


def haproxy(folder, port, target):
    (folder / "haproxy.cfg").write_text(shipped("haproxy.cfg", folder, port, target))
    completed(["haproxy", "-c", "-f", str(folder / "haproxy.cfg")])
    return ["haproxy", "-db", "-f", folder / "haproxy.cfg"]


class Proxied:
    def __init__(self, server, url, certificate_file):
        self.server, self.url, self.verify = server, url, str(certificate_file)

    def post(self, body, **options):
        return requests.post(self.url + "/v1/completions", json=body, verify=self.verify, timeout=60, **options)

    def get(self, path):
        return requests.get(self.url + path, verify=self.verify, timeout=10)


@pytest.fixture(scope="module", params=[nginx, haproxy], ids=lambda proxy: proxy.__name__)
def proxied(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.__name__)
    certificate(folder)
    port = free_port()
    with Server() as server, open(folder / "output", "w") as output:
        command = request.param(folder, port, server.url.removeprefix("http://"))
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output)
        try:
            proxy = Proxied(server, f"https://localhost:{port}", folder / "tls.crt")
            wait_for(lambda: answers(proxy), 30, "an answer through the proxy")
            yield proxy
        finally:
            process.terminate()
            process.wait(timeout=30)


def answers(proxy):
    with contextlib.suppress(requests.ConnectionError):
        return proxy.get("/readyz").status_code == 200
    return False


STREAM = {"prompt": "It is a truth", "max_tokens": 600, "ignore_eos": True, "stream": True, "temperature": 0}


def arrivals(response):
    """When each event of a stream came, seconds after the first."""
    times = []
    for line in response.iter_lines(chunk_size=1):
        if line.startswith(b"data: {"):
            times.append(time.monotonic())
    return [moment - times[0] for moment in times]


def test_a_stream_s_events_arrive_one_by_one(proxied):
    with proxied.post(STREAM, stream=True) as response:
        assert response.status_code == 200
        times = arrivals(response)
    assert len(times) == 600
    # Buffered, they would come in a heap at the end: here the first half has come well before the last.
    assert times[300] < 0.8 * times[-1] and times[-1] > 0.05
    assert len({round(moment, 3) for moment in times}) > 50


def test_a_client_that_leaves_is_noticed_behind_the_proxy(proxied):
    before = cancelled(proxied.server)
    with proxied.post({**STREAM, "max_tokens": 900, "n": 8}, stream=True) as response:
        next(response.iter_content(100))
        response.close()
    wait_for(lambda: cancelled(proxied.server) > before, 10, "the server's noticing")
    proxied.server.wait_for_metric("optserve_requests_running", 0)


def cancelled(server):
    return server_metric(server, 'optserve_requests_total{finish_reason="cancelled"}')


def server_metric(server, name):
    text = requests.get(server.url + "/metrics", timeout=10).text
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " "))


def test_answers_are_those_of_the_server(proxied):
    body = {"prompt": "The sea", "max_tokens": 8, "temperature": 0}
    through = proxied.post(body)
    assert through.json()["choices"] == proxied.server.complete("The sea", max_tokens=8)["choices"]
    assert through.headers["x-request-id"]
    assert proxied.post({"prompt": 5}).status_code == 400


def test_large_bodies_pass_and_what_is_beyond_is_refused(proxied):
    prompt = [5] * 2_000_000  # 6 MB: the server's to refuse, by the model's context
    answer = proxied.post({"prompt": prompt, "max_tokens": 1})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"


def test_metrics_stay_inside(proxied):
    assert proxied.get("/metrics").status_code == 403
    assert proxied.get("/v1/models").status_code == 200


def test_haproxy_sends_nothing_to_a_server_that_drains(tmp_path):
    certificate(tmp_path)
    port = free_port()
    with Server("--shutdown-timeout", 20) as draining, Server() as other, open(tmp_path / "output", "w") as output:
        text = shipped("haproxy.cfg", tmp_path, port, draining.url.removeprefix("http://"))
        text = text.replace("# server second 10.0.0.2:8000", f"server second {other.url.removeprefix('http://')}")
        (tmp_path / "haproxy.cfg").write_text(text)
        process = subprocess.Popen(["haproxy", "-db", "-f", tmp_path / "haproxy.cfg"], stdout=output, stderr=output)
        try:
            proxy = Proxied(other, f"https://localhost:{port}", tmp_path / "tls.crt")
            wait_for(lambda: answers(proxy), 30, "an answer")
            # One long stream keeps the first server draining.
            long = {**STREAM, "max_tokens": 1000, "n": 8}
            with requests.post(draining.url + "/v1/completions", json=long, stream=True, timeout=60) as stream:
                next(stream.iter_content(10))
                draining.process.terminate()
                time.sleep(1.6)  # a check and a half
                for _ in range(20):
                    assert proxy.post({"prompt": "The sea", "max_tokens": 1}).status_code == 200
        finally:
            process.terminate()
            process.wait(timeout=30)
