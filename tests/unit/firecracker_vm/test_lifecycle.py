"""The judgement of how a boot ended, without any VMM."""

from __future__ import annotations

import pytest

from dozlab.firecracker_vm.machine import MAX_REBOOTS_A_MINUTE, Exit, Lifecycle, Next, VmmName
from dozlab.firecracker_vm.markers import Marker
from dozlab.lib.errors import DozlabError

INIT = Marker("stage", "init")
PANIC = Marker("panic", "Attempted to kill init!")


def booted(vmm: VmmName = "qemu", *markers: Marker, now: float = 0.0, served: bool = True) -> Lifecycle:
    life = Lifecycle(vmm)
    life.begin(now)
    for marker in (INIT, *markers):
        life.mark(marker)
    life.served = served
    return life


@pytest.mark.parametrize(
    ("vmm", "markers", "end", "what", "word"),
    [
        ("qemu", [Marker("kernel", "poweroff")], Exit(0, "guest-shutdown"), Next.STOPPED, "powered off"),
        ("qemu", [Marker("kernel", "halt")], Exit(0, ours=True), Next.STOPPED, "powered off"),
        ("qemu", [Marker("kernel", "reboot")], Exit(0, "guest-reset"), Next.REBOOT, "reboot"),
        ("qemu", [], Exit(0, "guest-reset"), Next.REBOOT, "without a word"),
        ("qemu", [], Exit(0, "guest-shutdown"), Next.STOPPED, "powered off"),
        ("qemu", [PANIC], Exit(0, "guest-reset"), Next.FAILED, "panicked: Attempted to kill init!"),
        ("qemu", [], Exit(-9), Next.FAILED, "SIGKILL"),
        ("qemu", [], Exit(-11), Next.FAILED, "SIGSEGV"),
        ("qemu", [], Exit(1, words="no room"), Next.FAILED, "status 1: no room"),
        ("firecracker", [Marker("kernel", "reboot")], Exit(0), Next.REBOOT, "reboot"),
        ("firecracker", [Marker("kernel", "poweroff")], Exit(-15, ours=True), Next.STOPPED, "powered off"),
        ("firecracker", [], Exit(0), Next.REBOOT, "without a word"),
        ("firecracker", [PANIC], Exit(0), Next.FAILED, "panicked"),
        ("firecracker", [], Exit(-9), Next.FAILED, "firecracker was ended from outside"),
    ],
)
def test_ends_after_init(vmm: VmmName, markers: list[Marker], end: Exit, what: Next, word: str) -> None:
    life = booted(vmm, *markers)
    assert life.ended(end, 1.0) is what
    assert word in life.reason
    assert life.state == {Next.STOPPED: "stopped", Next.FAILED: "failed"}.get(what, "starting")


def test_a_panic_names_the_last_lines() -> None:
    life = booted("qemu", PANIC)
    life.ended(Exit(0), 1.0, "line one | line two")
    assert life.reason.endswith("last lines: line one | line two")


def test_a_panic_before_anybody_could_log_in_is_tried_once_more() -> None:
    life = booted("qemu", PANIC, served=False)
    assert life.ended(Exit(0, "guest-reset"), 1.0) is Next.RETRY
    life.begin(2.0)
    life.mark(INIT)
    life.mark(PANIC)
    assert life.ended(Exit(0, "guest-reset"), 3.0) is Next.FAILED
    assert "panicked" in life.reason


def test_a_reboot_is_judged_anew_until_it_is_reached() -> None:
    life = booted("qemu", Marker("kernel", "reboot"))
    assert life.ended(Exit(0, "guest-reset"), 1.0) is Next.REBOOT
    life.begin(2.0)
    life.mark(INIT)
    life.mark(PANIC)
    assert life.ended(Exit(0, "guest-reset"), 3.0) is Next.RETRY


@pytest.mark.parametrize("how", ["panic", "stall", "reset"])
def test_a_boot_that_never_reached_init_is_tried_once_more(how: str) -> None:
    life = Lifecycle("qemu")
    seen = []
    for _ in range(2):
        life.begin(0.0)
        if how == "panic":
            life.mark(PANIC)
        if how == "stall":
            life.stall("the console stood still")
        seen.append(life.ended(Exit(0, "guest-reset" if how == "reset" else "", ours=how == "stall"), 1.0))
    assert seen == [Next.RETRY, Next.FAILED]
    assert life.boots == 2


