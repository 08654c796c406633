"""The terminal page as a learner meets it: login, a command, a reload in the middle of `top`. Real Chromium, no VM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dozlab.lib.timeline import Timeline
from tests.browser.conftest import (
    PAGE,
    PROMPT,
    at_prompt,
    command,
    log_in,
    open_live,
    screen_has,
    shot,
    state,
    type_line,
)
from tests.unit.terminal_sidecar.conftest import PASSWORD, Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_login_waiting_command_and_reload_in_top(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    tab.goto(f"{sidecar.origin}/")
    shot(tab, "login")
    log_in(tab, sidecar, "wrong")
    expect(tab.get_by_role("alert")).to_have_text("That is not the session's password.")
    shot(tab, "login-wrong")
    timeline = Timeline(guest.shared)
    for stage in ("rootfs", "network", "vmm"):
        timeline.add(stage, "start")
        timeline.add(stage, "done")
    timeline.add("kernel", "start", "Linux 6.12")
    log_in(tab, sidecar)
    state(tab, "Starting")
    running = tab.locator("#stages li[data-step=running]")
    expect(running).to_contain_text("Kernel")
    expect(tab.locator("#waiting-sub")).to_contain_text("Kernel is on its way.")
    shot(tab, "waiting")
    took = running.locator(".took")
    before = took.inner_text()
    tab.evaluate("[...document.querySelectorAll('#stages li')].forEach(each => each.mark = true)")
    expect(took).not_to_have_text(before)  # it counts, and who reads the list is not thrown out of it
    assert tab.evaluate("[...document.querySelectorAll('#stages li')].every(each => each.mark)")
    timeline.add("kernel", "failed", "stood still")
    expect(tab.locator("#waiting-sub")).to_contain_text("Kernel has failed: stood still.")
    timeline.add("kernel", "start", "once more")
    expect(running).to_contain_text("once more")

    guest.boot()
    state(tab, "Live")  # by itself
    expect(tab.locator("#waiting")).to_be_hidden()
    expect(tab.locator("#latency")).to_have_text(re.compile(r"^(<1|\d+) \+ (<1|\d+) ms$"))  # both legs
    command(
        tab, "printf '\\033]2;<b>notes</b>\\007'; echo $((6*7)) '\u00e9\u4e2d\U0001f600'", "42 \u00e9\u4e2d\U0001f600"
    )
    expect(tab.locator("#title")).to_have_text("<b>notes</b>")
    command(tab, "ls --color=always -la / | head -20; echo li''sted", "listed")
    shot(tab, "shell")

    type_line(tab, "clear; top -d 1; echo gone-$((40+2))")
    screen_has(tab, "load average")
    tab.reload()
    state(tab, "Live")
    screen_has(tab, "load average")
    screen_has(tab, "PID USER")
    shot(tab, "top-after-reload")
    tab.keyboard.press("q")
    screen_has(tab, "gone-42")
    command(tab, "echo same-$((1+1))", "guest$ echo same-$((1+1))\nsame-2")  # nothing was typed by the replay


def test_drop_guest_reboot_and_exit_are_said(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    type_line(tab, "kept=yes")
    tab.evaluate("window.dozlabDrop()")
    command(tab, "echo kept=$kept.", "kept=yes.")
    guest.switch_off()
    state(tab, "Machine restarting")
    shot(tab, "restarting")
    guest.boot()
    state(tab, "Live")
    screen_has(tab, "this is a new shell")
    at_prompt(tab)
    type_line(tab, "exit 3")
    state(tab, "Ended")
    expect(tab.get_by_role("alert")).to_contain_text("status 3")
    shot(tab, "ended")
    tab.keyboard.press("Enter")
    state(tab, "Live")
    type_line(tab, "echo fresh-$((2+2))")  # what is typed from now on is the new shell's
    screen_has(tab, "fresh-4")
    at_prompt(tab)
    type_line(tab, "kill -9 $$")
    expect(tab.get_by_role("alert")).to_contain_text("The shell was ended by KILL.")
    tab.set_viewport_size({"width": 360, "height": 640})
    shot(tab, "narrow")
    tab.wait_for_function("() => document.documentElement.scrollWidth <= 360")
    tab.get_by_role("button", name="Menu").click()
    tab.get_by_role("menuitem", name="Log out").click()
    expect(tab.get_by_label("Password")).to_be_visible()


def test_a_pause_and_a_reset_are_said_and_survived(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    bar = tab.get_by_role("alert")
    guest.tell("running")
    open_live(tab, sidecar, guest)
    type_line(tab, "kept=yes")
    guest.freeze()
    guest.tell("paused", paused="asked")
    state(tab, "Paused")
    expect(bar).to_contain_text("Paused. `dozlab resume lab1` lets it go on")
    type_line(tab, "echo $kept-$((40+2))")
    shot(tab, "paused")
    guest.tell("paused", paused="disk")
    expect(bar).to_contain_text("Paused: the host's disk is full")
    guest.tell("paused", paused="idle")
    expect(bar).to_have_text("Paused: nobody was here. Waking up…")
    tab.reload()
    state(tab, "Paused")
    guest.thaw()
    guest.tell("running")
    state(tab, "Live")
    expect(bar).to_be_hidden()
    screen_has(tab, "yes-42")

    for how, name, words in (
        ("checkpoint", "before-lab", "et back to checkpoint before-lab"),
        ("clean", "", "et back to the clean image"),
    ):
        guest.freeze()
        guest.tell("starting", boots=2 if name else 3, how=how, name=name)
        state(tab, "Setting back")
        expect(bar).to_contain_text(f"S{words}.")
        shot(tab, f"reset-{how}")
        guest.switch_off()
        guest.boot()
        state(tab, "Live")
        screen_has(tab, f"the machine was s{words}: this is a new shell")
    command(tab, "echo kept=$kept.", "kept=.")


def test_two_sessions_in_one_browser_do_not_log_each_other_out(
    tab: Page, sidecar: Sidecar, guest: Guest, tmp_path: Path
) -> None:
    guest.boot()
    other = Sidecar(tmp_path, guest.port, PAGE, SESSION_ID="lab2")
    try:
        log_in(tab, sidecar)
        state(tab, "Live")
        second = tab.context.new_page()
        log_in(second, other)
        state(second, "Live")
        tab.reload()
        state(tab, "Live")
        second.reload()
        state(second, "Live")
        assert {"lab1", "lab2"} == {tab.locator("#session").inner_text(), second.locator("#session").inner_text()}
    finally:
        other.stop()


def test_paste_and_large_output(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    paste = """text => {
      const clipboardData = new DataTransfer();
      clipboardData.setData('text/plain', text);
      const area = document.querySelector('.xterm-helper-textarea');
      area.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true}));
    }"""
    tab.evaluate(paste, "echo pasted-$((3+4))")
    tab.keyboard.press("Enter")
    screen_has(tab, "pasted-7")
    command(tab, "seq 300000; echo all-$((4+4))", "all-8")
    tab.add_init_script("""
      const said = (window.said = new Set());
      new MutationObserver(() => said.add(document.querySelector("#state")?.textContent)).observe(document, {
        subtree: true, childList: true, characterData: true});
    """)
    tab.reload()
    at_prompt(tab)
    screen_has(tab, "all-8")
    assert "Reconnecting" not in tab.evaluate("[...said]")  # while all that was printed comes again
    at_prompt(tab)
    type_line(tab, "yes")
    screen_has(tab, "y\ny\ny")
    tab.keyboard.press("Control+c")
    screen_has(tab, f"^C\n{PROMPT}")


def test_a_replay_answers_no_query(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    """A program asked what terminal this is, and where the cursor: after a reload the answers would be typed."""
    open_live(tab, sidecar, guest)
    ask = "printf '\\033[c\\033[>c\\033[5n\\033]11;?\\007\\033[6n'; read -rs -t 60 -d R answer"
    command(tab, f"clear; {ask}; echo $? ${{#answer}} | sed 's/^0 [1-9][0-9]/answered/'", "answered")
    tab.reload()
    at_prompt(tab)
    command(tab, "echo only-$((5+5))", f"answered\n{PROMPT} echo only-$((5+5))\nonly-10")
    tab.evaluate("window.dozlabDrop()")
    state(tab, "Live")
    command(tab, "echo next-$((6+6))", f"only-10\n{PROMPT} echo next-$((6+6))\nnext-12")


def test_a_killed_terminal_comes_back_with_its_tabs(tab: Page, sidecar: Sidecar, guest: Guest, tmp_path: Path) -> None:
    open_live(tab, sidecar, guest)
    tab.keyboard.press("Control+Shift+S")
    at_prompt(tab)
    tab.locator(".tab-name").nth(1).dblclick()
    tab.get_by_label("Name of the tab").fill("logs")
    tab.keyboard.press("Enter")
    at_prompt(tab)
    type_line(tab, "yes lo''ad")
    screen_has(tab, "load\nload\n")
    sidecar.process.kill()
    sidecar.stop()
    expect(tab.get_by_role("alert").filter(visible=True)).to_contain_text("Connection lost")
    again = Sidecar(tmp_path, guest.port, PAGE, PORT=str(sidecar.port))
    try:
        expect(tab.get_by_label("Password")).to_be_visible()
        expect(tab.locator("#why")).to_contain_text("the terminal was started anew. Your tabs are kept.")
        tab.get_by_label("Password").fill(PASSWORD)
        tab.get_by_role("button", name="Log in").click()
        expect(tab.locator(".tab-name")).to_have_text(["Terminal", "logs"])
        command(tab, "echo shell-$((7+7))", "shell-14")
        tab.locator(".tab-name").nth(0).click()
        command(tab, "echo main-$((8+8))", "main-16")
        tab.get_by_role("button", name="Log out").click()
        expect(tab.get_by_label("Password")).to_be_visible()
        expect(tab.locator("#why")).not_to_contain_text("started anew")  # that was told once
    finally:
        assert again.stop() == 0
