"""What a base image is made of: `recipe.toml` parsed, checked (all faults at once) and laid over the recipe it extends.

No building here. Every field: docs/reference/recipes.md.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from dozlab.images.recipe_check import Check
from dozlab.lib.errors import BadUsage
from dozlab.lib.units import MIB

FILE_NAME = "recipe.toml"
FILES = "files"
HEADROOM = 16 * MIB
LEAST_MEMORY = 128 * MIB
"""As of `vm.memory`."""
CHECK_TIMEOUT = 60
"""Seconds until a boot check without a `timeout` of its own is given up."""

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_SUITE = re.compile(r"^[a-z]+$")
_PACKAGE = re.compile(r"^[a-z0-9][a-z0-9.+-]+$")  # Debian policy 5.6.1
_UNIT = re.compile(r"^[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|mount|automount|target|path|slice)$")
_URL = re.compile(r"^https?://[^\s/@]+/\S+$")
_HTTPS = re.compile(r"^https://[^\s/@]+/\S+$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_PATH = re.compile(r"^(/(?!\.\.?(/|$))[^/\0]+)+/?$")
_RELATIVE = re.compile(r"^(?!/)(?!(.*/)?\.\.(/|$))[^\0]*[^/\0]$")
_FOLDER = re.compile(rf"^\.$|{_RELATIVE.pattern}")
_OCI = re.compile(r"^oci://[^\s/@]+/\S+$")
_PATTERN = re.compile(r"^/[^\0\s]+$")
_MODE = re.compile(r"^0?[0-7]{3}$")
_MODULE = re.compile(r"^[A-Za-z0-9_-]+$")
_TEXT = re.compile(r"^[^\0]+$", re.DOTALL)
_LINE = re.compile(r"^[^\0\n]+$")

_FIELDS = (
    "name", "extends", "suite", "packages", "size_limit", "headroom", "lean", "exclude", "hello_world", "services",
    "downloads", "generate", "containers", "checks", "machine", "kernel", "source",
)  # fmt: skip
_DOWNLOAD = ("url", "sha256", "checksums", "checksum_name", "to", "mode", "unpack", "only", "strip", "otherwise")
_SOURCE = ("dockerfile", "oci", "archive")
_OF_PACKAGES = ("suite", "packages", "lean", "exclude")
_GENERATE = ("name", "run", "key", "always")


@dataclass(frozen=True)
class Download:
    """A file from the web that goes into the image, held to `sha256` or to a line of the list at `checksums`."""

    url: str
    to: str
    """Absolute path in the image: of the file, or of the folder to unpack in."""
    sha256: str = ""
    checksums: str = ""
    checksum_name: str = ""
    mode: int = 0o644
    unpack: bool = False
    only: tuple[str, ...] = ()
    """Members of the archive to take, all where empty."""
    strip: int = 0
    """Leading parts of their names to leave out."""
    otherwise: str = ""
    """The `Generate` that stands in where the address cannot be reached."""


@dataclass(frozen=True)
class Generate:
    """A command of the host that fills an empty folder with files for the image."""

    name: str
    run: tuple[str, ...]
    key: tuple[str, ...] = ()
    """A command whose output changes when the files would."""
    always: bool = False
    folder: Path | None = None
    """Of the recipe that has it."""


@dataclass(frozen=True)
class Source:
    """Where the system comes from instead of Debian's packages: a Dockerfile's folder, a registry, an archive."""

    kind: Literal["dockerfile", "oci", "archive"]
    at: str
    """A path below `folder`, or an address."""
    folder: Path = Path()
    """Of the recipe that has it."""

    @property
    def path(self) -> Path:
        """What `at` means, where it is no address."""
        return self.folder / self.at


@dataclass(frozen=True)
class BootCheck:
    """A command that root of the guest must be able to run: tried until it can, for at most `timeout` seconds."""

    name: str
    run: str
    timeout: int = CHECK_TIMEOUT


@dataclass(frozen=True)
class Recipe:
    """A checked recipe with all that it extends. Sizes in bytes, `memory` in MiB (0: nothing is recommended).

    `files` are the folders laid over, in that order; `folders` those of the recipes, the farthest parent first.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    size_limit: int
    headroom: int = HEADROOM
    lean: bool = True
    exclude: tuple[str, ...] = ()
    """Patterns of files that packages bring and the image does not get (dpkg(1), --path-exclude)."""
    hello_world: bool = False
    enable: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    downloads: tuple[Download, ...] = ()
    generate: tuple[Generate, ...] = ()
    containers: tuple[str, ...] = ()
    """Archives of container images: paths in a recipe's folder, or in what a `Generate` made."""
    build_checks: tuple[str, ...] = ()
    boot_checks: tuple[BootCheck, ...] = ()
    cpus: int = 0
    memory: int = 0
    modules: tuple[str, ...] = ()
    """Kernel modules that the image needs."""
    source: Source | None = None
    """None: a system of Debian's packages."""


