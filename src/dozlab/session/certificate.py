"""The terminal's certificate on one machine: the user's files, copied to where the session's own user reads them.

They may be root's alone, as certbot leaves them; renewed ones are copied again, and the terminal takes them up.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from dozlab.lib import files
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.session.layout import POD

if TYPE_CHECKING:
    from dozlab.values import Tls

logger = logging.getLogger(__name__)

NAMES = ("tls.key", "tls.crt")
"""Their names in the session's shared folder, in memory. The key first: what follows a certificate finds its key."""
LOOK = 10.0
"""Seconds between two looks at the user's files."""


def check(tls: Tls) -> None:
    """Raise when the files cannot serve, before anything of a session is made.

    :raises BadUsage: in one line
    """
    if not tls.served:
        return
    from dozlab.terminal_sidecar.tls import Certificate

    for name, path in (("certFile", tls.cert_file), ("keyFile", tls.key_file)):
        if Path(path).is_relative_to(POD):
            raise BadUsage(f"terminal.tls.{name}: {path} lies below {POD}, which is hidden in a session; move it")
    try:
        Certificate(tls.cert_file, tls.key_file)
    except DozlabError as error:
        raise BadUsage(f"terminal.tls: {error.message}", hint=error.hint) from error


class Copies:
    """The copies of a session's certificate. `sources`: key and certificate; none where it speaks plain HTTP."""

    def __init__(self, sources: list[str], shared: Path, uid: int | None) -> None:
        self._sources = [Path(source) for source in sources]
        self._shared, self._uid = shared, uid
        self._seen = files.versions(self._sources) if self._laid() else ()

    def lay(self) -> None:
        """Copy them.

        :raises DozlabError: when one cannot be read
        """
        self._seen = files.versions(self._sources)
        try:
            for name, source in zip(NAMES, self._sources, strict=False):
                files.write_atomic(self._shared / name, source.read_bytes(), mode=0o600, owner=self._uid)
        except OSError as error:
            raise DozlabError(f"cannot copy the terminal's certificate: {error.filename}: {error.strerror}") from error

    def look(self) -> None:
        """Copy them again when they have changed. What cannot be read is said once, and the old pair stays."""
        if files.versions(self._sources) == self._seen:
            return
        try:
            self.lay()
        except DozlabError as error:
            logger.error("%s; the old one stays in use", error)
            return
        logger.info("the terminal's certificate was renewed")

    async def watch(self) -> None:
        """Look again and again."""
        while self._sources:
            await asyncio.sleep(LOOK)
            self.look()

    def _laid(self) -> bool:
        """Tell whether the copies are what the files hold, which may have been renewed since somebody copied them."""
        try:
            pairs = [(self._shared / name, source) for name, source in zip(NAMES, self._sources, strict=False)]
            return all(copy.read_bytes() == source.read_bytes() for copy, source in pairs)
        except OSError:
            return False
