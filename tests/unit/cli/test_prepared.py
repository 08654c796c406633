"""The command's words about prepared snapshots: `image prepare`, `image ls`, `image rm`, `up`; no VM is started."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dozlab import values
from dozlab.cli.image_commands import prepare_beside
from dozlab.cli.main import cli
from dozlab.cli.session_commands import same_machine
from dozlab.images import snapshots
from dozlab.images.store import Store
from dozlab.lib import files
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.units import MIB
from dozlab.session import operations, preflight, preparing, state
from dozlab.session.layout import Layout
from dozlab.session.ports import Ports

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def image(home: Path) -> str:
    """An image of that name in the store; returns its digest."""
    source = home / "image"
    source.write_bytes(b"ext4")
    return Store(preparing.store()).add_file(source, name="mylab").digest


def prepared(base: str, **changes: str | int) -> snapshots.Snapshot:
    """Put a small snapshot of a base into the store."""
    folder = preparing.store() / "tmp/made"
    folder.mkdir(parents=True)
    for name in (snapshots.STATE, snapshots.DISK, snapshots.TOKEN):
        (folder / name).write_bytes(b"x" * 4096)
    snapshots.describe(folder, {"base": base, "vmm": "qemu", "cpus": 2, "memory": 2048, "disk": 4 << 30, **changes})
    return preparing.snapshots().add(folder)


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, words, catch_exceptions=not code)
    assert done.exit_code == code, done.output
    return done


def test_ls_tells_what_is_prepared(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.count(1.0)  # each a second after the one before, however quickly they are made
    monkeypatch.setattr(snapshots, "time", SimpleNamespace(time=lambda: next(moments)))
    assert run("image", "ls").stdout.splitlines()[0].split() == ["NAME", "DIGEST", "SIZE", "CREATED", "PREPARED"]
    assert run("image", "ls").stdout.splitlines()[1].endswith("  -")
    prepared("0" * 64)
    prepared(image)
    prepared(image, cpus=4, memory=512)
    (line,) = run("image", "ls").stdout.splitlines()[1:]
    assert line.endswith("4 vCPU 512 MiB (12.0 KiB), 2 vCPU 2048 MiB (12.0 KiB)")
    (told,) = json.loads(run("image", "ls", "-o", "json").stdout)
    assert [(each["cpus"], each["memory"], each["vmm"]) for each in told["prepared"]] == [
        (4, 512, "qemu"), (2, 2048, "qemu"),
    ]  # fmt: skip
    assert all(Path(each["path"]).is_dir() and each["size"] > 0 for each in told["prepared"])


def test_rm_takes_what_was_prepared_of_the_image_and_nothing_else(image: str) -> None:
    other = prepared("0" * 64)
    prepared(image)
    assert run("image", "rm", "mylab").stdout == "mylab removed (4 B, and 12.0 KiB prepared)\n"
    assert preparing.snapshots().ls() == [other]


USED = "of what was prepared is of no use any more"


def test_what_no_start_can_use_is_not_listed_as_prepared_and_gc_removes_it(image: str) -> None:
    """After an update the old ones would take their room until the limit is reached."""
    usable = prepared(image)
    prepared(image, memory=512, binary="1 2")
    prepared("0" * 64, memory=1024)
    broken = prepared(image, memory=256).folder
    (broken / snapshots.STATE).unlink()

    listed = run("image", "ls")
    assert listed.stdout.splitlines()[1].endswith("  2 vCPU 2048 MiB (12.0 KiB)")
    assert listed.stderr == f"2 {USED} (24.0 KiB): dozlab image gc\n"
    (told,) = json.loads(run("image", "ls", "-o", "json").stdout)
    assert {each["memory"]: each["stale"] for each in told["prepared"]} == {
        2048: "", 512: "it is for another build of the VMM",
    }  # fmt: skip

    lines = {
        f"{image[:12]} prepared for 2 vCPU 512 MiB (12.0 KiB): it is for another build of the VMM",
        "000000000000 prepared for 2 vCPU 1024 MiB (12.0 KiB): its image is gone",
    }
    *said, freed = run("image", "gc", "--dry-run").stdout.splitlines()
    assert (set(said), freed) == (lines, "24.0 KiB would be freed")
    assert len(preparing.snapshots().ls()) == 3 and broken.exists()
    *said, freed = run("image", "gc").stdout.splitlines()
    assert set(said) == lines
    assert freed.endswith(" KiB freed") and not freed.startswith("24.0 ")  # what is left of the broken one counts
    assert preparing.snapshots().ls() == [usable] and not broken.exists()
    assert USED not in run("image", "ls").stderr


def test_gc_takes_what_was_prepared_of_an_image_that_goes(image: str) -> None:
    prepared(image)
    used = Store(preparing.store()).path(image).with_name("used")
    used.touch()
    os.utime(used, (1, 1))
    for words, verb, left in ((["--dry-run"], "would be freed", 1), ([], "freed", 0)):
        _, one, last = run("image", "gc", "--all", "--older-than", "1h", *words).stdout.splitlines()
        assert one == f"{image[:12]} prepared for 2 vCPU 2048 MiB (12.0 KiB): its image is gone"
        assert last.endswith(verb) and last != f"0 B {verb}"
        assert len(preparing.snapshots().ls()) == left


def answer(monkeypatch: pytest.MonkeyPatch, done: preparing.Prepared | DozlabError) -> list[dict[str, Any]]:
    """Let preparing end like this at once; returns what it is called with."""
    calls: list[dict[str, Any]] = []

    def prepare(raw: dict[str, Any], **options: Any) -> preparing.Prepared:
        calls.append({"raw": raw, **options})
        if isinstance(done, DozlabError):
            raise done
        return done

    monkeypatch.setattr(preparing, "prepare", prepare)
    return calls


def one(**needs: str | int) -> snapshots.Snapshot:
    return snapshots.Snapshot(Path("/x"), {"cpus": 2, "memory": 2048, **needs}, time.time() - 200, 412 * MIB)


def test_prepare_says_what_was_made_and_how_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answer(monkeypatch, preparing.Prepared(one(), True, 84.2))
    assert run("image", "prepare").stdout == (
        "dozlab-vm for 2 vCPU 2048 MiB (412 MiB) prepared in 84 s; start from it: dozlab up\n"
    )
    done = run("image", "prepare", "mylab", "--again", "--set", "vm.memory=512", "--set", "codeServer.password=pw")
    assert done.stdout.endswith("; start from it: dozlab up --image mylab --set vm.memory=512\n")
    assert calls[0]["raw"] == {} and calls[0]["image"] == "" and not calls[0]["again"]
    assert calls[1]["raw"]["vm"] == {"memory": 512} and calls[1]["image"] == "mylab" and calls[1]["again"]


def test_prepare_names_the_image_but_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL in the values may hold a token."""
    answer(monkeypatch, preparing.Prepared(one(), True, 1.0))
    assert run("image", "prepare", "--set", "rootfs.diskSize=2G").stdout.startswith("dozlab-vm for ")
    told = run("image", "prepare", "--set", "rootfs.imageUrl=https://x/y.ext4").stdout
    assert told.startswith("the image for ")


