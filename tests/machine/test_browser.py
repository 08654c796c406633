"""A learner's browser on real sessions: Chromium logs in to terminal and editor and uses Docker in the guest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browsing import (
    SLOW,
    at_prompt,
    chromium,
    open_editor,
    open_terminal,
    screen_has,
    type_in_editors_terminal,
    type_line,
)
from tests.machine.conftest import PREPARED
from tests.support import EVIDENCE, Dozlab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    with chromium() as context:
        yield context


def url(dozlab: Dozlab, session: str, what: str) -> str:
    return str(dozlab.json("status", session)["urls"][what])


def test_the_terminal_runs_docker_and_comes_back_to_top(context: BrowserContext, dozlab: Dozlab, lab: str) -> None:
    page = open_terminal(context, url(dozlab, lab, "terminal"), "lab-pass-word")
    at_prompt(page, "root@lab:~#")
    type_line(page, "docker run --rm hello-world")
    screen_has(page, "Hello from Docker")
    at_prompt(page, "root@lab:~#")
    page.screenshot(path=EVIDENCE / "machine-terminal-docker.png")
    type_line(page, "clear; top")
    screen_has(page, "load average")
    page.reload()
    expect(page.locator("#state")).to_have_text("Live", timeout=SLOW)
    screen_has(page, "load average")
    screen_has(page, "PID USER")
    page.screenshot(path=EVIDENCE / "machine-terminal-top.png")
    page.keyboard.press("q")
    at_prompt(page, "root@lab:~#")
    type_line(page, "echo same-$((1+1))")
    screen_has(page, "same-2")
    page.close()


def test_the_editors_terminal_runs_docker(context: BrowserContext, dozlab: Dozlab, lab: str) -> None:
    page = open_editor(context, url(dozlab, lab, "vscode"), "lab-pass-word")
    workspace = dozlab.state / "dozlab/sessions" / lab / "vm-data/workspace"
    line = "docker ps | tee ps.txt; docker run --rm hello-world | tee hello.txt"
    type_in_editors_terminal(
        page, line, exists=lambda name: (workspace / name).exists(), shot="machine-editor-docker.png"
    )
    assert (workspace / "ps.txt").read_text().startswith("CONTAINER ID")
    assert "Hello from Docker" in (workspace / "hello.txt").read_text()
    page.close()


def test_two_sessions_in_one_browser(context: BrowserContext, quick: Dozlab, lab: str) -> None:
    """Cookies know no ports: each session has names of its own, so that nobody is logged out."""
    passwords = {lab: "lab-pass-word", "lab2": "other-pass-word"}
    try:
        words = [*PREPARED, "--set", "codeServer.password=other-pass-word"]
        quick.run("up", "lab2", *words, "--no-docker-wait", timeout=420)
        pages = {name: open_terminal(context, url(quick, name, "terminal"), passwords[name]) for name in passwords}
        for name, page in pages.items():
            page.reload()
            expect(page.locator("#state")).to_have_text("Live", timeout=SLOW)
            screen_has(page, f"root@{name}:")
        urls = {name: url(quick, name, "vscode") for name in passwords}
        for name, password in passwords.items():
            open_editor(context, urls[name], password).close()
        for name in passwords:
            page = context.new_page()
            page.goto(urls[name])
            page.wait_for_selector(".monaco-workbench", timeout=SLOW)
            page.close()
        # Neither guest reaches the other: they have the same address, each in a network of its own.
        for name in passwords:
            assert quick.ssh(name, "hostname").strip() == name
    finally:
        quick.run("down", "lab2", check=False)
