"""Shells that outlive their clients: each has a history, a channel into the guest and any number of attachments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from dozlab.lib import log as logs
from dozlab.lib import tasks
from dozlab.terminal_sidecar import protocol
from dozlab.terminal_sidecar.attachment import Attachment
from dozlab.terminal_sidecar.auth import Member
from dozlab.terminal_sidecar.brake import Brake
from dozlab.terminal_sidecar.history import History
from dozlab.terminal_sidecar.machine import Machine, back, started_anew
from dozlab.terminal_sidecar.people.clients import Client, Clients
from dozlab.terminal_sidecar.recording.tap import Record

log = logging.getLogger(__name__)

_NUDGE = 0.1  # seconds between the two sizes of a forced redraw: programs compare sizes after SIGWINCH
MOST_UNREAD_INPUT = 4 << 20
"""Bytes of input that may wait for a program that does not read."""
MOST_WAITING_INPUT = 256 << 10
"""Bytes of input kept while a shell opens or its machine is paused."""
_LOST = "connection to the machine lost; a new shell opens as soon as it answers"
_FULL = f"no more than {MOST_WAITING_INPUT >> 10} KiB of input can wait for the machine: the rest was not taken"


def line(text: str) -> bytes:
    """Return a dim line of our own for the scrollback."""
    return f"\x1b[2m-- {text} --\x1b[0m\r\n".encode()


class ChannelLike(Protocol):
    """What a shell needs of a channel (`guest.Channel`)."""

    def write(self, data: bytes) -> int:
        """Send input; returns the bytes that wait."""

    def resize(self, cols: int, rows: int) -> None:
        """Set the size in cells."""

    def hold(self, hold: bool) -> None:
        """Stop or go on reading."""

    def close(self) -> None:
        """Hang up."""


class GuestLike(Protocol):
    """What a shell needs of the guest (`guest.Guest`)."""

    @property
    def state(self) -> str:
        """Return `waiting`, `live` or `lost`."""

    @property
    def machine(self) -> Machine | None:
        """Return what firecracker-vm says of it, where it says something."""

    @property
    def still(self) -> bool:
        """Tell whether it stands still: then nothing must be sent to it."""

    @property
    def latency(self) -> float | None:
        """Return the round trip to it in seconds, where it is known."""

    async def open_shell(self, events: Shell, cols: int, rows: int) -> ChannelLike:
        """Wait for the guest and open a shell there."""


class Shell:
    """One named terminal of the session. A lost guest gets it a new shell by itself, an exit waits for the user."""

    def __init__(
        self, name: str, guest: GuestLike, *, history: History, clock: Callable[[], float],
        record: Record | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.history = history
        self._tap = record(name, self.history) if record is not None else None
        self.clients = Clients()
        self.names: Callable[[], list[str]] = lambda: [name]  # of all shells, for STATE
        self._brake = Brake(self.history)
        self.starts = 0
        self.cols, self.rows = 80, 24
        self.idle_since = clock()
        self.ended: bytes | None = None  # the EXIT frame
        self._guest, self._clock = guest, clock
        self._channel: ChannelLike | None = None
        self._opening: asyncio.Task[None] | None = None
        self._nudge: asyncio.TimerHandle | None = None
        self._waiting = bytearray()  # typed while the shell opens, or while the guest stands still
        self._full = self._redraw_due = self._closed = self._lost = False
        self._machine: Machine | None = None  # as it was when the shell opened, or the first that was heard of it

    # --- clients

    def attach(self, hello: protocol.Hello, session: str, member: Member) -> Client:
        """Add a client. The first one that may type opens the shell; one that only watches changes nothing in it."""
        client = Client(Attachment(self.history, hello, self._clock()), member, hello.cols, hello.rows)
        client.attachment.first(protocol.welcome(session=session, shell=self.name, epoch=self.history.epoch))
        fresh = client.attachment.replays > 0
        self.clients.add(client, self._clock())
        if member.types and self._channel is None and self.ended is None:
            self._set_size(hello.cols, hello.rows)
            self._open()
        self._follow()
        if self.ended is not None:
            client.attachment.after_output(self.ended)
        elif fresh and member.types and self._channel is not None and self.history.modes().alternate:
            self._redraw()
        return client

    def detach(self, client: Client) -> None:
        """Remove a client; the shell stays."""
        self.clients.remove(client)
        self.idle_since = self._clock()
        if client.member.types:
            self._brake.left(client.attachment, self.idle_since)
        self._follow()
        self.regulate()

    def _follow(self) -> None:
        """Take the size of the client whose size it is now, and tell all."""
        if self.clients.sizer is not None:
            self._set_size(self.clients.sizer.cols, self.clients.sizer.rows)
        self.tell_state()

    def tell_state(self) -> None:
        """Send every client the STATE frame."""
        if not self.clients:
            return
        machine, latency = self._guest.machine, self._guest.latency
        shared = protocol.shared_state(
            guest=self._guest.state, cols=self.cols, rows=self.rows, clients=len(self.clients),
            people=self.clients.people(), recording=self.recording, shells=self.names(),
            machine=machine.fields() if machine is not None else None,
            guest_ms=None if latency is None else round(latency * 1000, 1),
        )  # fmt: skip
        for client in self.clients:
            member, lead, sizes = client.member, client is self.clients.leader, client is self.clients.sizer
            frame = protocol.state(shared, lead=lead, sizes=sizes, role=member.role, you=member.id)
            client.attachment.state(frame)
            client.wake.set()

    def receive(self, client: Client, frame: protocol.ClientFrame) -> None:
        """Take a frame from an attached client. From one that only watches, what it may not send has no effect.

        :raises ProtocolError: when it is out of place, or input piles up
        """
        match frame:
            case protocol.Ack():
                client.attachment.ack(frame, self._clock())
                client.wake.set()
                self.regulate()
            case protocol.Input():
                self.type(client, frame.data)
            case protocol.NewShell() | protocol.Lead() if not client.member.types:
                self._remind(client)
            case protocol.Lead():
                if self.clients.take_over(client, self._clock()):
                    self._follow()
            case protocol.Resize():
                client.cols, client.rows = frame.cols, frame.rows
                if client is self.clients.sizer:
                    self._set_size(frame.cols, frame.rows)
                    if len(self.clients) > 1:
                        self.tell_state()
            case protocol.Ping():
                client.attachment.control(protocol.pong(frame.token))
                client.wake.set()
            case protocol.NewShell():
                if self.ended is not None:
                    self.ended = None
                    self._print(b"\r\n")
                    self._open()
                    self.tell_state()
            case protocol.Hello():
                raise protocol.ProtocolError("a second HELLO")

    def type(self, client: Client, data: bytes) -> None:
        """Take what was typed at an attached client. From one that only watches it has no effect.

        :raises ProtocolError: when input piles up
        """
        if not client.member.types:
            self._remind(client)
            return
        settled = self.clients.leader is client is self.clients.sizer  # then a key changes nothing, and is sent first
        if not settled and self.clients.typed(client, self._clock()):
            self._follow()
        if self._channel is not None and not self._guest.still:
            if self._channel.write(data) > MOST_UNREAD_INPUT:
                raise protocol.ProtocolError("the program does not read its input", protocol.CLOSE_TOO_MANY)
        elif self._channel is not None or (self._opening is not None and not self._lost):
            self._keep(data)  # never half a command for a lost shell into its successor
        if settled:
            self.clients.typed(client, self._clock())
        if self._tap is not None:
            self._tap.input(data)

    def _remind(self, client: Client) -> None:
        """Tell a client once that it only watches."""
        if not client.reminded:
            client.reminded = True
            self.tell_state()

    def _keep(self, data: bytes) -> None:
        """Keep input for later. Where it is too much, the rest is refused as a whole, and that is said."""
        if self._full:
            return
        if len(self._waiting) + len(data) <= MOST_WAITING_INPUT:
            self._waiting += data
            return
        self._full = True
        self._print(b"\r\n" + line(_FULL))

    # --- the channel's side

    def _open(self) -> None:
        if self._opening is None and not self._closed:
            self._opening = tasks.start(self._open_shell(), name=f"open-shell-{self.name}")

    async def _open_shell(self) -> None:
        logs.about(shell=self.name)  # and no longer who was the first to look at it
        channel = await self._guest.open_shell(self, self.cols, self.rows)
        self._opening = None
        if self._closed:
            channel.close()
            return
        self.starts += 1
        if self._lost:
            self._lost = False
            self._print(line(back(self._machine, self._guest.machine)))
        self._machine = self._guest.machine
        self._channel = channel
        self._catch_up()
        self.regulate()
        self.tell_state()

    def machine_changed(self) -> None:
        """Do what had to wait while the guest stood still, if it goes on; and tell the clients."""
        if self._channel is not None and self._machine is None:
            self._machine = self._guest.machine
        self._catch_up()
        self.tell_state()

    def _catch_up(self) -> None:
        if self._channel is None or self._guest.still or self._guest.state != "live":
            return
        self._channel.resize(self.cols, self.rows)
        if self._waiting:
            self._channel.write(bytes(self._waiting))
        self._waiting.clear()
        self._full = False
        if self._redraw_due:
            self._redraw()

    def shell_output(self, data: bytes) -> None:
        """Take bytes that the shell printed."""
        for client in self.clients.here:
            client.wake.printed(data)
        self.history.append(data)
        for client in self.clients.here:
            client.wake.set()
        if self._tap is not None:
            self._tap.output(data)
        self.regulate()

    _print = shell_output  # of lines of our own

    def shell_ended(self, status: int | None, signal: str | None) -> None:
        """Take the shell's end; one that has neither status nor signal was lost with the guest."""
        self._channel = None
        if self._closed:
            return
        self._print(self.history.modes().leave())
        self._waiting.clear()
        self._full = self._redraw_due = False
        if status is None and signal is None:
            self._lost = True
            known = started_anew(self._machine, self._guest.machine)  # then one line, once it is back, says it all
            self._print(b"\r\n" + (b"" if known else line(_LOST)))
            self._end_recording(None, "the machine was lost")
            self._open()
        else:
            reason = "exited" if signal is None else "killed"
            said = {"shell": self.name}
            log.info("the shell has ended: %s (status %s, signal %s)", reason, status, signal, extra=said)
            self._end_recording(status, f"ended by {signal}" if signal is not None else "")
            self.ended = protocol.exit_(status=status, signal=signal, reason=reason)
            for client in self.clients:
                client.attachment.after_output(self.ended)
                client.wake.set()
        self.tell_state()

    def _end_recording(self, status: int | None, why: str) -> None:
        if self._tap is not None:
            if why:
                self._tap.marker(why)
            self._tap.ended(status)

    def regulate(self) -> None:
        """Hold the program back, or let it run on. To be called now and then, too, since clients may have stalled."""
        if self._channel is not None:
            # Who only watches holds nothing back.
            readers = [client.attachment for client in self.clients if client.member.types]
            self._channel.hold(self._brake.holds(readers, self._clock()))

    def _set_size(self, cols: int, rows: int) -> None:
        if (cols, rows) != (self.cols, self.rows):
            self.cols, self.rows = cols, rows
            if self._tap is not None:
                self._tap.resized(cols, rows)
            if self._channel is not None and not self._guest.still:
                self._channel.resize(cols, rows)

    def _redraw(self) -> None:
        """Make a full-screen program draw anew: one row less for a moment (SIGWINCH, signal(7))."""
        self._redraw_due = self._guest.still
        if self._channel is None or self._redraw_due or self.rows < 3:
            return
        if self._nudge is not None:
            self._nudge.cancel()
        self._channel.resize(self.cols, self.rows - 1)
        self._nudge = asyncio.get_running_loop().call_later(_NUDGE, self._redrawn)

    def _redrawn(self) -> None:
        self._nudge = None
        if self._channel is not None and not self._guest.still:  # else it is done when the guest goes on
            self._channel.resize(self.cols, self.rows)

    @property
    def recording(self) -> bool:
        """Tell whether what is printed is recorded."""
        return self._tap is not None and self._tap.recording

    @property
    def live(self) -> bool:
        """Tell whether a shell runs in the guest."""
        return self._channel is not None

    def close(self) -> None:
        """Hang up for good."""
        self._closed = True
        if self._nudge is not None:
            self._nudge.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._channel is not None:
            self._channel.close()
        if self._tap is not None:
            self._tap.close()


