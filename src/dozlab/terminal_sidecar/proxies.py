"""Who asks, when a proxy stands in front: client address and scheme out of `X-Forwarded-*`, from trusted peers only.

Everybody else reads `request.client` and `request.url.scheme`, which `Proxies` sets right; nobody else may read these
headers. `Forwarded` (RFC 7239) is not read. A peer that is not trusted may send what it likes: nothing of it counts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

_MOST_HOPS = 32
_SECURE = {"http": "https", "ws": "wss", "https": "https", "wss": "wss"}
_PLAIN = {secure: plain for plain, secure in _SECURE.items() if plain != secure}


def parse_networks(words: Iterable[str]) -> tuple[Network, ...]:
    """Return networks such as 10.0.0.0/8, fd00::/8, or single addresses.

    :raises ValueError: with a line that names the word at fault
    """
    return tuple(ipaddress.ip_network(word) for word in words)


def parse_address(text: str) -> Address | None:
    """Return the address of a hop, which may have a port (`192.0.2.1:80`, `[2001:db8::1]:80`); None for none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def client(peer: str, hops: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the address of whom to hold to account: the right-most one that is no trusted proxy.

    Each proxy appends whom it was asked by, so only what trusted ones have appended is true; what stands left of the
    first stranger the stranger may have written. A hop that is no address ends the search: the proxy itself counts.

    :param peer: who has connected to us
    :param hops: the entries of all X-Forwarded-For headers, in order
    """
    found = peer
    for hop in (peer, *reversed(hops[-_MOST_HOPS:])):
        address = parse_address(hop)
        if address is None:
            break
        found = str(address)
        if not any(address in network for network in trusted):
            break
    return found


def lane(address: str) -> str:
    """Return what attempts to log in are counted by: an IPv6 client has a whole /64 (RFC 6177) to try from."""
    found = parse_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return address


class Proxies:
    """ASGI middleware: puts the client's address and the scheme it used into the scope."""

    def __init__(self, app: App, trusted: tuple[Network, ...] = ()) -> None:
        self._app, self._trusted = app, trusted

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if self._trusted and scope["type"] in ("http", "websocket") and scope.get("client"):
            self._apply(scope)
        await self._app(scope, receive, send)

    def _apply(self, scope: Scope) -> None:
        peer, _ = scope["client"]
        address = parse_address(peer)
        if address is None or not any(address in network for network in self._trusted):
            return
        found = client(peer, _values(scope, b"x-forwarded-for"), self._trusted)
        if found != str(address):
            scope["client"] = (found, 0)
        schemes = _values(scope, b"x-forwarded-proto")
        if schemes:  # the last one is the trusted peer's own; what it does not say clearly is not secure
            secure = schemes[-1].lower() in ("https", "wss")
            scope["scheme"] = _SECURE[scope["scheme"]] if secure else _PLAIN.get(scope["scheme"], scope["scheme"])


def _values(scope: Scope, name: bytes) -> list[str]:
    found = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return [part.strip() for value in found for part in value.split(",") if part.strip()]
