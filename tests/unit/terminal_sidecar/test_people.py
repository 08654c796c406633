"""Invitations, who leads, whose size, and that who only watches changes nothing: all without sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketState

from dozlab.lib import tasks
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.terminal_sidecar import protocol as p
from dozlab.terminal_sidecar.auth import ROLES, Member, Role, Tokens
from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.machine import Machine
from dozlab.terminal_sidecar.metrics import Traffic
from dozlab.terminal_sidecar.pace import Pace
from dozlab.terminal_sidecar.people.clients import MOST_SHOWN, YIELDS_AFTER, Client
from dozlab.terminal_sidecar.people.invitations import LONGEST, MOST, MOST_NAME, Invitations, plain_name
from dozlab.terminal_sidecar.shell import Shell, Shells
from dozlab.terminal_sidecar.stream import Stream

from .test_protocol import frames


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Channel:
    """A shell's channel that notes what is done to it."""

    def __init__(self) -> None:
        self.log: list[object] = []
        self.held = False

    def write(self, data: bytes) -> int:
        self.log.append(data)
        return 0

    def resize(self, cols: int, rows: int) -> None:
        self.log.append((cols, rows))

    def hold(self, hold: bool) -> None:
        if hold != self.held:
            self.held = hold
            self.log.append("hold" if hold else "go on")

    def close(self) -> None:
        self.log.append("close")


class FakeGuest:
    """A guest whose shells are channels as above."""

    state = "live"
    machine: Machine | None = None
    still = False
    latency: float | None = None

    def __init__(self) -> None:
        self.channels: list[Channel] = []

    async def open_shell(self, events: Shell, cols: int, rows: int) -> Channel:
        channel = Channel()
        channel.log.append((cols, rows))
        self.channels.append(channel)
        return channel


def member(role: Role, name: str = "") -> Member:
    return Member(f"id-{role}-{name}", role, name, f"key-{role}-{name}")


