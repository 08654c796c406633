"""The workspace's cap. Mirrors code_server/usage.py."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dozlab.code_server import usage
from dozlab.lib.units import MIB


def test_measures_blocks_not_sizes_and_charges_empty_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/data").write_bytes(os.urandom(MIB))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert MIB <= usage.measure(tmp_path) <= MIB + 64 * 1024
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert usage.measure(tmp_path) >= MIB + 100 * usage.ENTRY_COST


def test_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "big").write_bytes(b"x" * MIB)
    (tmp_path / "workspace/link").symlink_to(tmp_path / "big")
    (tmp_path / "workspace/up").symlink_to(tmp_path)
    assert usage.measure(tmp_path / "workspace") < 64 * 1024


@given(used=st.integers(0, 1 << 40), limit=st.integers(1, 1 << 40))
def test_never_free_at_the_limit(used: int, limit: int) -> None:
    assert (usage.room(used, limit) == "free") is (used < limit)
    assert usage.room(used, limit, full_at=limit) != "free" or used < limit


def test_becomes_full_then_over_and_free_again_only_well_below() -> None:
    limit = 512 * MIB
    assert usage.room(900 * MIB, limit) == "full"  # a burst: the guest itself may make room
    assert usage.room(900 * MIB, limit, full_at=900 * MIB) == "full"
    assert usage.room(900 * MIB + usage.SLACK + 1, limit, full_at=900 * MIB) == "over"
    assert usage.room(limit - 1, limit, full_at=900 * MIB) == "full"
    assert usage.room(limit - limit // 16 - 1, limit, full_at=900 * MIB) == "free"
