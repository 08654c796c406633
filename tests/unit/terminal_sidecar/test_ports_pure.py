"""The table of listeners, what a proxy passes on, and who gets a pass: without a guest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.lib.errors import BadUsage
from dozlab.terminal_sidecar.ports import headers
from dozlab.terminal_sidecar.ports.passes import PASS_SECONDS, TICKET_SECONDS, Passes
from dozlab.terminal_sidecar.ports.table import listeners
from dozlab.terminal_sidecar.settings import Settings

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0100007F:0BB8 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
   3: 010011AC:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
  sl  local_address                         remote_address                        st tx_queue rx_queue tr
   0: 00000000000000000000000001000000:0BB8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   1: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
"""


def test_who_listens() -> None:
    found = listeners(TABLE)
    assert [(each.port, [str(address) for address in each.addresses], each.open) for each in found] == [
        (22, ["0.0.0.0", "::"], True), (3000, ["127.0.0.1", "::1"], False), (8000, ["172.17.0.1"], True)
    ]  # fmt: skip
    assert [each.reached_by("172.16.0.2") for each in found] == [True, True, False]


@given(st.text(max_size=300) | st.lists(st.text("0123456789ABCDEF: \n", max_size=60)).map("\n".join))
def test_a_hostile_table_is_a_short_list(text: str) -> None:
    assert len(listeners(text)) <= 256


def test_a_table_without_end_is_a_short_list() -> None:
    lines = (f"0: 0100007F:{port:04X} 0:0 0A" for port in range(65536))
    assert len(listeners("\n".join(lines))) == 256


def test_our_cookies_stay_with_us_and_only_the_hop_is_ours() -> None:
    asked = [
        (b"Host", b"localhost:8082"), (b"Connection", b"keep-alive, X-Secret"), (b"X-Secret", b"1"),
        (b"TE", b"trailers"),
        (b"Cookie", b"a=1; dozlab-terminal-lab1=SECRET; dozlab-ports-lab1=SECRET; b=dozlab-x"),
        (b"cookie", b"code-server-session-lab1=SECRET; DOZLAB-x=SECRET; c=3; novalue"),
        (b"X-Forwarded-For", b"evil"), (b"Forwarded", b"for=evil"), (b"Accept", b"*/*"),
    ]  # fmt: skip
    sent = headers.to_guest(asked, client="10.0.0.9", host=b"localhost:8082", scheme="http")
    assert sent == [
        (b"Host", b"localhost:8082"), (b"Accept", b"*/*"), (b"Cookie", b"a=1; b=dozlab-x; c=3; novalue"),
        (b"X-Forwarded-For", b"10.0.0.9"), (b"X-Forwarded-Host", b"localhost:8082"), (b"X-Forwarded-Proto", b"http"),
        (b"Connection", b"close"),
    ]  # fmt: skip


def test_chunks_win_over_a_length_and_an_upgrade_goes_on() -> None:
    both = [(b"Host", b"x"), (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5")]
    sent = dict(headers.to_guest(both, client="", host=b"x", scheme="http"))
    assert b"Content-Length" not in sent and sent[b"Transfer-Encoding"] == b"chunked"
    assert headers.to_browser(both) == [(b"Host", b"x")]
    socket = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Key", b"k")]
    sent = dict(headers.to_guest(socket, client="", host=b"x", scheme="http"))
    assert (sent[b"Connection"], sent[b"Upgrade"], sent[b"Sec-WebSocket-Key"]) == (b"Upgrade", b"websocket", b"k")
    assert headers.upgrade([(b"Upgrade", b"websocket")]) == b""  # not for this hop


@pytest.mark.parametrize(
    "line",
    ["dozlab-terminal-lab1=x", "DOZLAB-terminal-lab1=x", " dozlab-ports-other = x; Path=/ws", "code-server-session-a=x",
     "=dozlab-terminal-lab1=x", "dozlab-terminal-lab1", ""],
)  # fmt: skip
def test_a_guest_sets_no_cookie_of_ours(line: str) -> None:
    assert headers.to_browser([(b"Set-Cookie", line.encode())]) == []


def test_a_guests_own_cookie_is_for_this_host_alone() -> None:
    kept = headers.to_browser([(b"Set-Cookie", b"sid=1; Domain=.example.org; Path=/; domain = x; HttpOnly")])
    assert kept == [(b"Set-Cookie", b"sid=1; Path=/; HttpOnly")]
    own_editor = [(b"Set-Cookie", b"code-server-session=x")]  # without a session's name behind it
    assert headers.to_browser(own_editor) == own_editor
    beyond = [b"Clear-Site-Data", b"Strict-Transport-Security", b"Alt-Svc"]
    assert headers.to_browser([(name, b"x") for name in beyond]) == []


def test_a_ticket_is_good_once_and_a_pass_ends_with_the_login() -> None:
    now = 0.0
    logged_in = {"a", "b"}
    passes = Passes(lambda: now, lambda member: member in logged_in)
    ticket = passes.ticket("a", 3000)
    token = passes.enter(ticket)
    assert token is not None and passes.enter(ticket) is None
    found = passes.look(token)
    assert found is not None and (found.port, found.member) == (3000, "a")
    late = passes.ticket("a", 3000)
    now = TICKET_SECONDS
    assert passes.enter(late) is None
    assert passes.look("") is None and passes.look(ticket) is None
    now = PASS_SECONDS - 1
    assert passes.look(token) is not None
    logged_in.remove("a")
    assert passes.look(token) is None
    other = passes.enter(passes.ticket("b", 1))
    assert other is not None
    passes.drop(["b"])
    assert passes.look(other) is None


def test_they_are_bounded() -> None:
    passes = Passes(lambda: 0.0, lambda member: True)
    first = passes.enter(passes.ticket("a", 1))
    assert first is not None
    for port in range(1, 600):
        passes.enter(passes.ticket("a", port))
    assert passes.look(first) is None


@pytest.mark.parametrize(
    ("origin", "fault"),
    [("ports.example", "not an origin"), ("https://a.example/x", "not an origin"), ("https://a.*.example", "not an"),
     ("https://*.", "not an origin"), ("https://LAB.example/", "the terminal's origin")],
)  # fmt: skip
def test_an_origin_that_cannot_be(origin: str, fault: str) -> None:
    env = {"SESSION_ID": "x", "PASSWORD": "x", "ALLOWED_ORIGINS": "https://lab.example", "PORTS_ORIGIN": origin}
    with pytest.raises(BadUsage, match=fault):
        Settings.from_env(env)
    Settings.from_env(env | {"PORTS_ORIGIN": "https://*.ports.lab.example:8443"})
