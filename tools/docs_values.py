"""docs/reference/values.md: every value of a session, from `dozlab.values` and the docstrings in its source."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pydantic import BaseModel, SecretStr

from dozlab import values

KINDS = {
    "Size": "size",
    "IPv4": "IPv4 address",
    "IPv4Net": "IPv4 network",
    "Port": "port, 0 to 65535",
    "Whole": "whole number",
    "str": "text",
    "bool": "true or false",
    "Secret": "text, secret",
    "Text": "text",
    "Quantity": "quantity",
    "Texts": "mapping of text",
    "Objects": "list of mappings",
    "Name": "name",
    "Key": "key",
    "Resource": "name/name",
    "UrlPath": "path",
    "Host": "host name",
    "ServicePort": "port, 1 to 65535",
    "NodePort": "port, 0 to 65535",
    "Seconds": "seconds",
    "Count": "whole number",
    "PullSecret": "mappings",
    "IngressTls": "mappings",
}
CHECKS = {
    "_session_id": "DNS label of at most 40 characters",
    "_authorized_key": "OpenSSH public key line",
}

HEAD = """\
# Values

A session is described by values. They are given in YAML files with `-f`, and one at a time with `--set`. Later ones
win; mappings are merged, everything else (lists too) is replaced. Unknown names and wrong types are refused, all of
them at once, each with its path.

```yaml
# lab.yaml
vm:
  cpuCount: 4
  memory: 4096
rootfs:
  diskSize: 8G
volumes:
  vmData:
    sizeLimit: 10Gi
```

```sh
dozlab up lab -f lab.yaml --set vm.memory=3072 --set 'network.egress.allow={10.1.0.0/16,192.168.7.0/24}'
```

`--set name.name=value`: `true`, `false`, `null` and whole numbers get their type, `{a,b}` is a list, all else is text.

A *size* is `4G`, `512Mi`, `1.5GiB` or a number of bytes. K, M, G and T are powers of 1024, with and without the `i`.

`rootfs.diskSize` and `volumes.workspace.sizeLimit` together must fit into `volumes.vmData.sizeLimit`.
`rootfs.diskSize` is at least 64Mi. `network.vmIp` must lie in the /24 of `network.gatewayIp`.

On one machine `dozlab up` sets `session.id` to the id on its command line and takes the image `dozlab-vm` of the store
when `rootfs.imageUrl` is empty. `rootfs.imageUrl` may then also be the name of an image in the store or a path.
On one machine the session disk cannot grow beyond `rootfs.diskSize`, and the guest cannot fill the workspace beyond
its limit. Nothing there caps what the editor writes: the other limits are checked against one another only.
"""


def page() -> str:
    """Return the page."""
    texts = docstrings()
    parts = [HEAD]
    for name, field in values.Values.model_fields.items():
        model: Any = field.annotation
        alias = field.alias or name
        parts.append(f"\n## {alias}\n\n{one_line(model.__doc__)}\n\n")
        parts.append("| value | type | default | meaning |\n|---|---|---|---|\n")
        for path, kind, default, meaning in rows(model, alias, texts):
            parts.append(f"| `{path}` | {kind} | {default} | {meaning} |\n")
    return "".join(parts)


def docstrings(module: ModuleType = values) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (class, attribute) -> (kind, docstring) out of the module's source."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for at, item in enumerate(node.body):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                after = node.body[at + 1] if at + 1 < len(node.body) else None
                text = ""
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    text = one_line(str(after.value.value))
                found[node.name, item.target.id] = (_kind(item.annotation), text)
    return found


def rows(
    model: type[BaseModel], path: str, texts: dict[tuple[str, str], tuple[str, str]], default: Any = None,
    inherited: str = "",
) -> Iterator[tuple[str, str, str, str]]:  # fmt: skip
    """Yield (path, kind, default, meaning) of every value of a group, nested groups included."""
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}"
        kind, text = text_of(model, name, texts)
        inner: Any = field.annotation
        preset = getattr(default, name) if default is not None else field.get_default()
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from rows(inner, here, texts, default=preset, inherited=text)
            continue
        text = text or inherited
        if not text:
            raise SystemExit(f"{here} has no docstring in values.py")
        yield here, kind, shown(preset), text


def text_of(model: type, name: str, texts: dict[tuple[str, str], tuple[str, str]]) -> tuple[str, str]:
    """Return (kind, docstring) of a value, from the class that names it last."""
    return next(texts[base.__name__, name] for base in model.__mro__ if (base.__name__, name) in texts)


def _kind(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return KINDS.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return node.attr
    assert isinstance(node, ast.Subscript)
    outer = ast.unparse(node.value)
    inner = node.slice
    if outer == "dict":
        return "mapping"
    if outer == "list":
        return f"list: {_kind(inner)}"
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if outer == "Literal":
        return " or ".join(f"`{part.value!s}`" for part in parts if isinstance(part, ast.Constant))
    assert outer == "Annotated"
    kind = _kind(parts[0])
    for part in parts[1:]:
        assert isinstance(part, ast.Call)
        if ast.unparse(part.func) == "AfterValidator":  # a check with words of its own
            kind = CHECKS[ast.unparse(part.args[0])]
            continue
        limits = {word.arg: ast.unparse(word.value) for word in part.keywords}
        if "pattern" in limits:
            pattern = ast.literal_eval(limits["pattern"]).replace("|", "\\|")
            kind += f" like `{pattern}`"
        if "ge" in limits:
            kind += f", {limits['ge']} to {eval(limits['le'], {})}"  # noqa: S307  (our own source)
    return kind


def shown(value: Any) -> str:
    """Return a default as the tables show it."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in ("", [], {}):
        return "empty"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def one_line(text: str | None) -> str:
    """Return a docstring as one cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")
