"""What holds for every test: those that need root say so, and how to enable them."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `root` for everybody else, in words that say how to run it. CI is root and skips nothing."""
    if os.geteuid() == 0:
        return
    reason = "needs root (network namespaces, mounts, a second user): run it with sudo make test"
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=reason))
