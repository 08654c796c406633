"""Frames there and back, and hostile frames."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.terminal_sidecar import protocol as p

u64 = st.integers(0, 2**64 - 1)
cells = st.integers(1, p.MAX_CELLS)
names = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,31}\Z")
frames = st.one_of(
    st.builds(p.Hello, names, cells, cells, epoch=st.text(max_size=20), offset=st.integers(0, 2**63 - 1)),
    st.builds(p.Input, st.binary(max_size=200)),
    st.builds(p.Resize, cells, cells),
    st.builds(p.Ack, u64, u64),
    st.builds(p.Ping, u64),
    st.just(p.NewShell()),
)


@given(frames)
def test_client_frames_survive_the_wire(frame: p.ClientFrame) -> None:
    assert p.decode_client(p.encode_client(frame)) == frame


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_a_protocol_error(message: bytes) -> None:
    try:
        p.decode_client(message)
    except p.ProtocolError as error:
        assert 4400 <= error.code < 4500


@given(u64, st.binary(max_size=100), st.booleans())
def test_server_frames_survive_the_wire(offset: int, data: bytes, reset: bool) -> None:
    assert p.decode_server(p.output(offset, data)) == p.ServerFrame(p.OUTPUT, offset=offset, data=data)
    begin = p.decode_server(p.replay_begin(offset, reset=reset, preamble=data))
    assert begin == p.ServerFrame(p.REPLAY_BEGIN, offset=offset, data=data, reset=reset)
    assert p.decode_server(p.replay_end(offset)).offset == p.decode_server(p.pong(offset)).offset == offset


def test_unknown_types_are_passed_over_so_that_the_protocol_can_grow() -> None:
    assert p.decode_client(b"\x7fwhatever") is None
    assert p.decode_server(b"\xf0x").kind == 0xF0


def hello(**fields: object) -> bytes:
    return b"\x01" + json.dumps({"versions": [1], "cols": 80, "rows": 24} | fields).encode()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", p.CLOSE_PROTOCOL),
        (b"\x01", p.CLOSE_PROTOCOL),
        (b"\x01[]", p.CLOSE_PROTOCOL),
        (b"\x01" + b"[" * 50_000, p.CLOSE_PROTOCOL),
        (hello(versions=[2]), p.CLOSE_VERSION),
        (hello(cols=0), p.CLOSE_PROTOCOL),
        (hello(rows=100000), p.CLOSE_PROTOCOL),
        (hello(shell="../x"), p.CLOSE_PROTOCOL),
        (hello(shell="main\n"), p.CLOSE_PROTOCOL),
        (hello(offset=-1), p.CLOSE_PROTOCOL),
        (hello(offset=True), p.CLOSE_PROTOCOL),
        (b"\x02" + bytes(p.MAX_INPUT + 1), p.CLOSE_PROTOCOL),
        (b"\x03\x00\x00\x00\x01", p.CLOSE_PROTOCOL),
        (b"\x04short", p.CLOSE_PROTOCOL),
    ],
)
def test_malformed_frames_have_their_close_code(message: bytes, code: int) -> None:
    with pytest.raises(p.ProtocolError) as caught:
        p.decode_client(message)
    assert caught.value.code == code
