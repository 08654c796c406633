"""Output through the whole path into the real page while its connection drops all the time: every byte, once, in order.

Checked on the bytes that are handed to the emulator. DOZLAB_DROPS_MB sets how many million bytes (15; 1000 is what the
terminal is held to).
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

from .conftest import PAGE, command, open_live, state, type_line

AMOUNT = int(os.environ.get("DOZLAB_DROPS_MB", "15")) * 1_000_000
DROPS = 50
BEGIN, END = 0x1E, 0x1F  # the emulator ignores both, and the output has neither
SECONDS = 120 + AMOUNT // 200_000

_PATIENT = """
from dozlab.terminal_sidecar import __main__, attachment, brake
attachment.STALLED_AFTER = brake.AWAITED_FOR = 3600.0
__main__.main()
"""


class Patient(Sidecar):
    """Holds the program back for a page that takes nothing for long: on a busy machine the browser may do so."""

    program = ("-c", _PATIENT)


pytestmark = [pytest.mark.browser, pytest.mark.timeout(600 + 4 * SECONDS)]

_COUNT = """([begin, end]) => {
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
    return n >>> 0;
  });
  const seen = (window.seen = { bytes: 0, crc: 0, resets: 0, done: false });
  const terminal = window.dozlabTerminal();
  const write = terminal.write.bind(terminal);
  let counting = false;
  let crc = 0xffffffff;
  terminal.write = (data, done) => {
    if (typeof data === "string") {
      if (data.startsWith("\\x1bc")) seen.resets += 1;
    } else {
      for (const byte of data) {
        if (byte === begin) counting = true;
        else if (byte === end) counting = false;
        else if (counting) {
          crc = (crc >>> 8) ^ table[(crc ^ byte) & 0xff];
          seen.bytes += 1;
        }
        if (byte === end) seen.done = true;
      }
      seen.crc = (crc ^ 0xffffffff) >>> 0;
    }
    write(data, done);
  };
}"""


def mixed(folder: Path) -> tuple[Path, int, int]:
    """Write text, colours, cursor movement, wide characters and emoji to a file; return it, its size and its CRC-32."""
    dice = random.Random(4)
    pieces = [
        "the quick brown fox jumps over the lazy dog ", "中文宽字符 ", "\U0001f600\U0001f469\u200d\U0001f4bb ", "שלום ",
        "\x1b[1;31mred\x1b[0m ", "\x1b[38;2;10;200;30mtrue\x1b[39m ", "\x1b[5;10H", "\x1b[K", "\x1b[2A", "\r\n", "\r\n",
        "\x1b[?1049h", "\x1b[?1049l", "\x1b]2;a title\x07", "\t|\b\b", "e\u0301\u0302 ",
    ]  # fmt: skip
    block = "".join(dice.choices(pieces, k=40_000)).encode()
    path, size, crc = folder / "mixed", 0, 0
    with path.open("wb") as file:
        while size < AMOUNT:
            part = f"\r\n-- {size} --\r\n".encode() + block
            size += file.write(part)
            crc = zlib.crc32(part, crc)
    return path, size, crc


@pytest.fixture
def sidecar(tmp_path: Path, guest: Guest) -> Iterator[Sidecar]:
    """Yield a sidecar that serves the built page."""
    server = Patient(tmp_path, guest.port, PAGE)
    yield server
    server.stop()


def test_no_byte_is_lost_or_out_of_order(tab: Page, sidecar: Sidecar, guest: Guest, tmp_path: Path) -> None:
    path, size, crc = mixed(tmp_path)
    open_live(tab, sidecar, guest)
    command(
        tab, f"go() {{ stty -opost; printf '\\036'; cat {path}; printf '\\037'; stty sane; }}; echo re''ady", "ready"
    )
    tab.evaluate(_COUNT, [BEGIN, END])
    type_line(tab, "go")
    for number in range(1, DROPS + 1):
        reached = f"() => window.seen.bytes >= {size * number // (DROPS + 1)} || window.seen.resets"
        tab.wait_for_function(reached, timeout=SECONDS * 1000)
        assert tab.evaluate("window.seen.resets") == 0
        tab.evaluate("window.dozlabDrop()")
    tab.wait_for_function("() => window.seen.done", timeout=SECONDS * 1000)
    state(tab, "Live")
    seen = tab.evaluate("window.seen")
    assert seen == {"bytes": size, "crc": crc, "resets": 0, "done": True}
