"""Alerts under promtool; every query of the dashboard under a real Prometheus that watches a real run."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading

import pytest
import requests
import yaml

from bare_root import completed, wait_for
from harness import ROOT, Server

MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = [rule["alert"] for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
          for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def promtool(*arguments):
    return completed(["promtool", *arguments])


def test_the_configuration_and_the_alerts_are_valid():
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", str(MONITORING / "prometheus.yml"))


def test_alerts_come_when_they_should_and_not_otherwise():
    assert "SUCCESS" in promtool("test", "rules", str(MONITORING / "alerts_test.yml"))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_that_never_comes_is_noticed(alert, tmp_path):
    """Each alert is tested both ways: without its rule the tests fail."""
    for name in ("alerts.yml", "alerts_test.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    rules = yaml.safe_load((tmp_path / "alerts.yml").read_text())
    [rule] = [rule for rule in rules["groups"][0]["rules"] if rule["alert"] == alert]
    for broken in ("vector(0) > 1", "vector(1)"):
        rule.update(expr=broken)
        rule.pop("for", None)
        (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
        ended = subprocess.run(["promtool", "test", "rules", tmp_path / "alerts_test.yml"], capture_output=True)
        assert ended.returncode != 0, f"{alert} with the expression {broken}"


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_says_what_to_do_at_an_alert(alert):
    assert f"| {alert} |" in (ROOT / "deploy" / "RUNBOOK.md").read_text()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.contextmanager
def prometheus(folder, target):
    """Runs with the shipped configuration, but for the target, the alert rules' place and a scrape every second."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / "alerts.yml")]
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:8000"]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"127.0.0.1:{free_port()}"
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(["prometheus", f"--config.file={folder}/prometheus.yml", f"--web.listen-address={url}",
                                    f"--storage.tsdb.path={folder}/data"], stdout=log, stderr=log)
    try:
        yield f"http://{url}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def query(url, expression):
    answer = requests.get(url + "/api/v1/query", params={"query": expression}, timeout=10).json()
    assert answer["status"] == "success", answer
    return [sample["value"][1] for sample in answer["data"]["result"]]


def with_variables(expression):
    """As Grafana would ask, for all instances and a short range."""
    expression = expression.replace("$instance", ".*").replace("$__rate_interval", "10s")
    assert "$" not in expression
    return expression


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A Prometheus that has watched a server at work for some seconds."""
    folder = tmp_path_factory.mktemp("monitoring")
    with Server("--usage-log", folder / "usage.jsonl") as server, \
            prometheus(folder, server.url.removeprefix("http://")) as url:
        stop = threading.Event()

        def work():
            while not stop.wait(0.2):
                server.complete("It is a truth universally acknowledged", max_tokens=12)
        worker = threading.Thread(target=work)
        worker.start()
        try:
            rate = "rate(optserve_generation_tokens_total[10s]) > 0 and count_over_time(up[10s]) >= 8"
            wait_for(lambda: ready(url) and query(url, rate), 60, "a rate")
            yield url
        finally:
            stop.set()
            worker.join()


def ready(url):
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(url + "/-/ready", timeout=5).ok
    return False


@pytest.mark.parametrize("title, expression", QUERIES, ids=[f"{title}-{n}" for n, (title, _) in enumerate(QUERIES)])
def test_a_dashboard_query_returns_numbers_from_a_real_run(watched, title, expression):
    values = query(watched, with_variables(expression))
    assert values and all(value not in ("NaN", "+Inf", "-Inf") for value in values), (title, values)


def test_no_alert_is_on_while_all_is_well(watched):
    alerts = requests.get(watched + "/api/v1/alerts", timeout=10).json()["data"]["alerts"]
    assert [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"] == []
    rules = requests.get(watched + "/api/v1/rules", timeout=10).json()["data"]["groups"][0]["rules"]
    assert len(rules) == len(ALERTS) and all(rule["health"] == "ok" for rule in rules)


def test_the_server_s_metrics_pass_promtool():
    with Server() as server:
        server.complete("The sea", max_tokens=4)
        text = requests.get(server.url + "/metrics", timeout=10).text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_every_metric_of_ours_in_rules_and_dashboard_exists():
    with Server() as server:
        text = requests.get(server.url + "/metrics", timeout=10).text
    families = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    used = re.findall(r"\boptserve_\w+", (MONITORING / "alerts.yml").read_text() + json.dumps(DASHBOARD))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= families


def test_panels_do_not_overlap_and_have_a_data_source():
    cells = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(cells)) == len(cells)
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {"${datasource}"}
