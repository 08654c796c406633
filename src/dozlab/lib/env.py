"""Environment variables as typed settings. Faults name the variable; all of them are reported at once."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from dozlab.lib.errors import BadUsage
from dozlab.lib.units import parse_size

T = TypeVar("T")

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


class Env:
    """Reads variables, collecting faults until `check()`.

    A reader returns its default when a variable is absent or empty; with no default (None) it is a fault.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._faults: list[str] = []

    def _read(self, name: str, default: T | None, parse: Callable[[str], T], kind: str) -> T:
        text = self._environ.get(name, "")
        if text == "":
            if default is None:
                self._faults.append(f"{name} is not set ({kind})")
                return parse_placeholder(parse)
            return default
        try:
            return parse(text)
        except ValueError as error:
            self._faults.append(f"{name}={text!r}: {error}")
            return parse_placeholder(parse) if default is None else default

    def text(self, name: str, default: str | None = None) -> str:
        """Return the variable's text."""
        return self._read(name, default, str, "text")

    def path(self, name: str, default: str | None = None) -> Path:
        """Return a path."""
        return self._read(name, None if default is None else Path(default), Path, "a path")

    def integer(self, name: str, default: int | None = None, *, low: int = 0, high: int = 1 << 62) -> int:
        """Return a whole number within low..high."""

        def parse(text: str) -> int:
            value = int(text)
            if not low <= value <= high:
                raise ValueError(f"must be {low} to {high}")
            return value

        return self._read(name, default, parse, "a whole number")

    def size(self, name: str, default: int | None = None) -> int:
        """Return bytes for `4G`, `512Mi` or a plain number."""
        return self._read(name, default, parse_size, "a size such as 4G")

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true/false for 1/true/yes/on and 0/false/no/off."""

        def parse(text: str) -> bool:
            low = text.lower()
            if low in _TRUE:
                return True
            if low in _FALSE:
                return False
            raise ValueError("write true or false")

        return self._read(name, default, parse, "true or false")

    def ipv4(self, name: str, default: str | None = None) -> ipaddress.IPv4Address:
        """Return an IPv4 address."""
        value = None if default is None else ipaddress.IPv4Address(default)
        return self._read(name, value, ipaddress.IPv4Address, "an IPv4 address")

    def words(self, name: str) -> list[str]:
        """Return the words of a list separated by commas or white space; empty when absent."""
        return self._environ.get(name, "").replace(",", " ").split()

    def secret(self, name: str) -> str:
        """Return a secret from the file named by NAME_FILE, or from NAME itself; empty when neither is set."""
        file = self._environ.get(f"{name}_FILE", "")
        if not file:
            return self._environ.get(name, "")
        try:
            return Path(file).read_text().rstrip("\n")
        except OSError as error:
            self._faults.append(f"{name}_FILE={file!r}: {error.strerror}")
            return ""

    def check(self, more: Iterable[str] = ()) -> None:
        """Raise when anything above was at fault.

        :param more: faults that the caller found itself, told after ours

        :raises BadUsage: one line per fault
        """
        faults = [*self._faults, *more]
        if faults:
            raise BadUsage("\n".join(faults))


def parse_placeholder(parse: Callable[[str], T]) -> T:
    """Return a harmless value of the right type while faults are being collected; check() never lets it out."""
    for text in ("0", "1", "0.0.0.0", "false"):  # noqa: S104
        try:
            return parse(text)
        except ValueError:
            continue
    raise AssertionError("no placeholder fits")
