"""identity.cpio read back by the real cpio, keys by the real ssh-keygen; what is kept and what is new each start."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dozlab.init_rootfs import identity
from dozlab.init_rootfs.settings import from_env
from dozlab.lib.errors import BadUsage

Environ = Callable[..., dict[str, str]]
LEARNER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKhEgPioRLOUBVXhfgc6Po5auAPrMaIUMhglYlhs9meq me@home"


def unpack(data: bytes, folder: Path) -> dict[str, tuple[str, bytes | None]]:
    """Return path -> (mode as cpio lists it, content)."""
    listing = subprocess.run(["cpio", "-itv", "--numeric-uid-gid"], input=data, capture_output=True, check=True)
    subprocess.run(["cpio", "-idm"], input=data, cwd=folder, capture_output=True, check=True)
    found = {}
    for line in listing.stdout.decode().splitlines():
        words = line.split()
        assert words[2:4] == ["0", "0"]
        path = folder / words[-1]
        found[words[-1]] = (words[0], path.read_bytes() if path.is_file() else None)
    return found


def write(environ: dict[str, str]) -> None:
    identity.write(from_env({"IMAGE_DOWNLOAD_URL": "/x", **environ}))


def test_what_the_guest_gets(environ: Environ, tmp_path: Path) -> None:
    env = environ(SSH_AUTHORIZED_KEYS=f"{LEARNER}\n", VM_HOSTNAME="lab-1", DNS_SERVERS="192.0.2.53 192.0.2.54")
    write(env)
    shared, out = Path(env["SHARED_DIR"]), tmp_path / "out"
    out.mkdir()
    got = unpack((shared / "identity.cpio").read_bytes(), out)
    top = "dozlab/identity"
    assert {path: mode for path, (mode, _) in got.items()} == {
        "dozlab": "drwxr-xr-x",
        top: "drwx------",
        f"{top}/authorized_keys": "-rw-------",
        f"{top}/ssh_host_ed25519_key": "-rw-------",
        f"{top}/ssh_host_ed25519_key.pub": "-rw-r--r--",
        f"{top}/hostname": "-rw-r--r--",
        f"{top}/machine-id": "-r--r--r--",
        f"{top}/resolv.conf": "-rw-r--r--",
        f"{top}/hosts": "-rw-r--r--",
    }
    text = {path.rpartition("/")[2]: (body or b"").decode() for path, (_, body) in got.items()}
    assert text["resolv.conf"] == "nameserver 192.0.2.53\nnameserver 192.0.2.54\n"
    assert text["hostname"] == "lab-1\n"
    assert "172.16.0.2 lab-1\n" in text["hosts"]
    assert text["authorized_keys"] == (shared / "id_ed25519.pub").read_text() + f"{LEARNER}\n"
    assert len(text["machine-id"]) == 33
    host = " ".join(text["ssh_host_ed25519_key.pub"].split()[:2])
    assert (shared / "known_hosts").read_text() == f"172.16.0.2 {host}\n"
    for private in (shared / "id_ed25519", out / top / "ssh_host_ed25519_key"):
        assert private.stat().st_mode & 0o777 == 0o600
        derived = subprocess.run(["ssh-keygen", "-y", "-f", private], capture_output=True, check=True, text=True).stdout
        public = Path(f"{private}.pub").read_text()
        assert derived.split()[:2] == public.split()[:2]


def test_restart_keeps_host_key_and_machine_id_and_renews_the_client_key(environ: Environ) -> None:
    env = environ()
    shared, kept = Path(env["SHARED_DIR"]), Path(env["VM_DATA"]) / "disk" / "identity"
    write(env)
    known, client = (shared / "known_hosts").read_text(), (shared / "id_ed25519").read_text()
    machine = (kept / "machine-id").read_text()
    write(env)
    assert (shared / "known_hosts").read_text() == known
    assert (kept / "machine-id").read_text() == machine
    assert (shared / "id_ed25519").read_text() != client
    assert (kept.stat().st_mode & 0o777, (kept / "ssh_host_ed25519_key").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("key", ["hello", 'command="x" ssh-rsa AAAA', "ssh-rsa"])
def test_bad_authorized_key(key: str, environ: Environ) -> None:
    with pytest.raises(BadUsage, match="is no OpenSSH public key line"):
        write(environ(SSH_AUTHORIZED_KEYS=key))


@pytest.mark.root
def test_files_are_given_to_the_session_uid(environ: Environ) -> None:
    env = environ(SESSION_UID="54321")
    write(env)
    for name in ("identity.cpio", "id_ed25519", "known_hosts"):
        assert (Path(env["SHARED_DIR"]) / name).stat().st_uid == 54321


def test_machine_ids_differ_and_are_version_4() -> None:
    one, two = identity.machine_id(), identity.machine_id()
    assert one != two
    assert (len(one), one[12], one[16] in "89ab") == (32, "4", True)
