"""Logging set-up shared by every component: one line per record, plain or JSON, with the component's name."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

FIELDS = ("shell", "client")
"""What a record may be about beside the session: given by `about()`, or by `extra=` of one record, which wins."""
_about: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("dozlab-log-about", default={})  # noqa: B039


def about(**fields: str) -> None:
    """Say what the rest of this task is about: its records, whoever logs them, get these fields, and no others.

    :param fields: ids of `FIELDS` that may be logged; "" is left out
    """
    _about.set({name: value for name, value in fields.items() if name in FIELDS and value})


def _fields(record: logging.LogRecord) -> dict[str, str]:
    known = _about.get()
    found = {name: getattr(record, name, None) or known.get(name, "") for name in FIELDS}
    return {name: str(value) for name, value in found.items() if value}


def _one_line(text: str) -> str:
    """Return text that cannot pass for a second record: a guest or a client may have had a say in it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class _Plain(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def __init__(self, component: str) -> None:
        super().__init__(f"%(asctime)s {component} %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return _one_line(super().formatMessage(record).rstrip() + fields)


class _Json(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "t": round(record.created, 3),
            "level": record.levelname.lower(),
            "component": self._component,
            "session": os.environ.get("SESSION_ID", ""),
            **_fields(record),
            "message": record.getMessage().rstrip(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up(component: str) -> None:
    """Send all records to stderr. `LOG_FORMAT=json` makes JSON lines, `LOG_LEVEL` sets the level (default info)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(component) if os.environ.get("LOG_FORMAT") == "json" else _Plain(component))
    level = getattr(logging, os.environ.get("LOG_LEVEL", "info").upper(), logging.INFO)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


def last_line(path: Path) -> str:
    """Return a log's last line without its time stamp and names: what a person wants to see."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    line = next((text for text in reversed(lines) if text.strip()), "ended without a word")
    words = line.split(" ", 3)
    return words[3] if len(words) == 4 and words[2].isupper() else line
