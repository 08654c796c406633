"""The boot kit (KIT_DIR): kernel for both VMMs, initramfs, probe, and the read-only kit disk (ARCHITECTURE.md, Kit).

Made from three Debian 13 packages (kernel, its metapackage, busybox-static) fetched and verified by apt, and the
package's own `kitfiles/`. A kit is named by a digest over its inputs and appears by one rename.
Needs: apt, dpkg-deb, depmod (kmod), mke2fs (e2fsprogs). Sources: depmod(8), mke2fs(8), systemd-shutdown(8).
"""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

from dozlab.images import initramfs, vmlinux
from dozlab.lib import debs, paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import locked, read_json, write_json
from dozlab.lib.proc import need, run
from dozlab.lib.units import MIB, format_seconds, format_size

SUITE = "trixie"
KERNEL = "linux-image-cloud-amd64"
BUSYBOX = "busybox-static"
FORMAT = 1  # raise it when the way a kit is made changes
EPOCH = "1754697600"  # 2025-08-09
UUID = "d021ab00-0000-4000-8000-000000000002"
FILES = ("vmlinuz", "vmlinux", "initramfs.img", "probe.img", "kit.ext4")
EXECUTABLE = ("usr/lib/dozlab/apply-identity", "usr/lib/dozlab/docker-ready", "usr/lib/systemd/system-shutdown/dozlab")
WANTS = {
    "docker.service.wants": ("dozlab-docker.socket",),
    "multi-user.target.wants": ("dozlab-workspace.service", "dozlab-docker-ready.service", "dozlab-adopt.socket"),
}

UNPACKED = (
    "net/**", "lib/**", "fs/overlayfs/*", "fs/autofs/*", "drivers/net/veth*", "drivers/net/tun*", "drivers/net/dummy*",
    "drivers/net/vxlan/*", "drivers/net/macvlan*", "drivers/net/ipvlan/*", "drivers/net/wireguard/*",
    "drivers/net/virtio_net*",
)  # fmt: skip
"""Modules that Docker and Kubernetes load at their start: unpacking xz in an emulated machine takes seconds each."""

