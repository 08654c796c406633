"""Pause and reset as a learner's browser sees them: the page says what happened; shells are kept, or opened anew.

One session for all, from the prepared snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browsing import SLOW, at_prompt, chromium, open_terminal, screen_has, type_line
from tests.machine.conftest import PREPARED
from tests.support import EVIDENCE, Dozlab, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

PASSWORD = "page-pass-word"
PROMPT = "root@page:~#"
MOUNTED = "until mountpoint -q /workspace; do sleep 0.2; done"
PAUSE = 16_000
"""Milliseconds: more than a connection whose other end is silent is given (12 s)."""


@pytest.fixture(scope="module")
def page(quick: Dozlab) -> Iterator[Page]:
    """The terminal's page of a running session `page`."""
    try:
        words = ["--set", f"codeServer.password={PASSWORD}", "--no-docker-wait"]
        quick.run("up", "page", *PREPARED, *words, timeout=420)
        with chromium() as context:
            terminal = open_terminal(context, quick.json("status", "page")["urls"]["terminal"], PASSWORD)
            at_prompt(terminal, PROMPT)
            yield terminal
    finally:
        quick.run("down", "page", check=False)


def shown(page: Page, state: str) -> None:
    expect(page.locator("#state")).to_have_text(state, timeout=SLOW)


def workspace(quick: Dozlab) -> Path:
    return quick.state / "dozlab/sessions/page/vm-data/workspace"


def editor_goes_on(page: Page, quick: Dozlab) -> None:
    """The editor is no part of the machine: it serves on, and nobody had to start it again."""
    status = quick.json("status", "page")
    assert page.request.get(status["urls"]["vscode"] + "healthz").status == 200
    assert status["components"]["code-server"]["restarts"] == 0


def editor_has_docker(quick: Dozlab) -> bool:
    return quick.run("exec", "page", "-c", "code-server", "--", "docker", "ps", check=False).returncode == 0


def test_a_pause_keeps_shell_program_and_open_files(page: Page, quick: Dozlab) -> None:
    type_line(page, f"{MOUNTED}; kept=yes; echo pid=$$ > /root/pid; exec 3>>/workspace/held && echo held-$((1+1))")
    screen_has(page, "held-2")
    at_prompt(page, PROMPT)
    type_line(page, "top -d 1")
    screen_has(page, "load average")
    quick.run("pause", "page")
    shown(page, "Paused")
    expect(page.get_by_role("alert")).to_contain_text("Paused. `dozlab resume page` lets it go on")
    page.screenshot(path=EVIDENCE / "machine-paused.png")
    editor_goes_on(page, quick)
    page.wait_for_timeout(PAUSE)
    before = page.evaluate("window.dozlabScreenText()")
    quick.run("resume", "page")
    shown(page, "Live")
    expect(page.get_by_role("alert")).to_be_hidden()
    page.wait_for_function("before => window.dozlabScreenText() !== before", arg=before, timeout=SLOW)
    screen_has(page, "load average")  # it goes on, it was not replaced by a prompt

    page.keyboard.press("q")
    at_prompt(page, PROMPT)
    quick.run("pause", "page")
    shown(page, "Paused")
    type_line(page, "echo $kept-$([ pid=$$ = $(cat /root/pid) ] && echo same); echo end >&3; echo waited-$((2+2))")
    quick.run("resume", "page")
    screen_has(page, "waited-4")
    screen_has(page, "yes-same")
    held = workspace(quick) / "held"
    until(lambda: held.read_text() == "end\n", what="what was written", seconds=60)  # sshfs writes in its own time


def test_a_reset_is_said_and_shell_and_workspace_are_there_again(page: Page, quick: Dozlab) -> None:
    (workspace(quick) / "from-editor").write_text("from the editor\n")
    at_prompt(page, PROMPT)
    type_line(page, f"{MOUNTED}; exec 3>&-; touch /root/early; clear; echo noted-$((1+1))")
    screen_has(page, "noted-2")
    quick.run("checkpoint", "page", "start", timeout=400)
    at_prompt(page, PROMPT)
    type_line(page, "touch /root/late; echo noted-$((1+2))")
    screen_has(page, "noted-3")
    for name, words, files in (
        ("start", "the machine was set back to checkpoint start: this is a new shell", "early"),
        ("", "the machine was set back to the clean image: this is a new shell", "none"),
    ):
        quick.run("reset", "page", *([name] if name else []), timeout=450)
        screen_has(page, words)
        at_prompt(page, PROMPT)
        page.screenshot(path=EVIDENCE / f"machine-reset-{name or 'clean'}.png")
        type_line(page, "clear; (ls /root | grep -E '^(early|late)$' || echo none) | tr '\\n' . ; echo :files")
        screen_has(page, f"{files}.:files")
        at_prompt(page, PROMPT)
        mark = workspace(quick) / f"after-{name or 'clean'}"
        # sshfs fails what it finds on its way when it notices that it must connect anew.
        copy = f"until cp /workspace/from-editor /workspace/{mark.name}; do sleep 0.5; done"
        type_line(page, f"{MOUNTED}; {copy}; echo copied-$((3+3))")
        screen_has(page, "copied-6")
        assert mark.read_text() == "from the editor\n"
        editor_goes_on(page, quick)
        until(lambda: editor_has_docker(quick), what="Docker of the machine it was set back to", seconds=300)