def test_prepare_says_what_had_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, preparing.Prepared(one(), True, 1.0, (one(memory=512),)))
    assert run("image", "prepare").stderr == "removed 2 vCPU 512 MiB (412 MiB): all take at most 8.0 GiB together\n"


def test_prepare_does_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made = one()
    answer(monkeypatch, preparing.Prepared(made, False))
    monkeypatch.setattr("dozlab.cli.image_commands.time", SimpleNamespace(time=lambda: made.created + 200))
    assert run("image", "prepare").stdout == (
        "dozlab-vm for 2 vCPU 2048 MiB (412 MiB) was prepared 3 min 20 s ago; to do it anew: --again\n"
    )


def test_prepare_that_fails_hands_its_reason_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, DozlabError("the image could not be prepared: it has no sshd"))
    with pytest.raises(DozlabError, match="it has no sshd"):
        CliRunner().invoke(cli, ["image", "prepare"], catch_exceptions=False)


def test_bad_values_are_told_before_anything_is_made(home: Path) -> None:
    with pytest.raises(DozlabError, match="did you mean memory"):
        CliRunner().invoke(cli, ["image", "prepare", "--set", "vm.memroy=1"], catch_exceptions=False)
    assert not preparing.store().exists()


@pytest.mark.parametrize(
    ("files", "sets", "line"),
    [
        ((), (), "dozlab up"),
        ((Path("my values.yaml"),), ("vm.cpuCount=4",), "dozlab up -f 'my values.yaml' --set vm.cpuCount=4"),
        ((), ("codeServer.password=x", "rootfs.diskSize=2G", "publish.ssh=1"), "dozlab up --set rootfs.diskSize=2G"),
    ],
)
def test_a_command_for_the_same_machine_holds_no_password(
    files: tuple[Path, ...], sets: tuple[str, ...], line: str
) -> None:
    assert same_machine(["dozlab", "up"], files, sets) == line