def run(scene: Callable[[FakeGuest, Shells, Clock], None], opens: bool = True) -> FakeGuest:
    """Play a scene; with `opens` the first shell runs and its owner has gone again."""

    async def play() -> FakeGuest:
        guest, clock = FakeGuest(), Clock()
        shells = Shells(guest, most=4, history=lambda: History(1 << 16), idle_seconds=100, clock=clock)
        if opens:
            shell = shells.get("main", member("owner"))
            client = shell.attach(p.Hello(), "s", member("owner"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert shell.live
            shell.detach(client)
        scene(guest, shells, clock)
        shells.close()
        return guest

    return asyncio.run(play())


def told(client: Client) -> p.ServerFrame:
    """Return the newest STATE that waits for a client."""
    found = None
    while (frame := client.attachment.pull()) is not None:
        if frame[0] == p.STATE:
            found = p.decode_server(frame)
    assert found is not None and found.fields is not None
    return found


# --- who only watches

messages = st.lists(st.one_of(frames.map(p.encode_client), st.binary(max_size=60)), max_size=30)


@settings(deadline=None, max_examples=60)
@given(messages, st.booleans(), st.booleans())
def test_whatever_a_viewer_sends_nothing_reaches_the_shell(sent: list[bytes], owner: bool, alternate: bool) -> None:
    """Neither input nor a size, nor that output is held back; not by attaching either."""

    def scene(guest: FakeGuest, shells: Shells, clock: Clock) -> None:
        shell = shells.get("main", member("viewer"))
        if owner:
            shell.attach(p.Hello(cols=100, rows=30), "s", member("owner"))
        shell.shell_output((b"\x1b[?1049h" if alternate else b"") + b"x" * 100_000)
        channel = guest.channels[0]
        before, size = list(channel.log), (shell.cols, shell.rows)
        watching = shell.attach(p.Hello(cols=11, rows=7), "s", member("viewer"))
        for message in sent:
            watching.attachment.pull()
            with contextlib.suppress(p.ProtocolError):  # it is closed then
                frame = p.decode_client(message)
                if frame is not None:
                    shell.receive(watching, frame)
        assert (channel.log, (shell.cols, shell.rows)) == (before, size)
        assert shell.clients.leader is not watching and shell.clients.sizer is not watching
        shell.detach(watching)
        assert (channel.log, (shell.cols, shell.rows)) == (before, size)

    guest = run(scene)
    assert len(guest.channels) == 1 and guest.channels[0].log[-1] == "close"


def test_a_viewer_neither_opens_a_shell_nor_makes_one() -> None:
    def scene(guest: FakeGuest, shells: Shells, clock: Clock) -> None:
        shells.get("main", member("viewer")).attach(p.Hello(), "s", member("viewer"))
        with pytest.raises(p.ProtocolError) as caught:
            shells.get("other", member("viewer"))
        assert caught.value.code == p.CLOSE_NO_SHELL
        assert [shell.name for shell in shells.all()] == ["main"]

    assert run(scene, opens=False).channels == []


def test_a_viewer_does_not_bring_an_ended_shell_back_and_is_told_once_what_it_is() -> None:
    def scene(guest: FakeGuest, shells: Shells, clock: Clock) -> None:
        shell = shells.get("main", member("viewer"))
        watching = shell.attach(p.Hello(), "s", member("viewer"))
        shell.shell_ended(0, None)
        told(watching)
        shell.receive(watching, p.NewShell())
        fields = told(watching).fields
        assert fields is not None
        assert (fields["role"], fields["lead"], fields["sizes"]) == ("viewer", False, False)
        for frame in (p.NewShell(), p.Lead(), p.Input(b"x")):
            shell.receive(watching, frame)
        assert watching.attachment.pull() is None
        assert shell.ended is not None

    run(scene)


class DeafWire:
    """A wire that takes nothing and brings nothing by itself."""

    open = False
    on_writable: Callable[[], None] | None = None
    transport = SimpleNamespace(write=None)

    def begin(self, take: object) -> None: ...

    def end(self) -> None: ...


class DeafSocket:
    """A WebSocket whose peer sends but reads nothing, so that closing it does not end."""

    application_state = WebSocketState.CONNECTED

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.scope = {"state": {"wire": DeafWire()}}

    def stream(self, shells: Shells) -> Stream:
        """Return the stream that serves it, for an editor."""
        return Stream(self, shells, Traffic(), "s", member("editor"), Pace(Clock()))  # type: ignore[arg-type]

    async def receive(self) -> dict[str, object]:
        return {"type": "websocket.receive", "bytes": await self.inbox.get()}

    async def send(self, message: object) -> None:
        await asyncio.Event().wait()

    async def close(self, code: int, reason: str) -> None:
        await asyncio.Event().wait()


async def test_who_is_shut_out_types_nothing_more_even_if_he_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dozlab.terminal_sidecar.stream._CLOSE_WITHIN", 0.05)
    guest = FakeGuest()
    shells = Shells(guest, most=4, history=lambda: History(1 << 16), idle_seconds=100, clock=Clock())
    socket = DeafSocket()
    stream = socket.stream(shells)
    serving = tasks.start(stream.serve(), name="serve")
    for frame in (p.Hello(), p.Input(b"before")):
        socket.inbox.put_nowait(p.encode_client(frame))
    async with asyncio.timeout(30):
        while not guest.channels or b"before" not in guest.channels[0].log:
            await asyncio.sleep(0)
        closing = tasks.start(stream.close(p.CLOSE_LOGGED_OUT, "revoked"), name="close")
        await asyncio.sleep(0)
        assert len(shells.all()[0].clients) == 0
        socket.inbox.put_nowait(p.encode_client(p.Input(b"after")))
        await asyncio.gather(closing, serving)
    assert b"after" not in guest.channels[0].log
    shells.close()


async def test_who_is_shut_out_before_the_first_frame_does_not_get_in() -> None:
    guest = FakeGuest()
    shells = Shells(guest, most=4, history=lambda: History(1 << 16), idle_seconds=100, clock=Clock())
    socket = DeafSocket()
    socket.application_state = WebSocketState.CONNECTING
    stream = socket.stream(shells)
    await stream.close(p.CLOSE_LOGGED_OUT, "revoked")
    socket.inbox.put_nowait(p.encode_client(p.Hello()))
    await stream.serve()
    assert shells.all() == []


# --- who leads, and whose size it is


def test_the_size_is_the_owners_and_the_lead_is_taken_over() -> None:
    def scene(guest: FakeGuest, shells: Shells, clock: Clock) -> None:
        shell = shells.get("main", member("owner"))
        editor = shell.attach(p.Hello(cols=90, rows=20), "s", member("editor"))
        assert (shell.clients.leader, shell.cols) == (editor, 90)
        owner = shell.attach(p.Hello(cols=100, rows=30), "s", member("owner", "Ada"))
        assert shell.clients.leader is shell.clients.sizer is owner and shell.cols == 100
        shell.receive(editor, p.Resize(50, 10))
        shell.receive(editor, p.Lead())  # the owner has only just come
        shell.receive(editor, p.Input(b"typed by the editor"))
        assert shell.clients.leader is owner and shell.cols == 100
        assert guest.channels[0].log[-1] == b"typed by the editor"
        clock.now += YIELDS_AFTER
        shell.receive(editor, p.Lead())
        assert shell.clients.leader is editor and shell.clients.sizer is owner and shell.cols == 100
        shell.receive(owner, p.Resize(101, 31))
        assert (shell.cols, shell.rows) == (101, 31)
        fields = told(editor).fields
        assert fields is not None and (fields["lead"], fields["sizes"], fields["you"]) == (True, False, "id-editor-")
        assert fields["people"] == [
            {"id": "id-editor-", "name": "", "role": "editor", "leads": True},
            {"id": "id-owner-Ada", "name": "Ada", "role": "owner", "leads": False},
        ]
        shell.receive(owner, p.Lead())
        assert shell.clients.leader is owner
        shell.detach(owner)
        assert shell.clients.leader is shell.clients.sizer is editor and (shell.cols, shell.rows) == (50, 10)
        shell.detach(editor)
        assert shell.clients.leader is None and (shell.cols, shell.rows) == (50, 10)

    run(scene)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["come", "go", "type", "lead", "size"]), st.integers(0, 6)), max_size=40))
