"""Reads typed fields of a parsed TOML table and gathers every fault: an author sees all of them at once. Pure."""

from __future__ import annotations

import re
from typing import Any

from dozlab.lib.units import parse_duration, parse_size


class Check:
    """Reads fields of one text; a faulty field gets a harmless value. `faults` holds one line per fault."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[str] = []

    def fault(self, field: str, text: str) -> None:
        """Note a fault of a field."""
        self.faults.append(f"{self.where}: {field}: {text}")

    def fields(self, prefix: str, raw: dict[str, Any], known: tuple[str, ...]) -> None:
        """Note the fields that nobody knows."""
        for name in raw:
            if name not in known:
                self.fault(prefix + name, f"no such field (known: {', '.join(known)})")

    def table(self, raw: dict[str, Any], field: str, known: tuple[str, ...]) -> dict[str, Any]:
        """Return a table, empty where there is none."""
        value = raw.get(field, {})
        if not isinstance(value, dict):
            self.fault(field, "must be a table")
            return {}
        self.fields(f"{field}.", value, known)
        return value

    def tables(
        self, raw: dict[str, Any], field: str, known: tuple[str, ...], *, prefix: str = ""
    ) -> list[dict[str, Any]]:
        """Return an array of tables, empty where there is none."""
        value = raw.get(field, [])
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.fault(prefix + field, f"must be tables: [[{prefix}{field}]]")
            return []
        for each in value:
            self.fields(f"{prefix}{field}.", each, known)
        return value

    def text(
        self, raw: dict[str, Any], field: str, pattern: re.Pattern[str], kind: str, *, default: str | None = None,
        prefix: str = "",
    ) -> str:  # fmt: skip
        """Return a text that fits a pattern; `default` where it is missing and may be."""
        value = raw.get(field, default)
        if default is not None and value == default:
            return default
        if not isinstance(value, str) or not pattern.match(value):
            self.fault(prefix + field, f"must be {kind}" + ("" if value is None else f", not {value!r}"))
            return ""
        return value

    def words(
        self, raw: dict[str, Any], field: str, pattern: re.Pattern[str], kind: str, *, required: bool = False,
        prefix: str = "", twice: bool = False,
    ) -> tuple[str, ...]:  # fmt: skip
        """Return a list of texts that fit a pattern.

        :param twice: the same text may be there more than once
        """
        value = raw.get(field, [])
        if not isinstance(value, list):
            self.fault(prefix + field, "must be a list")
            return ()
        if required and not value:
            self.fault(prefix + field, "must not be empty")
        good: list[str] = []
        for word in value:
            if not isinstance(word, str) or not pattern.match(word):
                self.fault(prefix + field, f"{word!r} is not {kind}")
            elif word in good and not twice:
                self.fault(prefix + field, f"{word} is there twice")
            else:
                good.append(word)
        return tuple(good)

    def size(self, raw: dict[str, Any], field: str, default: int | None, *, prefix: str = "") -> int:
        """Return bytes."""
        value = raw.get(field, default)
        if value is None:
            self.fault(prefix + field, "is missing (a size such as 1Gi)")
            return 0
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise ValueError(f"not a size: {value!r}")
            return parse_size(value)
        except ValueError as error:
            self.fault(prefix + field, str(error))
            return 0

    def seconds(self, raw: dict[str, Any], field: str, default: int, *, prefix: str = "") -> int:
        """Return seconds."""
        value = raw.get(field, default)
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise ValueError(f"not a duration: {value!r}")
            return parse_duration(value)
        except ValueError as error:
            self.fault(prefix + field, str(error))
            return default

    def whole(self, raw: dict[str, Any], field: str, default: int, most: int, *, prefix: str = "") -> int:
        """Return a whole number between 0 and `most`."""
        value = raw.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            self.fault(prefix + field, f"must be a whole number between 0 and {most}")
            return default
        return value

    def flag(self, raw: dict[str, Any], field: str, default: bool, *, prefix: str = "") -> bool:
        """Return true or false."""
        value = raw.get(field, default)
        if not isinstance(value, bool):
            self.fault(prefix + field, "must be true or false")
            return default
        return value
