"""Errors a person is meant to read: one line that says what is wrong and what to do next.

Raise these for what a user or an operator can act on; let bugs be ordinary exceptions.
Exit codes are design.md section 4: 1 failed, 2 bad usage or values, 3 no such session.
"""

from __future__ import annotations


class DozlabError(Exception):
    """Something failed for a reason the reader can act on.

    :param message: one line, no trailing full stop needed, names the thing that failed
    :param hint: what to do next, a command where there is one; printed after the message
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the one line that a person sees."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class TransientError(DozlabError):
    """The same step may work if it is tried again (a cut connection, a busy port)."""


class BadUsage(DozlabError):
    """Bad arguments, environment or values: nothing was changed. May hold several lines, one per fault."""

    exit_code = 2


class NoSuchSession(DozlabError):
    """No session of that name."""

    exit_code = 3
