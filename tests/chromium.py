"""Chromium as Debian has it, driven by playwright; tests are skipped with a reason where either is missing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# no lookups of its own, which a closed network would answer late
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 30  # that anything on a page may take, on a machine with much else to do
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def launched() -> Iterator[Any]:
    """A browser. One a file of tests: while it runs, this thread has an event loop that others would trip over."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs chromium")
    api.expect.set_options(timeout=1000 * SECONDS)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def expect(found: Any) -> Any:
    """Playwright's, which waits for what it is told to expect."""
    from playwright.sync_api import expect

    return expect(found)


class Opened:
    """A page in a context of its own."""

    def __init__(self, browser: Any, address: str, **how: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **how})
        self.context.set_default_timeout(1000 * SECONDS)
        self.address = address
        self.errors: list[str] = []
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("filechooser", lambda chooser: None)  # now: asked for beside a key, it may come too late
        self.page.on("request", lambda request: self._see(request.url))

    def _see(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.errors.append(f"asked for {url}")

    def check(self) -> None:
        """Nothing went wrong in the page's scripts, and nothing was asked of another origin."""
        errors, self.errors = self.errors, []
        assert not errors

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: Any) -> None:
        self.context.close()