class Session:
    """A session that starts at once, as `up` sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, base: str, took: float = 60.0) -> None:
        self.cold: list[bool] = []
        self._base = base

        monkeypatch.setattr(operations, "start", self._start)
        monkeypatch.setattr("dozlab.cli.session_commands._follow", lambda *_args, **_options: None)
        moments = iter([1000.0])
        monkeypatch.setattr("dozlab.cli.session_commands.time.time", lambda: next(moments, 1000.0 + took))

    def _start(self, name: str, _raw: Any, *, make_plan: Any, **_: Any) -> None:
        layout = Layout(name)
        (layout.vm_data / "disk").mkdir(parents=True)
        layout.run.mkdir(parents=True)
        files.write_json(layout.vm_data / "disk/base.json", {"digest": self._base})
        files.write_json(layout.values, {"session": {"id": name}})
        layout.password.write_text("pw")
        facts = state.Facts(name, Ports(1, 2, 3), "127.0.0.1", None, 0, 0.0)
        facts.save(layout.facts)
        plan = make_plan(layout, facts, operations.values_of(layout))
        self.cold.append(plan.environments["firecracker-vm"]["SNAPSHOTS_DIR"] == "")


HINT = "next time in seconds"


def test_a_slow_start_tells_of_the_quick_one(monkeypatch: pytest.MonkeyPatch) -> None:
    Session(monkeypatch, base="a" * 64)
    last = run("up", "lab", "--image", "mylab", "--set", "vm.memory=512").stdout.splitlines()[-1]
    assert last == f"  {HINT}: dozlab image prepare mylab --set vm.memory=512"


def test_a_default_start_tells_of_the_shortest_command(monkeypatch: pytest.MonkeyPatch) -> None:
    Session(monkeypatch, base="a" * 64)
    assert run("up").stdout.splitlines()[-1] == f"  {HINT}: dozlab image prepare"


@pytest.mark.parametrize(
    ("words", "took"),
    [(["--cold"], 60.0), (["--no-wait"], 60.0), ([], 2.0)],
)
def test_starts_that_have_nothing_to_tell(monkeypatch: pytest.MonkeyPatch, words: list[str], took: float) -> None:
    session = Session(monkeypatch, base="a" * 64, took=took)
    assert HINT not in run("up", *words).stdout
    assert session.cold == [words == ["--cold"]]


def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the session tell that it began with a snapshot."""

    async def status(layout: Layout) -> state.Status:
        return state.Status(layout.id, "running", vm={"restored": True})

    monkeypatch.setattr(state, "status", status)


def test_a_session_that_was_restored_needs_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    restored(monkeypatch)
    Session(monkeypatch, base="a" * 64)
    assert HINT not in run("up").stdout


def test_a_snapshot_for_another_machine_is_none_for_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared("a" * 64)
    Session(monkeypatch, base="a" * 64)
    last = run("up", "--set", "vm.memory=512").stdout.splitlines()[-1]
    assert last == f"  {HINT}: dozlab image prepare --set vm.memory=512"


