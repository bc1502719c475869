"""Pages in a real, headless Chromium, in which any request or console message fails the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

OpenPage = Callable[..., "Page"]


def find_chromium() -> str | None:
    """Path of the browser: that of the variable CHROMIUM, or the system's."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    path = find_chromium()
    if path is None:
        pytest.skip("needs Chromium: `apt-get install chromium`, or give its path in CHROMIUM")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """A function that opens an HTML file: `open_page(path, width=390, color_scheme="dark")`.

    Further options are those of Playwright's `Browser.new_context`; `fragment` is what follows the
    `#` of the address. At the end of the test no page may have asked for anything beside its own
    file, or have said anything on the console.
    """
    problems: list[str] = []
    contexts = []

    def open_(
        path: Path, *, fragment: str = "", width: int = 1280, height: int = 900, **options: Any
    ) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        address = path.resolve().as_uri()

        def judge(request: Request) -> None:
            if request.url.partition("#")[0] != address and not request.url.startswith("data:"):
                problems.append(f"request: {request.url}")

        page.on("request", judge)
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.goto(f"{address}#{fragment}" if fragment else address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not problems, problems
