"""Tabs and splits of the terminal: each pane a shell of its own, by mouse and by keys, all there after a reload."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    WATCH,
    Held,
    at_prompt,
    command,
    open_live,
    screen_has,
    shot,
    state,
    type_line,
    typing_goes_to_the_terminal,
    until,
)
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def names(tab: Page) -> list[str]:
    return tab.locator(".tab-name").all_inner_texts()


def shells(tab: Page) -> list[str]:
    listed = tab.evaluate("fetch('shells').then(reply => reply.json())")
    return [shell["name"] for shell in listed["shells"]]


def test_tabs_are_made_named_moved_kept_and_closed(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    type_line(tab, "where=first; printf '\\033]2;editor\\007'")
    expect(tab.locator(".tab-name")).to_have_text(["editor"])
    tab.keyboard.press("Control+Shift+S")
    expect(tab.locator(".tab-name")).to_have_text(["editor", "Terminal 2"])
    command(tab, "where=second; echo $where-$((1+1))", "second-2")
    tab.get_by_role("button", name="New terminal").click()
    at_prompt(tab)

    tab.locator(".tab-name").nth(1).dblclick()
    tab.get_by_label("Name of the tab").fill("  <i>logs</i> ")
    tab.keyboard.press("Enter")
    expect(tab.locator(".tab-name")).to_have_text(["editor", "<i>logs</i>", "Terminal 3"])
    command(tab, "echo $where-typed", "second-typed")  # the focus is back in the terminal

    tab.locator(".tab-name").nth(1).focus()
    tab.keyboard.press("Control+Shift+ArrowLeft")
    expect(tab.locator(".tab-name")).to_have_text(["<i>logs</i>", "editor", "Terminal 3"])
    tab.locator(".tab").nth(2).drag_to(tab.locator(".tab").nth(0), target_position={"x": 4, "y": 10})
    expect(tab.locator(".tab-name")).to_have_text(["Terminal 3", "<i>logs</i>", "editor"])
    tab.locator(".tab-name").nth(1).focus()
    tab.keyboard.press("ArrowRight")
    expect(tab.locator("[aria-current]")).to_have_text("editor")
    tab.keyboard.press("Escape")
    command(tab, "echo $where-again", "first-again")
    shot(tab, "tabs")

    tab.reload()
    state(tab, "Live")
    expect(tab.locator(".tab-name")).to_have_text(["Terminal 3", "<i>logs</i>", "editor"])
    screen_has(tab, "first-again")
    tab.keyboard.press("Control+Shift+H")
    screen_has(tab, "second-typed")
    tab.keyboard.press("Control+Shift+L")
    screen_has(tab, "first-again")

    assert len(shells(tab)) == 3
    tab.locator(".tab-name").nth(1).focus()
    tab.keyboard.press("Delete")
    expect(tab.get_by_role("dialog")).to_contain_text("Close this terminal?")
    tab.keyboard.press("Escape")
    expect(tab.locator(".tab")).to_have_count(3)
    tab.get_by_role("button", name="Close <i>logs</i>").click()
    tab.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(tab.locator(".tab-name")).to_have_text(["Terminal 3", "editor"])
    until(tab, "fetch('shells').then(r => r.json()).then(({shells}) => shells.length === 2)")
    assert "main" in shells(tab)


def test_a_tab_that_another_browser_opens_or_closes_is_followed(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    tab.keyboard.press("Control+Shift+S")
    expect(tab.locator(".tab")).to_have_count(2)
    command(tab, "echo shared-$((2+2))", "shared-4")
    other = tab.context.browser.new_context(storage_state=tab.context.storage_state()).new_page()  # type: ignore[union-attr]
    other.add_init_script("localStorage.clear()")
    other.goto(tab.url)
    expect(other.locator(".tab")).to_have_count(2)
    other.locator(".tab-name").nth(1).click()
    at_prompt(other)
    screen_has(other, "shared-4")
    other.keyboard.press("Control+Shift+X")
    expect(other.get_by_role("dialog")).to_contain_text("Close this terminal?")
    other.keyboard.press("Enter")
    expect(other.locator(".tab")).to_have_count(1)
    expect(tab.locator(".tab")).to_have_count(1)
    expect(tab.locator("#said")).to_contain_text("closed by somebody else")
    screen_has(tab, "guest$")
    other.context.close()


def test_a_tab_splits_into_panes_that_can_be_sized(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    command(tab, "echo si''ze", "size")
    tab.keyboard.press("Control+Shift+E")
    command(tab, "echo right", "right")
    tab.keyboard.press("Control+Shift+O")
    command(tab, "echo below-$((3+3)); printf '\\033]2;below\\007'", "below-6")
    expect(tab.locator(".pane:visible")).to_have_count(3)
    expect(tab.locator(".pane.active .pane-title")).to_have_text("below")
    shot(tab, "splits")

    def columns() -> int:
        return int(tab.evaluate("dozlabScreenState().then(state => state.cols)"))

    narrow = columns()
    line = tab.locator(".divider[data-direction=row]")
    line.focus()
    for _ in range(4):
        tab.keyboard.press("ArrowLeft")
    expect(line).to_have_attribute("aria-valuenow", "30")
    tab.keyboard.press("Control+Shift+G")  # from the last pane to the first
    tab.keyboard.press("Control+Shift+G")
    tab.keyboard.press("Control+Shift+G")
    command(tab, "echo back-in-$((3*3))", "back-in-9")
    assert columns() > narrow
    box = line.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + 4, box["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(560, box["y"] + 100, steps=3)
    tab.mouse.up()
    expect(line).to_have_attribute("aria-valuenow", "50")

    tab.reload()
    expect(tab.locator(".pane:visible")).to_have_count(3)
    screen_has(tab, "back-in-9")
    tab.locator(".pane:visible").nth(0).click()
    screen_has(tab, "\nsize\n")
    tab.locator(".pane:visible").nth(1).locator(".screen").click()
    at_prompt(tab)
    tab.locator(".pane:visible").nth(1).get_by_role("button", name="Close this terminal").click()
    expect(tab.get_by_role("dialog")).to_contain_text("Close this terminal?")
    tab.keyboard.press("Enter")
    expect(tab.locator(".pane:visible")).to_have_count(2)
    expect(tab.locator(".divider")).to_have_count(1)
    assert tab.locator(".tab").count() == 1
    at_prompt(tab)
    type_line(tab, "exit")
    expect(tab.get_by_role("alert")).to_contain_text("ended")
    tab.keyboard.press("Control+Shift+X")  # nothing runs there: no question
    expect(tab.locator(".pane:visible")).to_have_count(1)


def test_a_click_that_ends_a_naming_does_what_it_is_for(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    tab.keyboard.press("Control+Shift+S")
    at_prompt(tab)
    name = tab.get_by_label("Name of the tab")
    tab.locator(".tab-name").nth(0).dblclick()  # of the tab that is not shown
    name.fill("one")
    tab.locator(".tab-name", has_text="Terminal 2").click()
    expect(tab.locator(".tab-name")).to_have_text(["one", "Terminal 2"])
    expect(tab.locator("[aria-current]")).to_have_text("Terminal 2")
    assert typing_goes_to_the_terminal(tab)

    tab.keyboard.press("Control+Shift+F")
    find = tab.get_by_role("textbox", name="Find")
    expect(find).to_be_focused()
    tab.locator(".tab-name").nth(1).dblclick()
    name.fill("two")
    find.click()
    expect(tab.locator(".tab-name")).to_have_text(["one", "two"])
    tab.keyboard.type("echo")
    expect(find).to_have_value("echo")

    # A terminal that somebody else closes takes no keys from who types elsewhere.
    tab.locator(".tab-name").nth(0).click()
    at_prompt(tab)
    find.click()
    gone = next(shell for shell in shells(tab) if shell != "main")
    assert tab.evaluate("name => fetch(`shells/${name}`, {method: 'DELETE'}).then(reply => reply.ok)", gone)
    expect(tab.locator("#said")).to_contain_text("closed by somebody else")
    expect(tab.locator(".tab-name")).to_have_text(["one"])
    tab.keyboard.type("-on")
    expect(find).to_have_value("echo-on")


def test_a_closed_tab_does_not_come_back_with_a_late_list(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    tab.keyboard.press("Control+Shift+S")
    at_prompt(tab)
    late = Held(tab, "**/shells")
    tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # then the page asks which there are
    late.wait()
    tab.keyboard.press("Control+Shift+X")
    tab.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(tab.locator(".tab")).to_have_count(1)
    until(tab, "fetch('shells').then(r => r.json()).then(({shells}) => shells.length === 1)")
    with tab.expect_request("**/shells"):
        late.release()  # it tells of two, and is not believed: the page asks again
    until(tab, "fetch('shells').then(r => r.json()).then(({shells}) => shells.length === 1)")
    expect(tab.locator(".tab")).to_have_count(1)


@pytest.mark.parametrize("unsent", [True, False], ids=["not asked yet", "not answered yet"])
def test_the_last_terminal_is_opened_anew_when_it_is_closed(
    tab: Page, sidecar: Sidecar, guest: Guest, unsent: bool
) -> None:
    open_live(tab, sidecar, guest)
    command(tab, "kept=yes; echo se''t", "set")
    tab.evaluate(WATCH, ["said", "#said"])
    closing = Held(tab, "**/shells/main", "DELETE", unsent=unsent)
    tab.keyboard.press("Control+Shift+X")
    tab.get_by_role("dialog").get_by_role("button", name="Close").click()
    closing.wait()
    state(tab, "Connecting")  # and not into the one that is being closed
    assert typing_goes_to_the_terminal(tab)
    type_line(tab, "echo early-$((1+1))-$kept.")  # is for the new one
    closing.release()
    screen_has(tab, "early-2-.")
    command(tab, "echo kept=$kept.", "kept=.")
    assert tab.evaluate("said") == []  # least of all that somebody else has closed it
    assert names(tab) == ["Terminal"] and shells(tab) == ["main"]


def test_what_is_typed_before_a_new_terminal_is_there_is_not_lost(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    tab.keyboard.press("Control+Shift+S")
    type_line(tab, "echo early-$((2+2))")
    screen_has(tab, "early-4")
    at_prompt(tab)


def test_who_watches_sees_terminals_come_and_go(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    other = tab.context.new_page()
    other.goto(tab.url)
    at_prompt(other)
    other.evaluate(WATCH, ["said", "#said"])
    tab.keyboard.press("Control+Shift+S")
    at_prompt(tab)
    expect(other.locator(".tab-name")).to_have_text(["Terminal", "Terminal 2"])
    expect(other.locator("[aria-current]")).to_have_text("Terminal")  # it comes, and takes nobody along
    tab.keyboard.press("Control+Shift+X")
    tab.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(tab.locator(".tab")).to_have_count(1)
    expect(other.locator(".tab")).to_have_count(1)  # nobody has looked at it here, so nothing is lost
    command(other, "echo here-$((3+3))", "here-6")
    assert other.evaluate("said") == []
    other.close()
