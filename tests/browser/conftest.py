"""What the tests of the terminal's page share: Chromium, a tab that must stay free of faults, a guest and a sidecar.

A real SSH server with real shells stands in for the guest (tests/unit/terminal_sidecar/guest_sshd.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Browser, ConsoleMessage, Page, Route, TimeoutError, expect, sync_playwright

from dozlab.terminal_sidecar.settings import Settings
from tests.support import EVIDENCE
from tests.unit.terminal_sidecar.conftest import PASSWORD, Guest, Sidecar

PAGE = Settings("x").page_dir
SCREEN = "(window.dozlabScreenText?.() ?? '')"  # the active terminal's visible lines; none while a page is loaded
PROMPT = "guest$"
CHROMIUM = ["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip
# A refused password (401) and a server that is away are said in the console by the browser itself.
_BROWSERS_OWN = ("Failed to load resource", "WebSocket connection")
WAIT = 60_000
"""Milliseconds after which something has gone wrong; on a busy machine a page takes ten times as long as on an idle."""
expect.set_options(timeout=WAIT)


class Faults(list[str]):
    """What a page's console and its scripts complain about."""

    def watch(self, page: Page) -> None:
        """Collect the page's complaints."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.append(str(error)))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(words in message.text for words in _BROWSERS_OWN):
            self.append(message.text)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Yield a Chromium, one for all tests of this folder."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield chromium
        chromium.close()


@contextmanager
def somebody(browser: Browser, **options: Any) -> Iterator[Page]:
    """Yield a page of a fresh context; nothing may have gone wrong in it or in the pages it opened."""
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT)
    faults = Faults()
    context.on("page", faults.watch)
    yield context.new_page()
    context.close()
    assert faults == []


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """Yield a page."""
    with somebody(browser, viewport={"width": 1120, "height": 720}) as page:
        yield page


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    """Yield a guest that is still switched off."""
    machine = Guest(tmp_path)
    yield machine
    machine.switch_off()


@pytest.fixture
def sidecar(tmp_path: Path, guest: Guest) -> Iterator[Sidecar]:
    """Yield a sidecar that serves the built page."""
    server = Sidecar(tmp_path, guest.port, PAGE)
    yield server
    server.stop()


class Held:
    """A page's first request to an address, whose answer it gets when the test says so; later ones go through.

    With `unsent` the server does not get the request before that either.
    """

    def __init__(self, tab: Page, address: str | re.Pattern[str], method: str = "GET", *, unsent: bool = False) -> None:
        self._tab, self._method, self._unsent = tab, method, unsent
        self._route: Route | None = None
        self._answer: APIResponse | None = None
        tab.route(address, self._take)

    def _take(self, route: Route) -> None:
        if self._route is not None or route.request.method != self._method:
            route.continue_()
            return
        self._route = route
        if not self._unsent:
            self._answer = route.fetch()  # what the server says now

    def wait(self) -> None:
        """Wait until the page has asked and the server, where it was asked, has answered."""
        self._until(lambda: self._route is not None and (self._unsent or self._answer is not None), "request")

    def release(self) -> None:
        """Give the page its answer, and wait until its scripts have had it."""
        self.wait()
        assert self._route is not None
        if self._unsent:
            self._answer = self._route.fetch()
        assert self._answer is not None
        request = self._route.request
        self._route.fulfill(response=self._answer)
        self._until(lambda: request.timing["responseEnd"] >= 0, "answer")
        self._tab.evaluate("new Promise(done => setTimeout(() => setTimeout(done)))")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WAIT / 1000
        while not condition():
            assert time.monotonic() < end, f"no {self._method} {what}"
            self._tab.wait_for_timeout(20)


WATCH = """([name, selector]) => {
  const seen = (window[name] = []);
  const look = () => {
    for (const node of document.querySelectorAll(selector)) if (node.textContent) seen.push(node.textContent);
  };
  const inside = node => (node.nodeType === 1 ? node : node.parentElement)?.closest(selector);
  const within = ({target, addedNodes}) =>
    inside(target) || [...addedNodes].some(node => inside(node) || node.querySelector?.(selector));
  new MutationObserver(all => all.some(within) && look()).observe(document, {
    subtree: true, childList: true, characterData: true});
}"""
"""Has a list of the page tell what the elements held each time they were written to, whether it was news or not."""


def typing_goes_to_the_terminal(tab: Page) -> bool:
    """Tell whether the terminal has the focus."""
    return bool(tab.evaluate("document.activeElement.matches('.xterm-helper-textarea')"))


def log_in(tab: Page, sidecar: Sidecar, password: str = PASSWORD) -> None:
    """Open the page and give the password."""
    tab.goto(f"{sidecar.origin}/")
    tab.get_by_label("Password").fill(password)
    tab.get_by_role("button", name="Log in").click()


def state(tab: Page, wanted: str) -> None:
    """Wait until the header says how things are."""
    expect(tab.locator("#state")).to_have_text(wanted)


def open_live(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    """Boot the guest, log in and wait for the shell's prompt."""
    guest.boot()
    log_in(tab, sidecar)
    at_prompt(tab)


def screen_has(tab: Page, text: str) -> None:
    """Wait until the active terminal's visible lines hold `text`."""
    try:
        tab.wait_for_function(f"text => {SCREEN}.includes(text)", arg=text, timeout=WAIT)
    except TimeoutError as error:
        raise AssertionError(f"the screen has no {text!r}:\n{tab.evaluate(SCREEN)}") from error


def until(tab: Page, expression: str, argument: object = None) -> None:
    """Wait until a script's promise gives what is true (to Playwright's wait_for_function a promise itself is)."""
    end = time.monotonic() + WAIT / 1000
    while not tab.evaluate(expression, argument):
        assert time.monotonic() < end, f"{expression} has not come true; the screen is:\n{tab.evaluate(SCREEN)}"
        tab.wait_for_timeout(50)


def at_prompt(tab: Page) -> None:
    """Wait until the active terminal takes keys and its last line is an empty prompt.

    What is typed earlier may be lost: a program that ends, or a line that Ctrl-C ends, may take it along.
    """
    ready = f"() => document.body?.dataset.state === 'live' && {SCREEN}.trimEnd().endsWith('{PROMPT}')"
    try:
        tab.wait_for_function(ready, timeout=WAIT)
    except TimeoutError as error:
        raise AssertionError(
            f"{tab.locator('#state').inner_text()}, not at a prompt:\n{tab.evaluate(SCREEN)}"
        ) from error


def command(tab: Page, text: str, shows: str) -> None:
    """Run a command at the prompt to its end: until its last line, which ends in `shows`, has a prompt below it."""
    at_prompt(tab)
    type_line(tab, text)
    screen_has(tab, f"{shows}\n{PROMPT}")


def type_line(tab: Page, text: str) -> None:
    """Type a line and Enter."""
    tab.keyboard.type(text)
    tab.keyboard.press("Enter")


def shot(tab: Page, name: str) -> None:
    """Keep a screenshot."""
    EVIDENCE.mkdir(exist_ok=True)
    tab.screenshot(path=EVIDENCE / f"terminal-{name}.png")


def at_rest(tab: Page) -> None:
    """Bring what slides and fades to its end."""
    tab.evaluate("document.getAnimations().filter(e => e.effect.getTiming().iterations < 9).forEach(e => e.finish())")
