"""From a recipe to a base image in the store: mmdebstrap, the recipe's files, `mke2fs -d`, digest.

As root mmdebstrap works in a folder; as an ordinary user it works in a user namespace (subuids) and gives a tar,
which is unpacked and made into the image inside a user namespace again: `mke2fs -d` records the owners it sees.
Needs: mmdebstrap, e2fsprogs, and uidmap for ordinary users. Sources: mmdebstrap(1), mke2fs(8), unshare(1).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dozlab.images import overlay
from dozlab.images.recipe import Recipe, load
from dozlab.images.store import Manifest, Store, sha256_file
from dozlab.lib import debs, paths
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.files import locked
from dozlab.lib.proc import die_with_parent, need, run
from dozlab.lib.units import MIB, format_seconds, format_size

EPOCH = "1754697600"  # 2025-08-09, the release of Debian 13: time stamps do not differ between builds
UUID = "d021ab00-ba5e-4000-8000-000000000001"
BUILD_TIMEOUT = 1800.0
_ROOM = 4096 * MIB  # what a build needs at most: packages, the unpacked system and the image

Progress = Callable[[str], None]
log = logging.getLogger(__name__)


def recipes_dir() -> Path:
    """Return the folder of recipes: `$DOZLAB_ROOTFS`, else `rootfs/` of the checkout."""
    return Path(os.environ.get("DOZLAB_ROOTFS", "") or Path(__file__).resolve().parents[3] / "rootfs")


def find(name_or_dir: str | Path) -> Path:
    """Return the folder of a recipe by name or by path.

    :raises BadUsage: naming the recipes there are
    """
    for folder in (recipes_dir() / name_or_dir, Path(name_or_dir)):
        if (folder / "recipe.toml").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in recipes_dir().glob("*/recipe.toml"))) or "none"
    raise BadUsage(f"no recipe {name_or_dir} (there are: {known})")


def build(
    name_or_dir: str | Path,
    *,
    store: Store,
    progress: Progress = log.info,
    cache: Path | None = None,
    again: bool = False,
) -> Manifest:
    """Build a base image and put it into the store under the recipe's name; return its manifest.

    An image that was built from the very same recipe is taken as it is, unless `again`.

    :param progress: called with one line per step
    :param cache: folder for downloaded packages (default `~/.cache/dozlab/debs/<suite>`)
    :raises BadUsage: for a faulty recipe
    :raises DozlabError: when a program is missing, the network or the disk fails, or the image is too large
    """
    folder = find(name_or_dir)
    recipe, identity = load(folder), recipe_id(folder)
    there = store.by_name(recipe.name)
    if there and there.recipe == identity and not again:
        progress(f"{recipe.name}: already built from this recipe (--again builds it anew, with newer packages)")
        return there
    cache = cache or paths.cache()
    for program, package in (("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("tar", "tar")):
        need(program, package)
    if os.geteuid() != 0:
        need("newuidmap", "uidmap")
        need("unshare", "util-linux")
    started = time.monotonic()
    archives = cache / "debs" / recipe.suite
    archives.mkdir(parents=True, exist_ok=True)
    with locked(archives / "dozlab.lock"), _work_folder(cache) as work, store.begin() as image:
        progress(f"{recipe.name}: Debian {recipe.suite}, {len(recipe.packages)} packages and what they need")
        tree, packages = _bootstrap(recipe, work, archives)
        progress(f"{recipe.name}: {len(packages)} packages installed ({format_seconds(time.monotonic() - started)})")
        _make_image(recipe, tree, image)
        size = image.stat().st_size
        if size > recipe.size_limit:
            limit = format_size(recipe.size_limit)
            raise DozlabError(
                f"{recipe.name} came out at {format_size(size)}, over its size_limit of {limit}",
                hint="take packages out of the recipe or raise the limit",
            )
        progress(f"{recipe.name}: file system of {format_size(size)}")
        manifest = store.commit(image, sha256_file(image), name=recipe.name, packages=packages, recipe=identity)
    progress(f"{recipe.name}: sha256 {manifest.digest} ({format_seconds(time.monotonic() - started)})")
    return manifest


def recipe_id(folder: Path) -> str:
    """Return a digest over a recipe: every file of its folder, and our own code that turns it into an image."""
    digest = hashlib.sha256()
    ours = Path(__file__).parent
    code = [ours / name for name in ("build.py", "hello.py", "overlay.py", "recipe.py")]
    for root, files in (
        (folder, sorted(folder.rglob("*"))),
        (ours, [*code, *sorted((ours / "buildfiles").rglob("*"))]),
    ):
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                data = path.read_bytes()
                digest.update(f"{path.relative_to(root)}\0{os.access(path, os.X_OK)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def mmdebstrap_argv(
    recipe: Recipe, *, mirror: str, keyring: Path, target: Path, root: bool, archives: Path, extra: Path,
    packages_out: Path, apt_options: dict[str, str], lean: list[str],
) -> list[str]:  # fmt: skip
    """Return mmdebstrap's command line. Pure.

    :param extra: tar laid over the system (`overlay.build_tar`), holding `/.dozlab-build/customize`
    :param packages_out: host file for the list of installed packages
    """
    argv = [
        "mmdebstrap",
        f"--mode={'root' if root else 'unshare'}",
        f"--format={'directory' if root else 'tar'}",
        "--variant=important" if not recipe.lean else "--variant=apt",
        f"--include={','.join(recipe.packages)}",
        f"--keyring={keyring}",
        "--skip=essential/unlink",  # keep the downloaded packages until they are copied out
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "3"',
    ]
    argv += [f'--aptopt={name} "{value}"' for name, value in apt_options.items()]
    if lean:
        argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in lean]
        argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += [
        '--setup-hook=mkdir -p "$1"/var/cache/apt/archives',
        f"--setup-hook=sync-in {archives} /var/cache/apt/archives",
        f"--customize-hook=sync-out /var/cache/apt/archives {archives}",
        f"--customize-hook=tar-in {extra} /",
        '--customize-hook=chroot "$1" /.dozlab-build/customize',
        f"--customize-hook=download /.dozlab-build/packages {packages_out}",
        '--customize-hook=rm -rf "$1"/.dozlab-build',
    ]
    # A mirror that is old enough to have expired is still a signed one; the signature stays checked.
    source = f"deb {mirror} {recipe.suite} main"
    return [*argv, recipe.suite, str(target), source]


def mke2fs_argv(tree: Path, image: Path, blocks: int, *, label: str) -> list[str]:
    """Return the command that makes the image of `blocks` 4 KiB blocks from a folder. Pure."""
    return [
        need("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label[:16], "-U", UUID,
        "-O", "^has_journal,^resize_inode,^metadata_csum,^orphan_file", "-E",
        f"hash_seed={UUID},lazy_itable_init=0,nodiscard,root_owner=0:0", "-d", str(tree), str(image), str(blocks),
    ]  # fmt: skip


def host_apt_options(dump: str) -> dict[str, str]:
    """Return the host's proxy, TLS and validity options from `apt-config dump`. Pure."""
    kept = {}
    for line in dump.splitlines():
        name, _, value = line.rstrip(";").partition(" ")
        value = value.strip('"')
        lower = name.lower()
        wanted = lower.startswith(("acquire::http", "acquire::check-valid-until", "acquire::check-date"))
        if wanted and value and "::pipeline" not in lower and '"' not in value and "proxy-auto" not in lower:
            kept[name] = value
    return kept


