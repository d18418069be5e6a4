"""Whether everybody can use the pages: axe's rules in each state and theme, contrast of the tokens' colours, and focus."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from conftest import PHONE

PROMPT = "Call me Ishmael. Some years ago"
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA


def violations(page):
    """Of axe's rules, by id, with what breaks them."""
    results = Axe().run(page.page).response
    return {found["id"]: [node["html"] for node in found["nodes"]] for found in results["violations"]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_playground_in_all_its_states(server, open_playground, scheme):
    page = open_playground(server, color_scheme=scheme, bypass_csp=True, expected_errors=["400"])  # axe is a script of ours
    page.page.wait_for_selector("#field-temperature")
    page.page.click("#more summary")
    page.page.click("#connection summary")
    assert violations(page) == {}
    page.write(PROMPT)
    page.set(n=2, max_tokens=12, top_p=0)
    page.page.click("#continue")
    page.page.wait_for_selector("#wrong-top_p:visible")
    assert violations(page) == {}
    page.set(top_p=1)
    page.proceed()
    page.page.click(".card .token >> nth=2")
    page.page.wait_for_selector("#alternatives:visible")
    assert violations(page) == {}
    page.page.keyboard.press("Escape")
    page.proceed("#score")
    assert violations(page) == {}
    page.set(min_tokens=100)
    page.proceed()
    assert page.notice and violations(page) == {}
    for dialog in ("code", "help"):
        page.set(min_tokens=0)
        page.page.click(f"#{dialog}-open")
        page.page.wait_for_selector(f"#{dialog}[open]")
        assert violations(page) == {}
        page.page.keyboard.press("Escape")


def test_the_playground_on_a_phone(server, open_playground):
    page = open_playground(server, bypass_csp=True, **PHONE)
    page.write(PROMPT)
    page.proceed()
    page.page.touchscreen.tap(*page.token_place(2))
    page.page.wait_for_selector("#alternatives:visible")
    assert violations(page) == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_the_api(server, open_playground, scheme):
    page = open_playground(server, path="/docs", color_scheme=scheme, bypass_csp=True)
    page.page.wait_for_selector("#post-v1-completions")
    assert violations(page) == {}


def test_what_is_wrong_is_found(server, open_playground):
    """So that the tests above can fail."""
    page = open_playground(server, bypass_csp=True)
    page.page.wait_for_selector("#field-temperature")
    page.page.evaluate("""() => {
      document.querySelector("label[for=field-temperature]").remove();
      document.getElementById("text-hint").style.color = "#bbb";
    }""")
    assert {"label", "color-contrast"} <= set(violations(page))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("colour", ["probability", "surprise"])
def test_text_is_readable_on_every_colour(server, open_playground, scheme, colour):
    page = open_playground(server, color_scheme=scheme)
    page.colour_by(colour)
    colours = page.page.evaluate("""() => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const rgb = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
      };
      const swatches = [...document.querySelectorAll("#swatches i")];
      return { ink: rgb(getComputedStyle(document.getElementById("text")).color), levels: swatches.map((swatch) => rgb(getComputedStyle(swatch).backgroundColor)) };
    }""")
    assert len({tuple(level) for level in colours["levels"]}) == 8  # steps that can be told apart
    for level in colours["levels"]:
        assert contrast(colours["ink"], level) >= LEAST_CONTRAST, level


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(rgb):
    linear = [value / 255 / 12.92 if value / 255 <= 0.04045 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_focus_goes_through_the_page_in_order_and_shows(server, open_playground):
    page = open_playground(server)
    page.page.wait_for_selector("#field-temperature")
    seen = []
    for _ in range(60):
        page.page.keyboard.press("Tab")
        name, shows, is_end = page.page.evaluate("""() => {
          const one = document.activeElement;
          const style = getComputedStyle(one.matches("[type=radio]") ? one.nextElementSibling : one);
          const paper = getComputedStyle(document.getElementById("paper"));
          return [one.id || one.value || one.textContent.trim(), style.outlineStyle !== "none" || (one.id === "text" && paper.boxShadow.includes("1px")), one === document.body];
        }""")
        if is_end:
            break
        assert shows, name
        seen.append(name)
    wanted = ["help-open", "probability", "text", "continue", "score", "code-open", "field-max_tokens", "field-temperature", "field-stop", "fields-reset"]
    assert [name for name in seen if name in wanted] == wanted


def test_a_button_that_goes_hands_its_focus_on(server, open_playground):
    page = open_playground(server)
    page.write(PROMPT)
    page.set(max_tokens=8)
    page.page.focus("#continue")
    page.page.keyboard.press("Enter")
    assert page.page.evaluate("document.activeElement.id") in ("stop", "continue")  # it may be over already
    page.wait_until_over()
    assert page.page.evaluate("document.activeElement.id") == "continue"
    page.page.focus("#undo")
    page.page.keyboard.press("Enter")
    page.page.keyboard.press("Enter")
    assert page.text == "" and page.page.evaluate("document.activeElement.id") == "redo"


def test_the_answer_is_announced_once_not_token_by_token(server, open_playground):
    page = open_playground(server)
    page.page.evaluate("""() => {
      window.said = [];
      new MutationObserver(() => said.push(document.getElementById("status").textContent)).observe(document.getElementById("status"), { childList: true });
    }""")
    page.write(PROMPT)
    page.set(max_tokens=40)
    page.proceed()
    said = page.page.evaluate("said")
    assert said[:2] == ["Waiting for the server …", "Writing …"] and len(said) == 3 and said[2].startswith("40 tokens")
