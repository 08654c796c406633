"""Password, tokens, origins and settings, with a clock of our own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.terminal_sidecar.__main__ import main
from dozlab.terminal_sidecar.auth import Busy, Gate, Origins, Tokens
from dozlab.terminal_sidecar.pages import Pages
from dozlab.terminal_sidecar.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_failures_delay_their_own_address_only_and_never_lock(naps: list[float]) -> None:
    gate = Gate(Settings("s", password="right"), Clock())
    for _ in range(6):
        assert not await gate.check("wrong", "address 10.0.0.9")
    assert naps == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert await gate.check("right", "address 10.0.0.1") and len(naps) == 5
    assert await gate.check("right", "device 1") and len(naps) == 5
    assert await gate.check("right", "address 10.0.0.9")  # delayed, not refused
    assert await gate.check("right", "address 10.0.0.9") and len(naps) == 6


async def test_a_flood_of_attempts_is_turned_away_before_it_costs_memory(naps: list[float]) -> None:
    gate = Gate(Settings("s", password="right"), Clock())
    results = await asyncio.gather(*[gate.check("wrong", "address a") for _ in range(40)], return_exceptions=True)
    assert sum(isinstance(result, Busy) for result in results) == 32
    assert await gate.check("right", "address b")


async def test_a_hash_wins_over_a_password() -> None:
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("from-hash")
    gate = Gate(Settings("s", password="plain", hashed_password=hashed), Clock())
    assert await gate.check("from-hash", "a") and not await gate.check("plain", "b")
    assert not await gate.check("x" * 5000, "c")


def test_tokens_end_are_revoked_and_bounded() -> None:
    clock = Clock()
    tokens = Tokens(clock, seconds=10, most=2)
    first, second = tokens.issue(), tokens.issue()
    assert tokens.valid(first) and tokens.valid(second) and not tokens.valid("") and not tokens.valid(first + "x")
    tokens.revoke(Tokens.key(second))
    assert not tokens.valid(second)
    third, fourth = tokens.issue(), tokens.issue()
    assert not tokens.valid(first) and tokens.valid(third)
    clock.now += 10
    assert not tokens.valid(fourth)


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "right"),
    [
        ("http://a.example:8081", "http", "a.example:8081", True),
        ("HTTP://A.example:8081", "http", "a.EXAMPLE:8081", True),
        ("http://a.example:8080", "http", "a.example:8081", False),
        ("https://a.example:8081", "http", "a.example:8081", False),
        ("", "http", "a.example", False),
        ("null", "http", "null", False),
        ("http://a.example@evil", "http", "a.example@evil", False),
        ("http://", "http", "", False),
    ],
)
def test_origin_is_exact(origin: str, scheme: str, host: str, right: bool) -> None:
    assert Origins(()).exact(origin, scheme, host) is right


def test_listed_origins_are_the_only_ones() -> None:
    origins = Origins(("https://lab.example",))
    assert origins.exact("https://lab.example", "http", "lab.example")
    assert not origins.exact("http://lab.example", "http", "lab.example")
    assert not origins.exact("https://lab.example", "http", "10.0.0.1:8081")
    assert not origins.host("rebound.example")


@given(st.text(max_size=40))
def test_no_text_but_the_page_s_own_is_an_origin(text: str) -> None:
    assert Origins(()).exact(text, "https", "lab.example") is (text.lower() == "https://lab.example")


def test_settings_name_every_fault_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadUsage) as caught:
        Settings.from_env({"PORT": "x", "VM_IP": "y", "PASSWORD_FILE": str(tmp_path / "none")})
    text = str(caught.value)
    assert all(name in text for name in ("SESSION_ID", "PORT", "VM_IP", "PASSWORD_FILE"))
    with pytest.raises(BadUsage) as caught:
        Settings.from_env({"SESSION_ID": "a;b", "BASE_PATH": "/x y/", "ALLOWED_ORIGINS": "lab.example/path"})
    text = str(caught.value)
    assert all(name in text for name in ("SESSION_ID", "PASSWORD", "BASE_PATH", "ALLOWED_ORIGINS"))
    settings = Settings.from_env({"SESSION_ID": "a-1", "PASSWORD": "hush-hush", "BASE_PATH": "/labs/x/"})
    assert settings.base == "/labs/x" and "hush" not in repr(settings)


def test_main_says_what_is_wrong_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--help"]) == 0 and "PASSWORD_FILE" in capsys.readouterr().out
    assert main(["--frobnicate"]) == 2
    for name in ("SESSION_ID", "PASSWORD", "PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)
    capsys.readouterr()
    assert main([]) == 2 and "SESSION_ID is not set" in capsys.readouterr().err
    with pytest.raises(DozlabError, match="not built"):
        Pages(tmp_path, "s")