def parse_packages(text: str) -> dict[str, str]:
    """Return name -> version from lines of `name TAB version`. Pure."""
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


def _bootstrap(recipe: Recipe, work: Path, archives: Path) -> tuple[Path, dict[str, str]]:
    root = os.geteuid() == 0
    extra, listed = work / "extra.tar", work / "packages"
    extra.write_bytes(overlay.build_tar(recipe))
    lean = overlay.lean_patterns() if recipe.lean else []
    tree = work / "tree"
    target = tree if root else work / "tree.tar"
    argv = mmdebstrap_argv(
        recipe, mirror=debs.mirror(), keyring=debs.KEYRING, target=target, root=root, archives=archives, extra=extra,
        packages_out=listed, apt_options=host_apt_options(run(["apt-config", "dump"]).out), lean=lean,
    )  # fmt: skip
    _run_logged(argv, work, "mmdebstrap")
    if not root:
        tree.mkdir()
        # Device nodes cannot be made in a user namespace, nor are they wanted: the kernel fills /dev (devtmpfs).
        # Attributes: file capabilities, such as ping's.
        unpack = ["tar", "-xf", str(target), "--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*"]
        run([*_as_root(), *unpack, "-C", tree], timeout=BUILD_TIMEOUT)
        target.unlink()
    return tree, parse_packages(listed.read_text())


