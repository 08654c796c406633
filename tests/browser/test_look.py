"""How the terminal's page looks and feels, beside what its rivals do: fingers, small screens, what lies over what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, TimeoutError, expect

from tests.browser.conftest import PAGE, at_prompt, at_rest, log_in, open_live, somebody, state, type_line
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SMALL = """() => [...document.querySelectorAll('button, a, input, select, textarea')]
    .filter(node => node.checkVisibility() && !node.matches('.xterm-helper-textarea, .skip, .sr'))
    .map(node => [node, (node.matches('[type=checkbox], [type=radio]') ? node.closest('label') : node)])
    .map(([node, area]) => [node, area.getBoundingClientRect()])
    .filter(([node, {width, height}]) => width > 0 && !(
        height >= (node.matches('.crumb, .pane-head *') ? 36 : 44)
        && width >= (node.matches('.tab-close, .recording-link') ? 36 : 44)))
    .map(([node, {width, height}]) => `${node.ariaLabel || node.textContent || node.name}: ${width} x ${height}`)"""
"""Names the controls that are smaller than 44 px (WCAG 2.2, 2.5.5); a few in tight rows have 36 one way."""
SIDEWAYS = """() => ['html', 'body', '.bar', '.stage', '.drawer', '.menu', '.search', '.key-row']
    .filter(name => [...document.querySelectorAll(name)].some(node =>
        node.checkVisibility() && (node.scrollLeft > 0 || node.scrollWidth > node.clientWidth)))"""
"""Names what is wider inside than outside: it moves under a finger or with the focus, scroll bar or not."""


def none(page: Page, which: str) -> None:
    """Wait until the script names nothing."""
    at_rest(page)
    try:
        page.wait_for_function(f"() => ({which})().length === 0")
    except TimeoutError as error:
        raise AssertionError(f"{page.evaluate(which)}") from error


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    with somebody(browser, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as page:
        yield page


def test_fingers_find_all_controls_of_a_phone(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    phone.goto(f"{sidecar.origin}/")
    none(phone, SMALL)
    open_live(phone, sidecar, guest)
    none(phone, SMALL)
    menu = phone.get_by_role("button", name="Menu")
    for name in ("New terminal", "Split down"):
        menu.tap()
        none(phone, SMALL)
        none(phone, SIDEWAYS)
        phone.get_by_role("menuitem", name=name).tap()
        at_prompt(phone)
        none(phone, SMALL)
        none(phone, SIDEWAYS)
    for panel in phone.locator("#panel-buttons button:visible").all():
        panel.tap()
        phone.wait_for_load_state("networkidle")
        expect(phone.locator("#drawer [aria-busy=true]")).to_have_count(0)
        none(phone, SMALL)
        none(phone, SIDEWAYS)
        phone.get_by_role("button", name="Close panel").tap()
    phone.keyboard.press("Control+Shift+F")
    expect(phone.get_by_label("Find", exact=True)).to_be_focused()
    none(phone, SMALL)
    none(phone, SIDEWAYS)


def test_a_phone_does_not_zoom_into_what_is_tapped(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    """Safari on iOS does where the letters are smaller than 16 px: into the terminal too, by its hidden text area."""
    small = """() => [...document.querySelectorAll('input, select, textarea')]
        .filter(node => parseFloat(getComputedStyle(node).fontSize) < 16).map(node => node.className || node.name)"""
    phone.goto(f"{sidecar.origin}/")
    expect(phone.get_by_label("Password")).to_be_visible()
    none(phone, small)
    open_live(phone, sidecar, guest)
    expect(phone.locator(".xterm-helper-textarea")).to_be_attached()
    none(phone, small)
    for name in ("People", "Settings"):
        phone.get_by_role("button", name=name).tap()
        expect(phone.locator("#drawer input").first).to_be_attached()
        none(phone, small)
        phone.get_by_role("button", name="Close panel").tap()


def test_a_phone_logs_out_by_the_menu_and_shows_the_session(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    guest.tell("running")
    log_in(phone, sidecar)
    state(phone, "Starting")
    whole = """() => {
      const name = document.querySelector('#session');
      return name.clientWidth > 0 && name.scrollWidth <= name.clientWidth ? [] : [name.textContent];
    }"""
    none(phone, whole)  # whatever the state: a word cut off after three letters said nothing
    guest.boot()
    at_prompt(phone)
    none(phone, whole)
    phone.get_by_role("button", name="Menu").tap()
    phone.get_by_role("menuitem", name="Log out").tap()
    expect(phone.get_by_label("Password")).to_be_visible()


def test_a_wide_page_has_log_out_once(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    tab.get_by_role("button", name="Menu").click()
    expect(tab.get_by_role("menuitem", name="Keys")).to_be_visible()
    expect(tab.get_by_role("menuitem", name="Log out")).to_have_count(0)
    expect(tab.get_by_role("button", name="Log out")).to_be_visible()


def test_what_the_page_says_does_not_cover_a_notice(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(phone, sidecar, guest)
    type_line(phone, "exit 3")
    expect(phone.get_by_role("alert")).to_contain_text("status 3")
    covered = """() => {
      const [said, notice] = ['#said', '.pane:not([hidden]) .notice'].map(each => document.querySelector(each));
      const [upper, lower] = [said, notice].map(each => each.getBoundingClientRect());
      return said.textContent && upper.bottom <= lower.top ? [] : [upper.bottom, lower.top];
    }"""
    phone.evaluate("document.querySelector('#reader').click()")
    none(phone, covered)


def test_a_phone_shows_the_chosen_tab_of_many(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(phone, sidecar, guest)
    hidden = """() => {
      const [list, tab] = ['.tabs', '.tab:has([aria-current])'].map(each => document.querySelector(each));
      const [outer, inner] = [list, tab].map(each => each.getBoundingClientRect());
      return inner.left >= outer.left - 1 && inner.right <= outer.right + 1 ? [] : [tab.textContent];
    }"""
    for count in range(2, 6):
        phone.keyboard.press("Control+Shift+S")
        expect(phone.locator(".tab")).to_have_count(count)
        at_prompt(phone)
        none(phone, hidden)
    phone.keyboard.press("Control+Shift+L")  # on from the last one: to the first
    expect(phone.locator(".tab-name").first).to_have_attribute("aria-current", "true")
    none(phone, hidden)
    none(phone, SIDEWAYS)


@pytest.mark.parametrize("touch", [True, False])
def test_nothing_of_the_header_lies_over_another(browser: Browser, tmp_path: Path, guest: Guest, touch: bool) -> None:
    (tmp_path / "recordings").mkdir()
    long = {"SESSION_ID": "cs101-alice-and-bob-week-12", "RECORDING_DIR": str(tmp_path / "recordings")}
    sidecar = Sidecar(tmp_path, guest.port, PAGE, **long)
    over = """() => {
      const parts = [...document.querySelectorAll('.bar > *, .bar button')].filter(node => node.checkVisibility());
      const boxes = parts.map(node => [node, node.getBoundingClientRect()]).filter(([, box]) => box.width > 1);
      return boxes.flatMap(([one, a], at) => boxes.slice(at + 1)
          .filter(([other, b]) => !one.contains(other) && !other.contains(one)
              && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
              && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
          .map(([other]) => `${one.id || one.className} and ${other.id || other.className}`));
    }"""
    try:
        with somebody(browser, has_touch=touch, is_mobile=touch, viewport={"width": 740, "height": 360}) as page:
            open_live(page, sidecar, guest)
            expect(page.locator("#recording")).to_be_visible()
            for width in (360, 481, 740, 820, 1024):
                page.set_viewport_size({"width": width, "height": 740})
                none(page, over)
                none(page, SIDEWAYS)
    finally:
        sidecar.stop()
