"""Firecracker's API: a small HTTP/1.1 client over its unix socket, and the table of resources. Starts no process.

Source: firecracker src/firecracker/swagger/firecracker.yaml (1.8 to 1.17). Success is 204, or 200 with a body; anything
else carries `{"fault_message": str}`. Unknown fields are refused by the server, so bodies are built for its version.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozlab.firecracker_vm.machine import VmmRefused
from dozlab.lib.errors import DozlabError

Version = tuple[int, int, int]

_MAX_BODY = 1 << 20


@dataclass(frozen=True)
class Resource:
    """One resource of the API.

    :param method: HTTP method that sets it
    :param path: with `{id}` where it has one
    :param fields: field -> first version that knows it
    """

    method: str
    path: str
    fields: dict[str, Version]


_ANY: Version = (1, 8, 0)  # the oldest with ACPI, which Debian's kernel needs to find its disks

RESOURCES: dict[str, Resource] = {
    "machine-config": Resource(
        "PUT", "/machine-config",
        {"vcpu_count": _ANY, "mem_size_mib": _ANY, "smt": _ANY, "track_dirty_pages": _ANY, "huge_pages": (1, 7, 0)},
    ),
    "boot-source": Resource(
        "PUT", "/boot-source", {"kernel_image_path": _ANY, "initrd_path": _ANY, "boot_args": _ANY}
    ),
    "drive": Resource(
        "PUT", "/drives/{id}",
        {"drive_id": _ANY, "path_on_host": _ANY, "is_root_device": _ANY, "is_read_only": _ANY, "cache_type": _ANY},
    ),
    "network": Resource(
        "PUT", "/network-interfaces/{id}",
        {"iface_id": _ANY, "host_dev_name": _ANY, "guest_mac": _ANY, "mtu": (1, 16, 0)},
    ),
    "entropy": Resource("PUT", "/entropy", {"rate_limiter": _ANY}),
    "action": Resource("PUT", "/actions", {"action_type": _ANY}),
    "vm": Resource("PATCH", "/vm", {"state": _ANY}),
    "save": Resource(
        "PUT", "/snapshot/create", {"snapshot_type": _ANY, "snapshot_path": _ANY, "mem_file_path": _ANY}
    ),
    # Since 1.16 `clock_realtime` could move the clock; ours is set in the guest, whose clock source it need not be.
    "load": Resource("PUT", "/snapshot/load", {"snapshot_path": _ANY, "mem_backend": _ANY, "resume_vm": _ANY}),
}  # fmt: skip


def parse_version(text: str) -> Version:
    """Return (major, minor, patch) of `1.12.1`, `v1.12.1` or `1.17.0-dev`.

    :raises ValueError: when it is none of these
    """
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if not match:
        raise ValueError(f"not a Firecracker version: {text!r}")
    return int(match[1]), int(match[2]), int(match[3])


def build_body(resource: Resource, version: Version, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that this version knows; those with value None are left out.

    :raises DozlabError: when a field that was asked for is newer than the VMM
    :raises KeyError: when the table has no such field (a bug of ours)
    """
    body = {name: value for name, value in fields.items() if value is not None}
    for name in body:
        since = resource.fields[name]
        if version < since:
            raise DozlabError(
                f"Firecracker {dotted(version)} does not know {name} of {resource.path}",
                hint=f"use {dotted(since)} or newer",
            )
    return body


def dotted(version: Version) -> str:
    """Return `1.12.1`."""
    return ".".join(str(part) for part in version)


class FirecrackerApi:
    """The API of one Firecracker process."""

    def __init__(self, sock: Path) -> None:
        self._socket = sock
        self.version: Version = _ANY

    async def connect(self) -> Version:
        """Ask for the version, which later bodies are built for.

        :raises OSError: while nobody listens yet
        :raises DozlabError: when it is too old, or tells none
        """
        answer = await self._request("GET", "/version", None)
        try:
            self.version = parse_version(str(answer.get("firecracker_version", "")))
        except ValueError as error:
            raise DozlabError(f"what answers as Firecracker tells no version: {error}") from error
        if self.version < _ANY:
            raise DozlabError(
                f"Firecracker {dotted(self.version)} is too old: {dotted(_ANY)} is the first with ACPI",
                hint="run: python -m dozlab.firecracker_vm.install",
            )
        return self.version

    async def put(self, name: str, id: str = "", **fields: Any) -> dict[str, Any]:
        """Set a resource of the table.

        :raises VmmRefused: with the VMM's fault message
        """
        resource = RESOURCES[name]
        body = build_body(resource, self.version, fields)
        return await self._request(resource.method, resource.path.replace("{id}", id), body)

    async def state(self) -> str:
        """Return `Not started`, `Running` or `Paused`."""
        return str((await self._request("GET", "/", None)).get("state", ""))

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=_MAX_BODY)
        try:
            writer.write(head.encode() + b"\r\n" + data)
            await writer.drain()
            status, answer = await _read_response(reader)
        finally:
            writer.close()
        if status in (200, 204):
            return answer
        raise VmmRefused(f"firecracker refused {method} {path}: {answer.get('fault_message', f'HTTP {status}')}")


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """Read one response: (status, JSON body or {}).

    :raises ConnectionError: when it is cut short or is not HTTP
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        match = re.match(r"HTTP/1\.[01] (\d{3})", head[0])
        if not match:
            raise ConnectionError(f"not an HTTP answer: {head[0]!r}")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        length = int(headers.get("content-length", "0"))
        if length > _MAX_BODY:
            raise ConnectionError(f"answer of {length} bytes is too long")
        raw = await reader.readexactly(length) if length and match[1] != "204" else b""
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ConnectionError("Firecracker closed its API in the middle of an answer") from error
    try:
        answer = json.loads(raw) if raw else {}
    except ValueError:
        answer = {"fault_message": raw.decode(errors="replace")}
    return int(match[1]), answer if isinstance(answer, dict) else {}
