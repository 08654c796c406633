"""What a base image is made of: `recipe.toml` parsed and checked, all faults at once. No building here.

Fields of a recipe:

- `name`: the image's name in the store, a DNS label
- `suite`: Debian's code name (`trixie`, `bookworm`)
- `packages`: Debian packages, installed with their dependencies and without recommendations
- `size_limit`: the build fails when the finished image is larger
- `headroom`: free space left in the file system (it is mounted read-only)
- `lean`: leave out man pages, docs and translations
- `hello_world`: bring the container image `hello-world` (loaded by the recipe's own `load-images`)
- `[services] enable, mask`: systemd units
- a folder `files/` beside the recipe is laid over the finished system: owner root, mode 0755 or 0644 as git knows it
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozlab.lib.errors import BadUsage
from dozlab.lib.units import MIB, parse_size

FILE_NAME = "recipe.toml"
FILES = "files"

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_SUITE = re.compile(r"^[a-z]+$")
_PACKAGE = re.compile(r"^[a-z0-9][a-z0-9.+-]+$")  # Debian policy 5.6.1
_UNIT = re.compile(r"^[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|mount|automount|target|path|slice)$")
_FIELDS = ("name", "suite", "packages", "size_limit", "headroom", "lean", "hello_world", "services")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. Sizes in bytes; `files` is the folder laid over, None where there is none."""

    name: str
    suite: str
    packages: tuple[str, ...]
    size_limit: int
    headroom: int = 16 * MIB
    lean: bool = True
    hello_world: bool = False
    enable: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    files: Path | None = None


def parse(text: str, *, files: Path | None = None, where: str = FILE_NAME) -> Recipe:
    """Return the recipe that `text` (TOML) describes. Pure.

    :param where: how messages call the text
    :raises BadUsage: one line per fault
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadUsage(f"{where}: not TOML: {error}") from error
    check = _Check(where)
    check.fields("", raw, _FIELDS)
    services = raw.get("services", {})
    if not isinstance(services, dict):
        check.fault("services", "must be a table")
        services = {}
    check.fields("services.", services, ("enable", "mask"))
    recipe = Recipe(
        name=check.text(raw, "name", _NAME, "a DNS label"),
        suite=check.text(raw, "suite", _SUITE, "a Debian code name such as trixie"),
        packages=check.words(raw, "packages", _PACKAGE, "a Debian package name", required=True),
        size_limit=check.size(raw, "size_limit", None),
        headroom=check.size(raw, "headroom", 16 * MIB),
        lean=check.flag(raw, "lean", True),
        hello_world=check.flag(raw, "hello_world", False),
        enable=check.words(services, "enable", _UNIT, "a systemd unit", prefix="services."),
        mask=check.words(services, "mask", _UNIT, "a systemd unit", prefix="services."),
        files=files,
    )
    for unit in sorted(set(recipe.enable) & set(recipe.mask)):
        check.fault("services", f"{unit} is both enabled and masked")
    if check.faults:
        raise BadUsage("\n".join(check.faults))
    return recipe


def load(folder: Path) -> Recipe:
    """Return the recipe in a folder.

    :raises BadUsage: when there is none, or with one line per fault
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadUsage(f"no recipe at {path}: {error}") from error
    files = folder / FILES
    return parse(text, files=files if files.is_dir() else None, where=str(path))


class _Check:
    """Reads typed fields and gathers faults; a faulty field gets a harmless value."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.faults: list[str] = []

    def fault(self, field: str, text: str) -> None:
        self.faults.append(f"{self.where}: {field}: {text}")

    def fields(self, prefix: str, raw: dict[str, Any], known: tuple[str, ...]) -> None:
        for name in raw:
            if name not in known:
                self.fault(prefix + name, f"no such field (known: {', '.join(known)})")

    def text(self, raw: dict[str, Any], field: str, pattern: re.Pattern[str], kind: str) -> str:
        value = raw.get(field)
        if not isinstance(value, str) or not pattern.match(value):
            self.fault(field, f"must be {kind}" + ("" if value is None else f", not {value!r}"))
            return ""
        return value

    def words(
        self, raw: dict[str, Any], field: str, pattern: re.Pattern[str], kind: str, *,
        required: bool = False, prefix: str = "",
    ) -> tuple[str, ...]:  # fmt: skip
        value = raw.get(field, [])
        if not isinstance(value, list):
            self.fault(prefix + field, "must be a list")
            return ()
        if required and not value:
            self.fault(prefix + field, "must not be empty")
        good = []
        for word in value:
            if not isinstance(word, str) or not pattern.match(word):
                self.fault(prefix + field, f"{word!r} is not {kind}")
            elif word in good:
                self.fault(prefix + field, f"{word} is there twice")
            else:
                good.append(word)
        return tuple(good)

    def size(self, raw: dict[str, Any], field: str, default: int | None) -> int:
        value = raw.get(field, default)
        if value is None:
            self.fault(field, "is missing (a size such as 1Gi)")
            return 0
        try:
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise ValueError(f"not a size: {value!r}")
            return parse_size(value)
        except ValueError as error:
            self.fault(field, str(error))
            return 0

    def flag(self, raw: dict[str, Any], field: str, default: bool) -> bool:
        value = raw.get(field, default)
        if not isinstance(value, bool):
            self.fault(field, "must be true or false")
            return default
        return value
