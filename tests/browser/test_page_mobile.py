"""The terminal's page on a phone and at other widths: row of keys, no sideways scrolling, scaling for who follows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Faults, at_rest, log_in, open_live, screen_has, shot, state, type_line, until
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        color_scheme="dark",
    )
    faults = Faults()
    context.on("page", faults.watch)
    yield context.new_page()
    context.close()
    assert faults == []


def fits(page: Page) -> None:
    """Nothing is wider than the page, nor outside of it."""
    at_rest(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
    outside = page.evaluate(
        """[...document.querySelectorAll('button, input, select, h1, h2, dialog, aside')]
            .filter(node => node.checkVisibility() && !node.closest('.tabs, .skip'))
            .map(node => [node.id || node.className || node.textContent, node.getBoundingClientRect()])
            .filter(([, box]) => box.width && (box.left < -0.5 || box.right > innerWidth + 0.5))
            .map(([name, box]) => `${name}: ${box.left} to ${box.right}`)"""
    )
    assert outside == []


def test_a_phone_has_the_keys_it_lacks(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    phone.goto(f"{sidecar.origin}/")
    fits(phone)
    shot(phone, "phone-login")
    open_live(phone, sidecar, guest)
    keys = phone.get_by_role("toolbar", name="Keys")
    expect(keys.get_by_role("button")).to_have_count(12)
    type_line(phone, "echo up-$((7*7))")
    screen_has(phone, "up-49")
    keys.get_by_role("button", name="Up").tap()
    keys.get_by_role("button", name="Pipe").tap()
    phone.keyboard.type("cat -v")
    phone.keyboard.press("Enter")
    screen_has(phone, "|cat -v\nup-49")
    phone.keyboard.type("cat -v\n")
    for name in ("Escape", "Tilde", "Slash", "Left"):
        keys.get_by_role("button", name=name).tap()
    control = keys.get_by_role("button", name="Control", exact=True)
    control.tap()
    expect(control).to_have_attribute("aria-pressed", "true")
    phone.keyboard.type("a")
    expect(control).to_have_attribute("aria-pressed", "false")
    keys.get_by_role("button", name="Alt").tap()
    phone.keyboard.type("b\n")
    screen_has(phone, "^[~/^[[D^A^[b")
    keys.get_by_role("button", name="Control C").tap()
    screen_has(phone, "^C")
    shot(phone, "phone")
    fits(phone)

    phone.get_by_role("button", name="Menu").tap()
    fits(phone)
    shot(phone, "phone-menu")
    phone.get_by_role("menuitem", name="New terminal").tap()
    expect(phone.locator(".tab")).to_have_count(2)
    fits(phone)
    phone.get_by_role("button", name="Menu").tap()
    phone.get_by_role("menuitem", name="Find").tap()
    fits(phone)
    shot(phone, "phone-search")
    phone.keyboard.press("Escape")
    for button in phone.locator("#panel-buttons button:visible").all():
        button.tap()
        expect(phone.locator("#drawer")).to_be_visible()
        fits(phone)
        shot(phone, f"phone-{button.get_attribute('data-panel')}")
        phone.get_by_role("button", name="Close panel").tap()
    phone.keyboard.press("Control+Shift+?")
    expect(phone.get_by_role("dialog")).to_be_visible()
    fits(phone)
    shot(phone, "phone-keys")
    phone.keyboard.press("Escape")
    expect(phone.get_by_role("button", name="Log out")).to_be_visible()


def test_it_looks_right_at_three_sizes(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    type_line(tab, "clear; ls --color=always -la / | head -12; printf '\\033[1;32mok\\033[0m \\033[33mwarn\\033[0m\\n'")
    screen_has(tab, "warn")
    tab.keyboard.press("Control+Shift+S")
    screen_has(tab, "guest$")
    tab.keyboard.press("Control+Shift+H")
    for scheme in ("dark", "light"):
        tab.emulate_media(color_scheme=scheme)
        for width, height in ((360, 740), (768, 1024), (1440, 900)):
            tab.set_viewport_size({"width": width, "height": height})
            screen_has(tab, "warn")
            fits(tab)
            shot(tab, f"{scheme}-{width}")
            tab.get_by_role("button", name="Settings").click()
            fits(tab)
            shot(tab, f"{scheme}-{width}-settings")
            tab.keyboard.press("Escape")
    tab.keyboard.press("Control+Shift+U")
    tab.wait_for_function("document.fullscreenElement !== null")
    tab.keyboard.press("Control+Shift+U")
    tab.wait_for_function("document.fullscreenElement === null")


def test_who_follows_sees_all_of_the_leaders_screen(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    small = tab.context.new_page()
    small.set_viewport_size({"width": 420, "height": 400})
    small.goto(f"{sidecar.origin}/")
    state(small, "Live")
    tab.bring_to_front()
    tab.locator(".screen").click()
    type_line(tab, "clear; stty size; seq -s- 60")
    screen_has(tab, "-58-59-60")
    size = "dozlabScreenState().then(({cols, rows}) => [cols, rows])"
    large = tab.evaluate(size)
    until(small, f"wanted => {size}.then(size => size.join() === wanted.join())", large)
    screen_has(small, f"{large[1]} {large[0]}")
    inside = """() => {
      const box = name => document.querySelector(name).getBoundingClientRect();
      const [inner, outer] = [box('.xterm-screen'), box('.stage')];
      return inner.right <= outer.right + 1 && inner.bottom <= outer.bottom + 1;
    }"""
    assert small.evaluate(inside)
    shot(small, "follower")
    small.bring_to_front()
    small.locator(".screen").click()
    type_line(small, "echo lead-$((2*2))")
    screen_has(small, "lead-4")
    until(small, f"large => {size}.then(size => size[0] < large)", large[0])
    assert small.evaluate(inside)


def test_login_on_a_phone(phone: Page, sidecar: Sidecar) -> None:
    log_in(phone, sidecar, "wrong")
    expect(phone.get_by_role("alert")).to_contain_text("not the session's password")
    fits(phone)
