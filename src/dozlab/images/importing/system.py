"""What an unpacked system has and lacks as a machine, and what containers leave in it that a machine must not have.

All paths are looked at from the system's own root: `root` is `/` after chroot(2), a folder only in tests.
Sources: os-release(5), deb(5) and dpkg's status file, systemd.unit(5), environment(5), elf(5).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_SSH_UNITS = ("ssh.service", "sshd.service", "ssh.socket", "sshd.socket")
FOR_DOCKER = ("iptables", "modprobe")
_PROGRAMS = ("usr/sbin", "usr/bin", "sbin")
_DOCKERD = ("usr/bin/dockerd", "usr/sbin/dockerd")
_UNIT_FOLDERS = ("etc/systemd/system", "usr/lib/systemd/system")
_EM_X86_64 = 62
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What every image has for PATH that was given none."""
_OWN_NAMES = {"HOME", "HOSTNAME", "TERM", "PWD", "USER", "SHELL", "container", "DEBIAN_FRONTEND"}
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_PLAIN = re.compile(r"^([^\"'#$\\\s]|(?<=\S) (?=\S))*$")
_DISK = re.compile(r"^\s*(/dev/|(UUID|LABEL|PARTUUID|PARTLABEL|ID)=)")
PROFILE = "etc/profile.d/container-environment.sh"
MASKED = ("proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount", "systemd-binfmt.service")
"""Units for a module that the kit's kernel has not: one that fails makes `systemctl is-system-running` say degraded."""
_LATEST = 2**31 - 1
"""The last second that mke2fs 1.47 can write."""


@dataclass(frozen=True)
class Facts:
    """What a system is. `missing`: what a machine needs and it lacks; `absent`: what it would be better off with."""

    family: str = ""
    """`debian` for Debian, Ubuntu and theirs, `fedora`, `suse`, `arch`, `alpine`, or empty."""
    foreign: bool = False
    """Its programs are for another processor."""
    missing: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)


def facts(root: Path) -> Facts:
    """Look at a system."""
    missing = []
    init = os.path.realpath(root / "sbin/init")
    if os.path.basename(init) != "systemd" or not os.access(init, os.X_OK):
        missing.append("systemd")
    if not _any(root, "usr/lib/systemd/systemd-udevd", "usr/sbin/udevd", "usr/bin/udevadm"):
        missing.append("udev")
    if not _any(root, "usr/sbin/sshd", "usr/bin/sshd"):
        missing.append("sshd")
    else:
        if not _ssh_starts(root):
            missing.append("sshd.enabled")
        if not _root_may_log_in(root):
            missing.append("sshd.root")
    if _any(root, *_DOCKERD):  # it makes its network with both, and does not start without
        missing += [name for name in FOR_DOCKER if not _any(root, *(f"{each}/{name}" for each in _PROGRAMS))]
    if not (root / "lib").is_symlink():
        missing.append("merged-usr")
    if not _any(root, "bin/sh"):
        missing.append("sh")
    wanted = {"docker": _DOCKERD, "python3": ("usr/bin/python3",),
              "sshfs": ("usr/bin/sshfs",)}  # fmt: skip
    return Facts(
        _family(root), _foreign(root / "bin/sh"), tuple(missing),
        tuple(name for name, places in wanted.items() if not _any(root, *places)), packages(root),
    )  # fmt: skip


def packages(root: Path) -> dict[str, str]:
    """Return name -> version of the Debian packages that are installed; empty for other systems."""
    folder = root / "var/lib/dpkg"
    files = [folder / "status", *sorted((folder / "status.d").glob("*"))]
    texts = [path.read_text(errors="replace") for path in files if path.is_file() and path.suffix != ".md5sums"]
    return dict(entry for text in texts for entry in _dpkg(text))


def tidy(root: Path, environment: Iterable[str]) -> None:
    """Remove a container's leftovers and every identity of its own; keep the image's environment for shells.

    :param environment: NAME=VALUE, of the image's configuration
    """
    for name in (".dockerenv", ".dockerinit", "etc/hostname", "var/lib/dbus/machine-id",
                 "var/lib/systemd/random-seed"):  # fmt: skip
        (root / name).unlink(missing_ok=True)
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    for name in ("etc/hosts", "etc/resolv.conf"):
        path = root / name
        if not path.is_symlink() and path.is_file() and not path.stat().st_size:
            path.unlink()
    policy = root / "usr/sbin/policy-rc.d"
    if not policy.is_symlink() and policy.is_file() and _starts_nothing(policy.read_text(errors="replace")):
        policy.unlink()
    _forget_disks(root / "etc/fstab")
    for name in ("dev", "proc", "run", "sys"):  # the kernel's, and in memory
        _empty(root / name)
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700)):
        if not os.path.lexists(root / name):
            (root / name).mkdir(parents=True)
            (root / name).chmod(mode)
    machine_id = root / "etc/machine-id"
    with contextlib.suppress(FileNotFoundError):
        machine_id.unlink()
    machine_id.write_bytes(b"")
    machine_id.chmod(0o444)
    if (root / "var/lib/dbus").is_dir():
        (root / "var/lib/dbus/machine-id").symlink_to("/etc/machine-id")
    _keep_environment(root, environment)
    _mask(root)
    _count_as_updated(root)


def _mask(root: Path) -> None:
    folder = root / "etc/systemd/system"
    folder.mkdir(parents=True, exist_ok=True)
    for unit in MASKED:
        if not os.path.lexists(folder / unit):
            (folder / unit).symlink_to("/dev/null")


