"""The proxy's own page: takes the ticket out of the address's fragment, which no server sees, and posts it."""

from __future__ import annotations

PREFIX = b"/.dozlab/"
"""What lies below it is never the guest's."""
PAGE, SCRIPT = b"/.dozlab/enter", b"/.dozlab/enter.js"

_HTML = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Opening</title>
<p id="say" role="status">Opening&hellip;</p>
<noscript>Switch JavaScript on to open a port of the machine.</noscript>
<script src="enter.js"></script>
</html>
"""
_JS = b"""const ticket = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
fetch(location.pathname, { method: "POST", body: ticket }).then(
  (reply) => {
    if (reply.ok) location.replace("/");
    else reply.text().then((text) => { document.getElementById("say").textContent = text; });
  },
  () => { document.getElementById("say").textContent = "The machine's session does not answer. Open the port again."; },
);
"""
_POLICY = (
    b"default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'"
)
_HEADERS = [
    (b"Cache-Control", b"no-store"),
    (b"Content-Security-Policy", _POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
]  # fmt: skip


def file(path: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]] | None:
    """Return what lies at a path: body and headers."""
    if path == PAGE:
        return _HTML, [(b"Content-Type", b"text/html; charset=utf-8"), *_HEADERS]
    if path == SCRIPT:
        return _JS, [(b"Content-Type", b"text/javascript; charset=utf-8"), *_HEADERS]
    return None
