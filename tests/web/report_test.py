"""The page of a benchmark's report, as `--html` writes it: opened from a file, without a network, it draws what it should."""

import contextlib
import json

import pytest

from harness import MODEL, run

LOAD = ("--no-roof", "--requests", 12, "--warm-up", 2, "--prompt-tokens", 16, "--output-tokens", 12)


@pytest.fixture
def open_report(browser):
    """open_report(file): the page, whose errors and requests to anybody are failures."""
    complaints = []
    with contextlib.ExitStack() as stack:
        def opened(file):
            context = stack.enter_context(contextlib.closing(browser.new_context()))
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
            page.on("console", lambda message: complaints.append(f"console: {message.text}"))
            page.on("request", lambda request: request.url == file.as_uri() or complaints.append(f"a request to {request.url}"))
            page.goto(file.as_uri())
            return page

        yield opened
    assert complaints == []


def titles(page):
    return page.eval_on_selector_all("svg > title", "(titles) => titles.map((title) => title.textContent)")


def test_a_loads_page_shows_real_steps(open_report, tmp_path):
    html, report = tmp_path / "report.html", tmp_path / "report.json"
    assert run("bench", "offline", MODEL, *LOAD, "--html", html, "--json", report).returncode == 0
    explain = json.loads(report.read_text())["runs"][0]["explain"]
    lengths = sorted(sum(step["ms"].values()) for step in explain["last_steps"])
    page = open_report(html)
    shown = titles(page)
    assert f"The last {len(lengths)} steps of the engine, ms each" in shown
    for name, length in (("slowest", lengths[-1]), ("median", lengths[len(lengths) // 2])):
        title = next(title for title in shown if title.startswith(f"The {name} of them: "))
        assert float(title.split()[4]) == pytest.approx(length, rel=0.05)
    # A bar for each step, as high as its parts together.
    assert page.locator("svg g").count() == len(lengths)
    assert page.locator("svg g").first.locator("rect").count() == len(explain["last_steps"][0]["ms"])
    assert "Gaps between tokens" in shown
    page.set_viewport_size({"width": 390, "height": 844})  # a phone: nothing lies beside the screen
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_sweeps_page_shows_latency_against_load(open_report, tmp_path):
    html = tmp_path / "report.html"
    assert run("bench", "offline", MODEL, *LOAD, "--rate", "40,80", "--html", html).returncode == 0
    page = open_report(html)
    assert {"End to end, ms", "Time to first token, ms", "Between tokens, ms"} <= set(titles(page))
    assert page.locator("polyline").count() == 9  # p50, p90 and p99 of each


def test_kernels_have_a_page_and_a_table_too(open_report, tmp_path):
    html, csv = tmp_path / "kernels.html", tmp_path / "kernels.csv"
    ended = run("bench", "kernels", "--repetitions", 1, "--json", "--html", html, "--csv", csv)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    page = open_report(html)
    assert titles(page)[:1] == ["Products with weights"]
    rows = page.eval_on_selector_all("table tr td:first-child", "(cells) => cells.map((cell) => cell.textContent)")
    names = [measurement["name"] for group in ("linear", "model") for measurement in report[group]]
    assert rows == names and page.locator("svg rect").count() == len(names)
    lines = csv.read_text().splitlines()
    assert lines[0] == "group,name,value,unit,ratio,of,target" and len(lines) == 1 + len(names)
