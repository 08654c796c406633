"""What holds for every test: those that need root say so; a failing one keeps what its sessions tell."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import Dozlab

# How long an example takes is a matter of the machine (hypothesis: 200 ms).
settings.register_profile("no times", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no times")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `root` for everybody else, in words that say how to run it. CI is root and skips nothing."""
    if os.geteuid() == 0:
        return
    reason = "needs root (network namespaces, mounts, a second user): run it with sudo make test"
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Save the logs of the sessions that a failing test leaves running, and show the end of their consoles."""
    report = yield
    if report.failed:
        used = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Dozlab)]
        for command in {each.state: each for each in used}.values():
            for session in command.sessions():
                report.sections.append((f"session {session}", command.save_evidence(session)))
    return report
