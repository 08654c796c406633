"""The terminal's page with keys alone, and by axe-core: nothing serious, in every theme and with every panel open."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import WATCH, at_prompt, at_rest, command, log_in, open_live, screen_has, state, type_line
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

AXE = Path(__file__).parents[2] / "web/terminal/node_modules/axe-core/axe.min.js"


def faults(tab: Page) -> list[str]:
    """Return what axe-core finds serious or critical, one line an element."""
    if tab.evaluate("typeof axe") == "undefined":
        tab.evaluate(AXE.read_text())
    at_rest(tab)
    found = tab.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{fault['id']}: {node['html'][:160]}: {node['failureSummary'][:300]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def test_axe_finds_nothing_serious(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    (guest.home / "folder").mkdir(parents=True)
    (guest.home / "file.txt").write_text("twelve bytes")
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        log_in(tab, sidecar, "wrong")
        expect(tab.get_by_role("alert")).to_contain_text("not the session's")
        assert faults(tab) == [], scheme
    log_in(tab, sidecar)
    state(tab, "Starting")
    expect(tab.locator("#stages li").first).to_be_visible()
    assert faults(tab) == []
    guest.boot()
    at_prompt(tab)
    tab.keyboard.press("Control+Shift+S")
    at_prompt(tab)
    tab.keyboard.press("Control+Shift+E")
    at_prompt(tab)
    for theme in ("Light", "High contrast", "Dark"):
        tab.get_by_role("button", name="Settings").click()
        tab.get_by_role("radio", name=theme).check()
        assert faults(tab) == [], f"settings, {theme}"
        tab.keyboard.press("Escape")
        tab.keyboard.press("Control+Shift+F")
        tab.get_by_label("Find", exact=True).fill("guest")
        expect(tab.locator("#search .count")).to_contain_text("of")
        tab.keyboard.press("Control+Shift+M")
        assert faults(tab) == [], f"search and menu, {theme}"
        tab.keyboard.press("Escape")
        tab.keyboard.press("Control+Shift+?")
        assert faults(tab) == [], f"keys, {theme}"
        tab.keyboard.press("Escape")
    at_prompt(tab)
    type_line(tab, "exit 1")
    expect(tab.get_by_role("alert")).to_contain_text("status 1")
    assert faults(tab) == [], "an ended shell"
    closed = [{"port": 9000 + at, "addresses": ["127.0.0.1"], "open": False, "link": False} for at in range(60)]
    tab.route("**/ports", lambda route: route.fulfill(json={"ports": closed, "note": ""}))  # more than fit, and no link
    for button in tab.locator("#panel-buttons button:visible").all():
        button.click()
        expect(tab.locator("#drawer")).to_be_visible()
        tab.wait_for_load_state("networkidle")
        expect(tab.locator("#drawer [aria-busy=true]")).to_have_count(0)
        assert faults(tab) == [], button.get_attribute("data-panel")
        tab.get_by_role("button", name="Close panel").click()


def test_all_is_reached_by_keys_and_the_program_loses_none(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    tab.evaluate("document.body.tabIndex = -1; document.body.focus()")  # as from the browser's own controls
    tab.keyboard.press("Tab")
    first = tab.locator(":focus")
    expect(first).to_have_text("Turn on screen reader mode")
    tab.keyboard.press("Enter")
    expect(tab.locator(".xterm-accessibility")).to_be_attached()
    expect(tab.locator("#said")).to_contain_text("Screen reader mode is on")

    type_line(tab, "clear; echo re''ady; cat -v")  # and here the terminal has the focus: each key is its own
    screen_has(tab, "ready\n")
    for key in ("F1", "Tab", "Control+f", "Control+a", "Alt+x", "Shift+Tab"):
        tab.keyboard.press(key)
    tab.keyboard.press("Enter")
    screen_has(tab, "^[OP")
    screen_has(tab, "^F^A^[x^[[Z")
    tab.keyboard.press("Control+c")
    at_prompt(tab)

    tab.keyboard.press("Control+Shift+M")
    menu = tab.get_by_role("menu")
    expect(menu.get_by_role("menuitem").first).to_be_focused()
    tab.keyboard.press("ArrowUp")
    expect(menu.get_by_role("menuitem").last).to_be_focused()
    tab.keyboard.press("Enter")
    dialog = tab.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("Split right")
    tab.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    tab.keyboard.press("Control+Shift+M")
    tab.keyboard.press("Tab")  # out of the menu, on through the page
    expect(menu).to_be_hidden()
    expect(tab.get_by_role("button", name="Menu")).to_be_focused()
    tab.keyboard.press("Shift+Tab")
    expect(tab.get_by_role("button", name="Settings")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="Settings")).to_be_focused()
    tab.keyboard.press("Escape")
    command(tab, "echo end-$((4+5))", "end-9")


def test_what_a_screen_reader_says_is_news(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    """A live region that is written again is read again, whatever it held before."""
    open_live(tab, sidecar, guest)
    expect(tab.locator("#latency")).not_to_be_empty()
    other = tab.context.new_page()
    company = tab.locator("#people")

    def others_come_and_go() -> None:
        """Each of both is a STATE."""
        other.goto(tab.url)
        expect(company).to_be_visible()
        other.goto("about:blank")
        expect(company).to_be_hidden()

    tab.evaluate(WATCH, ["states", "#state"])
    others_come_and_go()
    assert tab.evaluate("states") == []
    at_prompt(tab)
    type_line(tab, "exit 3")
    expect(tab.get_by_role("alert")).to_contain_text("status 3")
    tab.evaluate(WATCH, ["notices", ".notice"])
    others_come_and_go()
    assert tab.evaluate("notices") == []
    assert tab.evaluate("getComputedStyle(document.querySelector('#said')).display") != "none"  # heard from the start
    other.close()


def test_output_is_read_and_terminals_have_names(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    tab.get_by_role("button", name="Turn on screen reader mode").focus()
    tab.keyboard.press("Enter")
    region = ".xterm-accessibility .live-region"
    expect(tab.locator(region)).to_be_attached()
    tab.evaluate(WATCH, ["heard", region])
    command(tab, "echo aloud-$((4+4))", "aloud-8")
    tab.wait_for_function("() => heard.join().includes('aloud-8')")
    expect(tab.get_by_role("group", name="Terminal", exact=True)).to_be_visible()
    tab.keyboard.press("Control+Shift+S")
    at_prompt(tab)
    tab.keyboard.press("Control+Shift+E")
    at_prompt(tab)
    expect(tab.get_by_role("group", name="Terminal 2, pane 1 of 2")).to_be_visible()
    type_line(tab, "printf '\\033]2;notes\\007'")
    expect(tab.get_by_role("group", name="notes, pane 2 of 2")).to_be_visible()