def test_there_is_one_leader_while_somebody_may_type_and_the_size_is_known(acts: list[tuple[str, int]]) -> None:
    def scene(guest: FakeGuest, shells: Shells, clock: Clock) -> None:
        shell = shells.get("main", member("owner"))
        here: list[Client] = []
        for turn, (act, which) in enumerate(acts):
            clock.now += which
            if act == "come":
                here.append(shell.attach(p.Hello(cols=20 + turn, rows=9), "s", member(ROLES[which % 3])))
            elif here:
                client = here[which % len(here)]
                if act == "go":
                    here.remove(client)
                    shell.detach(client)
                else:
                    sent: dict[str, p.ClientFrame]
                    sent = {"type": p.Input(b"k"), "lead": p.Lead(), "size": p.Resize(300 + turn, 40)}
                    shell.receive(client, sent[act])
            leader, sizer = shell.clients.leader, shell.clients.sizer
            assert (leader is None) == (not any(each.member.types for each in here))
            if leader is not None and sizer is not None:
                assert leader in here and leader.member.types and sizer in here
                assert sizer.member.manages or not any(each.member.manages for each in here)
                assert (shell.cols, shell.rows) == (sizer.cols, sizer.rows)

    run(scene)


def test_of_very_many_the_first_are_named_and_who_leads() -> None:
    def scene(guest: FakeGuest, shells: Shells, clock: Clock) -> None:
        shell = shells.get("main", member("owner"))
        for number in range(MOST_SHOWN + 5):
            last = shell.attach(p.Hello(), "s", member("owner", str(number)))
        fields = told(last).fields
        assert fields is not None and fields["clients"] == MOST_SHOWN + 5
        assert len(fields["people"]) == MOST_SHOWN and fields["people"][-1]["leads"]

    run(scene)


