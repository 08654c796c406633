"""Search in the terminal's output: count, order, case, regular expressions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PAGE, at_prompt, command, open_live, screen_has
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_search_counts_and_goes_through_the_matches(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    command(tab, "clear; for n in 1 2 3; do echo Needle-$n; seq 60; done; echo needle-low", "needle-low")
    tab.keyboard.press("Control+Shift+F")
    field, count = tab.get_by_label("Find", exact=True), tab.locator("#search .count")
    expect(field).to_be_focused()
    field.fill("needle-")
    expect(count).to_have_text("4 of 4")
    tab.keyboard.press("Enter")
    expect(count).to_have_text("3 of 4")
    screen_has(tab, "Needle-3")
    tab.get_by_role("button", name="Previous match").click()
    expect(count).to_have_text("2 of 4")
    screen_has(tab, "Needle-2")
    tab.get_by_role("button", name="Next match").click()
    expect(count).to_have_text("3 of 4")
    tab.get_by_role("button", name="Match case").click()
    expect(count).to_have_text("1 of 1")
    tab.get_by_role("button", name="Match case").click()
    tab.get_by_role("button", name="Regular expression").click()
    field.fill("Needle-[13]$")
    expect(count).to_have_text("2 of 2")
    field.fill("Needle-[")
    expect(count).to_have_text("Not a pattern")
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("nowhere")
    expect(count).to_have_text("None")
    tab.keyboard.press("Control+Shift+S")  # the search follows to another terminal
    expect(tab.locator(".tab")).to_have_count(2)
    at_prompt(tab)
    tab.keyboard.press("Control+Shift+F")
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("search")).to_be_hidden()
    command(tab, "echo back-$((1+2))", "back-3")


def test_the_page_is_small() -> None:
    """All scripts together, packed: also those that are loaded when they are first needed."""
    packed = sorted((PAGE / "assets").glob("*.js.gz"))
    assert packed and sum(path.stat().st_size for path in packed) <= 220_000


def test_what_the_tests_wait_for_is_a_function() -> None:
    """A bare expression is evaluated anew each time, which the page's policy forbids: it is not waited for then."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for waited in re.findall(r'wait_for_function\(\s*f?"([^"]+)"', path.read_text()):
            assert re.match(r"\(?[\w, \[\]]*\)? => ", waited), f"{path.name}: {waited}"
