import contextlib
import pathlib
import shutil
import sys

import pytest
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from harness import Server  # noqa: E402  (the path above comes first)
from playground import Playground  # noqa: E402


@pytest.fixture(scope="session")
def server():
    """One server for all tests that leave it as they found it."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium. Without its sandbox, which root cannot have; what it opens is ours."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_playground(browser):
    """open_playground(server, **options of the browser's context): a page of its own, whose complaints are failures:
    errors of the script, violations of its policy, requests to anybody else."""
    with contextlib.ExitStack() as stack:
        def opened(server, *, expected_errors=(), path="/", **options):
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            context.set_default_timeout(30_000)
            page = Playground(context.new_page(), server, expected_errors)
            stack.callback(page.check_complaints)
            page.open(path)
            return page

        yield opened


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
