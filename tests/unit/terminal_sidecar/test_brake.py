"""Who holds a program back, and for how long."""

from __future__ import annotations

from dozlab.terminal_sidecar import protocol as p
from dozlab.terminal_sidecar.attachment import LEAST_CREDIT, STALLED_AFTER, Attachment
from dozlab.terminal_sidecar.brake import AWAITED_FOR, Brake
from dozlab.terminal_sidecar.history import History


def reader(history: History) -> Attachment:
    return Attachment(history, p.Hello(epoch=history.epoch, offset=history.end), 0)


def send(attachment: Attachment) -> None:
    while attachment.pull() is not None:
        pass


def test_the_quickest_reader_decides() -> None:
    history = History()
    brake, quick, slow = Brake(history), reader(history), reader(history)
    history.append(bytes(LEAST_CREDIT - 1))
    assert not brake.holds([quick, slow], 1)
    history.append(b"x")
    assert brake.holds([quick, slow], 1)
    send(quick)
    quick.ack(p.Ack(1000, 1000), 1)
    assert not brake.holds([quick, slow], 1)
    assert brake.holds([slow], 1)
    send(slow)
    assert not brake.holds([slow], 2 + STALLED_AFTER)


def test_a_reader_whose_connection_dropped_loses_nothing_for_a_while() -> None:
    history = History(1 << 20)
    brake, gone = Brake(history), reader(history)
    assert not brake.holds([], 0)
    history.append(bytes(100_000))
    send(gone)
    gone.ack(p.Ack(90_000, 100_000), 1)
    brake.left(gone, 1)
    while not brake.holds([], 2):
        assert history.end < 3 << 20, "nothing holds the program"
        history.append(bytes(32 << 10))
    assert history.end > 900_000, "it ran on into the history"
    assert history.holds(90_000)
    back = reader(history)
    assert not brake.holds([back], 3)
    brake.left(back, 3)
    history.append(bytes(1 << 20))
    assert brake.holds([], 2.9 + AWAITED_FOR)
    assert not brake.holds([], 3 + AWAITED_FOR)
