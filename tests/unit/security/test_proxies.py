"""X-Forwarded-*: believed from configured proxies, and from nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.lib.errors import BadUsage
from dozlab.terminal_sidecar import proxies
from dozlab.terminal_sidecar.settings import Settings

from .conftest import HOST, Lab, Visitor

WRONG = b"password=wrong"
TRUSTED = proxies.parse_networks(["10.0.0.0/8", "fd00::/8", "192.0.2.9"])


@pytest.mark.parametrize(
    ("peer", "hops", "found"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", ["203.0.113.5"], "198.51.100.1"),  # a stranger's word
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.5"], "203.0.113.5"),  # the left one is the stranger's own
        ("10.0.0.1", ["6.6.6.6", "203.0.113.5", "10.9.9.9", "192.0.2.9"], "203.0.113.5"),
        ("fd00::1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("10.0.0.1", ["203.0.113.5:80"], "203.0.113.5"),
        ("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.5", "unknown"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.7"], "10.0.0.7"),  # nobody but proxies: the furthest
        ("10.0.0.1", [], "10.0.0.1"),
    ],
)
def test_the_right_most_hop_that_is_no_proxy_counts(peer: str, hops: list[str], found: str) -> None:
    assert proxies.client(peer, hops, TRUSTED) == found


@given(st.lists(st.text(max_size=20) | st.ip_addresses().map(str), max_size=40))
def test_nothing_a_stranger_writes_names_another(hops: list[str]) -> None:
    assert proxies.client("198.51.100.1", hops, TRUSTED) == "198.51.100.1"
    assert proxies.client("10.0.0.1", [*hops, "198.51.100.1"], TRUSTED) == "198.51.100.1"


async def test_without_configured_proxies_the_headers_say_nothing(lab: Lab, naps: list[float]) -> None:
    visitor = lab.visitor()
    for n in range(4):
        reply = await visitor.log_in(WRONG, X_Forwarded_For=f"203.0.113.{n}")
        assert reply.status == 401
    assert len(naps) == 3
    cookies = (await visitor.log_in(X_Forwarded_Proto="https")).cookies
    assert cookies and all("Secure" not in line for line in cookies)


async def test_a_peer_that_is_no_configured_proxy_is_not_believed(lab: Lab, naps: list[float]) -> None:
    visitor = lab.visitor(trusted_proxies=("10.0.0.0/8",))
    for n in range(4):
        await visitor.log_in(WRONG, X_Forwarded_For=f"203.0.113.{n}")
    assert len(naps) == 3
    assert (await visitor.log_in(X_Forwarded_Proto="https", Origin=f"https://{HOST}")).status == 403


async def test_behind_a_configured_proxy_each_client_has_a_lane_of_its_own(
    lab: Lab, naps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    visitor = lab.visitor(trusted_proxies=("10.0.0.0/8",))
    proxy = Visitor(visitor.app, "10.1.2.3")
    for n in range(4):  # what the client itself sent stands left of what the proxy added
        await proxy.log_in(WRONG, X_Forwarded_For=f"203.0.113.{n}, 198.51.100.66")
    assert len(naps) == 3
    assert "wrong password from 198.51.100.66" in caplog.text
    naps.clear()
    assert (await proxy.log_in(X_Forwarded_For="198.51.100.7")).status == 303 and naps == []


async def test_behind_a_configured_tls_proxy_the_scheme_is_the_client_s(lab: Lab) -> None:
    visitor = lab.visitor(trusted_proxies=("10.0.0.0/8",))
    proxy = Visitor(visitor.app, "10.1.2.3")
    tls: dict[str, Any] = {"X_Forwarded_Proto": "https", "Origin": f"https://{HOST}"}
    reply = await proxy.log_in(**tls)
    assert reply.status == 303 and all("Secure" in line.split("; ") for line in reply.cookies)
    cookie = reply.cookie()
    proxy.scheme = "ws"
    assert await proxy.knock(Cookie=cookie, **tls) == 101
    assert await proxy.knock(Cookie=cookie, X_Forwarded_Proto="https") == 403  # a plain page of the same host
    assert await proxy.knock(Cookie=cookie, X_Forwarded_Proto="https, http", Origin=f"https://{HOST}") == 403


async def test_the_forwarded_host_is_never_read(lab: Lab) -> None:
    visitor = lab.visitor(trusted_proxies=("10.0.0.0/8",))
    proxy = Visitor(visitor.app, "10.1.2.3")
    cookie = (await proxy.log_in()).cookie()
    evil: dict[str, Any] = {"X_Forwarded_Host": "evil.example", "Forwarded": "host=evil.example;proto=http"}
    assert await proxy.knock(Cookie=cookie, Origin="http://evil.example", **evil) == 403
    assert await proxy.knock(Cookie=cookie, **evil) == 101


def test_networks_are_checked() -> None:
    given = {"SESSION_ID": "a", "PASSWORD": "p"}
    settings = Settings.from_env(given | {"TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8 192.0.2.9"})
    assert settings.proxies == TRUSTED
    for fault in ("10.0.0.1/8", "proxy.example", "*"):
        with pytest.raises(BadUsage, match="TRUSTED_PROXIES"):
            Settings.from_env(given | {"TRUSTED_PROXIES": fault})
