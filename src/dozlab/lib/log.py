"""Logging set-up shared by every component: one line per record, plain or JSON, with the component's name."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path


class _Plain(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def __init__(self, component: str) -> None:
        super().__init__(f"%(asctime)s {component} %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")


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
            "message": record.getMessage(),
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