def _count_as_updated(root: Path) -> None:
    """Tell systemd that /etc and /var fit /usr (systemd-update-done(8)): what installed the system has seen to it.

    Otherwise each machine builds the hardware database and others anew before anybody can log in: minutes in emulation.
    """
    for name in ("etc/.updated", "var/.updated"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text("")
        path.chmod(0o644)
        os.utime(path, (_LATEST, _LATEST))


def _forget_disks(fstab: Path) -> None:
    """Comment out another machine's disks (fstab(5)): systemd would wait for them and then give up the boot."""
    if fstab.is_symlink() or not fstab.is_file():
        return
    lines = fstab.read_text(errors="surrogateescape").splitlines()
    kept = [f"# not here: {line}" if _DISK.match(line) else line for line in lines]
    if kept != lines:
        fstab.write_text("".join(f"{line}\n" for line in kept), errors="surrogateescape")


def _keep_environment(root: Path, environment: Iterable[str]) -> None:
    """Write the image's variables where login shells and PAM find them."""
    told = dict(each.split("=", 1) for each in environment if "=" in each)
    kept = {
        name: value
        for name, value in told.items()
        if _NAME.match(name) and name not in _OWN_NAMES and "\n" not in value and (name, value) != ("PATH", _PATH)
    }
    if not kept:
        return
    profile = root / PROFILE
    profile.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in kept.items()]
    profile.write_text("".join(["# The container image's own environment.\n", *lines]))
    profile.chmod(0o644)
    file = root / "etc/environment"
    before = file.read_text(errors="surrogateescape") if file.is_file() else ""
    there = {line.partition("=")[0].strip() for line in before.splitlines()}
    plain = [f"{name}={value}\n" for name, value in kept.items() if name not in there and _PLAIN.match(value)]
    if before and not before.endswith("\n"):
        before += "\n"
    file.write_text("".join([before, *plain]), errors="surrogateescape")
    file.chmod(0o644)


def _any(root: Path, *names: str) -> bool:
    return any((root / name).exists() for name in names)


def _ssh_starts(root: Path) -> bool:
    """Tell whether something wants one of sshd's units at boot, and none of these is masked."""
    wants = [each for folder in _UNIT_FOLDERS for each in (root / folder).glob("*.wants")]
    for unit in _SSH_UNITS:
        masked = root / "etc/systemd/system" / unit
        if masked.is_symlink() and os.readlink(masked) == "/dev/null":
            continue
        if any(os.path.lexists(folder / unit) for folder in wants):
            return True
    return False


def _root_may_log_in(root: Path) -> bool:
    """Tell whether sshd takes root's key: for each keyword the first value counts (sshd_config(5))."""
    told: dict[str, str] = {}
    for line in _sshd_lines(root, "etc/ssh/sshd_config"):
        keyword, _, value = line.replace("=", " ", 1).partition(" ")
        told.setdefault(keyword.lower(), value.strip(' \t"').lower())
    root_login, keys = told.get("permitrootlogin", ""), told.get("pubkeyauthentication", "yes")
    return root_login not in ("no", "forced-commands-only") and keys != "no"


def _sshd_lines(root: Path, name: str, *, include: bool = True) -> Iterable[str]:
    """Yield what holds for everybody, the files that it includes in their place."""
    path = root / name
    if not path.is_file():
        return
    for line in path.read_text(errors="replace").splitlines():
        words = line.split("#", 1)[0].replace("\t", " ").strip()
        keyword = words.partition(" ")[0].lower()
        if keyword == "match":
            return
        if keyword == "include" and include:
            for pattern in words.split()[1:]:
                for each in _included(root, pattern):
                    yield from _sshd_lines(root, each, include=False)
        elif words:
            yield words


def _included(root: Path, pattern: str) -> list[str]:
    try:
        found = sorted(root.glob(pattern.lstrip("/") if pattern.startswith("/") else f"etc/ssh/{pattern}"))
        return [str(each.relative_to(root)) for each in found]
    except (ValueError, NotImplementedError):  # no pattern of ours
        return []


def _family(root: Path) -> str:
    try:
        text = (root / "etc/os-release").read_text(errors="replace")
    except OSError:
        return ""
    told: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        told[name] = value.strip("\"'")
    ids = [told.get("ID", ""), *told.get("ID_LIKE", "").split()]
    for family, names in (
        ("debian", ("debian", "ubuntu")), ("fedora", ("fedora", "rhel", "centos")), ("suse", ("suse", "opensuse")),
        ("arch", ("arch",)), ("alpine", ("alpine",)),
    ):  # fmt: skip
        if any(each == name or each.startswith(f"{name}-") for each in ids for name in names):
            return family
    return ""


def _foreign(program: Path) -> bool:
    try:
        with program.open("rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") != _EM_X86_64


def _dpkg(text: str) -> Iterable[tuple[str, str]]:
    """Yield the packages of dpkg's status file that are installed; a distroless image's files have no status. Pure."""
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" ")
        )
        status = fields.get("Status", "install ok installed")
        if "Package" in fields and "Version" in fields and status.endswith(" installed"):
            yield fields["Package"], fields["Version"]


def _starts_nothing(script: str) -> bool:
    """Tell whether a policy-rc.d is the one of container images, which lets no service start. Pure."""
    lines = [line.strip() for line in script.splitlines()]
    return [line for line in lines if line and not line.startswith("#")] == ["exit 101"]


def _empty(folder: Path) -> None:
    """Leave an empty folder there, whatever there was."""
    if os.path.lexists(folder) and not (folder.is_dir() and not folder.is_symlink()):
        folder.unlink()
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    folder.chmod(0o755)
