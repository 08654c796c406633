"""TLS served by ourselves: the certificate out of two files, read again when they change. Only here is `ssl` used."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from dozlab.lib.errors import DozlabError
from dozlab.lib.files import versions

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

LOOK = 10.0
"""Seconds between two looks at the files."""


class Certificate:
    """A server's TLS context; `look()` brings a renewed certificate into it, for the connections made from then on.

    :raises DozlabError: when the files are not a certificate chain and its key
    """

    def __init__(self, cert: str, key: str) -> None:
        self._cert, self._key = cert, key
        self._seen = versions((cert, key))
        self.context = self._load()

    def _load(self) -> ssl.SSLContext:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert, self._key, "")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            what = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise DozlabError(
                f"TLS_CERT {self._cert} and TLS_KEY {self._key} cannot be used: {what}",
                hint="give PEM files of one certificate chain and its key, without a passphrase",
            ) from error
        return context

    def look(self) -> None:
        """Take a changed pair of files into use. A pair that does not fit is said once, and the old one goes on."""
        state = versions((self._cert, self._key))
        if state == self._seen:
            return
        self._seen = state
        try:
            self._load()  # in a context of its own: half a pair would leave the one in use without a key
            self.context.load_cert_chain(self._cert, self._key, "")
        except (DozlabError, OSError, ValueError) as error:
            log.error("the old TLS certificate stays in use: %s", error)
            return
        log.info("TLS certificate read again")

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK)
            self.look()
