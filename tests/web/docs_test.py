"""The page of the API says all that /openapi.json says."""

import subprocess
import sys

import requests


def test_every_route_and_every_field_is_there(server, open_playground):
    page = open_playground(server, path="/docs")
    page.page.wait_for_selector("#post-v1-completions")
    document = requests.get(server.url + "/openapi.json", timeout=10).json()
    routes = [f"{method.upper()}{path}" for path, operations in document["paths"].items() for method in operations]
    headings = page.page.eval_on_selector_all(".route h2", "(headings) => headings.map((heading) => heading.textContent.replace('needs no key', ''))")
    assert set(routes) <= set(headings)
    fields = page.page.eval_on_selector_all("#post-v1-completions tbody tr", "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))")
    rows = {row[0]: row[1:] for row in fields}
    for name, field in document["components"]["schemas"]["CompletionRequest"]["properties"].items():
        assert rows[name][-1] == field.get("description", "")
    assert rows["temperature"][:3] == ["number", "≥ 0, ≤ 2", "1"]
    assert rows["top_p"][1] == "> 0, ≤ 1"
    assert rows["prompt"][2] == "required"


def test_its_examples_work(server, open_playground):
    page = open_playground(server, path="/docs")
    page.page.wait_for_selector("#examples")
    curl, python = page.page.locator("#examples pre").all_text_contents()
    for command in (["bash", "-c", curl.replace("curl ", "curl -sS --fail-with-body ", 1)], [sys.executable, "-c", python]):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0 and len(ended.stdout) > 1, ended.stderr


def test_links_lead_somewhere(server, open_playground):
    page = open_playground(server, path="/docs")
    page.page.wait_for_selector(".contents a")
    lost = page.page.evaluate("() => [...document.querySelectorAll('a[href^=\"#\"]')].filter((link) => !document.getElementById(link.hash.slice(1))).map((link) => link.hash)")
    assert lost == []
    page.page.click("nav a[href='./']")
    page.page.wait_for_selector("#text")
    page.page.click("nav a[href='docs']")
    page.page.wait_for_selector("#examples")


def test_fits_a_phone(server, open_playground):
    page = open_playground(server, path="/docs", viewport={"width": 360, "height": 800})
    page.page.wait_for_selector("#examples")
    assert page.page.evaluate("() => document.documentElement.scrollWidth") == 360
