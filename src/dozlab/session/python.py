"""Where this Python and its packages are, on the host and in the components' view."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import dozlab
from dozlab.session.layout import POD


def host_paths() -> dict[str, Path]:
    """Return name below /mnt -> path on the host of what runs a component."""
    assert dozlab.__file__
    return {"app/src": Path(dozlab.__file__).parent.parent, "app/venv": Path(sysconfig.get_path("data"))}


def interpreter() -> Path:
    """Return Python as the components see it."""
    return POD / "app/venv/bin/python"
