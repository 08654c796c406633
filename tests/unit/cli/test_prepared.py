"""The command's words about prepared snapshots: `image prepare`, `image ls`, `image rm`, `up`; no VM is started."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dozlab.cli.main import cli
from dozlab.cli.session_commands import same_machine
from dozlab.images import snapshots
from dozlab.images.store import Store
from dozlab.lib import files
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import MIB
from dozlab.session import operations, preparing, state
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


def test_an_image_that_is_prepared_needs_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared("a" * 64)
    Session(monkeypatch, base="a" * 64)
    assert HINT not in run("up").stdout


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
