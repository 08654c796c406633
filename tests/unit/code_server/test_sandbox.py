"""What a program inside the editor's sandbox sees, run for real under bubblewrap. Mirrors code_server/sandbox.py."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dozlab.code_server import sandbox
from dozlab.code_server.launch import command, environment, with_data
from dozlab.code_server.settings import Settings


@pytest.fixture
def ready(settings: Settings) -> Settings:
    """Settings whose program folders exist."""
    settings.code_server.mkdir()
    settings.node.write_text("#!/bin/sh\n")
    return settings


def inside(settings: Settings, script: str, *before: str) -> subprocess.CompletedProcess[str]:
    argv, fds = with_data(sandbox.editor(settings, ["/bin/bash", "-c", script]))
    try:
        return subprocess.run(
            [*before, *argv], env=environment(settings, "$argon2id$x"), pass_fds=fds, capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip
    finally:
        for fd in fds:
            os.close(fd)


def test_sees_its_home_and_the_workspace_and_no_other_files(ready: Settings) -> None:
    (ready.workspace / "lab").write_text("exercise")
    (ready.shared or ready.home).joinpath("id_ed25519").write_text("key")
    done = inside(ready, "cat lab; ls -A / /home /mnt /root /srv /etc 2>&1; echo me > ~/mine; cat ~/mine; pwd")
    assert "exercise" in done.stdout
    assert done.stdout.endswith("me\n/workspace\n")
    assert (ready.home / "mine").read_text() == "me\n"
    etc = {line.partition("/")[0] for line in sandbox.ETC} | {"passwd", "group", "nsswitch.conf", "hosts", "hostname"}
    listed = done.stdout.split("/etc:\n")[1].split("\n\n")[0].splitlines()
    assert set(listed) <= etc
    assert not {"shadow", "machine-id", "ssh_host_ed25519_key"} & set(listed)
    for absent in ("/mnt", "/root", "/srv"):
        assert f"cannot access '{absent}'" in done.stdout
    assert inside(ready, f"cat {ready.workspace.parent}/shared/id_ed25519").returncode != 0


def test_sees_no_other_process_and_has_no_rights(ready: Settings) -> None:
    done = inside(ready, "ls -d /proc/[0-9]* | wc -l; id -un; hostname; grep -E 'Cap(Eff|Prm|Bnd)|NoNewPrivs' "
                  "/proc/self/status")  # fmt: skip
    count, user, name, *status = done.stdout.split("\n")
    assert int(count) <= 4  # bwrap, bash, ls, wc
    assert (user, name) == ("coder", "lab-1")
    figures = {line.split(":")[0]: int(line.split()[1], 16) for line in status if line}
    assert figures == {"CapPrm": 0, "CapEff": 0, "CapBnd": 0, "NoNewPrivs": 1}


@pytest.mark.parametrize(
    "attempt",
    [
        "unshare -Ur true", "mount -t tmpfs x /tmp", "touch /usr/x", "touch /etc/x", "touch /x", "touch /dev/x",
        "touch /opt/code-server/x", "cat /dev/kvm", "cat /dev/mem", "echo x > /proc/sysrq-trigger",
    ],
)  # fmt: skip
def test_refuses(ready: Settings, attempt: str) -> None:
    assert inside(ready, attempt).returncode != 0


def test_read_only_is_a_mount(ready: Settings) -> None:
    (ready.workspace / "lab").write_text("exercise")
    done = inside(
        replace(ready, workspace_read_only=True), "cat lab; echo x > lab; touch new; rm -f lab; chmod 777 lab"
    )
    assert done.stdout == "exercise"
    assert done.stderr.count("Read-only file system") == 4
    assert (ready.workspace / "lab").read_text() == "exercise"
    assert os.listdir(ready.workspace) == ["lab"]


def test_links_in_the_workspace_do_not_lead_out(ready: Settings) -> None:
    secret = ready.workspace.parent / "secret"
    secret.write_text("host secret")
    (ready.workspace / "a").symlink_to(secret)
    (ready.workspace / "b").symlink_to("../secret")
    (ready.workspace / "c").symlink_to("/etc/shadow")
    assert inside(ready, "cat a b c; echo x > a; echo x > b").returncode != 0
    assert inside(ready, "cat a b c").stdout == ""
    assert secret.read_text() == "host secret"


def test_ends_with_its_parent(ready: Settings) -> None:
    argv, fds = with_data(sandbox.editor(ready, ["/bin/bash", "-c", "echo up; sleep 600"]))
    with subprocess.Popen(argv, env={"PATH": "/usr/bin:/bin"}, pass_fds=fds, stdout=subprocess.PIPE) as box:
        for fd in fds:
            os.close(fd)
        assert box.stdout
        assert box.stdout.readline() == b"up\n"
        box.kill()
        assert box.stdout.read() == b""  # the last process inside has closed it


def test_no_secret_in_argv(ready: Settings) -> None:
    argv = [*sandbox.editor(ready, command(ready)).argv, *command(ready)]
    assert not [word for word in argv if "correct horse" in word or "argon2" in word]


def test_docker_client_is_where_it_looks(ready: Settings, tmp_path: Path) -> None:
    (tmp_path / "docker-cli/bin").mkdir(parents=True)
    (tmp_path / "docker-cli/bin/docker").write_text("#!/bin/sh\necho $DOCKER_HOST\n")
    (tmp_path / "docker-cli/bin/docker").chmod(0o755)
    assert inside(replace(ready, docker_cli=tmp_path / "docker-cli"), "docker").stdout == "tcp://127.0.0.1:2375\n"


@pytest.mark.parametrize(
    ("uid_map", "real"),
    [("         0          0 4294967295\n", True), ("         0       1000          1\n", False),
     ("         0       1000          1\n         1     100000      65536\n", False)],
)  # fmt: skip
def test_tells_the_machines_root_from_a_namespaces(uid_map: str, real: bool) -> None:
    assert sandbox.is_real_root(0, uid_map) is real
    assert not sandbox.is_real_root(1000, uid_map)


def test_ldd() -> None:
    out = "\tlinux-vdso.so.1 (0x00007f3d)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld.so.2 (0x00007f3)\n"
    assert sandbox.libraries(out) == ["/lib/x/libc.so.6", "/lib64/ld.so.2"]
