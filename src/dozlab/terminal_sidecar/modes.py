"""Which modes a terminal is in, read from the bytes that went through it. Pure.

Scrollback in bounded memory loses its oldest bytes, and with them the `CSI ? 1049 h` that put the screen into vim's
mode. The tracker is fed with exactly those lost bytes and returns the preamble that brings a fresh emulator to where
they left it (xterm's ctlseqs, "Functions using CSI"). Colours are not tracked: the oldest line may lack its own.
"""

from __future__ import annotations

import re

ALTERNATE = (47, 1047, 1049)
_DEFAULT_ON = {7, 25}
_KNOWN = {1, 6, 7, 9, 12, 25, 45, 47, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1047, 1049, 2004, 2026}
_MOUSE = {9, 1000, 1002, 1003}  # one of them at a time
_NOT_REPLAYED = {2026}  # synchronised output: an open frame would freeze the screen

_SEQUENCE = re.compile(
    rb"\x1b(?:\[\?(?P<modes>[0-9;]{1,40})(?P<set>[hl])"
    rb"|\[(?P<margins>[0-9;]{0,12})r"
    rb"|(?P<soft>\[!p)"
    rb"|\[(?P<cursor>[0-9]?) q"
    rb"|\[(?P<insert>4)(?P<insert_set>[hl])"
    rb"|(?P<keypad>[=>])"
    rb"|(?P<charset>[()][0AB])"
    rb"|(?P<reset>c)"
    rb"|\][02];(?P<title>[^\x00-\x1f\x7f]{0,512})(?:\x07|\x1b\\))"
)
_PARTIAL = re.compile(rb"\x1b(?:\[[?!]?[0-9; ]{0,40}|\](?:[02](?:;[^\x00-\x1f\x7f]{0,512}\x1b?)?)?|[()])?\Z")
_LONGEST = 640  # bytes of the longest sequence that we follow


class ModeTracker:
    """Follows DEC private modes, margins, keypad, insert mode, cursor shape, character sets and the title."""

    def __init__(self) -> None:
        self.modes: dict[int, bool] = {}
        self.margins = b""
        self.cursor = b""
        self.insert = False
        self.keypad = False
        self.charsets: dict[bytes, bytes] = {}
        self.title = b""
        self._carry = b""

    def copy(self) -> ModeTracker:
        """Return an independent copy."""
        other = ModeTracker()
        other.__dict__.update(self.__dict__)
        other.modes, other.charsets = dict(self.modes), dict(self.charsets)
        return other

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream; a sequence may be split anywhere."""
        if not self._carry and b"\x1b" not in data:
            return
        data = self._carry + data
        for match in _SEQUENCE.finditer(data):
            self._take(match)
        tail = _PARTIAL.search(data, max(0, len(data) - _LONGEST))
        self._carry = tail.group() if tail else b""

    def _take(self, match: re.Match[bytes]) -> None:
        kind, found = match.lastgroup, match.group
        if kind == "set":
            for number in found("modes").split(b";"):
                if number and (mode := int(number)) in _KNOWN:
                    self._switch(mode, found("set") == b"h")
        elif kind == "margins":
            self.margins = found("margins")
        elif kind == "cursor":
            self.cursor = found("cursor")
        elif kind == "insert_set":
            self.insert = found("insert_set") == b"h"
        elif kind == "keypad":
            self.keypad = found("keypad") == b"="
        elif kind == "charset":
            self.charsets[found("charset")[:1]] = found("charset")[1:]
        elif kind == "title":
            self.title = found("title")
        elif kind == "reset":
            title = self.title
            self.__init__()  # type: ignore[misc]
            self.title = title
        elif kind == "soft":
            for mode in (1, 6, 7, 25, 45):
                self.modes.pop(mode, None)
            self.insert = self.keypad = False
            self.margins, self.charsets = b"", {}

    def _switch(self, mode: int, on: bool) -> None:
        group = set(ALTERNATE) if mode in ALTERNATE else _MOUSE if mode in _MOUSE else {mode}
        for other in group:
            self.modes.pop(other, None)
        if on != (mode in _DEFAULT_ON):
            self.modes[mode] = on
        if mode in ALTERNATE:
            self.margins = b"" if not on else self.margins

    @property
    def partial(self) -> bytes:
        """Return the bytes of a sequence that has begun and not ended."""
        return self._carry

    @property
    def alternate(self) -> bool:
        """Tell whether a full-screen program has the alternate screen."""
        return any(self.modes.get(mode) for mode in ALTERNATE)

    def preamble(self) -> bytes:
        """Return what brings a fresh emulator into these modes."""
        parts = [b"\x1b]2;%s\x07" % self.title] if self.title else []
        order = sorted(self.modes, key=lambda mode: (mode not in ALTERNATE, mode))
        parts += [_private(mode, self.modes[mode]) for mode in order if mode not in _NOT_REPLAYED]
        if self.margins.strip(b";"):
            parts.append(b"\x1b[%sr" % self.margins)
        parts += [b"\x1b%s%s" % item for item in self.charsets.items() if item[1] != b"B"]
        if self.insert:
            parts.append(b"\x1b[4h")
        if self.keypad:
            parts.append(b"\x1b=")
        if self.cursor:
            parts.append(b"\x1b[%s q" % self.cursor)
        return b"".join(parts)

    def leave(self) -> bytes:
        """Return what brings an emulator in these modes back to a plain screen, for a program that died in them."""
        parts = [_private(mode, mode in _DEFAULT_ON) for mode in sorted(self.modes)]
        return b"".join(parts) + b"\x1b[!p\x1b[0m"


def _private(mode: int, on: bool) -> bytes:
    return b"\x1b[?%d%s" % (mode, b"h" if on else b"l")
