"""`dozlab image test` without a machine: what is tried, for how long, what is told, and that the session goes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dozlab.cli import image_authoring
from dozlab.cli.main import cli
from dozlab.images.entry import Manifest
from dozlab.images.recipe import BootCheck, Recipe
from dozlab.images.store import Store, copy_sparse
from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.timeline import Entry
from dozlab.session import boot_checks, image_choice, operations
from dozlab.session.layout import Layout

pytestmark = pytest.mark.usefixtures("home")
LAB = Recipe("lab", "trixie", ("git",), 1 << 30)


@dataclass
class Guest:
    """Stands in for `operations`: commands run here instead of in a guest; `ended` are sessions taken down."""

    started: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    fault: str = ""
    dies: str = ""

    def start(self, name: str, raw: dict[str, Any], *, image: str, **_: Any) -> Layout:
        """Make the session's folder only."""
        layout = Layout(name)
        layout.state.mkdir(parents=True)
        self.started.append((name, image, raw))
        if self.fault:
            raise DozlabError(self.fault)
        return layout

    def down(self, layout: Layout, *, keep: bool, progress: Any) -> None:
        """Note it."""
        assert not keep
        self.ended.append(layout.id)

    def watch(self, layout: Layout) -> Guest:
        """Be the watch as well."""
        assert layout.id.startswith("image-test-")
        return self

    entries = (Entry(1.0, "rootfs", "start"), Entry(2.0, "rootfs", "done"), Entry(9.0, "sshd", "done"))

    def new(self) -> list[Entry]:
        """Everything at once."""
        return list(self.entries)

    def done(self, *_: str) -> bool:
        """The guest is up."""
        return True

    def failed(self, _: str) -> str:
        """Nothing did."""
        return ""

    def check(self) -> None:
        """Tell that the session has died, where it should."""
        if self.dies:
            raise DozlabError(self.dies)


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    found = Guest()
    monkeypatch.setattr(operations, "start", found.start)
    monkeypatch.setattr(operations, "down", found.down)
    monkeypatch.setattr(operations, "Watch", found.watch)
    monkeypatch.setattr(operations, "ssh_argv", lambda layout, command: ["sh", "-c", *command])
    monkeypatch.setattr(boot_checks, "PAUSE", 0.01)
    return found


def run(*checks: BootCheck, modules: tuple[str, ...] = ()) -> tuple[boot_checks.Report, list[boot_checks.Outcome]]:
    told: list[boot_checks.Outcome] = []
    recipe = Recipe("lab", "trixie", ("git",), 1 << 30, boot_checks=checks, modules=modules)
    report = boot_checks.run(
        recipe, "ab" * 32, {"vm": {"memory": 512}}, progress=lambda text: None, stages=lambda entries: None,
        done=told.append,
    )  # fmt: skip
    return report, told


def test_checks_are_run_in_order_until_one_fails(guest: Guest) -> None:
    report, told = run(
        BootCheck("first", "true"), BootCheck("second", "echo out; echo why >&2; exit 3", 1), BootCheck("third", "true")
    )
    assert [(each.name, each.ok) for each in report.checks] == [("first", True), ("second", False)]
    assert list(report.checks) == told and report.stages == guest.entries
    assert told[1].output == "out\nwhy" and told[0].output == ""
    ((name, image, raw),) = guest.started
    assert guest.ended == [name] and image == "ab" * 32
    assert raw["vm"] == {"memory": 512} and raw["terminal"] == raw["codeServer"] == {"enabled": False}


def test_a_check_is_tried_until_it_succeeds(guest: Guest, tmp_path: Path) -> None:
    count = tmp_path / "count"
    report, _ = run(BootCheck("third time", f"echo x >> {count}; test $(wc -l < {count}) = 3", 60))
    assert report.checks[0].ok and len(count.read_text().split()) == 3