class Shells:
    """The session's shells by name, with their limits."""

    def __init__(
        self, guest: GuestLike, *, most: int, history: Callable[[], History], idle_seconds: float,
        clock: Callable[[], float], record: Record | None = None,
    ) -> None:  # fmt: skip
        self._record = record
        self._guest, self._most, self._history, self._clock = guest, most, history, clock
        self._idle_seconds = idle_seconds
        self._shells: dict[str, Shell] = {}

    def get(self, name: str, member: Member) -> Shell:
        """Return the shell of that name, made when it is new.

        :param member: for whom; one who only watches gets the first shell and what others have made, and a quarter of
            the shells is for owners alone
        :raises ProtocolError: when there is none for it, or there are too many
        """
        shell = self._shells.get(name)
        if shell is None:
            if not member.types and name != protocol.Hello.shell:
                raise protocol.ProtocolError(f"there is no shell {name}", protocol.CLOSE_NO_SHELL)
            most = self.most(member)
            if len(self._shells) >= most:
                raise protocol.ProtocolError(f"more than {most} shells", protocol.CLOSE_TOO_MANY)
            shell = Shell(name, self._guest, history=self._history(), clock=self._clock, record=self._record)
            shell.names = self.names
            self._shells[name] = shell
            self.tell_state()
        return shell

    def most(self, member: Member) -> int:
        """Return how many shells there may be before this member gets no new one."""
        return self._most if member.manages else self._most - self._most // 4

    def remove(self, name: str) -> bool:
        """Hang up a shell for good; False when there is none of that name."""
        shell = self._shells.pop(name, None)
        if shell is not None:
            shell.close()
            self.tell_state()
        return shell is not None

    def names(self) -> list[str]:
        """Return the names of the shells, in the order they were made."""
        return list(self._shells)

    def all(self) -> list[Shell]:
        """Return the shells."""
        return list(self._shells.values())

    def tell_state(self) -> None:
        """Tell all clients that the guest's state has changed."""
        for shell in self.all():
            shell.tell_state()

    def renamed(self, member: Member) -> None:
        """Show the new name of somebody who is here."""
        for shell in self.all():
            for client in shell.clients:
                if client.member.key == member.key:
                    client.member = member
            shell.tell_state()

    def machine_changed(self, before: Machine | None, now: Machine | None) -> None:
        """Take what firecracker-vm says now; the guest knows it already."""
        for shell in self.all():
            shell.machine_changed()

    def sweep(self) -> None:
        """Let go of shells that nobody has looked at for the idle time, and look for stalled clients."""
        now = self._clock()
        for name, shell in list(self._shells.items()):
            shell.regulate()
            if not shell.clients and now - shell.idle_since > self._idle_seconds:
                log.info("the shell is closed: no client for %.0f s", self._idle_seconds, extra={"shell": name})
                self.remove(name)

    def close(self) -> None:
        """Hang up all shells."""
        for shell in self.all():
            shell.close()
        self._shells.clear()
