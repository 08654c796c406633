"""Which VMM this machine can use: firecracker-vm's own decision, asked outside a session and remembered per boot.

A probe boot takes seconds; made once here, no session of this boot pays for it again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from dozlab.firecracker_vm import probe
from dozlab.firecracker_vm.settings import Settings
from dozlab.lib import paths
from dozlab.session import resources


def cache_file() -> Path:
    """Return where the answer is remembered."""
    return paths.cache() / "probe.json"


def decide(kit: Path, *, vmm: str = "auto", require_kvm: bool = False) -> probe.Decision:
    """Return the VMM for sessions on this machine, and why.

    :param kit: the boot kit, whose kernel is probed with
    :raises DozlabError: when what is required does not work
    """
    cache = paths.cache()
    cache.mkdir(parents=True, exist_ok=True)
    firecracker = resources.firecracker_binary(cache)
    settings = Settings.from_env(
        {
            "SESSION_ID": "probe",
            "SHARED_DIR": str(cache),
            "KIT_DIR": str(kit),
            "PROBE_CACHE": str(cache_file()),
            "VMM": vmm,
            "REQUIRE_KVM": str(require_kvm).lower(),
            "FIRECRACKER_BIN": str(firecracker or ""),
        }
    )
    return asyncio.run(probe.decide(settings))
