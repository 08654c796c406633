"""What a shell tells of itself to whoever records it. Types only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dozlab.terminal_sidecar.history import History


class OutputTap(Protocol):
    """Takes what happens in one shell. Nothing here blocks or raises."""

    @property
    def recording(self) -> bool:
        """Tell whether what is printed is recorded."""

    def output(self, data: bytes) -> None:
        """Take bytes that were printed; they are in the history already."""

    def input(self, data: bytes) -> None:
        """Take bytes that were typed; recorded only where that was asked for."""

    def resized(self, cols: int, rows: int) -> None:
        """Take the size of the screen."""

    def marker(self, text: str) -> None:
        """Take a word on what happens."""

    def ended(self, status: int | None) -> None:
        """Take the shell's end, with its exit status where it has one. What comes next is another shell's."""

    def close(self) -> None:
        """End for good."""


Record = Callable[[str, History], OutputTap]
"""Makes the tap of a new shell, by its name."""
