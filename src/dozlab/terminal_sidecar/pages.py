"""The built page: its HTML with the session's name filled in, and its assets with their caching. No routes."""

from __future__ import annotations

import html
import secrets
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from dozlab.lib.errors import DozlabError

_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".json": "application/json",
}

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # no-referrer would make a form's Origin "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


def policy(nonce: str = "") -> str:
    """Return the Content-Security-Policy: own files only; `nonce` admits the style elements xterm.js makes."""
    style = f"'self' 'nonce-{nonce}'" if nonce else "'self'"
    return (
        f"default-src 'none'; script-src 'self'; style-src {style}; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


class Pages:
    """Reads the built page once; `PAGE_DIR` is what `npm run build` in web/terminal writes.

    :raises DozlabError: when it has not been built
    """

    def __init__(self, folder: Path, session_id: str) -> None:
        self._session = html.escape(session_id)
        try:
            self._index = (folder / "index.html").read_text()
            self._login = (folder / "login.html").read_text()
            self._join = (folder / "join.html").read_text()
        except FileNotFoundError as error:
            raise DozlabError(f"the terminal page is not built ({folder})", hint="run: make page") from error
        self._assets = {path.name: path for path in sorted((folder / "assets").glob("*")) if path.suffix in _TYPES}

    def index(self) -> Response:
        """Return the terminal page."""
        nonce = secrets.token_urlsafe(16)
        text = self._index.replace("{{session}}", self._session).replace("{{nonce}}", nonce)
        return self._html(text, 200, policy(nonce))

    def login(self, *, error: str = "", status: int = 200) -> Response:
        """Return the login form, with a line that says what was wrong."""
        text = self._login.replace("{{session}}", self._session).replace("{{error}}", html.escape(error))
        return self._html(text, status, policy())

    def join(self) -> Response:
        """Return the page that takes an invitation."""
        return self._html(self._join.replace("{{session}}", self._session), 200, policy())

    @staticmethod
    def _html(text: str, status: int, csp: str) -> Response:
        headers = {"Cache-Control": "no-store", "Content-Security-Policy": csp}
        return Response(text, status, headers, media_type="text/html; charset=utf-8")

    def asset(self, request: Request) -> Response:
        """Return a file of the page by its name, which holds its digest: it may be kept for ever."""
        path = self._assets.get(request.path_params["name"])
        if path is None:
            return Response("not found\n", 404, media_type="text/plain")
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
        packed = path.with_name(path.name + ".gz")
        if "gzip" in request.headers.get("accept-encoding", "") and packed.exists():
            headers["Content-Encoding"] = "gzip"
            path = packed
        name = path.name.removesuffix(".gz")
        return Response(path.read_bytes(), headers=headers | {"Content-Type": _TYPES[Path(name).suffix]})
