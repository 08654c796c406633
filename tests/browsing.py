"""What tests that drive a real Chromium share: the pages of a running session as a learner meets them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from tests.support import EVIDENCE, until

CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
SLOW = 120_000
"""Milliseconds: an emulated guest takes half a minute for its first container."""


@contextmanager
def chromium() -> Iterator[BrowserContext]:
    """Yield a fresh browser."""
    EVIDENCE.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield browser.new_context(viewport={"width": 1280, "height": 800})
        browser.close()


def open_terminal(context: BrowserContext, url: str, password: str) -> Page:
    """Return the terminal's page, logged in and live."""
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.goto(url)
    if page.get_by_label("Password").count():  # an earlier test of this browser has logged in already
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
    expect(page.locator("#state")).to_have_text("Live", timeout=SLOW)
    return page


def screen_has(page: Page, text: str) -> None:
    """Wait until the terminal shows the text."""
    page.wait_for_function("text => window.dozlabScreenText?.().includes(text)", arg=text, timeout=SLOW)


def at_prompt(page: Page, prompt: str) -> None:
    """Wait until the last line is an empty prompt: what is typed before may go with the program that ends."""
    page.wait_for_function(
        "prompt => document.body?.dataset.state === 'live' && window.dozlabScreenText().trimEnd().endsWith(prompt)",
        arg=prompt, timeout=SLOW,
    )  # fmt: skip


def type_line(page: Page, text: str) -> None:
    """Type a line and Enter."""
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def open_editor(context: BrowserContext, url: str, password: str) -> Page:
    """Return VS Code's page, logged in and loaded."""
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.goto(url)
    if page.locator("input[type=password]").count():
        page.fill("input[type=password]", password)
        page.click("input[type=submit]")
    page.wait_for_selector(".monaco-workbench")
    return page


def type_in_editors_terminal(page: Page, line: str, *, exists: Callable[[str], bool], shot: str) -> None:
    """Open VS Code's terminal, type a line, and wait for its end; a screenshot is kept either way.

    :param exists: is there a file of that name in the workspace
    """
    page.wait_for_selector(".explorer-folders-view")
    page.wait_for_selector(".statusbar-item")

    def within(seconds: float, condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            page.wait_for_timeout(100)
        return condition()

    def there() -> bool:
        return page.locator(".terminal-wrapper.active .xterm-screen").count() > 0

    def opened() -> bool:
        """Press the key until VS Code, still loading, takes it."""
        if not there():
            page.keyboard.press("Control+Shift+`")
        return within(3, there)

    until(opened, what="VS Code's terminal", seconds=90)
    page.locator(".terminal-wrapper.active .xterm-helper-textarea").focus()

    def typed(text: str, file: str) -> bool:
        page.keyboard.type(f"{text}\n", delay=5)
        return within(2, lambda: exists(file))

    try:
        # What is typed before its shell has started is lost.
        until(lambda: typed("touch begun", "begun"), what="a shell in VS Code's terminal", seconds=90)
        page.keyboard.type(f"clear; {line}; touch finished\n", delay=5)
        until(lambda: exists("finished"), what="the commands in VS Code's terminal", seconds=150)
    finally:
        page.screenshot(path=EVIDENCE / shot)
