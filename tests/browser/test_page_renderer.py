"""What draws the terminal: WebGL where the browser has it, the DOM elsewhere and after the graphics card has gone."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import CHROMIUM, WAIT, at_prompt, command, open_live, shot, somebody
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

WITHOUT = "--disable-3d-apis"
"""Playwright's own switches have Chromium do WebGL in software; this one takes it away."""
PINK = (200, 30, 90)
BLOCK = "printf '\\033[48;2;200;30;90m%s\\033[0m\\n' 'sh'own"
_COUNT = """([png, wanted]) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  return image.decode().then(() => {
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    let count = 0;
    for (let at = 0; at < data.length; at += 4) count += wanted.every((value, part) => data[at + part] === value);
    return count;
  });
}"""


@pytest.fixture(scope="module")
def plain(browser: Browser) -> Iterator[Browser]:
    """Yield a Chromium that has no WebGL."""
    chromium = browser.browser_type.launch(executable_path="/usr/bin/chromium", args=[*CHROMIUM, WITHOUT])
    yield chromium
    chromium.close()


def picture_has_the_block(tab: Page, *, gone: bool = False) -> None:
    """Wait until the picture has many pixels of that colour, or none; counted outside the page, for its policy."""
    blank = tab.context.new_page()
    end = time.monotonic() + WAIT / 1000
    while True:
        picture = base64.b64encode(tab.locator(".pane.active .screen").screenshot()).decode()
        count = blank.evaluate(_COUNT, [picture, PINK])
        if count == 0 if gone else count > 200:
            break
        assert time.monotonic() < end, f"{count} pixels of the block's colour"
    blank.close()


def canvases(tab: Page) -> int:
    """Count the canvases that have a WebGL context: asked for another kind, they give none."""
    return int(
        tab.evaluate("[...document.querySelectorAll('.xterm canvas')].filter(c => c.getContext('webgl2')).length")
    )


def test_webgl_draws_and_the_dom_takes_over_when_it_is_lost(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    command(tab, BLOCK, "shown")
    assert canvases(tab) == 1
    expect(tab.locator(".xterm-rows")).to_have_count(0)
    picture_has_the_block(tab)
    tab.evaluate("""() => {
        for (const canvas of document.querySelectorAll(".xterm canvas"))
            canvas.getContext("webgl2")?.getExtension("WEBGL_lose_context").loseContext();
    }""")
    rows = tab.locator(".pane.active .xterm-rows")
    expect(rows).to_contain_text("shown")
    assert canvases(tab) == 0
    picture_has_the_block(tab)
    command(tab, "clear; echo goes-''on", "goes-on")
    expect(rows).to_contain_text("goes-on")
    picture_has_the_block(tab, gone=True)
    tab.keyboard.press("Control+Shift+S")  # the next one has WebGL again
    at_prompt(tab)
    assert canvases(tab) == 1


def test_without_webgl_the_dom_draws(plain: Browser, sidecar: Sidecar, guest: Guest) -> None:
    with somebody(plain, viewport={"width": 900, "height": 500}) as tab:
        assert not tab.evaluate("Boolean(document.createElement('canvas').getContext('webgl2'))")
        open_live(tab, sidecar, guest)
        command(tab, BLOCK, "shown")
        expect(tab.locator(".xterm-rows")).to_contain_text("shown")
        expect(tab.locator(".xterm canvas")).to_have_count(0)
        picture_has_the_block(tab)
        shot(tab, "without-webgl")