def test_a_client_that_does_not_read_keeps_one_state_only() -> None:
    def scene(guest: FakeGuest, shells: Shells, clock: Clock) -> None:
        shell = shells.get("main", member("owner"))
        asleep = shell.attach(p.Hello(), "s", member("viewer"))
        for _ in range(1000):
            shell.tell_state()
        kinds = []
        while (frame := asleep.attachment.pull()) is not None:
            kinds.append(frame[0])
        assert kinds.count(p.STATE) == 1 and len(kinds) <= 4

    run(scene)


# --- invitations


def test_a_ticket_is_good_once_and_until_its_end() -> None:
    clock = Clock()
    invitations = Invitations(clock)
    first, ticket = invitations.make("editor", " Ben\n\x1b[31m ", 60)
    assert first.name == "Ben [31m" and invitations.look(ticket) is first and invitations.look(ticket + "x") is None
    assert ticket not in repr(invitations.__dict__)
    invitations.use(ticket, "k1")
    assert invitations.look(ticket) is None and invitations.of("k1") is first
    _, late = invitations.make("viewer", "", 60)
    clock.now += 60
    assert invitations.look(late) is None
    assert len(invitations.ended()) == 2 and invitations.all() == []


def test_revoking_takes_along_what_was_made_with_it_and_nothing_else() -> None:
    clock = Clock()
    invitations = Invitations(clock)
    deputy, ticket = invitations.make("owner", "deputy", 600)
    invitations.use(ticket, "k1")
    child, open_ticket = invitations.make("owner", "child", LONGEST, by="k1")
    assert child.ends == deputy.ends  # nobody can lengthen what they were given
    grandchild, used = invitations.make("viewer", "", 60, by="k1")
    invitations.use(used, "k2")
    other, _ = invitations.make("viewer")
    assert {each.id for each in invitations.revoke(deputy.id)} == {deputy.id, child.id, grandchild.id}
    assert invitations.look(open_ticket) is None and invitations.all() == [other]
    with pytest.raises(DozlabError, match="no invitation"):
        invitations.revoke(deputy.id)


@pytest.mark.parametrize("seconds", [0, -5, 59, LONGEST + 1, float("nan"), float("inf")])
def test_an_end_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(BadUsage):
        Invitations(Clock()).make("viewer", "", seconds)


def test_invitations_are_bounded() -> None:
    invitations = Invitations(Clock())
    made = [invitations.make("viewer")[0] for _ in range(MOST)]
    with pytest.raises(DozlabError, match="revoke one"):
        invitations.make("viewer")
    invitations.revoke(made[0].id)
    invitations.make("viewer")


@given(st.text(max_size=200))
def test_a_name_is_one_plain_short_line(text: str) -> None:
    name = plain_name(text)
    assert len(name) <= MOST_NAME and name == plain_name(name)
    assert not set(name) & set("\n\r\t\x1b\x00\u202e\u2066\u200f\ufeff")


def test_a_member_is_renamed_and_its_token_is_known_until_it_ends() -> None:
    clock = Clock()
    tokens = Tokens(clock, seconds=10)
    token = tokens.issue("viewer", "a", seconds=5)
    found = tokens.member(token)
    assert found is not None and not found.types and not found.manages and tokens.known(found.key)
    renamed = tokens.rename(found.key, "b")
    assert renamed == tokens.member(token) and renamed is not None and (renamed.id, renamed.name) == (found.id, "b")
    clock.now += 5
    assert not tokens.known(found.key) and tokens.member(token) is None and tokens.rename(found.key, "c") is None
