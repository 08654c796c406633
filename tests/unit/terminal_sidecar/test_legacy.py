"""The original sidecar's JSON protocol: its messages by themselves, and before real shells."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dozlab.terminal_sidecar import protocol as p
from dozlab.terminal_sidecar.legacy import JsonText, client_frames

from .conftest import Sidecar, terminal


def test_input_and_resize_become_frames() -> None:
    assert client_frames(b'{"type":"input","data":"ls\\n\xc3\xa9"}') == [p.Input("ls\né".encode())]
    assert client_frames(b'{"type":"resize","cols":120,"rows":40}') == [p.Resize(120, 40)]
    assert client_frames(b'{"type":"ping"}') == []
    long = client_frames(json.dumps({"type": "input", "data": "x" * 70_000}).encode())
    assert [len(frame.data) for frame in long if isinstance(frame, p.Input)] == [65536, 4464]


@pytest.mark.parametrize(
    "message",
    [b"", b"{", b"[]", b"5", b"\xff", b'{"type":"input"}', b'{"type":"input","data":5}', b'{"data":"x"}',
     b'{"type":"input","data":"\\ud800"}', b'{"type":"resize","cols":0,"rows":24}',
     b'{"type":"resize","cols":"80","rows":24}', b'{"type":"resize","cols":true,"rows":24}', b"[" * 60_000],
)  # fmt: skip
def test_malformed_messages_are_refused(message: bytes) -> None:
    with pytest.raises(p.ProtocolError):
        client_frames(message)


def _text(messages: list[bytes]) -> str:
    fields = [json.loads(message) for message in messages]
    assert all(field.keys() == {"type", "data"} and field["type"] == "output" for field in fields)
    return "".join(field["data"] for field in fields)


@given(st.text(), st.integers(1, 7))
def test_characters_are_never_cut(text: str, step: int) -> None:
    made, data = JsonText(), text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    messages = [m for at in range(0, len(data), step) for m in made.messages(p.output(at, data[at : at + step]))]
    assert _text(messages) == data.decode()


@pytest.mark.parametrize(
    "query",
    [b"\x05", b"\x1b[c", b"\x1b[>0c", b"\x1b[=c", b"\x1b[6n", b"\x1b[?6n", b"\x1b[?2026$p", b"\x1b[4$p", b"\x1b[>q",
     b"\x1b[?u", b"\x1b]11;?\x07", b"\x1b]4;1;?\x1b\\", b"\x1bP$qm\x1b\\", b"\x1bP+q544e\x1b\\"],
)  # fmt: skip
def test_a_replay_asks_nothing_however_it_is_cut(query: bytes) -> None:
    made, old = JsonText(), b"before\x1b[31m" + query + b"after"
    assert made.messages(p.replay_begin(0, reset=True, preamble=b"\x1b[?1049h")) == []
    assert made.messages(p.output(0, old[:13])) + made.messages(p.output(13, old[13:])) == []
    assert _text(made.messages(p.replay_end(len(old)))) == "\x1b[?1049hbefore\x1b[31mafter"
    assert _text(made.messages(p.output(len(old), query))) == query.decode()  # now it is asked


class Old:
    """A client of the original sidecar."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.text = socket, ""

    async def send(self, **fields: object) -> None:
        await self.socket.send(json.dumps(fields))

    async def until(self, wanted: str) -> None:
        async with asyncio.timeout(60):
            while wanted not in self.text:
                message = await self.socket.recv()
                assert isinstance(message, str)
                self.text = (self.text + json.loads(message)["data"])[-4_000_000:]


@contextlib.asynccontextmanager
async def old(sidecar: Sidecar, cookie: str, session: str = "lab1") -> AsyncIterator[Old]:
    url = f"ws://127.0.0.1:{sidecar.port}/terminal?session_id={session}"
    headers = {"Cookie": cookie, "Origin": sidecar.origin}
    async with connect(url, additional_headers=headers, compression=None, proxy=None) as socket:
        yield Old(socket)


async def test_an_old_client_works_comes_back_and_shares_with_the_page(sidecar: Sidecar) -> None:
    _, cookie = sidecar.login()
    async with old(sidecar, cookie) as client:
        await client.until("guest$ ")
        await client.send(type="resize", cols=101, rows=31)
        await client.send(
            type="input", data="stty size; kept='\u00e9\u4e2d\U0001f600'; printf '\\033[6n'; seq 200000\n"
        )
        await client.until("31 101")
        await client.until("\r\n200000\r\n")
    async with old(sidecar, cookie) as client, terminal(sidecar, cookie) as page:
        await client.until("\r\n200000\r\n")  # the same shell, with what it had printed
        assert "\x1b[6n" not in client.text
        await client.send(type="input", data="echo $kept-$((6*7))\n")
        await client.until("\u00e9\u4e2d\U0001f600-42\r\n")
        await page.until("\u00e9\u4e2d\U0001f600-42\r\n".encode())
        await client.send(type="input", data="exit\n")
        with pytest.raises(ConnectionClosed) as caught:
            await client.until("never")
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1000
    async with old(sidecar, cookie) as client:
        await client.send(type="input", data="echo new-$((1+1))$kept.\n")
        await client.until("new-2.\r\n")


async def test_a_malformed_message_is_said_and_closes(sidecar: Sidecar) -> None:
    _, cookie = sidecar.login()
    async with old(sidecar, cookie) as client:
        await client.until("guest$ ")
        await client.socket.send("no json")
        with pytest.raises(ConnectionClosed) as caught:
            async with asyncio.timeout(60):
                while True:
                    message = json.loads(await client.socket.recv())
        assert message["type"] == "error" and message["message"].startswith("not a message")
        assert caught.value.rcvd is not None and caught.value.rcvd.code == p.CLOSE_PROTOCOL


async def test_who_may_come_in_is_decided_as_for_the_page(sidecar: Sidecar) -> None:
    _, cookie = sidecar.login()
    url = f"ws://127.0.0.1:{sidecar.port}/terminal"
    good = {"Cookie": cookie, "Origin": sidecar.origin}
    for query, headers, status in (
        ("?session_id=lab1", {"Origin": sidecar.origin}, 401),
        ("?session_id=lab1", {"Cookie": cookie}, 403),
        ("?session_id=lab1", good | {"Origin": "http://evil.example"}, 403),
        ("?session_id=lab2", good, 404),
        ("", good, 404),
    ):
        with pytest.raises(InvalidStatus) as caught:
            await connect(url + query, additional_headers=headers, proxy=None)
        assert caught.value.response.status_code == status, (query, headers)
