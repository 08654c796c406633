"""vm.json: what is believed, what is passed over, and who is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dozlab.terminal_sidecar.machine import Machine, MachineFile, back, parse, started_anew

FULL = {"state": "paused", "reason": "", "paused": "idle", "boots": 2, "how": "checkpoint", "name": "before-lab"}


def test_what_firecracker_vm_writes_is_read_whole() -> None:
    machine = parse(json.dumps(FULL).encode())
    assert machine == Machine("paused", "idle", 2, "checkpoint", "before-lab")
    assert machine.still and machine.fields() == FULL


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), json_values).map(lambda part: json.dumps(FULL | part).encode()))
def test_whatever_a_field_holds_nothing_unprintable_or_unknown_comes_out(content: bytes) -> None:
    machine = parse(content)
    if machine is not None:
        assert machine.paused in ("", "asked", "idle", "disk", "saving") and machine.how in (
            "",
            "boot",
            "snapshot",
            "checkpoint",
            "clean",
        )
        assert (machine.name + machine.reason).isprintable() and len(machine.name) <= 64 and len(machine.reason) <= 300


@given(st.binary(max_size=200))
def test_any_bytes_are_a_machine_or_nothing(content: bytes) -> None:
    parse(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"[" * 50_000, json.dumps(FULL).encode()[:-9],
     json.dumps(FULL | {"boots": True}).encode(),
     json.dumps(FULL | {"boots": -1}).encode(), json.dumps(FULL | {"state": "dancing"}).encode(),
     json.dumps(FULL | {"state": ["paused"]}).encode()],
)  # fmt: skip
def test_half_written_or_hostile_content_is_nothing(content: bytes) -> None:
    assert parse(content) is None


def test_who_listens_is_told_each_change_once(tmp_path: Path) -> None:
    path, told = tmp_path / "vm.json", []
    file = MachineFile(path)
    file.on_change(lambda before, now: told.append((before, now)))

    def look(content: dict[str, object] | str | None) -> Machine | None:
        if content is None:
            path.unlink(missing_ok=True)
        else:
            fresh = tmp_path / "fresh"
            fresh.write_text(content if isinstance(content, str) else json.dumps(content))
            fresh.rename(path)
        file.look()
        return file.now

    assert look(None) is None and not told
    running = look(FULL | {"state": "running", "paused": ""})
    assert running is not None and told == [(None, running)]
    file.look()
    assert (
        look(FULL | {"state": "running", "paused": "asked"}) == running
    )  # a reason to be paused while it runs is none
    assert len(told) == 1
    assert look('{"state": "pau') == running and len(told) == 1
    paused = look(FULL)
    assert told[1:] == [(running, paused)]
    assert look(None) is None and told[2:] == [(paused, None)]
    path.mkdir()
    file.look()
    assert file.now is None and len(told) == 3


def test_which_changes_mean_another_guest() -> None:
    running, paused = Machine("running", boots=1), Machine("paused", "asked", 1)
    same = [
        (running, paused), (paused, running), (None, running), (running, None),
        (Machine("starting", boots=1), running), (running, Machine("stopping", boots=1)),
        (running, Machine("failed", boots=1)),
    ]  # fmt: skip
    for before, now in same:
        assert not started_anew(before, now), (before, now)
    for before in (running, paused):
        assert started_anew(before, Machine("starting", boots=1)) and started_anew(before, Machine("starting", boots=2))
        assert started_anew(before, Machine("running", boots=2)) and started_anew(before, Machine("starting", boots=0))


ONCE = Machine("running", boots=1)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, None, "the machine is back"),
        (ONCE, ONCE, "the machine is back"),
        (None, Machine("running", boots=2, how="clean"), "the machine is back"),
        (ONCE, Machine("running", boots=2, how="boot"), "the machine has restarted"),
        (ONCE, Machine("running", boots=2, how="snapshot"), "the machine has restarted"),
        (ONCE, Machine("running", boots=2, how=""), "the machine is back"),
        (ONCE, Machine("running", boots=3, how="clean"), "the machine was set back to the clean image"),
        (ONCE, Machine("running", boots=2, how="checkpoint", name="a"), "the machine was set back to checkpoint a"),
    ],
)
def test_a_new_shell_says_what_became_of_the_old_one(before: Machine | None, now: Machine | None, said: str) -> None:
    assert back(before, now) == f"{said}: this is a new shell"
