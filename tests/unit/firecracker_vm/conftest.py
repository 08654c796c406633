"""The real Firecracker, for tests that need its API server but no guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from dozlab.firecracker_vm.install import install_test_copy
from dozlab.firecracker_vm.vmm.firecracker import find_binary
from dozlab.lib import paths


@pytest.fixture(scope="session")
def firecracker() -> Path:
    """Return the program, fetched once into the cache where it is missing."""
    return find_binary() or install_test_copy(paths.cache() / "bin")