def recipes_dir() -> Path:
    """Return the folder of recipes: `$DOZLAB_ROOTFS`, else `rootfs/` of the checkout."""
    return Path(os.environ.get("DOZLAB_ROOTFS", "") or Path(__file__).resolve().parents[3] / "rootfs")


def find(name_or_dir: str | Path) -> Path:
    """Return the folder of a recipe by name or by path.

    :raises BadUsage: naming the recipes there are
    """
    for folder in (recipes_dir() / name_or_dir, Path(name_or_dir)):
        if (folder / FILE_NAME).is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in recipes_dir().glob(f"*/{FILE_NAME}"))) or "none"
    raise BadUsage(f"no recipe {name_or_dir} (there are: {known})")


def load(folder: Path, *, below: tuple[Path, ...] = ()) -> Recipe:
    """Return the recipe in a folder, laid over the one that it extends.

    :param below: folders of the recipes that extend this one
    :raises BadUsage: when there is none, its parent is missing or itself, or with one line per fault
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadUsage(f"no recipe at {path}: {error}") from error
    parent = None
    if extends := _extends(text, str(path)):
        beside = folder.absolute().parent / extends
        above = beside if (beside / FILE_NAME).is_file() else recipes_dir() / extends
        if not (above / FILE_NAME).is_file():
            raise BadUsage(f"{path}: extends: no recipe {extends} beside {folder.name}/, nor in {recipes_dir()}")
        chain = (*below, folder.resolve())
        if above.resolve() in chain:
            raise BadUsage(f"{path}: extends: {extends} extends {folder.name}: a recipe cannot be its own parent")
        parent = load(above, below=chain)
    files = folder / FILES
    return parse(text, folder=folder, files=files if files.is_dir() else None, where=str(path), parent=parent)


def parse(
    text: str, *, folder: Path | None = None, files: Path | None = None, where: str = FILE_NAME,
    parent: Recipe | None = None,
) -> Recipe:  # fmt: skip
    """Return the recipe that `text` (TOML) describes, laid over `parent`. Pure.

    :param folder: the recipe's own
    :param files: what it lays over the system
    :param where: how messages call the text
    :raises BadUsage: one line per fault
    """
    raw, check = _toml(text, where), Check(where)
    check.fields("", raw, _FIELDS)
    services = check.table(raw, "services", ("enable", "mask"))
    machine = check.table(raw, "machine", ("cpus", "memory"))
    kernel = check.table(raw, "kernel", ("modules",))
    checks = check.table(raw, "checks", ("build", "boot"))
    base = parent or Recipe("", "", (), 0)
    source = _source(raw, check, folder) or base.source
    memory = check.size(machine, "memory", base.memory * MIB, prefix="machine.")
    own = Recipe(
        name=check.text(raw, "name", _NAME, "a DNS label"),
        suite=check.text(
            raw, "suite", _SUITE, "a Debian code name such as trixie", default="" if source else base.suite or None
        ),
        packages=check.words(raw, "packages", _PACKAGE, "a Debian package name", required=not parent and not source),
        size_limit=check.size(raw, "size_limit", base.size_limit or None),
        headroom=check.size(raw, "headroom", base.headroom),
        lean=check.flag(raw, "lean", base.lean),
        exclude=check.words(raw, "exclude", _PATTERN, "a pattern of absolute paths"),
        hello_world=check.flag(raw, "hello_world", base.hello_world),
        enable=check.words(services, "enable", _UNIT, "a systemd unit", prefix="services."),
        mask=check.words(services, "mask", _UNIT, "a systemd unit", prefix="services."),
        files=(files,) if files else (),
        folders=(folder,) if folder else (),
        downloads=_downloads(raw, check),
        generate=_generate(raw, check, folder),
        containers=_containers(raw, check),
        build_checks=check.words(checks, "build", _LINE, "a command of one line", prefix="checks."),
        boot_checks=_boot_checks(checks, check),
        cpus=check.whole(machine, "cpus", base.cpus, 32, prefix="machine."),
        memory=memory // MIB,
        modules=check.words(kernel, "modules", _MODULE, "a kernel module", prefix="kernel."),
        source=source,
    )
    for field in (each for each in _OF_PACKAGES if source and each in raw):
        check.fault(field, "is for a system of Debian's packages: what [source] brings is whole")
    if 0 < memory < LEAST_MEMORY:
        check.fault("machine.memory", "is less than any machine needs (a size such as 1Gi)")
    if parent is not None and "source" in raw:
        check.fault("source", f"a recipe that extends {parent.name} has its system already")
    elif parent is not None and own.suite and own.suite != parent.suite:
        check.fault("suite", f"{parent.name} is {parent.suite}, what extends it cannot be {own.suite}")
    for unit in sorted(set(own.enable) & set(own.mask)):
        check.fault("services", f"{unit} is both enabled and masked")
    made = own if parent is None else _over(parent, own)
    known = {each.name for each in made.generate}
    for each in made.downloads:
        if each.otherwise and each.otherwise not in known:
            check.fault("downloads.otherwise", f"no [[generate]] is called {each.otherwise}")
    if check.faults:
        raise BadUsage("\n".join(check.faults))
    return made


def _over(parent: Recipe, own: Recipe) -> Recipe:
    """Return a recipe laid over its parent: lists grow, and what has a name is replaced by its namesake. Pure."""
    return Recipe(
        name=own.name, suite=own.suite, packages=_union(parent.packages, own.packages), size_limit=own.size_limit,
        headroom=own.headroom, lean=own.lean, exclude=_union(parent.exclude, own.exclude), hello_world=own.hello_world,
        enable=_union([unit for unit in parent.enable if unit not in own.mask], own.enable),
        mask=_union([unit for unit in parent.mask if unit not in own.enable], own.mask),
        files=parent.files + own.files, folders=parent.folders + own.folders,
        downloads=parent.downloads + own.downloads,
        generate=tuple({each.name: each for each in (*parent.generate, *own.generate)}.values()),
        containers=_union(parent.containers, own.containers),
        build_checks=_union(parent.build_checks, own.build_checks),
        boot_checks=tuple({each.name: each for each in (*parent.boot_checks, *own.boot_checks)}.values()),
        cpus=own.cpus, memory=own.memory, modules=_union(parent.modules, own.modules), source=own.source,
    )  # fmt: skip


W = TypeVar("W")


def _union(first: tuple[W, ...] | list[W], second: tuple[W, ...]) -> tuple[W, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadUsage(f"{where}: not TOML: {error}") from error


def _extends(text: str, where: str) -> str:
    check = Check(where)
    name = check.text(_toml(text, where), "extends", _NAME, "the name of a recipe", default="")
    if check.faults:
        raise BadUsage(check.faults[0])
    return name


def _source(raw: dict[str, Any], check: Check, folder: Path | None) -> Source | None:
    table = check.table(raw, "source", _SOURCE)
    told = [kind for kind in _SOURCE if kind in table]
    if "source" not in raw:
        return None
    if len(told) != 1:
        check.fault("source", f"needs one of {', '.join(_SOURCE)}")
        return Source("oci", "")
    pattern, what = {
        "dockerfile": (_FOLDER, "the folder of a Dockerfile, below the recipe's or ."),
        "oci": (_OCI, "an address such as oci://registry.example/course:v1"),
        "archive": (_RELATIVE, "a path below the recipe's folder"),
    }[told[0]]
    at = check.text(table, told[0], pattern, what, prefix="source.")
    return Source(cast(Literal["dockerfile", "oci", "archive"], told[0]), at, folder or Path())


def _downloads(raw: dict[str, Any], check: Check) -> tuple[Download, ...]:
    prefix, found = "downloads.", []
    for each in check.tables(raw, "downloads", _DOWNLOAD):
        url = check.text(each, "url", _URL, "an https:// address of a file", prefix=prefix)
        sums = check.text(each, "checksums", _HTTPS, "an https:// address of a list", default="", prefix=prefix)
        sha256 = check.text(each, "sha256", _SHA256, "64 hexadecimal digits in lower case", default="", prefix=prefix)
        if url and ("sha256" in each) == ("checksums" in each):
            check.fault(prefix + "sha256", f"{url} needs either sha256 or checksums")
        elif url.startswith("http:") and not sha256:
            check.fault(prefix + "url", f"{url}: over plain http only with sha256")
        unpack = check.flag(each, "unpack", False, prefix=prefix)
        for field in ("only", "strip"):
            if field in each and not unpack:
                check.fault(prefix + field, "is for unpack = true")
        name = check.text(each, "checksum_name", _TEXT, "a file's name", default="", prefix=prefix)
        found.append(
            Download(
                url=url,
                sha256=sha256,
                checksums=sums,
                checksum_name=(name or url.partition("?")[0].rpartition("/")[2]) if sums else "",
                to=check.text(each, "to", _PATH, "an absolute path", prefix=prefix).rstrip("/"),
                mode=int(
                    check.text(each, "mode", _MODE, "a mode such as 0755", default="0644", prefix=prefix) or "0", 8
                ),
                unpack=unpack,
                only=check.words(each, "only", _RELATIVE, "a member of an archive", prefix=prefix),
                strip=check.whole(each, "strip", 0, 20, prefix=prefix),
                otherwise=check.text(each, "otherwise", _NAME, "a name", default="", prefix=prefix),
            )
        )
    return tuple(found)


def _generate(raw: dict[str, Any], check: Check, folder: Path | None) -> tuple[Generate, ...]:
    prefix = "generate."
    found = tuple(
        Generate(
            name=check.text(each, "name", _NAME, "a DNS label", prefix=prefix),
            run=check.words(each, "run", _TEXT, "a word", required=True, prefix=prefix, twice=True),
            key=check.words(each, "key", _TEXT, "a word", prefix=prefix, twice=True),
            always=check.flag(each, "always", False, prefix=prefix),
            folder=folder,
        )
        for each in check.tables(raw, "generate", _GENERATE)
    )
    _once(check, "generate.name", [each.name for each in found])
    return found


def _containers(raw: dict[str, Any], check: Check) -> tuple[str, ...]:
    prefix = "containers."
    found = [
        check.text(each, "archive", _RELATIVE, "a path of a .tar below the recipe", prefix=prefix)
        for each in check.tables(raw, "containers", ("archive",))
    ]
    _once(check, "containers.archive", [path.rpartition("/")[2] for path in found])
    return tuple(found)


def _boot_checks(raw: dict[str, Any], check: Check) -> tuple[BootCheck, ...]:
    prefix = "checks.boot."
    found = tuple(
        BootCheck(
            name=check.text(each, "name", _LINE, "a line", prefix=prefix),
            run=check.text(each, "run", _TEXT, "a command", prefix=prefix),
            timeout=check.seconds(each, "timeout", CHECK_TIMEOUT, prefix=prefix),
        )
        for each in check.tables(raw, "boot", ("name", "run", "timeout"), prefix="checks.")
    )
    _once(check, "checks.boot.name", [each.name for each in found])
    return found


def _once(check: Check, field: str, names: list[str]) -> None:
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        check.fault(field, f"{name} is there twice")