Progress = Callable[[str], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kit:
    """A kit in a folder. `kernel` is the kernel's release, `id` the digest over the kit's inputs."""

    folder: Path
    kernel: str
    id: str

    @classmethod
    def load(cls, folder: Path) -> Kit:
        """Return the kit in a folder.

        :raises DozlabError: naming what is missing
        """
        try:
            raw = read_json(folder / "manifest.json")
            kernel, kit_id = str(raw["kernel"]), str(raw["id"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DozlabError(f"no boot kit in {folder}", hint="run: dozlab image build kit") from error
        for name in FILES:
            if not (folder / name).is_file():
                raise DozlabError(f"the boot kit in {folder} lacks {name}", hint="remove the folder and build it again")
        return cls(folder, kernel, kit_id)

    @property
    def vmlinuz(self) -> Path:
        """Return the bzImage, for QEMU."""
        return self.folder / "vmlinuz"

    @property
    def vmlinux(self) -> Path:
        """Return the ELF kernel, for Firecracker."""
        return self.folder / "vmlinux"

    @property
    def initramfs(self) -> Path:
        """Return the boot initramfs; an identity cpio may be appended."""
        return self.folder / "initramfs.img"

    @property
    def probe(self) -> Path:
        """Return the probe's initramfs."""
        return self.folder / "probe.img"

    @property
    def disk(self) -> Path:
        """Return the kit disk."""
        return self.folder / "kit.ext4"


def find(cache: Path | None = None) -> Path | None:
    """Return the folder of the newest kit in a cache, None where there is none; builds nothing."""
    cache = cache or paths.cache() / "kit"
    current = read_json(cache / "current.json")
    folder = cache / str(current.get("id")) if isinstance(current, dict) else None
    return folder if folder and (folder / "manifest.json").exists() else None


def ensure(cache: Path | None = None, *, progress: Progress = log.info) -> Path:
    """Return the folder of a kit made by this version of Dozlab, building it where there is none yet.

    :param cache: where kits lie (default `~/.cache/dozlab/kit`), each in a folder named by its id
    :raises DozlabError: as `build`
    """
    cache = cache or paths.cache() / "kit"
    cache.mkdir(parents=True, exist_ok=True)
    recipe = recipe_id()
    with locked(cache / "lock"):
        current = read_json(cache / "current.json")
        if isinstance(current, dict) and current.get("recipe") == recipe:
            folder = cache / str(current.get("id"))
            if (folder / "manifest.json").exists():
                return Kit.load(folder).folder
        for stale in cache.glob("new.*"):
            shutil.rmtree(stale, ignore_errors=True)  # left by a crash: we hold the lock
        stage = Path(tempfile.mkdtemp(prefix="new.", dir=cache))
        try:
            kit = build(stage / "kit", progress=progress)
            folder = cache / kit.id
            if not folder.exists():
                os.rename(kit.folder, folder)
            write_json(cache / "current.json", {"recipe": recipe, "id": kit.id})
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return folder


def build(target: Path, *, progress: Progress = log.info) -> Kit:
    """Make a kit in `target` (made when missing).

    :raises DozlabError: when a program is missing, or network or disk fail
    """
    need("depmod", "kmod")
    need("mke2fs", "e2fsprogs")
    need("dpkg-deb", "dpkg")
    started = time.monotonic()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kit.", dir=target.parent) as name:
        work = Path(name)
        progress(f"boot kit: kernel and busybox of Debian {SUITE}")
        kernel_deb, busybox_deb = _fetch()
        debs.unpack(kernel_deb, work / "kernel")
        debs.unpack(busybox_deb, work / "busybox")
        images = sorted((work / "kernel/boot").glob("vmlinuz-*"))
        if len(images) != 1:
            raise DozlabError(f"{kernel_deb.name} holds {len(images)} kernels")
        release = images[0].name.removeprefix("vmlinuz-")
        vmlinuz = images[0].read_bytes()
        busybox = (work / "busybox/usr/bin/busybox").read_bytes()
        tree = _disk_tree(work, release)
        modules = tree / "usr/lib/modules" / release
        order = initramfs.load_order((modules / "modules.dep").read_text(), (modules / "modules.builtin").read_text())
        loaded = initramfs.unpacked(order, lambda path: (modules / path).read_bytes())
        (target / "vmlinuz").write_bytes(vmlinuz)
        (target / "vmlinux").write_bytes(vmlinux.extract(vmlinuz))
        (target / "initramfs.img").write_bytes(initramfs.boot(busybox, loaded))
        (target / "probe.img").write_bytes(initramfs.probe(busybox))
        _disk_image(tree, target / "kit.ext4")
        kit_id = hashlib.sha256(
            "\n".join([recipe_id(), kernel_deb.name, busybox_deb.name]).encode() + vmlinuz + busybox
        ).hexdigest()
        write_json(target / "manifest.json", {"kernel": release, "id": kit_id})
    progress(
        f"boot kit: kernel {release}, disk {format_size((target / 'kit.ext4').stat().st_size)} "
        f"({format_seconds(time.monotonic() - started)})"
    )
    return Kit.load(target)


def recipe_id() -> str:
    """Return a digest over everything of a kit that comes from this package: files, tables, format."""
    digest = hashlib.sha256(
        repr((FORMAT, SUITE, KERNEL, BUSYBOX, EXECUTABLE, WANTS, UNPACKED, initramfs.MODULES)).encode()
    )
    for name, data in _walk(initramfs.kitfiles()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def kernel_package(depends: str) -> str:
    """Return the package that holds the kernel from the metapackage's Depends field. Pure.

    :raises DozlabError: when it names none
    """
    match = re.search(r"\b(linux-image-\d[a-z0-9.+~-]*)", depends)
    if not match:
        raise DozlabError(f"{KERNEL} depends on no kernel: {depends!r}")
    return match[1]


def _fetch() -> tuple[Path, Path]:
    cache = paths.cache()
    folder = cache / "debs" / f"kit-{SUITE}"
    meta, busybox = debs.fetch(SUITE, [KERNEL, BUSYBOX], folder, cache=cache)
    package = kernel_package(run(["dpkg-deb", "-f", meta, "Depends"]).out)
    (kernel,) = debs.fetch(SUITE, [package], folder, cache=cache)
    return kernel, busybox


def _disk_tree(work: Path, release: str) -> Path:
    """Lay out the kit disk: modules with their indexes, helpers, units and the links that enable them."""
    tree = work / "tree"
    modules = tree / "usr/lib/modules"
    modules.mkdir(parents=True)
    source = work / "kernel/usr/lib/modules"
    if not source.exists():
        source = work / "kernel/lib/modules"
    shutil.move(source / release, modules / release)
    unpack_modules(modules / release / "kernel")
    (work / "depmod").mkdir()
    (work / "depmod/lib").symlink_to(tree / "usr/lib")
    run([need("depmod", "kmod"), "-b", work / "depmod", release], timeout=120)
    for name, data in _walk(initramfs.kitfiles() / "disk"):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755 if name in EXECUTABLE else 0o644)
    for folder, units in WANTS.items():
        for unit in units:
            link = tree / "usr/lib/systemd/system" / folder / unit
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"../{unit}")
    for path in [tree, *tree.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)  # whatever the umask: these folders lie over the image's own
    return tree


def unpack_modules(kernel: Path) -> None:
    """Replace the packed modules that match `UNPACKED` below a modules' `kernel/` folder by plain ones."""
    for pattern in UNPACKED:
        for path in kernel.glob(f"{pattern}/*.ko.xz" if pattern.endswith("**") else f"{pattern}.ko.xz"):
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            path.unlink()


def _disk_image(tree: Path, image: Path) -> None:
    """Make the disk with every file owned by root, also as an ordinary user (a user namespace maps us to 0)."""
    files = 64 + sum(1 for _ in tree.rglob("*"))
    data = sum(-(-path.lstat().st_size // 4096) + 1 for path in tree.rglob("*"))
    blocks = data + files * 256 // 4096 + data // 32 + 2 * MIB // 4096
    prefix = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--"]
    argv: list[str | Path] = [
        *prefix, need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "dozlab-kit",
        "-U", UUID, "-N", str(files), "-O", "^has_journal,^resize_inode,^metadata_csum", "-E",
        f"hash_seed={UUID},root_owner=0:0", "-d", tree, image, str(blocks),
    ]  # fmt: skip
    run(argv, timeout=300, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "E2FSPROGS_FAKE_TIME": EPOCH})


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for child in sorted(folder.iterdir(), key=lambda each: each.name):
        name = prefix + child.name
        if child.is_dir():
            found += _walk(child, f"{name}/")
        else:
            found.append((name, child.read_bytes()))
    return found
