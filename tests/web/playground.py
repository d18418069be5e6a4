"""The playground as a person uses it: Playwright's page with the words of this project."""

import math
import re

# Chromium says so of every answer that is not 2xx; a test that makes them expects them.
LOAD_FAILED = re.compile(r"Failed to load resource: the server responded with a status of (\d+)|net::ERR_")

PROMPT = "Call me Ishmael. Some years ago"

PROBABILITY_STEPS = [0.001, 0.01, 0.03, 0.1, 0.25, 0.5, 0.8]
SURPRISE_STEPS = [0.5, 1, 2, 3, 4.5, 6.5, 9]


def colour_level(logprob, colour):
    """What the legend says: 0 to 7."""
    value, steps = {"probability": (math.exp(logprob), PROBABILITY_STEPS),
                    "surprise": (-logprob / math.log(2), SURPRISE_STEPS)}[colour]
    return sum(value >= step for step in steps)


class Playground:
    def __init__(self, page, server, expected_errors=()):
        self.page, self.server, self.expected_errors = page, server, expected_errors
        self.complaints = []
        self.completions = []  # bodies of the requests for completions
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", self._on_console)
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", self._on_request)

    def _on_console(self, message):
        failed = LOAD_FAILED.search(message.text)
        if message.type != "error" or (failed and (failed[1] or "none") in self.expected_errors):
            return
        self.complaints.append(f"console: {message.text}")

    def _on_request(self, request):
        is_ours = request.url.startswith((self.server.url + "/", "data:"))
        if not is_ours or "?" in request.url:  # nothing belongs into an address, least of all a key
            self.complaints.append(f"a request to {request.url}")
        if request.url.endswith("/v1/completions"):
            self.completions.append(request.post_data_json)

    def check_complaints(self):
        assert self.complaints == []

    def open(self, path):
        self.page.goto(self.server.url + path)

    # --- doing -----------------------------------------------------------------------------------------------------

    def write(self, text):
        self.page.fill("#text", text)

    def set(self, **fields):
        for name, value in fields.items():
            self.page.wait_for_selector(f"#field-{name}", state="attached")
            details = self.page.locator(f"details:has(#field-{name})")
            if details.get_attribute("open") is None:
                details.locator("summary").click()
            if isinstance(value, bool):
                self.page.set_checked(f"#field-{name}", value)
            else:
                self.page.fill(f"#field-{name}", str(value))

    def proceed(self, press="#continue"):
        """Presses a button and waits until what it asked for is over."""
        self.page.wait_for_selector("#field-temperature", state="attached")
        self.page.click(press)
        self.wait_until_over()

    def wait_until_over(self):
        self.page.wait_for_function("() => document.getElementById('stop').hidden")
        # Two frames later all is drawn.
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def colour_by(self, colour):
        self.page.check(f'input[name="colour"][value="{colour}"]', force=True)

    def hover_token(self, index):
        """Points at a token of the text, and returns what the panel says: [(text, percent)]."""
        self.page.mouse.move(1, 1)
        self.page.wait_for_selector("#alternatives", state="hidden")
        x, y = self.token_place(index)
        self.page.mouse.move(x, y)
        self.page.wait_for_selector("#alternatives:visible")
        return self.alternatives()

    def token_place(self, index):
        """The middle of the last line that the token is on."""
        return self.page.locator("#ink .token").nth(index).evaluate(
            "(token) => { const box = [...token.getClientRects()].at(-1); return [box.x + box.width / 2, box.y + box.height / 2]; }")

    # --- seeing ----------------------------------------------------------------------------------------------------

    @property
    def text(self):
        return self.page.input_value("#text")

    @property
    def status(self):
        return self.page.inner_text("#status")

    @property
    def notice(self):
        return self.page.inner_text("#notice-text") if self.page.is_visible("#notice") else None

    def tokens(self, within="#ink"):
        """(text, colour level) of each."""
        return self.page.locator(within).locator(".token").evaluate_all(
            "(tokens) => tokens.map((token) => [token.textContent, Number(token.dataset.level)])")

    def alternatives(self):
        return [tuple(pair) for pair in self.page.eval_on_selector_all(
            "#alternatives li", "(items) => items.map((item) => [item.querySelector('code').textContent, item.querySelector('.percent').textContent])")]
