"""People in the page: a link made and used, a viewer who only watches, taking over, revoking."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import (
    SCREEN,
    WATCH,
    Held,
    at_prompt,
    at_rest,
    command,
    open_live,
    screen_has,
    shot,
    somebody,
    state,
    type_line,
)
from tests.browser.test_page_accessibility import faults
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture
def other(browser: Browser) -> Iterator[Page]:
    """Yield a page of somebody else's browser."""
    with somebody(browser, viewport={"width": 1000, "height": 640}) as page:
        yield page


def people(tab: Page) -> Locator:
    """Open the panel."""
    tab.get_by_role("button", name="People").click()
    panel = tab.locator(".drawer .people")
    expect(panel.get_by_role("heading", name="Here now")).to_be_visible()
    return panel


def make_link(tab: Page, role: str, name: str = "") -> str:
    """Make an invitation and return its link."""
    panel = people(tab)
    panel.get_by_label("Role").select_option(role)
    panel.get_by_role("textbox", name="Who").fill(name)
    panel.get_by_role("button", name="Make a link").click()
    link = panel.get_by_role("textbox", name="Link")
    expect(link).to_have_value(f"{tab.url}join#{link.input_value().partition('#')[2]}")
    return link.input_value()


def join(tab: Page, link: str, name: str = "") -> None:
    tab.goto(link)
    tab.get_by_label("Your name").fill(name)
    tab.get_by_role("button", name="Join").click()
    state(tab, "Live")


