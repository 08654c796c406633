"""docs/how-to/bring-a-container-image.md: its Dockerfile, word for word, is built, imported and boots as a machine.

No registry is asked: `debian:13` is made here of the same packages, and `docker` is a stand-in with buildah behind it.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dozlab.images.build import host_apt_options
from dozlab.lib import debs
from dozlab.lib.proc import need, run
from tests.images.conftest import Teacher
from tests.support import REPOSITORY

GUIDE = (REPOSITORY / "docs/how-to/bring-a-container-image.md").read_text()
DOCKER = """#!/bin/sh
case $1 in
build) exec {buildah} bud --isolation=chroot --network=host --pull-never --iidfile "$3" "$4" ;;
save) exec {buildah} push --quiet "$4" "docker-archive:$3" ;;
esac
echo "no such command here: docker $*" >&2
exit 1
"""
POLICY = r"#!/bin/sh\nexit 101\n"  # no service starts while a container image is built


def block(language: str, heading: str) -> str:
    """Return the first block of a language below a heading of the guide."""
    found = re.search(rf"^## {heading}\n.*?^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A folder with the command `docker`, whose images are a storage of its own that has `debian:13`."""
    options = [
        f'--aptopt={name} "{value}"' for name, value in host_apt_options(run(["apt-config", "dump"]).out).items()
    ]
    base = tmp_path / "debian.tar"
    argv = [
        "mmdebstrap",
        "--variant=minbase",
        f"--keyring={debs.KEYRING}",
        '--aptopt=Acquire::Languages "none"',
        *options,
    ]
    argv += ['--aptopt=Acquire::Retries "3"', f"--customize-hook=printf '{POLICY}' > \"$1\"/usr/sbin/policy-rc.d"]
    argv += ['--customize-hook=chmod 755 "$1"/usr/sbin/policy-rc.d', "trixie", str(base)]
    run([*argv, f"deb {debs.mirror()} trixie main"], timeout=600)
    buildah = [
        need("buildah", "buildah"),
        f"--root={tmp_path}/images",
        f"--runroot={tmp_path}/run",
        "--storage-driver=vfs",
    ]
    container = run([*buildah, "from", "scratch"]).out.strip()
    run([*buildah, "add", "--quiet", container, base, "/"], timeout=300)
    run([*buildah, "commit", "--quiet", "--rm", container, "docker.io/library/debian:13"], timeout=300)
    base.unlink()
    command = tmp_path / "bin/docker"
    command.parent.mkdir()
    command.write_text(DOCKER.format(buildah=shlex.join(buildah)))
    command.chmod(0o755)
    return command.parent


@pytest.mark.machine
@pytest.mark.root
@pytest.mark.timeout(1500)
def test_the_guides_dockerfile_becomes_a_session(teacher: Teacher, docker: Path, tmp_path: Path) -> None:
    course = tmp_path / "courses/linux-101"
    course.mkdir(parents=True)
    (course / "Dockerfile").write_text(block("dockerfile", "What the image needs"))
    done = teacher.type(f"set -e\n{block('sh', 'Import it')}", course.parent, path=str(docker))
    assert done.returncode == 0, done.stdout[-6000:]
    assert "the image has no docker: no Docker in the machine" in done.stdout.splitlines()
    try:
        # All that was to start has started, or the check says which has not; the editor's files are there.
        told = teacher.ssh("lab", "systemctl is-system-running --wait; systemctl --failed --no-legend", timeout=600)
        assert told.split() == ["running"]
        assert "trixie" in teacher.ssh("lab", "cat /etc/os-release; python3 -V")
        assert "the image has no Docker" in teacher.run("status", "lab").stdout
        run_there = ["exec", "lab", "-c", "code-server", "--", "sh", "-c"]
        teacher.run(*run_there, "echo from-editor > /workspace/a")
        assert teacher.ssh("lab", "cat /workspace/a").strip() == "from-editor"
    finally:
        teacher.run("down", "lab")
    assert teacher.sessions() == []
