"""docs/reference/environment.md: the variables of the five components, from each `settings.py` and environment.toml."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "src/dozlab"
COMPONENTS = ("init-rootfs", "network-setup", "firecracker-vm", "terminal-sidecar", "code-server")
KINDS = {
    "text": "text", "path": "path", "integer": "whole number", "size": "size", "flag": "true or false",
    "ipv4": "IPv4 address", "words": "list", "secret": "secret", "get": "text",
}  # fmt: skip

HEAD = """\
# Environment

The components of a session are configured by environment only: the chart sets the variables, and so does `dozlab up`
(`src/dozlab/session/environment.py`). An empty variable counts as absent. Faults are reported all at once, and the
component ends with status 2. A *size* is `4G`, `512Mi` or a number of bytes; a *list* has commas or white space between
its words; a *secret* is read from the file that `NAME_FILE` names, else from `NAME`.

`dozlab run COMPONENT` runs one component here, as its container does.

| variable | type | default | read by | meaning |
|---|---|---|---|---|
"""

MEANINGS: dict[str, dict[str, str]] = tomllib.loads((Path(__file__).parent / "environment.toml").read_text())

TAIL = """
## Outside the components

| variable | default | meaning |
|---|---|---|
| `LOG_LEVEL` | info | Level of every component's log: debug, info, warning, error |
| `LOG_FORMAT` | plain | `json`: one JSON object a line |
| `XDG_CACHE_HOME` | `~/.cache` | `dozlab/` below it holds images, boot kit, code-server |
| `XDG_STATE_HOME` | `~/.local/state` | `dozlab/` below it holds one folder per session |
| `XDG_RUNTIME_DIR` | `/run` for root, else `/dev/shm/dozlab-UID` | `dozlab/` below it: sockets, keys, passwords |
| `DOZLAB_DEBIAN_MIRROR` | the one apt uses | Debian mirror for image, kit and Docker's client |
| `DOZLAB_ROOTFS` | `rootfs/` of the checkout | Folder of image recipes |
"""


@dataclass(frozen=True)
class Reading:
    """One place where a component reads a variable. `default` is empty for none, None where the code computes it."""

    component: str
    name: str
    kind: str
    default: str | None
    required: bool = False


def page() -> str:
    """Return the page.

    :raises SystemExit: when a variable has no meaning there, or a meaning belongs to no variable
    """
    found: dict[str, list[Reading]] = {}
    for component in COMPONENTS:
        for reading in readings(component):
            if reading not in found.setdefault(reading.name, []):
                found[reading.name].append(reading)
    if wrong := sorted(found.keys() ^ MEANINGS.keys()):
        raise SystemExit(f"tools/environment.toml and the components differ in {', '.join(wrong)}")
    return HEAD + "".join(_row(name, found[name]) for name in MEANINGS) + TAIL


def readings(component: str) -> Iterator[Reading]:
    """Yield what a component's settings read, from the calls of `lib.env.Env` in their source."""
    path = SOURCES / component.replace("-", "_") / "settings.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):  # for name in ("A", "B"): values.get(name)
            for item in node.iter.elts:
                if isinstance(item, ast.Constant) and str(item.value).isupper():
                    yield Reading(component, str(item.value), "text", "")
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "networks"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield Reading(component, str(node.args[0].value), "words", "")
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        owner, name = node.func.value, node.args[0]
        if not (isinstance(owner, ast.Name) and owner.id in ("env", "values") and isinstance(name, ast.Constant)):
            continue
        kind = node.func.attr
        if kind == "get" and any(  # a second look at what Env reads as well
            isinstance(other, ast.Call) and isinstance(other.func, ast.Attribute) and other.func.attr != "get"
            and other.args and isinstance(other.args[0], ast.Constant) and other.args[0].value == name.value
            for other in ast.walk(ast.parse(path.read_text()))
        ):  # fmt: skip
            continue
        if kind in KINDS and str(name.value).isupper():
            optional = kind in ("words", "secret", "flag", "get")
            given = node.args[1] if len(node.args) > 1 else None
            yield Reading(component, str(name.value), kind, _default(given), given is None and not optional)


def _default(node: ast.expr | None) -> str | None:
    if node is None:
        return ""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if ast.unparse(node) == "4 * GIB":
        return "4G"
    return None


def _row(name: str, found: list[Reading]) -> str:
    words, meaning = MEANINGS[name].get("default", ""), MEANINGS[name]["meaning"]
    kinds = sorted({KINDS[reading.kind] for reading in found})
    if words:
        default = words
    elif any(reading.default is None for reading in found):
        raise SystemExit(f"tools/environment.toml: say the default of {name} in words")
    elif all(reading.required for reading in found):
        default = "required"
    elif len({reading.default for reading in found}) > 1:
        default = ", ".join(f"`{reading.default}` ({reading.component})" for reading in found)
    else:
        default = f"`{found[0].default}`" if found[0].default else "empty"
    who = ", ".join(dict.fromkeys(reading.component for reading in found))
    return f"| `{name}` | {', '.join(kinds)} | {default} | {who} | {meaning} |\n"