class Beside:
    """Stands for what forks: keeps the work, which a test does itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work: Any = None
        monkeypatch.setattr(preparing, "beside", lambda work: setattr(self, "work", work))


@pytest.mark.parametrize("words", [[], ["--cold"], ["--no-docker-wait"]])
def test_up_prepares_in_the_background_what_it_had_to_boot(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """However quick the boot was: who asks for it wants it."""
    beside, calls = Beside(monkeypatch), answer(monkeypatch, preparing.Prepared(one(), True, 84.2))
    Session(monkeypatch, base="a" * 64, took=2.0)
    sets = ["--set", "vm.memory=512", "--set", "codeServer.password=pw"]
    last = run("up", "lab", "--prepare", "--image", "mylab", *sets, *words).stdout.splitlines()[-1]
    log = preparing.store() / "prepare.log"
    assert last == f"  {HINT}: the image is being prepared in the background (how it goes: {log})"
    assert calls == []
    assert beside.work() == 0
    assert (calls[0]["raw"]["vm"], calls[0]["image"], calls[0]["again"]) == ({"memory": 512}, "mylab", False)
    assert "start from it: dozlab up --image mylab --set vm.memory=512" in capfd.readouterr().out


def test_what_fails_in_the_background_is_one_line_in_its_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    beside = Beside(monkeypatch)
    answer(monkeypatch, DozlabError("the image could not be prepared: no python3"))
    Session(monkeypatch, base="a" * 64)
    run("up", "--prepare")
    assert beside.work() == 1
    assert capfd.readouterr().err == "error: the image could not be prepared: no python3\n"


@pytest.mark.parametrize("end", ["made", "interrupted"])
def test_the_whole_way_in_the_background(monkeypatch: pytest.MonkeyPatch, image: str, end: str) -> None:
    """In a process of its own, with a session that only writes what firecracker-vm would."""

    def start(name: str, _raw: Any, *, make_plan: Any, **_: Any) -> None:
        if end == "interrupted":
            raise KeyboardInterrupt
        layout = Layout(name)
        plan = make_plan(layout, state.Facts(name, Ports(1, 2, 3), "127.0.0.1", None, 0, 0.0), values.parse({}))
        out = Path(plan.writable["snapshot"])
        for each in (snapshots.STATE, snapshots.DISK, snapshots.TOKEN):
            (out / each).write_bytes(b"x" * 4096)
        snapshots.describe(out, {"base": image, "cpus": 2, "memory": 2048})
        layout.logs.mkdir()
        files.write_json(layout.end, {"state": "stopped", "reason": "the guest powered off"})

    def with_stdout_of_its_own(work: Any) -> int:
        sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))  # pytest has put others in their place
        return int(work())

    pids: list[int] = []
    beside = preparing.beside
    monkeypatch.setattr(preparing, "beside", lambda work: pids.append(beside(lambda: with_stdout_of_its_own(work))))
    monkeypatch.setattr(preflight, "check", lambda _values: None)
    monkeypatch.setattr(preparing, "_there", lambda *_: None)
    monkeypatch.setattr(operations, "start", start)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 40))
    log = prepare_beside("mylab", (), ())
    status = os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])
    last = log.read_text().splitlines()[-1]
    if end == "made":
        assert status == 0 and last.startswith("mylab for 2 vCPU 2048 MiB (12.0 KiB) prepared in "), log.read_text()
        assert [each.needs["base"] for each in preparing.snapshots().ls()] == [image]
    else:
        assert (status, last) == (130, "interrupted"), log.read_text()
        assert preparing.snapshots().ls() == []
    assert state.ids() == []


def test_nothing_is_prepared_for_a_session_that_was_restored_or_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Beside(monkeypatch)
    Session(monkeypatch, base="a" * 64)
    Layout("old").state.mkdir(parents=True)
    assert HINT not in run("up", "old", "--prepare").stdout
    restored(monkeypatch)
    assert HINT not in run("up", "new", "--prepare").stdout
    assert beside.work is None


def test_preparing_afterwards_needs_an_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, base="a" * 64)
    with pytest.raises(BadUsage, match="leave out --no-wait"):
        CliRunner().invoke(cli, ["up", "--prepare", "--no-wait"], catch_exceptions=False)
    assert session.cold == []


def test_a_stopped_session_that_starts_again_needs_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """It boots on its own disk, whatever is prepared."""
    Layout("lab").state.mkdir(parents=True)
    Session(monkeypatch, base="a" * 64)
    assert HINT not in run("up", "lab").stdout


def test_cold_is_not_kept_for_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(monkeypatch, base="a" * 64)
    run("up", "lab", "--cold")
    assert "cold" not in json.dumps(files.read_json(Layout("lab").values))
    operations.down(Layout("lab"), keep=False, progress=lambda _line: None)
    run("up", "lab")
    assert session.cold == [True, False]
