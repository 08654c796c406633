"""Conversations without sockets: what a client gets, in which order, and how much before it acknowledges."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dozlab.terminal_sidecar import protocol as p
from dozlab.terminal_sidecar.attachment import LEAST_CREDIT, MOST_CREDIT, Attachment, Credit
from dozlab.terminal_sidecar.history import History


def pull_all(attachment: Attachment) -> list[p.ServerFrame]:
    frames = []
    while (message := attachment.pull()) is not None:
        frames.append(p.decode_server(message))
    return frames


def test_a_fresh_client_sees_everything_as_a_replay_and_then_live() -> None:
    history = History()
    history.append(b"old")
    client = Attachment(history, p.Hello(), 0)
    assert [f.kind for f in pull_all(client)] == [p.REPLAY_BEGIN, p.OUTPUT, p.REPLAY_END]
    history.append(b"new")
    assert pull_all(client) == [p.ServerFrame(p.OUTPUT, offset=3, data=b"new")]


def test_a_resuming_client_gets_only_the_rest() -> None:
    history = History()
    history.append(b"seen-missed")
    frames = pull_all(Attachment(history, p.Hello(epoch=history.epoch, offset=5), 0))
    assert [(f.kind, f.offset, f.data) for f in frames] == [
        (p.REPLAY_BEGIN, 5, b""), (p.OUTPUT, 5, b"missed"), (p.REPLAY_END, 11, b""),
    ]  # fmt: skip
    assert not frames[0].reset
    frames = pull_all(
        Attachment(history, p.Hello(epoch=history.epoch, offset=11), 0)
    )  # one that was cut off in a replay
    assert [(f.kind, f.offset) for f in frames] == [(p.REPLAY_BEGIN, 11), (p.REPLAY_END, 11)]  # sees its end


@pytest.mark.parametrize("hello", [p.Hello(epoch="another", offset=5), p.Hello(offset=5)])
def test_another_epoch_starts_afresh(hello: p.Hello) -> None:
    history = History()
    history.append(b"0123456789")
    frames = pull_all(Attachment(history, hello, 0))
    assert frames[0].reset and frames[1].data == b"0123456789"


def test_an_offset_from_the_future_or_forgotten_starts_afresh() -> None:
    history = History(1000)
    history.append(b"line\r\n" * 1000)
    for offset in (10, history.end + 1):
        frames = pull_all(Attachment(history, p.Hello(epoch=history.epoch, offset=offset), 0))
        assert frames[0].reset and frames[0].offset >= history.start


def test_an_echo_goes_at_once_and_the_rest_of_its_way_sends_nothing_twice() -> None:
    history = History()
    client = Attachment(history, p.Hello(), 0)
    assert client.echo(1) is None  # the replay comes first
    history.append(b"k")
    pull_all(client)
    assert client.echo(2) == 1
    history.append(b"ey")
    assert pull_all(client) == []
    client.control(p.pong(7))
    assert client.echo(1) is None
    history.append(b"s")
    assert [(f.kind, f.data) for f in pull_all(client)] == [(p.PONG, b""), (p.OUTPUT, b"s")]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["echo", "print", "state", "end", "ack"]), st.integers(1, 90_000)), max_size=40
    ),
    capacity=st.sampled_from([200_000, 1 << 20]),
)
def test_echoes_between_other_frames_leave_the_output_whole(steps: list[tuple[str, int]], capacity: int) -> None:
    history = History(capacity)
    client = Attachment(history, p.Hello(), 0)
    everything, position = b"", 0

    def took(frames: list[p.ServerFrame]) -> None:
        nonlocal position
        for frame in frames:
            if frame.kind == p.REPLAY_BEGIN:
                position = frame.offset
            elif frame.kind == p.OUTPUT:
                assert frame.offset == position
                assert frame.data == everything[position : position + len(frame.data)]
                position += len(frame.data)
                assert position - client.acked <= client.credit.size

    took(pull_all(client))
    for number, (what, size) in enumerate(steps):
        if what in ("echo", "print"):
            data = random.Random(number).randbytes(size)
            everything += data
            if what == "echo" and (offset := client.echo(size)) is not None:
                took([p.decode_server(p.output(offset, data))])
            history.append(data)
        elif what == "state":
            client.state(b"\x86{}")
        elif what == "end":
            client.after_output(b"\x85{}")
        else:
            client.ack(p.Ack(client.position, client.position), number)
        if size % 3:  # else the socket takes nothing just now
            took(pull_all(client))
    while position < len(everything):
        client.ack(p.Ack(client.position, client.position), len(steps))
        took(pull_all(client))


def test_no_more_than_the_credit_is_in_flight_and_an_ack_frees_it() -> None:
    history = History()
    client = Attachment(history, p.Hello(), 0)
    pull_all(client)
    history.append(bytes(1 << 20))
    assert sum(len(f.data) for f in pull_all(client)) == LEAST_CREDIT
    client.ack(p.Ack(1000, 1000), 0.001)
    assert pull_all(client) == []  # no small frames where there is much to send
    client.ack(p.Ack(40_000, 40_000), 0.002)
    assert [len(f.data) for f in pull_all(client)] == [40_000]


def test_a_client_that_is_too_slow_for_the_history_gets_a_replay_marked_as_such() -> None:
    history = History(256 << 10)
    client = Attachment(history, p.Hello(), 0)
    pull_all(client)
    history.append(b"line\r\n" * 200_000)
    frames = pull_all(client)
    assert frames[0].kind == p.REPLAY_BEGIN and frames[0].reset and frames[0].offset >= history.start


def test_the_exit_comes_after_the_output_that_came_before_it() -> None:
    history = History()
    client = Attachment(history, p.Hello(), 0)
    history.append(b"x" * (LEAST_CREDIT + 10))
    client.after_output(p.exit_(status=0, signal=None, reason="exited"))
    assert p.EXIT not in [f.kind for f in pull_all(client)]
    client.ack(p.Ack(client.position, client.position), 0.1)
    assert [f.kind for f in pull_all(client)][-1] == p.EXIT


@pytest.mark.parametrize("ack", [p.Ack(4, 3), p.Ack(2, 4)])
def test_an_ack_of_what_was_never_sent_is_refused(ack: p.Ack) -> None:
    history = History()
    client = Attachment(history, p.Hello(), 0)
    history.append(b"abc")
    pull_all(client)
    with pytest.raises(p.ProtocolError):
        client.ack(ack, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300_000)), max_size=60))
def test_whatever_happens_a_client_s_stream_has_no_gap(steps: list[tuple[int, int]]) -> None:
    """Output, pulls, acks and drops in any order: every byte once, but for a jump that says so."""
    history, now = History(100_000), 0.0
    client, got = Attachment(history, p.Hello(), now), 0

    def take(limit: int) -> None:
        nonlocal got
        for _ in range(limit):
            message = client.pull()
            if message is None:
                return
            frame = p.decode_server(message)
            if frame.kind == p.REPLAY_BEGIN and frame.reset:
                got = frame.offset
            elif frame.kind == p.OUTPUT:
                assert frame.offset == got
                assert frame.data == bytes(n % 251 for n in range(got, got + len(frame.data)))
                got += len(frame.data)
            assert client.position - client.acked <= MOST_CREDIT

    for kind, size in steps:
        now += 0.01
        if kind == 0:
            at = history.end
            history.append(bytes(n % 251 for n in range(at, at + size % 5000)))
        elif kind == 1:
            take(size % 5)
        elif kind == 2:
            client.ack(p.Ack(got if got <= client.position else 0, got), now)
        else:
            client = Attachment(history, p.Hello(epoch=history.epoch, offset=got), now)
    take(10_000)
    client.ack(p.Ack(client.position, client.position), now)
    take(10_000)
    assert got == history.end


@dataclass
class Way:
    """A client at the end of a line: `rate` bytes a second at most, `seconds` there and back."""

    rate: float
    seconds: float
    program: float = 1e9  # bytes a second that the shell prints

    def credit(self, seconds: float = 3.0) -> Credit:
        """Return the credit after a time of output, all of it acknowledged as soon as it is parsed."""
        history, now, step = History(), 0.0, 0.001
        history.append(b"$ ")
        client = Attachment(history, p.Hello(), now)
        free = 0.0  # when the line is free again
        due: list[tuple[int, float]] = []  # offsets, and when their acks come
        while now < seconds:
            if client.acked and history.end - client.acked < client.credit.size:  # as Shell holds the program back
                history.append(bytes(min(int(self.program * step), 64 << 10)))
            for frame in pull_all(client):
                if frame.kind == p.OUTPUT:
                    free = max(free, now) + len(frame.data) / self.rate
                    due.append((frame.offset + len(frame.data), free + self.seconds))
            client.sent(now)
            now += step
            while due and due[0][1] <= now:
                end, _ = due.pop(0)
                client.ack(p.Ack(end, end), now)
        return client.credit


@pytest.mark.parametrize(
    ("way", "least", "most"),
    [
        (Way(rate=5e6, seconds=0.001), LEAST_CREDIT, 190 << 10),  # a slow emulator
        (Way(rate=5e6, seconds=0.001, program=2e6), LEAST_CREDIT, LEAST_CREDIT),  # a slow program
        (Way(rate=5e6, seconds=0.06), 350 << 10, 512 << 10),  # a slow line to the other end of the country
        (Way(rate=5e7, seconds=0.001), MOST_CREDIT, MOST_CREDIT),
        (Way(rate=5e7, seconds=0.2), 400 << 10, MOST_CREDIT),  # and across the ocean
    ],
)
def test_credit_is_what_a_client_takes_in_its_round_trip_and_a_moment_more(way: Way, least: int, most: int) -> None:
    assert least <= way.credit().size <= most


def test_one_late_answer_is_not_a_longer_way() -> None:
    credit = Credit(0)
    for seconds in (0.01, 3.0, 0.01):
        credit.answered(seconds)
    credit.begun(0, 0)
    credit.acked(125_000, MOST_CREDIT, 0.025)  # 5 MB/s
    assert credit.size == (LEAST_CREDIT + int(5e6 * (0.01 * 1.25 + 0.03))) // 2


def test_a_client_that_stops_is_not_waited_for() -> None:
    history = History()
    client = Attachment(history, p.Hello(), 0)
    assert not client.stalled(100)  # nothing in flight
    history.append(b"abc")
    pull_all(client)
    assert not client.stalled(105)
    assert client.stalled(120)
