"""What is said to a guest's `adopt` service: get ready to be saved, become this session's machine, set the clock.

A hostile guest is assumed from adoption on: answers are bounded in size and time, and nothing of them is believed but
numbers and one line of text. The guest's side is images/kitfiles/disk/usr/lib/dozlab/adopt.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dozlab.firecracker_vm.markers import clean
from dozlab.images import cpio
from dozlab.lib.errors import DozlabError

log = logging.getLogger(__name__)

PORT = 5541
TOKEN_FILE = "dozlab/identity/token"  # noqa: S105  (a file's name)
PREFIX = "dozlab/identity/"
_ENTROPY = 64
_LIMIT = 64 << 10
_CLOCK_ROUNDS = 8
_QUICK = 0.06
"""Seconds there and back up to which an answer tells the guest's time well enough."""
_FAR = 5.0
"""Seconds from which on a clock is set; a smaller difference is a step, which no delay on the way can spoil."""
CLOCK_ERROR = 0.02
"""Seconds the guest's clock may differ from ours once it has been looked at."""
ADOPTED_ERROR = 0.04
"""The same for what adoption alone makes of it: half of that is the answer's way back. It is looked at again soon."""


def new_token() -> str:
    """Return a key for one guest: 256 bits."""
    return secrets.token_hex(32)


def token_archive(token: str) -> bytes:
    """Return the archive for the initramfs that makes a guest wait to be saved. Pure."""
    folders = [cpio.directory("dozlab"), cpio.directory("dozlab/identity", 0o700)]
    return cpio.pack([*folders, cpio.file(TOKEN_FILE, f"{token}\n".encode(), 0o600)])


def identity_of(archive: bytes) -> dict[str, bytes]:
    """Return name -> content of what an identity.cpio holds below dozlab/identity/. Pure.

    :raises ValueError: when it is no archive of ours
    """
    return {
        entry.name.removeprefix(PREFIX): entry.data
        for entry in cpio.unpack(archive)
        if entry.name.startswith(PREFIX) and entry.data
    }


@dataclass
class Guest:
    """One guest that waits at `host`; `token` is the key it knows."""

    host: str
    token: str = field(repr=False)

    async def call(self, verb: str, *, timeout: float, **fields: Any) -> dict[str, Any]:
        """Send one request and return the answer; tries again until somebody listens.

        :raises DozlabError: when there is no answer within `timeout` seconds, or the guest refused
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        reader, writer = await asyncio.open_connection(self.host, PORT, limit=_LIMIT)
                        break
                    except OSError:
                        await asyncio.sleep(0.02)
                try:
                    request = {"verb": verb, "token": self.token, **fields}
                    if request.get("time") == 0.0:  # as late as can be
                        request["time"] = time.time()
                    writer.write(json.dumps(request).encode() + b"\n")
                    line = await reader.readline()
                finally:
                    writer.close()
            answer = json.loads(line)
            if not isinstance(answer, dict):
                raise ValueError("not an object")
        except TimeoutError as error:
            raise DozlabError(f"the guest did not answer {verb} within {timeout:.0f} s") from error
        except (OSError, ValueError) as error:
            raise DozlabError(f"the guest's answer to {verb} cannot be understood: {error}") from error
        if answer.get("ok") is not True:
            why = " ".join(clean(str(answer.get("error", "no reason")).encode()).split())[:300]
            raise DozlabError(f"the guest refused {verb}: {why}")
        return answer

    async def prepare(self, *, timeout: float) -> None:
        """Let the guest settle and close what only a session may open."""
        await self.call("prepare", timeout=timeout)

    async def adopt(self, identity: Mapping[str, bytes], env: str, *, timeout: float) -> tuple[bool, bool]:
        """Give the guest a session's identity; its key is another one then.

        Return whether it had a Docker to rename, and whether its clock is known to be right. It was set to the time at
        which we asked and what has passed since that came (known to a tick of its kernel). So it is behind by the way
        there: by less than what it lacks when the answer is here.

        :param identity: name -> content of the files that `apply-identity` reads
        :param env: text of /run/dozlab/env, empty where there is no workspace
        """
        successor, files = new_token(), _encoded(identity)
        answer = await self.call(
            "adopt", timeout=timeout, time=0.0, token_next=successor, entropy=_entropy(), identity=files, env=env,
            ids=[str(uuid.uuid4()) for _ in range(3)],
        )  # fmt: skip
        shown = answer.get("time")
        right = isinstance(shown, float) and abs(time.time() - shown) <= ADOPTED_ERROR
        self.token = successor
        return answer.get("docker") is not False, right

    async def refresh(self, identity: Mapping[str, bytes], *, timeout: float) -> None:
        """Tell a guest that has gone back to a checkpoint the time, and give it entropy it has not had yet.

        :param identity: as for `adopt`; the session may have been started anew since, and its client key with it
        """
        await self.call("refresh", timeout=timeout, time=0.0, entropy=_entropy(), identity=_encoded(identity))

    async def set_clock(self, *, timeout: float) -> float:
        """Set the guest's clock to ours; return by how many seconds it differs then (half of the way there assumed).

        Of two answers the one that came back sooner counts: an emulated guest on a busy machine may take long.
        """
        off = 0.0
        for number in range(_CLOCK_ROUNDS):
            way, off = min([await self._difference(timeout), await self._difference(timeout)])
            if (abs(off) <= CLOCK_ERROR and way <= _QUICK) or number == _CLOCK_ROUNDS - 1:
                break
            if abs(off) > CLOCK_ERROR:
                far = abs(off) > _FAR
                await self.call("clock", timeout=timeout, **({"time": 0.0} if far else {"step": -off}))
        return off

    async def _difference(self, timeout: float) -> tuple[float, float]:
        """Return how long an answer took there and back, and by how many seconds the guest's clock differs."""
        asked = time.time()
        shown = (await self.call("clock", timeout=timeout)).get("time")
        back = time.time()
        if not isinstance(shown, float):
            raise DozlabError("the guest does not tell its time")
        return back - asked, shown - (asked + back) / 2


def _encoded(identity: Mapping[str, bytes]) -> dict[str, str]:
    return {name: data.decode() for name, data in identity.items()}


def _entropy() -> str:
    return os.urandom(_ENTROPY).hex()


def read_identity(shared: Path) -> dict[str, bytes]:
    """Return the session's identity as init-rootfs wrote it.

    :raises DozlabError: when it is missing or damaged
    """
    path = shared / "identity.cpio"
    try:
        return identity_of(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DozlabError(f"{path} cannot be read: {error}", hint="run init-rootfs again") from error
