"""What a proxy may pass on: hop-by-hop headers end here (RFC 9110, 7.6.1), our cookies never meet the guest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Headers = Iterable[tuple[bytes, bytes]]

_OURS = (b"dozlab-", b"code-server-session-")
"""Beginnings of the cookies' names that no session's guest may see or set: cookies ignore ports."""
_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
}  # fmt: skip
_SAID_BY_US = {
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-forwarded-port",
    b"x-real-ip",
}
_BEYOND_THE_PORT = {b"clear-site-data", b"strict-transport-security", b"public-key-pins", b"alt-svc", b"set-cookie2"}
"""Headers of an answer that hold for the host, so for the terminal too where it has the same."""


def ours(name: bytes) -> bool:
    """Tell whether a cookie of that name is ours; one without a name is taken for one (it can spell any other)."""
    plain = name.strip().lower()
    return not plain or plain.startswith(_OURS)


def named(headers: Headers, wanted: bytes) -> list[bytes]:
    """Return the values of a header, by its name in lower case."""
    return [value for name, value in headers if name.lower() == wanted]


def words(headers: Headers, wanted: bytes) -> list[bytes]:
    """Return the words of a header that is a list, in their order."""
    return [word.strip() for value in named(headers, wanted) for word in value.split(b",") if word.strip()]


def _connection(headers: Headers) -> set[bytes]:
    return {word.lower() for word in words(headers, b"connection")}


def _ends(headers: Headers) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers that are for the other end; of two that say how long the body is, the chunks win."""
    headers = list(headers)
    gone = _HOP | _connection(headers)
    if named(headers, b"transfer-encoding"):
        gone = gone | {b"content-length"}
    for name, value in headers:
        if name.lower() not in gone:
            yield name, value


def upgrade(headers: Headers) -> bytes:
    """Return the protocol that the connection is to change to, b"" for none."""
    headers = list(headers)
    found = named(headers, b"upgrade")
    return found[0] if len(found) == 1 and b"upgrade" in _connection(headers) else b""


def _framing(headers: Headers) -> list[tuple[bytes, bytes]]:
    headers = list(headers)
    if protocol := upgrade(headers):
        return [(b"Connection", b"Upgrade"), (b"Upgrade", protocol)]
    return []


def to_guest(headers: Headers, *, client: str, host: bytes, scheme: str) -> list[tuple[bytes, bytes]]:
    """Return a request's headers for the guest: without our cookies, with who asked, and how.

    :param client: the browser's address
    :param host: the Host header as it was; the guest gets the same, so that its links and Origin checks are right
    :param scheme: http or https, as the browser spoke
    """
    headers = list(headers)
    kept = [
        (name, value) for name, value in _ends(headers) if name.lower() not in _SAID_BY_US and name.lower() != b"cookie"
    ]
    if cookies := b"; ".join(pair for pair in cookie_pairs(headers) if not ours(pair.partition(b"=")[0])):
        kept.append((b"Cookie", cookies))
    kept += [
        (b"X-Forwarded-For", client.encode()), (b"X-Forwarded-Host", host), (b"X-Forwarded-Proto", scheme.encode())
    ]  # fmt: skip
    kept += _framing(headers) or [(b"Connection", b"close")]
    if named(headers, b"transfer-encoding"):
        kept.append((b"Transfer-Encoding", b"chunked"))
    return kept


def cookie_pairs(headers: Headers) -> list[bytes]:
    """Return the `name=value` pairs of a request."""
    return [pair.strip() for value in named(headers, b"cookie") for pair in value.split(b";") if pair.strip()]


def cookie(headers: Headers, name: str) -> list[str]:
    """Return all values of a cookie: a page of the same host may have added some."""
    pairs = (pair.partition(b"=") for pair in cookie_pairs(headers))
    return [value.decode("latin-1") for found, _, value in pairs if found == name.encode()]


def to_browser(headers: Headers, *, switching: bool = False) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers for the browser: no cookie of ours, none for other hosts, nothing for the host.

    :param switching: the answer is 101
    """
    headers = list(headers)
    kept = []
    for name, value in _ends(headers):
        lower = name.lower()
        if lower in _BEYOND_THE_PORT:
            continue
        if lower == b"set-cookie":
            attributes = value.split(b";")
            if ours(attributes[0].partition(b"=")[0]) or b"=" not in attributes[0]:
                continue
            value = b";".join(each for each in attributes if each.partition(b"=")[0].strip().lower() != b"domain")
        kept.append((name, value))
    return kept + (_framing(headers) if switching else [])
