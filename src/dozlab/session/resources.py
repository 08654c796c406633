"""What a session uses besides its own files: boot kit, editor, Docker command line, VMM. Made once, then cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dozlab.lib import paths

if TYPE_CHECKING:
    from dozlab.values import Values

Progress = Callable[[str], None]
FIRECRACKER = "bin/firecracker"
"""Where the Firecracker binary appears below /mnt, when there is one."""


def ensure(values: Values, progress: Progress) -> dict[str, str]:
    """Return name below /mnt -> path on the host, building what is missing (the first time: minutes).

    :raises DozlabError: when something cannot be built, with the command that helps
    """
    from dozlab.images import kit

    cache = paths.cache()
    found = {"kit": str(kit.ensure(cache / "kit", progress=progress))}
    if values.code_server.enabled:
        from dozlab.code_server import docker_cli, install

        found["code-server"] = str(install.install(cache))
        found["docker-cli"] = str(docker_cli.install(cache))
    firecracker = firecracker_binary(cache)
    if firecracker:
        found[FIRECRACKER] = str(firecracker)
    return found


def firecracker_binary(cache: Path) -> Path | None:
    """Return the Firecracker binary of this machine, from PATH or from our cache."""
    import shutil

    on_path = shutil.which("firecracker")
    mine = cache / "bin/firecracker"
    return Path(on_path) if on_path else mine if mine.exists() else None