def test_a_viewer_watches_by_a_link_until_it_is_revoked(tab: Page, other: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    asked: list[str] = []
    other.on("request", lambda request: asked.append(request.url))
    link = make_link(tab, "viewer")
    tab.evaluate(WATCH, ["said", "#said"])
    join(other, link, "Vera")
    assert other.url == f"{sidecar.origin}/"
    assert not any(link.partition("#")[2] in url for url in asked)  # not even in a Referer: the fragment stays here
    tab.wait_for_function("() => said.includes('Here now: Vera (viewer).')")
    panel = tab.locator(".drawer .people")
    row = panel.get_by_role("list", name="Who is here").get_by_role("listitem").filter(has_text="Vera")
    expect(row).to_contain_text("Viewer")
    expect(panel.get_by_role("list", name="Invitations").get_by_role("listitem")).to_contain_text("came in")
    assert faults(tab) == []
    shot(tab, "people-owner")

    at_prompt(other)
    other.evaluate(WATCH, ["said", "#said"])
    type_line(other, "echo from-the-viewer")
    other.wait_for_function("() => said.join().includes('You watch here')")
    tab.locator(".pane.active .screen, .pane .screen").first.click()
    command(tab, "echo from-the-ow''ner", "from-the-owner")
    screen_has(other, "from-the-owner")
    assert "from-the-viewer" not in tab.evaluate(SCREEN)
    seen = people(other)
    expect(seen).to_contain_text("this link lets you see, not type")
    expect(seen.get_by_role("button", name="Take over")).to_be_hidden()
    expect(seen.get_by_role("heading", name="Invite")).to_be_hidden()
    at_rest(other)
    shot(other, "people-viewer")

    panel.get_by_role("button", name="Revoke").click()
    expect(other.get_by_label("Password")).to_be_visible()
    expect(other.locator("#why")).to_have_text("Your invitation was revoked.")
    expect(row).to_have_count(0)
    other.goto(link)
    other.get_by_role("button", name="Join").click()
    expect(other.get_by_role("alert")).to_contain_text("This link is not good any more")
    assert other.url == f"{sidecar.origin}/join"
    assert faults(other) == []


def test_the_size_is_the_owners_and_the_owner_takes_over_an_editor(
    tab: Page, other: Page, sidecar: Sidecar, guest: Guest
) -> None:
    open_live(tab, sidecar, guest)
    join(other, make_link(tab, "editor", "Ed"))
    theirs, ours = people(other), tab.locator(".drawer .people")
    expect(theirs).to_contain_text("Owner leads this terminal.")
    expect(theirs.get_by_label("Your name")).to_be_hidden()  # the invitation says it
    expect(ours.get_by_role("list", name="Who is here")).to_contain_text("Ed")

    # refused until the owner has typed nothing for five seconds
    other.wait_for_function(
        """() => {
            const button = [...document.querySelectorAll(".people button")].find(b => b.textContent === "Take over");
            if (!button.hidden) button.click();
            return document.querySelector(".people .lead").textContent === "You lead this terminal.";
        }""",
        polling=250,
    )  # fmt: skip
    expect(ours).to_contain_text("Ed leads this terminal.")
    ours.get_by_role("button", name="Take over").click()
    expect(ours).to_contain_text("You lead this terminal.")
    expect(theirs).to_contain_text("Owner leads this terminal.")

    other.keyboard.press("Escape")
    at_prompt(other)
    type_line(other, "stty size; echo by-the-edi''tor")  # whoever may type does, leading or not
    screen_has(tab, "by-the-editor")
    cols, rows = tab.evaluate("window.dozlabScreenState().then((screen) => [screen.cols, screen.rows])")
    screen_has(other, f"{rows} {cols}")


def test_no_link_is_lost_to_a_double_click_a_late_answer_or_another_revocation(
    tab: Page, sidecar: Sidecar, guest: Guest
) -> None:
    open_live(tab, sidecar, guest)
    first = make_link(tab, "viewer", "Ann")
    panel = tab.locator(".drawer .people")
    invited = panel.get_by_role("list", name="Invitations").get_by_role("listitem")
    who, link = panel.get_by_role("textbox", name="Who"), panel.get_by_role("textbox", name="Link")
    expect(invited).to_have_count(1)

    making = Held(tab, "**/people/invitations", "POST")
    listing = Held(tab, "**/people")
    who.fill("Bob")
    panel.get_by_role("button", name="Make a link").dblclick()
    making.wait()
    who.fill("Cleo")  # the next one, while the answer is on its way
    making.release()
    expect(link).not_to_have_value(first)
    second = link.input_value()
    expect(who).to_have_value("Cleo")
    expect(who).to_be_focused()
    listing.wait()
    assert len(tab.evaluate("fetch('people').then(reply => reply.json())")["invitations"]) == 2

    panel.get_by_role("button", name="Revoke the invitation of Ann").click()
    expect(invited).to_have_count(1)
    expect(invited).to_contain_text("Bob")
    expect(link).to_have_value(second)
    listing.release()  # it tells of Ann
    expect(invited).to_have_count(1)
    panel.get_by_role("button", name="Revoke the invitation of Bob").click()
    expect(invited).to_have_count(0)
    expect(link).to_be_hidden()


def test_a_tab_that_a_viewer_lets_go_of_goes_on_and_stays_away(
    tab: Page, other: Page, sidecar: Sidecar, guest: Guest
) -> None:
    open_live(tab, sidecar, guest)
    tab.keyboard.press("Control+Shift+S")
    at_prompt(tab)
    link = make_link(tab, "viewer")
    join(other, link)
    second = other.locator(".tab").nth(1)
    second.locator(".tab-name").click()
    at_prompt(other)
    expect(tab.locator(".drawer .people")).to_contain_text("in Terminal, Terminal 2")  # by the names of tabs
    gone = second.get_attribute("data-tab")
    other.keyboard.press("Control+Shift+X")  # without a question, for nothing is ended
    expect(other.locator(".tab")).to_have_count(1)
    tab.keyboard.press("Control+Shift+S")
    expect(tab.locator(".tab")).to_have_count(3)
    expect(other.locator(".tab")).to_have_count(2)
    assert second.get_attribute("data-tab") != gone
    assert len(tab.evaluate("fetch('shells').then(reply => reply.json())")["shells"]) == 3
