"""A Dockerfile built by whatever Docker the host's `docker` speaks to, and saved as an archive.

DOCKER_HOST may be a session's own Docker: nothing is left there but what `docker build` leaves anywhere.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import die_with_parent


def save(folder: Path, archive: Path, work: Path) -> None:
    """Build the Dockerfile of a folder and write its image to `archive`; docker's own output goes to stderr.

    :param work: an existing folder for what docker leaves for us
    :raises BadUsage: when there is no Dockerfile
    :raises DozlabError: when docker is missing or fails
    """
    if not (folder / "Dockerfile").is_file():
        raise BadUsage(f"no Dockerfile in {folder}")
    docker = shutil.which("docker")
    if not docker:
        raise DozlabError(
            "docker is not installed", hint="install it, or build elsewhere and import what docker save writes"
        )
    told = work / "image-id"
    _run([docker, "build", "--iidfile", str(told), str(folder)])
    image = told.read_text().strip() if told.is_file() else ""
    if not image:
        raise DozlabError(
            "docker build has kept no image", hint="if it builds in a container of its own, set BUILDX_BUILDER=default"
        )
    _run([docker, "save", "--output", str(archive), image])


def _run(argv: list[str]) -> None:
    """Run a docker command to its end; on every other path it is ended."""
    name = f"docker {argv[1]}"
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=2, preexec_fn=die_with_parent) as process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
            raise
    if code != 0:
        raise DozlabError(f"{name} failed: its own words are above", hint="DOCKER_HOST says which Docker is asked")
