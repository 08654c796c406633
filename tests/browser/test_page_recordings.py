"""Recordings in the page: the mark in the header, the list, playing with seeks and speeds, downloads, removal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dozlab.terminal_sidecar.recording import asciicast
from tests.browser.conftest import (
    PAGE,
    Held,
    at_prompt,
    command,
    open_live,
    shot,
    type_line,
    typing_goes_to_the_terminal,
)
from tests.browser.test_page_accessibility import faults
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar
from tests.unit.terminal_sidecar.recording.casts import parse

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    return folder


def write_long(folder: Path) -> None:
    """Leave a recording of a former run: 120 x 40 cells, then 60 x 15; 2 MB of output; a pause of an hour."""
    lines = asciicast.Lines(0.0)
    out = asciicast.header(cols=120, rows=40, start=1_764_279_000.0, title="old")
    for number in range(20_000):
        out += lines.line(number / 1e4, "o", asciicast.quote(f"\x1b[38;5;{number % 256}mline {number} {'.' * 80}\r\n"))
    out += lines.line(2.5, "m", asciicast.quote("8.3 MiB of output left out"))
    out += lines.line(3602.5, "r", b'"60x15"')
    out += lines.line(3603.0, "o", asciicast.quote("\x1bc\x1b]52;c;aGk=\x07\x1b[15;50Hin the edge"))
    path = folder / "20251127T213000.000-old.cast"
    path.write_bytes(out)
    os.utime(path, (1_764_279_000 + 3603,) * 2)


@pytest.fixture
def sidecar(tmp_path: Path, guest: Guest, recordings: Path) -> Iterator[Sidecar]:
    """Yield a sidecar that serves the built page and records."""
    write_long(recordings)
    server = Sidecar(tmp_path, guest.port, PAGE, RECORDING_DIR=str(recordings))
    yield server
    server.stop()


def open_panel(tab: Page) -> None:
    tab.get_by_role("button", name="Recordings").click()
    expect(tab.locator("#drawer")).to_be_visible()


def player_has(tab: Page, text: str, *, absent: bool = False) -> None:
    """Wait until the player's visible lines hold `text`, or do not."""
    tab.wait_for_function(
        "([text, absent]) => window.dozlabPlayerText?.().includes(text) === !absent", arg=[text, absent]
    )


def test_what_was_done_is_played_again(tab: Page, sidecar: Sidecar, guest: Guest, tmp_path: Path) -> None:
    open_live(tab, sidecar, guest)
    expect(tab.locator("#recording")).to_have_text("Recorded")
    command(tab, "printf '\\033[1;32mh\u00e9-%s\\033[0m \u4e2d\\n' $((6*7))", "h\u00e9-42 \u4e2d")
    at_prompt(tab)
    type_line(tab, "sleep 1.5; clear; echo late-$((40+2)); exit 3")  # so long it can be seen when it is played
    expect(tab.get_by_role("alert")).to_contain_text("status 3")
    open_panel(tab)
    expect(tab.locator("#drawer-body")).to_contain_text("what is typed is not")
    shot(tab, "recordings")

    tab.get_by_role("button", name="Play Terminal").click()
    dialog = tab.get_by_role("dialog")
    expect(dialog.locator(".player-controls button")).to_be_focused()
    tab.keyboard.press("End")
    player_has(tab, "late-42")
    expect(dialog.locator(".player-note")).to_have_text("The shell ended with status 3")
    expect(dialog.get_by_role("button", name="Play")).to_be_visible()  # it stops there by itself
    player_has(tab, "h\u00e9-42 \u4e2d", absent=True)  # cleared by then
    shot(tab, "player")
    tab.keyboard.press("Home")
    player_has(tab, "late-42", absent=True)
    dialog.get_by_label("Position").focus()
    tab.keyboard.press("Space")  # plays from there, in its own time
    player_has(tab, "h\u00e9-42 \u4e2d")
    for speed in ("2", "4", "8"):
        tab.keyboard.press("ArrowUp")
        expect(dialog.get_by_label("Speed")).to_have_value(speed)
    player_has(tab, "late-42")
    tab.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(tab.get_by_role("button", name="Play Terminal")).to_be_focused()

    row = tab.locator("li", has=tab.get_by_role("button", name="Play Terminal"))
    for version, number in (("v3", 3), ("v2", 2)):
        with tab.expect_download() as waiting:
            row.get_by_role("link", name=f"as asciicast {version}").click()
        saved = tmp_path / "saved.cast"
        waiting.value.save_as(saved)
        assert waiting.value.suggested_filename.endswith(f"-main.{version}.cast")
        cast = parse(saved.read_bytes())
        assert cast.header["version"] == number and "late-42" in cast.text() and cast.of("i") == []


