"""The playground when things go wrong: broken streams, refusals, a server that is away, and texts that would be markup."""

import re
import threading

import pytest
import requests

from scripted_server import USAGE, ScriptedServer, chunk, error_body, event

HOSTILE = '</textarea></script><script>alert(1)</script><img src=x onerror="alert(2)"><b>&amp;</b>'


@pytest.fixture
def scripted(server):
    with ScriptedServer(server) as running:
        yield running


def open_and_write(open_playground, scripted, text="Once", **options):
    page = open_playground(scripted, **options)
    page.write(text)
    return page


def test_text_appears_while_it_comes(scripted, open_playground):
    go_on = threading.Event()

    def answer(request):
        request.stream(event(chunk(" upon", prompt_ids=[2, 5])))
        go_on.wait(10)
        request.wfile.write(event(chunk(" a time", offset=5, finish="length")) + event(USAGE) + event("[DONE]"))

    scripted.scripts["/v1/completions"] = answer
    page = open_and_write(open_playground, scripted)
    page.page.click("#continue")
    page.page.wait_for_function("() => document.getElementById('text').value === 'Once upon'")
    assert page.page.is_visible("#stop") and not page.page.is_visible("#continue")
    assert page.tokens() == [[" upon", 6]]
    go_on.set()
    page.wait_until_over()
    assert page.text == "Once upon a time"
    assert page.page.is_visible("#continue")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_wherever_the_network_cuts_a_stream(scripted, open_playground, size):
    whole = event(chunk(" naïve 😀", prompt_ids=[2, 5])) + event(chunk(" שלום\n", offset=8, finish="length")) + event(USAGE) + event("[DONE]")
    parts = [whole[i:i + size] for i in range(0, len(whole), size)]
    scripted.scripts["/v1/completions"] = lambda request: request.stream(*parts, pause=0 if size < 7 else 0.001)
    page = open_and_write(open_playground, scripted)
    page.proceed()
    assert page.text == "Once naïve 😀 שלום\n"
    assert [text for text, _ in page.tokens()] == [" naïve 😀", " שלום\n"]


def test_tokens_that_are_parts_of_a_character_are_one_group(scripted, open_playground):
    parts = [event(chunk("", tokens=["bytes:\\xf0"], prompt_ids=[2, 5])), event(chunk("", tokens=["bytes:\\x9f"])),
             event(chunk("😀", tokens=["bytes:\\x98\\x80"])), event(chunk("!", offset=1, finish="length")), event(USAGE), event("[DONE]")]
    scripted.scripts["/v1/completions"] = lambda request: request.stream(*parts)
    page = open_and_write(open_playground, scripted)
    page.proceed()
    assert page.text == "Once😀!"
    assert [text for text, _ in page.tokens()] == ["😀", "!"]
    page.hover_token(0)
    titles = [page.page.inner_text("#alternatives-title")]
    for _ in range(2):
        page.page.click("#alternatives button[aria-label='The token before']")
        titles.append(page.page.inner_text("#alternatives-title"))
    assert titles == ["\\x98\\x80", "\\x9f", "\\xf0"]


def test_alternatives_that_look_like_numbers_keep_their_rank(scripted, open_playground):
    """JavaScript puts the keys of an object that are numbers first, whatever the server wrote."""
    only = chunk(" in", prompt_ids=[2, 5], finish="length")
    only["choices"][0]["logprobs"]["top_logprobs"] = [{" in": -0.5, "the": -1.5, "1984": -3, "7": -2}]
    scripted.scripts["/v1/completions"] = lambda request: request.stream(event(only), event(USAGE), event("[DONE]"))
    page = open_and_write(open_playground, scripted)
    page.proceed()
    assert [text for text, _ in page.hover_token(0)] == ["␣in", "the", "7", "1984"]


def test_an_error_inside_a_stream_is_said_and_the_text_stays(scripted, open_playground):
    failure = error_body("the engine is gone; " + HOSTILE, "engine_dead")
    scripted.scripts["/v1/completions"] = lambda request: request.stream(
        event(chunk(" upon", prompt_ids=[2, 5])), event(failure), event("[DONE]"))
    page = open_and_write(open_playground, scripted)
    page.proceed()
    assert page.text == "Once upon"
    assert page.notice == "the engine is gone; " + HOSTILE
    page.page.click("#undo")
    assert page.text == "Once"


def test_a_stream_that_breaks_off_is_said(scripted, open_playground):
    scripted.scripts["/v1/completions"] = lambda request: request.stream(event(chunk(" upon", prompt_ids=[2, 5])))
    page = open_and_write(open_playground, scripted)
    page.proceed()
    assert page.text == "Once upon" and "broke off" in page.notice


def test_generated_markup_is_text_and_nothing_else(scripted, open_playground):
    """In the text, the tokens, the alternatives, the model's name, the score and the code."""
    capabilities = requests.get(scripted.http.original + "/v1/capabilities", timeout=10).json()
    capabilities["model"] = HOSTILE
    scripted.scripts["/v1/capabilities"] = lambda request: request.send(200, capabilities)
    scripted.scripts["/v1/completions"] = lambda request: request.stream(
        event(chunk(HOSTILE, prompt_ids=[2, 5], finish="length", tokens=[HOSTILE])), event(USAGE), event("[DONE]"))
    page = open_and_write(open_playground, scripted)
    page.set(n=1)
    page.proceed()
    assert page.text == "Once" + HOSTILE
    assert page.tokens() == [[HOSTILE, 6]]
    assert page.hover_token(0) == [(HOSTILE.replace(" ", "␣"), "60.7 %"), ("<u>other</u>", "22.3 %")]
    assert page.page.inner_text("#model") == HOSTILE
    page.page.keyboard.press("Escape")
    page.set(n=2)
    page.proceed()
    assert page.page.inner_text(".card-text >> nth=0") == HOSTILE
    assert page.page.locator("img, b, u, script:not([type=module])").count() == 0


