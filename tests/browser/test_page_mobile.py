"""The terminal's page on a phone and at other widths: row of keys, no sideways scrolling, scaling for who follows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, TimeoutError, expect

from tests.browser.conftest import (
    PROMPT,
    SCREEN,
    at_prompt,
    at_rest,
    command,
    log_in,
    open_live,
    screen_has,
    shot,
    somebody,
    state,
    type_line,
    until,
)
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    size = {"width": 360, "height": 740}
    with somebody(browser, viewport=size, has_touch=True, is_mobile=True, color_scheme="dark") as page:
        yield page


OUTSIDE = """[...document.querySelectorAll('html, button, input, select, h1, h2, dialog, aside')]
    .filter(node => node.checkVisibility() && !node.closest('.tabs, .crumbs, .skip'))
    .map(node => [node.id || node.className || node.textContent, node.getBoundingClientRect(), node])
    .filter(([, box, node]) => box.width && (box.left < -0.5 || box.right > innerWidth + 0.5)
        || node === document.documentElement && node.scrollWidth > innerWidth)
    .map(([name, box]) => `${name}: ${box.left} to ${box.right}`)"""


def fits(page: Page) -> None:
    """Nothing is wider than the page, nor outside of it but in rows that scroll, once it has taken its new size."""
    at_rest(page)
    try:
        page.wait_for_function(f"() => {OUTSIDE}.length === 0")
    except TimeoutError as error:
        raise AssertionError(f"outside: {page.evaluate(OUTSIDE)}") from error


def test_a_phone_has_the_keys_it_lacks(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    phone.goto(f"{sidecar.origin}/")
    fits(phone)
    shot(phone, "phone-login")
    open_live(phone, sidecar, guest)
    keys = phone.get_by_role("toolbar", name="Keys")
    expect(keys.get_by_role("button")).to_have_count(12)
    command(phone, "echo up-$((7*7))", "up-49")
    keys.get_by_role("button", name="Up").tap()
    keys.get_by_role("button", name="Pipe").tap()
    phone.keyboard.type("cat -v")
    phone.keyboard.press("Enter")
    screen_has(phone, f"|cat -v\nup-49\n{PROMPT}")
    type_line(phone, "echo re''ady; cat -v")
    screen_has(phone, "ready\n")
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
    screen_has(phone, f"^C\n{PROMPT}")
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
    phone.get_by_role("button", name="Menu").tap()
    expect(phone.get_by_role("menuitem", name="Log out")).to_be_visible()


def test_it_looks_right_at_three_sizes(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    colours = "printf '\\033[1;32mok\\033[0m \\033[33mwarn\\033[0m\\n'"
    command(tab, f"clear; ls --color=always -la / | head -12; {colours}", "ok warn")
    tab.keyboard.press("Control+Shift+S")
    at_prompt(tab)
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
            tab.keyboard.press("Escape")
    tab.evaluate("navigator.keyboard.lock = async codes => void (window.locked = codes)")
    tab.keyboard.press("Control+Shift+U")
    tab.wait_for_function("() => document.fullscreenElement !== null")
    tab.wait_for_function("() => window.locked?.includes('Escape')")  # vim has it then, and Ctrl+W is bash's
    tab.keyboard.press("Control+Shift+U")
    tab.wait_for_function("() => document.fullscreenElement === null")


def test_who_follows_sees_all_of_the_leaders_screen(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    small = tab.context.new_page()
    small.set_viewport_size({"width": 420, "height": 400})
    small.goto(f"{sidecar.origin}/")
    at_prompt(small)
    tab.bring_to_front()
    tab.locator(".screen").click()
    command(tab, "clear; stty size; seq -s- 60", "-58-59-60")
    size = "dozlabScreenState().then(({cols, rows}) => [cols, rows])"
    large = tab.evaluate(size)
    until(small, f"wanted => {size}.then(size => size.join() === wanted.join())", large)
    screen_has(small, f"{large[1]} {large[0]}")
    inside = """() => {
      const box = name => document.querySelector(name).getBoundingClientRect();
      const [inner, outer] = [box('.xterm-screen'), box('.stage')];
      return inner.right <= outer.right + 1 && inner.bottom <= outer.bottom + 1;
    }"""
    small.wait_for_function(inside)
    shot(small, "follower")
    small.bring_to_front()
    small.locator(".screen").click()
    command(small, "echo lead-$((2*2))", "lead-4")
    until(small, f"large => {size}.then(size => size[0] < large)", large[0])
    small.wait_for_function(inside)


def test_login_on_a_phone(phone: Page, sidecar: Sidecar) -> None:
    log_in(phone, sidecar, "wrong")
    expect(phone.get_by_role("alert")).to_contain_text("not the session's password")
    fits(phone)


def swipe(phone: Page, by: int, *, fast: bool = False) -> None:
    """Move a finger over the terminal by so many pixels, down for positive ones; lift it at rest, or fast."""
    box = phone.locator(".pane.active .screen").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - by / 2
    finger = phone.context.new_cdp_session(phone)
    now = phone.evaluate("performance.timeOrigin + performance.now()") / 1000
    steps = 8

    def touch(kind: str, at: float, place: float | None = None) -> None:
        points = [] if place is None else [{"x": x, "y": place}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points, "timestamp": now + at})

    touch("touchStart", 0, y)
    for step in range(1, steps + 1):
        touch("touchMove", step * 0.016, y + by * step / steps)
    touch("touchEnd", steps * 0.016 + (0.008 if fast else 0.5))
    finger.detach()


def test_a_finger_scrolls(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(phone, sidecar, guest)
    command(phone, "clear; seq 300; echo l''ast", "last")
    place = "dozlabTerminal().buffer.active.viewportY"
    bottom = phone.evaluate(place)
    swipe(phone, 200)
    phone.wait_for_function(f"bottom => {place} < bottom - 5", arg=bottom)
    assert "last" not in phone.evaluate(SCREEN)
    rested = phone.evaluate(place)
    swipe(phone, 200, fast=True)
    phone.wait_for_function(f"rested => {place} < rested - 20", arg=rested)  # farther than the finger went
    phone.keyboard.press("Enter")  # what is typed is seen
    phone.wait_for_function(f"bottom => {place} >= bottom", arg=bottom)
    command(phone, "echo down-$((2+2))", "down-4")

    type_line(phone, "clear; seq 900 | less; echo left-$((3+3))")
    screen_has(phone, "\n9\n")
    screen_has(phone, "\n:")
    swipe(phone, -200)  # a program that has the whole screen scrolls itself
    phone.wait_for_function(f"() => Number({SCREEN}.split('\\n')[0]) > 5")
    phone.keyboard.press("q")
    screen_has(phone, "left-6")


def test_a_phones_keyboard_covers_neither_the_prompt_nor_the_keys(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(phone, sidecar, guest)
    lowest = "() => Math.round(document.querySelector('#key-row').getBoundingClientRect().bottom)"
    whole = phone.evaluate(lowest)
    fills = """() => {
      const [inner, outer] = ['.xterm-screen', '.screen'].map(each => document.querySelector(each).clientHeight);
      return outer >= inner && outer - inner < inner / dozlabTerminal().rows;
    }"""
    cover = """height => {
      if (height) Object.defineProperty(visualViewport, 'height', {value: height, configurable: true});
      else delete visualViewport.height;
      visualViewport.dispatchEvent(new Event('resize'));
    }"""  # as Safari on iOS tells of its keyboard
    phone.evaluate(cover, 400)
    phone.wait_for_function(f"() => ({lowest})() === 400")
    phone.wait_for_function(fills)
    phone.evaluate(cover, 0)
    phone.wait_for_function(f"whole => ({lowest})() === whole", arg=whole)
    phone.wait_for_function(fills)

    phone.set_viewport_size({"width": 360, "height": 380})  # as Chrome tells of its own
    phone.get_by_role("button", name="Menu").tap()
    phone.get_by_role("menuitem", name="Keys").tap()  # the last of them
    expect(phone.get_by_role("dialog", name="Keys")).to_be_visible()
    fits(phone)
    phone.get_by_role("dialog").get_by_role("button", name="Close").tap()
    expect(phone.get_by_role("dialog")).to_have_count(0)


def test_a_phones_header_is_one_line_whatever_it_says(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    phone.add_init_script("""window.heights = new Set();
      addEventListener("DOMContentLoaded", () => {
        const bar = document.querySelector(".bar"); // which the login page has not
        if (bar) new ResizeObserver(() => heights.add(bar.offsetHeight)).observe(bar);
      });""")
    guest.tell("running")
    log_in(phone, sidecar)
    state(phone, "Starting")
    guest.boot()
    at_prompt(phone)
    guest.switch_off()
    state(phone, "Machine restarting")
    fits(phone)
    shot(phone, "phone-restarting")
    guest.tell("paused", paused="asked")
    state(phone, "Paused")
    fits(phone)
    guest.tell("running")
    guest.boot()
    at_prompt(phone)
    assert phone.evaluate("heights.size") == 1


def test_a_phone_shows_that_somebody_is_here(phone: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(phone, sidecar, guest)
    button = phone.get_by_role("button", name="People")
    expect(button).to_have_accessible_name("People")
    other = phone.context.new_page()
    other.goto(phone.url)
    at_prompt(other)
    expect(button).to_have_accessible_name("People, 1 more here")
    badge = "getComputedStyle(document.querySelector('[data-panel=people]'), '::after').content"
    assert phone.evaluate(badge) != "none"
    fits(phone)
    shot(phone, "phone-company")
    other.close()
    expect(button).to_have_accessible_name("People")
    assert phone.evaluate(badge) == "none"