def test_an_owner_removes_and_a_full_disk_is_said(tab: Page, sidecar: Sidecar, guest: Guest, recordings: Path) -> None:
    open_live(tab, sidecar, guest)
    open_panel(tab)
    player = Held(tab, re.compile(r"/assets/player[^/]*\.js$"))
    tab.get_by_role("button", name="Play Terminal").dblclick()
    player.release()
    expect(tab.get_by_role("dialog")).to_have_count(1)
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("dialog")).to_have_count(0)
    tab.get_by_role("button", name="Remove Terminal").click()
    tab.get_by_role("dialog").get_by_role("button", name="Keep").click()
    expect(tab.get_by_role("button", name="Play Terminal")).to_be_visible()
    removing = Held(tab, re.compile("/recordings/[^/]+$"), "DELETE")
    tab.get_by_role("button", name="Remove Terminal").click()
    tab.get_by_role("dialog").get_by_role("button", name="Remove").click()
    removing.wait()
    tab.locator(".pane.active .screen").click()
    removing.release()
    expect(tab.get_by_role("button", name="Play Terminal")).to_have_count(0)
    assert typing_goes_to_the_terminal(tab)
    tab.get_by_role("button", name="Remove Closed terminal").click()
    tab.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(tab.locator("#drawer-body")).to_contain_text("No recordings.")
    assert list(recordings.iterdir()) == []
    recordings.rmdir()  # as good as a full disk: the next file cannot be made
    tab.keyboard.press("Escape")
    command(tab, "echo goes-on-$((1+1))", "goes-on-2")
    expect(tab.locator("#recording")).to_have_text("Not recorded")
    open_panel(tab)
    expect(tab.locator("#drawer-body")).to_contain_text("Nothing is being recorded now.")


def test_pauses_are_skipped_sizes_followed_and_it_is_usable_for_all(
    tab: Page, sidecar: Sidecar, guest: Guest, recordings: Path
) -> None:
    open_live(tab, sidecar, guest)
    open_panel(tab)
    expect(tab.locator("li", has_text="Closed terminal,")).to_contain_text("1:00:03")
    assert faults(tab) == []
    tab.get_by_role("button", name="Play Closed terminal").click()
    dialog = tab.get_by_role("dialog")
    expect(dialog.locator(".player-controls button")).to_be_focused()
    tab.keyboard.press("End")
    player_has(tab, "in the edge")
    assert tab.evaluate("window.dozlabPlayerText().split('\\n').length") == 15
    time = dialog.locator(".player-time")
    expect(time).to_have_text("0:05 / 0:05")
    dialog.get_by_label("Skip pauses").uncheck()
    expect(time).to_have_text("1:00:03 / 1:00:03")
    tab.keyboard.press("Home")
    dialog.get_by_role("button", name="Play").click()
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog.get_by_role("button", name="Play")).to_be_focused()
    tab.keyboard.press("End")
    expect(time).to_have_text("1:00:03 / 1:00:03")
    tab.keyboard.press("ArrowLeft")  # 5 s back: before all that is left of the screen
    player_has(tab, "line 19999")
    assert tab.evaluate("window.dozlabPlayerText().split('\\n').length") == 40
    dialog.get_by_label("Skip pauses").check()
    expect(time).to_have_text("0:04 / 0:05")
    for width, height in ((1120, 720), (360, 640)):
        tab.set_viewport_size({"width": width, "height": height})
        assert faults(tab) == []
        assert tab.evaluate(
            "document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth"
        )
        screen = dialog.locator(".xterm-screen").bounding_box()
        box = dialog.locator(".player-screen").bounding_box()
        assert screen and box and screen["width"] <= box["width"] + 1 and screen["height"] <= box["height"] + 1
        shot(tab, f"player-{width}")
    tab.keyboard.press("Escape")
    assert faults(tab) == []