def test_a_check_that_hangs_is_ended(guest: Guest) -> None:
    report, _ = run(BootCheck("hangs", "exec sleep 60", 1))
    assert (report.checks[0].ok, report.checks[0].output) == (False, "it did not end within 1.0 s")


def test_kernel_modules_come_first() -> None:
    recipe = Recipe("lab", "trixie", (), 0, boot_checks=(BootCheck("a", "b"),), modules=("x_y", "z"))
    first, second = boot_checks.checks_of(recipe)
    assert (first.name, first.run) == ("kernel modules: x_y z", "modprobe --all x_y z") and second.name == "a"
    assert boot_checks.checks_of(LAB) == []


def test_the_session_goes_whatever_happens(guest: Guest) -> None:
    guest.fault = "no kernel"
    with pytest.raises(DozlabError, match="no kernel"):
        run(BootCheck("a", "true"))
    guest.fault, guest.dies = "", "the guest powered off"
    with pytest.raises(DozlabError, match="the guest powered off"):
        run(BootCheck("a", "false"))
    assert [name for name, _, _ in guest.started] == guest.ended and len(guest.ended) == 2


def test_only_the_last_lines_are_shown() -> None:
    assert boot_checks.last_lines("\n".join(map(str, range(20))) + "\n\n") == "\n".join(map(str, range(10, 20)))


# The command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with two checks, whose image counts as built."""
    made = tmp_path / "lab"
    made.mkdir()
    (made / "recipe.toml").write_text(
        'name = "lab"\nsuite = "trixie"\npackages = ["git"]\nsize_limit = "1Gi"\n'
        '[[checks.boot]]\nname = "good"\nrun = "true"\n'
        '[[checks.boot]]\nname = "bad"\nrun = "test -e good"\ntimeout = "1s"\n'
    )
    manifest = Manifest("ab" * 32, 100 << 20, "lab")
    monkeypatch.setattr(image_authoring, "_built", lambda name, again, network: manifest)
    return made


def test_the_command_ends_with_1_when_a_check_fails(guest: Guest, folder: Path) -> None:
    done = CliRunner().invoke(cli, ["image", "test", str(folder)])
    assert isinstance(done.exception, DozlabError) and str(done.exception) == "lab fails its check: bad"
    assert "✓ good" in done.stderr and "✗ bad" in done.stderr and "exit status 1" in done.stderr


def test_the_command_prints_for_programs(guest: Guest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "good").touch()
    done = CliRunner().invoke(cli, ["image", "test", str(folder), "-o", "json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert (told["name"], told["ok"], told["digest"]) == ("lab", True, "ab" * 32)
    assert [(each["name"], each["ok"]) for each in told["checks"]] == [("good", True), ("bad", True)]
    assert told["stages"][0]["stage"] == "rootfs"
    done = CliRunner().invoke(cli, ["image", "test", str(folder)], catch_exceptions=False)
    assert done.stdout.startswith("lab 100 MiB: 2 checks passed, in ")


# What an image is best given


def test_a_machine_is_what_the_image_is_best_given_unless_somebody_says_otherwise(home: Path) -> None:
    store = Store(paths.cache() / "store")
    source = home / "image"
    source.write_bytes(b"ext4")
    with store.begin() as temp:
        digest = copy_sparse(source, temp)
        store.commit(temp, digest, name="lab", cpus=4, memory=3072)

    def given(raw: dict[str, Any], sha256: str = digest) -> dict[str, Any]:
        return image_choice.with_defaults(raw, sha256, store.root)

    assert given({}) == {"vm": {"cpuCount": 4, "memory": 3072}}
    assert given({"vm": {"memory": 512}}) == {"vm": {"cpuCount": 4, "memory": 512}}
    assert given({"vm": {"idlePause": "5m"}})["vm"] == {"cpuCount": 4, "memory": 3072, "idlePause": "5m"}
    assert given({"a": 1}, "0" * 64) == {"a": 1} and given({"a": 1}, "") == {"a": 1}
