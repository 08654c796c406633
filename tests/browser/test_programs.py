"""Real programs in the real page: a reload in the middle of each gives the same screen, cell for cell."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

from .conftest import PAGE, PROMPT, at_prompt, command, open_live, screen_has, shot, state, type_line

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

_HTOPRC = (
    "htop_version=3.2.2\nconfig_reader_min_version=3\nfields=0 48 1\nheader_layout=two_50_50\n"
    "column_meters_0=Hostname\ncolumn_meter_modes_0=2\ncolumn_meters_1=Hostname\ncolumn_meter_modes_1=2\n"
)  # nothing that changes by itself
_TMUX = (
    "set -g status-right ''\nset -g default-command 'PS1=pane: bash --norc --noprofile'\nset -g escape-time 0\n"
    "set -g automatic-rename off\n"
)  # nothing that changes by itself here either
_TEXT = "".join(f"line {number}: the quick brown fox\n" for number in range(1, 400))
_COLOURS = r"for i in 0 40 80 120 160 200 240; do printf '\033[38;2;%d;90;%dm\033[48;2;10;%d;30mcolour ' $i $i $i; done"
_STYLES = (
    r"printf '\033[0m\n\033[1mbold\033[0m \033[3mitalic\033[0m \033[4:3;58;2;255;0;0mcurly\033[0m ';"
    r"printf '\033[9mcr''ossed\033[0m\n'"
)
_EMOJI = "\U0001f600 \U0001f469\u200d\U0001f4bb \U0001f1eb\U0001f1f7 \u2764\ufe0f e\u0301"
_BAR = r"for i in 1 2 3 4 5 6; do printf '\r[%-10s] %d0%%' $(printf '#%.0s' $(seq $i)) $i; done; sleep 600"


@dataclass(frozen=True)
class Scene:
    """A program: its command line, what shows that it is up, what is then done in it, and how it ends."""

    name: str
    command: str
    up: str
    """Not in what is typed."""
    keys: tuple[str, ...] = ()
    typed: str = ""
    shown: str = ""
    """What stands there when that is done."""
    leave: tuple[str, ...] = ("Control+c",)


SCENES = (
    Scene("vim", "vim.tiny -N -u NONE -c 'set nowrap number' text", "line 1:", ("5", "j", "A"),
          " grüße 中文 \U0001f600", "grüße 中文 \U0001f600", ("Escape", ":", "q", "!", "Enter")),
    Scene("nano", "nano -I -U text", "line 1:", ("PageDown",), "typed here", "typed here", ("Control+x", "n")),
    Scene("less", "less -S text", "line 1:", ("/",), "line 60\n", "line 60:", ("q",)),
    Scene("htop", "HTOPRC=$PWD/htoprc htop -d 100 -p $$", "Command", leave=("q",)),
    Scene("tmux", "tmux -S sock -f tmux.conf new", "pane:", ("Control+b", "%"), "echo split-$((6*7))\n", "split-42",
          ("Control+b", "&", "y")),
    Scene("progress bar", _BAR, "[######    ] 60%"),
    Scene("24-bit colour", f"{_COLOURS}; {_STYLES}; sleep 600", "crossed\n"),
    Scene("CJK", "printf '中文宽字符 日本語テキスト 한국어\\n|全角|ｱｲｳ|\\n'; sleep 600", "|ｱｲｳ|\n"),
    Scene("emoji", f"printf '{_EMOJI}|\\n'; sleep 600", "|\n"),
    Scene("right to left", "printf 'שלום עולם / مرحبا بالعالم / abc\\n'; sleep 600", "abc\n"),
)  # fmt: skip


_TAIL = re.compile(r"(.*?)(?:\x1b\[\d+[A-D])*((?:\x1b\[\?\d+[hl])*)", re.DOTALL)
_PEN = re.compile(r"(?:\x1b\[[0-9;:]*m)+(?=\x1b\[\?1049h|$)")


def seen(content: str) -> list[str]:
    """Return what the serialize addon says of a screen, by lines, without what nobody sees. Pure.

    A cell that was never written looks like a space. The way to the cursor is told beside it. The pen that is set but
    not yet used, told before the other screen begins and at the end, is the program's own when it draws anew.
    """
    found = _TAIL.fullmatch(content)
    assert found is not None
    text = re.sub(r"\x1b\[(\d+)C", lambda jump: " " * int(jump[1]), _PEN.sub("", found[1]))
    return [re.sub(r"(?:\x1b\[0m)? *$", "", line) for line in text.split("\r\n")] + [found[2]]


def look(tab: Page) -> dict[str, Any]:
    """Return the emulator's whole state."""
    found = tab.evaluate("window.dozlabScreenState()")
    return dict(found) | {"content": seen(found["content"])}


def screen(tab: Page) -> dict[str, Any]:
    """Return the state once it stands still."""
    end, found = time.monotonic() + 60, None
    while (now := look(tab)) != found:
        assert time.monotonic() < end, "the screen does not come to rest"
        found = now
        tab.wait_for_timeout(300)
    return now


def after_reload(tab: Page, wanted: dict[str, Any]) -> dict[str, Any]:
    """Reload and return the state: the wanted one as soon as it is reached, else what there is in the end."""
    tab.reload()
    state(tab, "Live")
    end = time.monotonic() + 30
    while (found := look(tab)) != wanted and time.monotonic() < end:
        tab.wait_for_timeout(100)
    return found


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what is not the same, from shortly before where texts part."""
    parts = {}
    for field in wanted:
        one, two = str(wanted[field]), str(found[field])
        if one != two:
            at = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
            parts[field] = one[max(0, at - 40) : at + 120], two[max(0, at - 40) : at + 120]
    return parts


@pytest.fixture
def sidecar(tmp_path: Path, guest: Guest) -> Iterator[Sidecar]:
    """Yield a sidecar that keeps little: each of the reloads has all of it drawn again."""
    server = Sidecar(tmp_path, guest.port, PAGE, SCROLLBACK="128Ki")
    yield server
    server.stop()


def test_a_reload_gives_the_same_screen(tab: Page, sidecar: Sidecar, guest: Guest, tmp_path: Path) -> None:
    for name, text in (("text", _TEXT), ("htoprc", _HTOPRC), ("tmux.conf", _TMUX)):
        (tmp_path / name).write_text(text)
    open_live(tab, sidecar, guest)
    command(tab, f"cd {tmp_path}; seq 60000; echo over-$((1+1))", "over-2")  # more than the history keeps
    other = {}
    for scene in SCENES:
        ends = scene.leave != ("Control+c",)
        at_prompt(tab)
        type_line(tab, f"clear; {scene.command}" + ("; echo gone-$((40+2))" if ends else ""))
        screen_has(tab, scene.up)
        for key in scene.keys:
            tab.keyboard.press(key)
        for part in scene.typed.partition("\n"):
            if part == "\n":
                tab.keyboard.press("Enter")
            elif part:
                tab.keyboard.insert_text(part)
        screen_has(tab, scene.shown)
        wanted = screen(tab)
        found = after_reload(tab, wanted)
        shot(tab, f"program-{scene.name.replace(' ', '-')}")
        if found != wanted:
            other[scene.name] = differences(wanted, found)
        for key in scene.leave:
            tab.keyboard.press(key)
        screen_has(tab, f"gone-42\n{PROMPT}" if ends else f"^C\n{PROMPT}")
    assert not other, json.dumps(other, indent=1)