def test_a_fault_is_final_and_is_the_reason() -> None:
    life = Lifecycle("qemu")
    life.begin(0.0)
    life.mark(Marker("fault", "session disk: bad superblock"))
    life.mark(Marker("kernel", "poweroff"))
    assert life.ended(Exit(0, "guest-shutdown"), 1.0) is Next.FAILED
    assert "session disk: bad superblock" in life.reason


def test_what_was_asked_to_stop_stops_however_it_ends() -> None:
    for end in (Exit(0, "guest-reset"), Exit(-9, ours=True), Exit(1)):
        life = booted("qemu", Marker("shutdown", "reboot"))
        life.ask_stop()
        assert life.state == "stopping"
        assert life.ended(end, 1.0) is Next.STOPPED


def test_a_guest_that_reboots_all_the_time_fails() -> None:
    life, now = Lifecycle("qemu"), 0.0
    for _ in range(MAX_REBOOTS_A_MINUTE):
        life.begin(now)
        life.mark(INIT)
        assert life.ended(Exit(0, "guest-reset"), now) is Next.REBOOT
        now += 5
    life.begin(now)
    life.mark(INIT)
    assert life.ended(Exit(0, "guest-reset"), now) is Next.FAILED
    assert "more than" in life.reason


def test_slow_reboots_are_allowed_for_ever() -> None:
    life, now = Lifecycle("qemu"), 0.0
    for _ in range(MAX_REBOOTS_A_MINUTE * 3):
        life.begin(now)
        life.mark(INIT)
        assert life.ended(Exit(0, "guest-reset"), now) is Next.REBOOT
        now += 30


def test_one_boot_does_not_inherit_the_last_one_s_words() -> None:
    life = booted("qemu", Marker("kernel", "reboot"))
    life.ended(Exit(0, "guest-reset"), 0.0)
    life.begin(1.0)
    assert not life.over
    assert not life.reached_init
    life.mark(INIT)
    assert life.ended(Exit(-9), 2.0) is Next.FAILED


def test_a_kit_s_shutdown_line_is_not_the_last_word() -> None:
    life = booted("qemu", Marker("shutdown", "poweroff"))
    assert not life.over
    life.mark(Marker("kernel", "poweroff"))
    assert life.over


def test_pause_and_resume_only_where_they_make_sense() -> None:
    life = Lifecycle("qemu")
    life.begin(0.0)
    with pytest.raises(DozlabError, match="starting"):
        life.pause()
    life.mark(INIT)
    life.pause()
    with pytest.raises(DozlabError, match="running"):
        life.resume()


def test_a_reset_goes_on_however_the_vmm_ends() -> None:
    for end in (Exit(0, "host-qmp-quit", ours=True), Exit(-9, ours=True), Exit(1)):
        life = booted("qemu")
        life.may_reset()
        life.ask_reset()
        with pytest.raises(DozlabError, match="cannot set the machine back"):
            life.may_reset()
        assert life.ended(end, 1.0) is Next.RESET
        assert life.state == "starting"
        life.begin(2.0)
        assert not life.reset_asked
        life.mark(INIT)
        assert life.ended(Exit(0, "guest-shutdown"), 3.0) is Next.STOPPED


def test_a_stop_beats_a_reset() -> None:
    life = booted("qemu")
    life.ask_reset()
    life.ask_stop()
    assert life.ended(Exit(0), 1.0) is Next.STOPPED


@pytest.mark.parametrize(
    ("state", "served", "why"),
    [("running", False, "not reached by SSH yet"), ("paused", True, "it is paused"), ("starting", False, "starting")],
)
def test_what_cannot_be_saved(state: str, served: bool, why: str) -> None:
    life = booted("qemu", served=served)
    life.state = state  # type: ignore[assignment]
    with pytest.raises(DozlabError, match=why):
        life.may_save()


def test_what_can_be_saved() -> None:
    booted("qemu").may_save()
