"""Who the guest is: keys, name, machine-id, resolver; as identity.cpio for its initramfs (design.md D11).

Host key and machine-id stay the same for a kept session disk, in VM_DATA/disk/identity; the client key is new each
start.
cryptography rather than ssh-keygen: the latter refuses to run as a uid without a passwd entry, as Pods do.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from dozlab.images import cpio
from dozlab.init_rootfs.settings import Settings
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import write_atomic

FOLDER = "dozlab/identity"
HOST_KEY = "ssh_host_ed25519_key"
_MAX_SERVERS = 3  # resolv.conf(5): MAXNS


def key_pair(comment: str) -> tuple[bytes, str]:
    """Return a new ed25519 pair: the private key in OpenSSH's PEM, the public one as one line without newline."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private, f"{public} {comment}"


def machine_id() -> str:
    """Return a new machine-id(5): 32 hexadecimal digits of a version 4 UUID."""
    digits = list(secrets.token_hex(16))
    digits[12] = "4"
    digits[16] = "89ab"[int(digits[16], 16) & 3]
    return "".join(digits)


def write(settings: Settings) -> None:
    """Write identity.cpio, the client's key pair and known_hosts to SHARED_DIR.

    :raises DozlabError: when a folder cannot be written
    """
    shared = settings.shared_dir
    try:
        host_private, host_public, machine = _kept(settings)
        private, public = key_pair(f"dozlab-{settings.session_id}")
        members = members_of(settings, public, host_private, host_public, machine)
        known_hosts = f"{settings.vm} {' '.join(host_public.split()[:2])}\n"
        for name, data, mode in (
            ("identity.cpio", cpio.pad(cpio.pack(members), 512), 0o600),
            ("id_ed25519", private, 0o600),
            ("id_ed25519.pub", f"{public}\n".encode(), 0o644),
            ("known_hosts", known_hosts.encode(), 0o644),
        ):
            write_atomic(shared / name, data, mode=mode)
            give(shared / name, settings.owner_uid)
    except OSError as error:
        raise DozlabError(f"cannot write the session's identity: {error.filename}: {error.strerror}") from error


def members_of(
    settings: Settings, client_public: str, host_private: bytes, host_public: str, machine: str
) -> list[cpio.Entry]:
    """Return what identity.cpio holds. Pure."""
    keys = "".join(f"{line}\n" for line in (client_public, *settings.authorized_keys))
    resolv = "".join(f"nameserver {server}\n" for server in settings.dns[:_MAX_SERVERS])
    hosts = (
        "127.0.0.1 localhost\n"
        "::1 localhost ip6-localhost ip6-loopback\n"
        f"{settings.vm} {settings.hostname}\n"
    )  # fmt: skip
    files = (
        ("authorized_keys", 0o600, keys.encode()),
        (HOST_KEY, 0o600, host_private),
        (f"{HOST_KEY}.pub", 0o644, f"{host_public}\n".encode()),
        ("hostname", 0o644, f"{settings.hostname}\n".encode()),
        ("machine-id", 0o444, f"{machine}\n".encode()),
        ("resolv.conf", 0o644, resolv.encode()),
        ("hosts", 0o644, hosts.encode()),
    )
    head = [cpio.directory("dozlab"), cpio.directory(FOLDER, 0o700)]
    return head + [cpio.file(f"{FOLDER}/{name}", data, mode) for name, mode, data in files]


def _kept(settings: Settings) -> tuple[bytes, str, str]:
    """Return host key pair and machine-id of this session disk, made at its first start (0600)."""
    folder = settings.vm_data / "disk" / "identity"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = (HOST_KEY, f"{HOST_KEY}.pub", "machine-id")
    if not all((folder / name).exists() for name in names):
        private, public = key_pair(f"root@{settings.hostname}")
        for name, data in zip(names, (private, public.encode(), machine_id().encode()), strict=True):
            write_atomic(folder / name, data, mode=0o600, sync=True)
    private, public_line, machine = ((folder / name).read_bytes() for name in names)
    return private, public_line.decode().strip(), machine.decode().strip()


def give(path: Path, uid: int) -> None:
    """Make `uid` the owner, where it is another than ours (root starting a session with a uid of its own)."""
    if uid != os.getuid():
        os.chown(path, uid, -1)
