"""A packet sealed before its byte is known is the one that the cipher would make. Mirrors wire/sealed.py."""

from __future__ import annotations

import random

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from dozlab.terminal_sidecar.wire.sealed import Ahead

from .test_ssh_lane import pair, whole


@settings(max_examples=60)
@given(
    key=st.sampled_from([16, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    nonces=st.lists(st.binary(min_size=12, max_size=12), min_size=1, max_size=3),
    length=st.binary(min_size=4, max_size=4),
    head=st.binary(max_size=40),
    data=st.data(),
)
def test_it_is_what_the_cipher_makes(
    key: bytes, nonces: list[bytes], length: bytes, head: bytes, data: st.DataObject
) -> None:
    cipher = AESGCM(key)
    padding = data.draw(st.binary(max_size=40))
    ahead = Ahead(cipher, length, len(head), len(padding))
    for nonce in nonces:
        byte = data.draw(st.integers(0, 255))
        ahead.seal(nonce, 7, head, padding)
        assert ahead.packet(nonce, 7, byte) == length + cipher.encrypt(nonce, head + bytes([byte]) + padding, length)


def test_it_goes_out_once_and_for_its_own_nonce_and_channel() -> None:
    ahead = Ahead(AESGCM(bytes(16)), b"\0\0\0\x10", 4, 11)
    one, other = bytes(12), bytes(11) + b"\1"
    assert ahead.packet(one, 7, 65) is None  # nothing was sealed
    ahead.seal(one, 7, b"head", bytes(11))
    assert ahead.packet(other, 7, 65) is None and ahead.packet(one, 8, 65) is None
    assert ahead.packet(one, 7, 65) is not None
    assert ahead.packet(one, 7, 66) is None and ahead.packet(one, 7, 65) is None


async def test_keys_that_are_sealed_ahead_arrive_between_all_else_that_is_sent() -> None:
    """Each byte there is, on two channels; whatever else takes a nonce makes the packet that is ready worthless."""
    async with pair() as there:
        there.lay(whole)
        assert there.lane is not None
        shells = [await there.shell() for _ in range(2)]
        wanted, packets = [bytearray(), bytearray()], 0
        dice = random.Random(1)
        for byte in dice.sample(range(256), 256):
            which = dice.randrange(2)
            channel, events = shells[which]
            text = [bytes([byte])] * dice.randint(1, 3) + [b"pasted"] * (byte % 7 == 0)
            for piece in text:
                channel.write(piece)
                wanted[which] += piece
            packets += len(text)
            if byte % 5 == 0:
                channel.resize(80 + byte, 24)  # by asyncssh
            await events.until(len(wanted[which]))
        assert [bytes(events.output) for _, events in shells] == [bytes(each) for each in wanted]
        assert there.lane.sent == packets
        assert not there.client.end.done()