def _make_image(recipe: Recipe, tree: Path, image: Path) -> None:
    usage = run([*_as_root(), "du", "-s", "--block-size=4096", "--count-links", tree], timeout=120)
    files = run([*_as_root(), "find", tree, "-printf", "."], timeout=120)
    inodes = len(files.out) + 1024
    data = int(usage.out.split()[0])
    blocks = data + inodes * 256 // 4096 + data // 64 + recipe.headroom // 4096
    argv = [*_as_root(), *mke2fs_argv(tree, image, blocks, label=recipe.name)]
    argv[argv.index("-d") : argv.index("-d")] = ["-N", str(inodes)]
    env = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "E2FSPROGS_FAKE_TIME": EPOCH, "MKE2FS_SKIP_PROGRESS": "1"}
    run(argv, timeout=BUILD_TIMEOUT, env=env)


def _as_root() -> list[str]:
    """Return the words before a command that must see uid 0 and the subuids: none as root."""
    if os.geteuid() == 0:
        return []
    return ["unshare", "--user", "--map-auto", "--map-root-user", "--"]


def _run_logged(argv: list[str], work: Path, name: str) -> None:
    """Run a long command in a process group of its own, ended with us; its output is shown only on failure."""
    path = work / f"{name}.log"
    (work / "tmp").mkdir()
    (work / "tmp").chmod(0o1777)  # mmdebstrap's own root is one of our subuids
    env = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "TMPDIR": str(work / "tmp"), "LC_ALL": "C.UTF-8"}
    with path.open("wb") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, preexec_fn=die_with_parent
        )
        try:
            code = process.wait(timeout=BUILD_TIMEOUT)
        except BaseException:
            process.terminate()  # mmdebstrap unmounts and removes its own folders on SIGTERM
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
            process.wait()
            raise
    if code != 0:
        raise DozlabError(f"{name} failed: {reason(path.read_text(errors='replace'))}")


def reason(log_text: str) -> str:
    """Return the one line of mmdebstrap's output that says why. Pure."""
    lines = [line.strip() for line in log_text.splitlines() if line.strip()]
    for mark in ("No space left on device", "Unable to locate package", "has no installation candidate", "E: ", "Err:"):
        for line in lines:
            if mark in line and "run_chroot" not in line:
                return "the disk is full" if mark.startswith("No space") else line.removeprefix("E: ")
    return lines[-1] if lines else "no output"


@contextlib.contextmanager
def _work_folder(cache: Path) -> Iterator[Path]:
    """Yield a new folder that is removed on every path, subuid-owned files included."""
    base = cache / "build"
    base.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(base).free
    if free < _ROOM // 2:
        raise DozlabError(
            f"building needs {format_size(_ROOM // 2)} of free space in {base}, {format_size(free)} there"
        )
    # As an ordinary user: where our subuids may enter, which a home folder often forbids.
    work = Path(tempfile.mkdtemp(prefix="dozlab-image.", dir=base if os.geteuid() == 0 else "/var/tmp"))  # noqa: S108
    work.chmod(0o711)
    try:
        yield work
    except OSError as error:
        raise DozlabError(f"build failed: {error.strerror}: {error.filename or work}") from error
    finally:
        run([*_as_root(), "rm", "-rf", "--one-file-system", work], timeout=300, check=False)


def check_name(name: str) -> None:
    """Raise BadUsage when no such recipe exists (for the command line, before anything starts)."""
    find(name)


__all__ = ["BadUsage", "build", "find", "recipes_dir"]