def test_the_policy_holds_what_the_page_did_not_bring(server, browser):
    """No markup out of text, no script or style but the page's own, nothing asked of others, no frame around it."""
    page = browser.new_page()
    page.goto(server.url)
    assert page.evaluate("() => { try { document.body.innerHTML = '<p>x'; return 'done'; } catch { return 'refused'; } }") == "refused"
    assert page.evaluate("""() => {
      const button = document.createElement("button");
      try { button.setAttribute("onclick", "window.ran = true"); } catch { return "refused"; }
      button.click();
      return window.ran ? "ran" : "refused";
    }""") == "refused"
    assert page.evaluate("""() => {
      const style = document.createElement("style");
      style.textContent = "body { display: none }";
      document.head.append(style);
      return getComputedStyle(document.body).display;
    }""") == "block"
    refused = page.evaluate("""(url) => new Promise((done) => {
      addEventListener("securitypolicyviolation", (event) => done([event.effectiveDirective, event.blockedURI]));
      fetch(url).catch(() => {});
    })""", "http://127.0.0.1:1/")
    assert refused == ["connect-src", "http://127.0.0.1:1/"]
    page.close()


def test_without_a_key_the_field_is_offered_and_the_request_repeated(scripted, open_playground):
    def answer(request):
        if request.headers.get("Authorization") != "Bearer sk-right":
            request.send(401, error_body("no API key was sent", "invalid_api_key"), fields={"WWW-Authenticate": "Bearer"})
        else:
            request.stream(event(chunk(" upon", prompt_ids=[2, 5], finish="length")), event(USAGE), event("[DONE]"))

    scripted.scripts["/v1/completions"] = answer
    page = open_and_write(open_playground, scripted, expected_errors=["401"])
    page.proceed()
    assert page.notice == "no API key was sent. Put your API key into its field."
    page.page.keyboard.type("sk-right")
    page.page.keyboard.press("Tab")
    page.page.click("#notice-retry")
    page.wait_until_over()
    assert page.text == "Once upon" and page.notice is None


@pytest.mark.parametrize("status, code", [(429, "rate_limit_exceeded"), (503, "engine_dead")])
def test_when_the_server_is_busy_the_wait_is_counted_down(scripted, open_playground, status, code):
    asked = []

    def answer(request):
        asked.append(request.body)
        if len(asked) == 1:
            request.send(status, error_body("the queue is full", code), fields={"Retry-After": "3"})
        else:
            request.stream(event(chunk(" upon", prompt_ids=[2, 5], finish="length")), event(USAGE), event("[DONE]"))

    scripted.scripts["/v1/completions"] = answer
    page = open_and_write(open_playground, scripted, expected_errors=[str(status)])
    page.proceed()
    assert page.notice == "the queue is full"
    assert re.fullmatch("Try again in [123] s", page.page.inner_text("#notice-retry")) and page.page.is_disabled("#notice-retry")
    page.page.click("#notice-retry")  # waits until it may be pressed
    page.wait_until_over()
    assert page.page.evaluate("document.activeElement.id") == "continue"
    assert page.text == "Once upon" and len(asked) == 2 and asked[0] == asked[1]


def test_while_the_model_loads_the_page_waits(scripted, open_playground):
    is_loaded = threading.Event()

    def or_loading(answer):
        def script(request):
            if is_loaded.is_set():
                answer(request)
            else:
                request.send(503, error_body("the model is being loaded", "model_loading"), fields={"Retry-After": "1"})
        return script

    capabilities = requests.get(scripted.http.original + "/v1/capabilities", timeout=10).content
    scripted.scripts["/v1/capabilities"] = or_loading(lambda request: request.send(200, capabilities))
    scripted.scripts["/readyz"] = or_loading(lambda request: request.send(200, b"ok\n", "text/plain"))
    page = open_playground(scripted, expected_errors=["503"])
    page.page.wait_for_function("() => document.getElementById('gauge-ready').textContent === 'loading'")
    assert page.notice == "the model is being loaded"
    is_loaded.set()
    page.page.wait_for_selector("#field-temperature")
    page.page.wait_for_function("() => document.getElementById('gauge-ready').textContent === 'ready'")
    assert page.notice is None


def test_when_the_server_is_gone_the_page_says_so(server, open_playground):
    with ScriptedServer(server) as scripted:
        page = open_and_write(open_playground, scripted, expected_errors=["none"])
        page.page.wait_for_function("() => document.getElementById('gauge-ready').textContent === 'ready'")
        scripted.stop()
        page.proceed()
        assert page.notice == "The server does not answer."
        page.page.wait_for_function("() => document.getElementById('gauge-ready').textContent === 'no answer'")
        assert page.text == "Once"


def test_what_is_no_json_of_ours_is_an_error_with_its_status(scripted, open_playground):
    scripted.scripts["/v1/completions"] = lambda request: request.send(502, b"<h1>Bad gateway</h1>", "text/html")
    page = open_and_write(open_playground, scripted, expected_errors=["502"])
    page.proceed()
    assert page.notice == "The server answered with status 502."
