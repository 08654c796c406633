"""Where things live on one machine, after the XDG base directory specification (0.8). Pure but for the environment."""

from __future__ import annotations

import os
from pathlib import Path


def _xdg(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / fallback


def cache() -> Path:
    """Return `~/.cache/dozlab`: images, boot kit, code-server. Safe to delete while no session runs."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "dozlab"


def state() -> Path:
    """Return `~/.local/state/dozlab`: one folder per session with its disk, workspace and logs."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "dozlab"


def runtime() -> Path:
    """Return the folder in memory for sockets, keys and secrets.

    `$XDG_RUNTIME_DIR/dozlab`; else `/run/dozlab` for root and `/dev/shm/dozlab-UID` (made 0700) for others.
    `DOZLAB_RUNTIME_DIR` names it outright: inside a user namespace a user is uid 0 and would look like root.
    """
    if given := os.environ.get("DOZLAB_RUNTIME_DIR"):
        return Path(given)
    value = os.environ.get("XDG_RUNTIME_DIR", "")
    if value.startswith("/") and os.access(value, os.W_OK):
        return Path(value) / "dozlab"
    uid = os.getuid()
    return Path("/run/dozlab") if uid == 0 else Path(f"/dev/shm/dozlab-{uid}")  # noqa: S108
