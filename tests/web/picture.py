"""Makes the picture of clients/README.md: the playground on the demo model, with a token's alternatives open.

    build/test-venv/bin/python tests/web/picture.py clients/playground.png

It depends on the fonts of the machine: with Debian's fonts-noto-core it is as it is checked in.
"""

import shutil
import sys

from playwright.sync_api import sync_playwright

import conftest  # noqa: F401  (it knows where the harness is)
from harness import Server
from playground import Playground

TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune"


def main(path):
    with Server() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = Playground(browser.new_page(viewport={"width": 1200, "height": 740}), server)
        page.open("/")
        page.write(TEXT)
        page.set(temperature=0.7, top_p=0.95, seed=11, max_tokens=56)
        page.proceed()
        page.proceed("#score")
        page.colour_by("surprise")
        page.page.evaluate("() => { document.activeElement.blur(); document.getElementById('paper').scrollTop = 0; }")
        page.page.wait_for_timeout(4000)  # the gauges have seen it
        page.hover_token(len(page.tokens()) - 40)
        page.page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
