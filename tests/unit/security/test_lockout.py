"""Guessing passwords is slow for whoever guesses, and for nobody else: the owner is never locked out."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from dozlab.terminal_sidecar.auth import Gate
from dozlab.terminal_sidecar.settings import Settings

from .conftest import Lab, Visitor

WRONG = b"password=wrong"


async def test_guesses_wait_longer_and_longer(lab: Lab, naps: list[float]) -> None:
    visitor = lab.visitor()
    for _ in range(5):
        assert (await visitor.log_in(WRONG)).status == 401
    assert naps == [0.5, 1.0, 2.0, 4.0]


async def test_a_flood_of_guesses_does_not_slow_another_address(lab: Lab, naps: list[float]) -> None:
    attacker = lab.visitor()
    owner = Visitor(attacker.app, "192.0.2.77")
    for _ in range(8):
        await attacker.log_in(WRONG)
    naps.clear()
    assert (await owner.log_in()).status == 303 and naps == []


async def test_a_browser_that_was_let_in_before_is_not_slowed_by_its_own_address(lab: Lab, naps: list[float]) -> None:
    visitor = lab.visitor()
    device = next(line.split(";")[0] for line in (await visitor.log_in()).cookies if "-device=" in line)
    for _ in range(8):
        await visitor.log_in(WRONG)
    naps.clear()
    assert (await visitor.log_in(Cookie=device)).status == 303 and naps == []
    assert (await visitor.log_in(Cookie="dozlab-terminal-lab1-device=made-up")).status == 303 and len(naps) == 1


class _Turn:
    """Lets everybody else go on by one step, as `asyncio.sleep(0)` does, which `naps` stands in for."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def test_many_addresses_at_once_do_not_delay_a_known_browser(
    lab: Lab, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(Settings("s", password="right"), lambda: 0.0)
    done: list[str] = []

    async def verify(check: object, password: str) -> bool:
        for _ in range(3):
            await _Turn()
        done.append(password)
        return password == "right"

    monkeypatch.setattr(asyncio, "to_thread", verify)
    strangers = [asyncio.ensure_future(gate.check("wrong", f"address {n}")) for n in range(100)]
    for _ in range(2):
        await _Turn()
    assert await gate.check("right", "device d")
    assert done.index("right") < 10
    await asyncio.gather(*strangers)


async def test_attempts_that_wait_are_bounded(lab: Lab, naps: list[float]) -> None:
    visitor = lab.visitor()
    replies = await asyncio.gather(*[visitor.log_in(WRONG) for _ in range(30)])
    assert sum(reply.status == 429 for reply in replies) == 22


async def test_an_ipv6_client_has_one_lane_whatever_it_makes_up_behind_its_prefix(lab: Lab, naps: list[float]) -> None:
    visitor = lab.visitor()
    for n in range(4):
        await Visitor(visitor.app, f"2001:db8:1:2::{n + 1:x}").log_in(WRONG)
    assert len(naps) == 3
    await Visitor(visitor.app, "2001:db8:1:3::1").log_in(WRONG)
    assert len(naps) == 3


async def test_a_form_that_does_not_end_is_not_read(lab: Lab) -> None:
    assert (await lab.visitor().log_in(b"password=" + b"x" * 20_000)).status == 413
