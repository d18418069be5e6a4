"""What is around the playground's text, against the real server: the request's fields, code, the API key, gauges."""

import json
import subprocess
import sys

import pytest
import requests

from harness import Server, run
from playground import PROMPT


def test_controls_have_the_servers_own_fields_and_bounds(server, open_playground):
    page = open_playground(server)
    page.page.wait_for_selector("#field-temperature")
    capabilities = requests.get(server.url + "/v1/capabilities", timeout=10).json()
    own = {"model", "prompt", "echo", "stream", "stream_options", "prompt_logprobs", "best_of", "return_token_ids",
           "return_tokens_as_token_ids", "skip_special_tokens", "truncate_prompt_tokens", "metadata"}
    shown = page.page.eval_on_selector_all(".fields [id^='field-']", "(inputs) => inputs.map((input) => input.id.slice(6))")
    assert set(shown) == set(capabilities["fields"]) - own
    for name, field in capabilities["fields"].items():
        if name in own or "number" not in field.get("type", []):
            continue
        for value, is_right in [(field.get("maximum"), True), ((field.get("maximum") or 0) + 0.5, "maximum" not in field),
                                (field.get("minimum", field.get("exclusiveMinimum")), "exclusiveMinimum" not in field)]:
            if value is None:
                continue
            page.set(**{name: value})
            assert page.page.get_attribute(f"#field-{name}", "aria-invalid") == str(not is_right).lower(), (name, value)
        page.set(**{name: field["default"] if field["default"] is not None else ""})
    limit = capabilities["limits"]["max_model_len"]
    assert f"to {limit}" in page.page.inner_text("#bounds-max_tokens")


def test_a_wrong_control_is_said_and_nothing_is_sent(server, open_playground):
    page = open_playground(server)
    page.write(PROMPT)
    page.set(temperature=2.5)
    page.page.click("#continue")
    assert page.page.inner_text("#wrong-temperature") == "temperature must be at most 2"
    assert page.page.evaluate("document.activeElement.id") == "field-temperature"
    assert page.completions == []


def test_a_field_that_the_server_refuses_is_marked(server, open_playground):
    page = open_playground(server, expected_errors=["400"])
    page.write(PROMPT)
    page.set(min_tokens=40, max_tokens=8)
    page.proceed()
    assert "min_tokens is 40" in page.page.inner_text("#wrong-min_tokens")
    assert "min_tokens is 40" in page.notice


def test_only_what_is_not_a_default_is_sent(server, open_playground):
    page = open_playground(server)
    page.write(PROMPT)
    page.set(stop="\\n\n and", top_k=40, logit_bias='{"15": -100}')
    page.proceed()
    body = page.completions[0]
    assert body == {"prompt": PROMPT, "logprobs": 5, "max_tokens": 48, "top_k": 40, "stop": ["\n", " and"], "logit_bias": {"15": -100},
                    "return_token_ids": True, "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_code_does_what_the_page_does(server, open_playground, language, tmp_path):
    page = open_playground(server)
    page.write("It's \"so\" $HOME `x` \\n é 😀\n")
    page.set(temperature=0, max_tokens=12, min_p=0.01)
    page.page.click("#code-open")
    page.page.check(f'input[value="{language}"]', force=True)
    page.page.wait_for_function("(word) => document.getElementById('code-text').textContent.startsWith(word)",
                                arg={"curl": "curl", "python": "from"}[language])
    code = page.page.text_content("#code-text")
    page.page.click("#code-close")
    before = page.text
    page.proceed()
    command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout)["choices"][0]["text"] if language == "curl" else ended.stdout.removesuffix("\n")
    assert printed == page.text.removeprefix(before)


def test_the_api_key_stays_where_it_belongs(open_playground, tmp_path):
    keys = tmp_path / "keys"
    key = run("keys", "new", "--api-key-file", keys).stdout.strip().splitlines()[-1].split()[-1]
    with Server("--api-key-file", keys, "--probes-need-key", "--metrics-need-key") as server:
        page = open_playground(server, expected_errors=["401"])
        page.page.wait_for_selector("#notice:visible")
        page.page.wait_for_function("() => document.getElementById('gauge-ready').textContent === 'needs a key'")
        assert page.page.inner_text("#gauge-running") == "–"
        assert "API key" in page.notice
        assert page.page.evaluate("document.activeElement.id") == "key"
        page.page.keyboard.type("sk-wrong")
        page.page.keyboard.press("Tab")
        page.page.wait_for_function("() => !document.getElementById('notice').hidden")
        page.page.fill("#key", key)
        page.page.keyboard.press("Tab")
        page.page.wait_for_selector("#field-temperature")
        assert page.notice is None
        page.page.wait_for_function("() => document.getElementById('gauge-running').textContent === '0'")
        page.write(PROMPT)
        page.set(max_tokens=4)
        page.proceed()
        assert page.text != PROMPT
        page.page.click("#code-open")
        page.page.wait_for_selector("#code-text:visible")
        assert "OPTSERVE_API_KEY" in page.page.text_content("#code-text")
        everything = page.page.content() + page.page.url + page.page.evaluate("() => JSON.stringify({...localStorage}) + document.cookie")
        assert key not in everything
        assert page.page.evaluate("() => Object.values({...sessionStorage})").count(key) == 1
        page.page.click("#code-close")
        page.page.click("#key-forget")
        assert key not in page.page.evaluate("() => JSON.stringify({...sessionStorage})")


def test_gauges_follow_the_server(server, open_playground):
    page = open_playground(server)
    page.page.wait_for_function("() => document.getElementById('gauge-ready').textContent === 'ready'")
    assert page.page.inner_text("#gauge-running") == "0" and page.page.inner_text("#gauge-kv") == "0 %"
    page.write(PROMPT)
    page.set(n=12, max_tokens=900, ignore_eos=True)
    page.page.click("#continue")
    page.page.wait_for_function("() => Number(document.getElementById('gauge-running').textContent) > 0")
    page.page.wait_for_function("() => Number(document.getElementById('gauge-rate').textContent.replace(',', '')) > 0")
    page.page.keyboard.press("Escape")
    page.page.wait_for_function("() => document.getElementById('gauge-running').textContent === '0'")


def test_a_reload_keeps_the_text_and_the_settings(server, open_playground):
    page = open_playground(server)
    page.write(PROMPT)
    page.set(top_k=17)
    page.page.click("#theme")
    page.page.reload()
    page.page.wait_for_selector("#field-top_k")
    assert page.text == PROMPT and page.page.input_value("#field-top_k") == "17"
    assert page.page.get_attribute("html", "data-theme") == "light"
    page.page.click("#fields-reset")
    assert page.page.input_value("#field-top_k") == "0"
