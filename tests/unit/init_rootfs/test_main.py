"""The component as it is run: exit status, files, timeline; stopped by a signal in the middle of a download."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from dozlab.images import cpio
from dozlab.init_rootfs.__main__ import main
from dozlab.init_rootfs.progress import Progress
from dozlab.lib.timeline import Timeline
from tests.unit.init_rootfs.conftest import Page, Web

Environ = Callable[..., dict[str, str]]


def test_a_whole_run(web: Web, image: bytes, environ: Environ) -> None:
    web.pages["/i.zst"] = Page(zstandard.compress(image))
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i.zst")
    assert main([], env) == 0
    shared = Path(env["SHARED_DIR"])
    rootfs = json.loads((shared / "rootfs.json").read_text())
    digest = hashlib.sha256(image).hexdigest()
    assert rootfs == {"base": f"sha256/{digest}/image.ext4", "digest": digest, "disk": "disk/session.ext4"}
    entries = Timeline(shared).read()
    assert (entries[0].event, entries[-1].event) == ("start", "done")
    assert {entry.stage for entry in entries} == {"rootfs"}


def test_a_spare_machine_has_keys_of_its_own_and_no_learners(
    web: Web, image: bytes, environ: Environ, tmp_path: Path
) -> None:
    web.pages["/i.zst"] = Page(zstandard.compress(image))
    folder, learner = tmp_path / "prepare", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFake jane"
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i.zst", PREPARE_DIR=str(folder), SSH_AUTHORIZED_KEYS=learner)
    shared = Path(env["SHARED_DIR"])
    (shared / "network.json").write_text('{"mac": "06:00:ac:10:00:02"}')
    assert main([], env) == 0
    seen = [{entry.name: entry.data for entry in cpio.unpack((place / "identity.cpio").read_bytes())}
            for place in (shared, folder / "shared")]  # fmt: skip
    for name in ("ssh_host_ed25519_key", "machine-id", "authorized_keys", "hostname"):
        own, spare = (each[f"dozlab/identity/{name}"] for each in seen)
        assert own and spare and own != spare
    assert learner.encode() in seen[0]["dozlab/identity/authorized_keys"]
    assert learner.encode() not in seen[1]["dozlab/identity/authorized_keys"]
    assert [(folder / "shared" / name).read_text() for name in ("rootfs.json", "network.json")] == [
        (shared / name).read_text() for name in ("rootfs.json", "network.json")
    ]
    disks = [Path(env["VM_DATA"]) / "disk/session.ext4", folder / "disk/session.ext4"]
    assert len({disk.stat().st_size for disk in disks}) == 1
    assert not disks[0].samefile(disks[1])
    assert (Path(env["KERNELS_DIR"]) / "snapshots").stat().st_mode & 0o777 == 0o755


def test_a_session_with_a_disk_of_its_own_needs_no_spare_machine(
    web: Web, image: bytes, environ: Environ, tmp_path: Path
) -> None:
    web.pages["/i"] = Page(image)
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i")
    assert main([], env) == 0
    assert main([], {**env, "PREPARE_DIR": str(tmp_path / "prepare")}) == 0
    assert not (tmp_path / "prepare").exists()


def no_network(_folder: Path, shared: Path) -> None:
    (shared / "network.json").unlink()


def no_folder(folder: Path, _shared: Path) -> None:
    folder.write_text("")


def a_foreign_disk(folder: Path, _shared: Path) -> None:
    (folder / "disk").mkdir(parents=True)
    (folder / "disk/session.ext4").write_text("")


@pytest.mark.parametrize("spoil", [no_network, no_folder, a_foreign_disk])
def test_a_spare_machine_that_cannot_be_made_is_no_failure_of_the_session(
    web: Web, image: bytes, environ: Environ, tmp_path: Path, spoil: Callable[[Path, Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """And nothing of it is there, so that nobody tries to boot it."""
    web.pages["/i"] = Page(image)
    folder = tmp_path / "prepare"
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i", PREPARE_DIR=str(folder))
    shared = Path(env["SHARED_DIR"])
    (shared / "network.json").write_text("{}")
    spoil(folder, shared)
    assert main([], env) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "WARNING" in line]
    assert "no snapshot can be prepared: " in line
    assert (shared / "rootfs.json").exists()
    assert not folder.is_dir() or list(folder.iterdir()) == []


def test_a_failure_is_one_line_and_in_the_timeline(
    web: Web, environ: Environ, capsys: pytest.CaptureFixture[str]
) -> None:
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/none")
    assert main([], env) == 1
    assert f"init-rootfs: cannot download {web.url}/none: the server says 404 Not Found\n" in capsys.readouterr().err
    assert Timeline(Path(env["SHARED_DIR"])).read()[-1].event == "failed"
    assert not (Path(env["SHARED_DIR"]) / "rootfs.json").exists()


def test_bad_environment_names_every_fault(environ: Environ, capsys: pytest.CaptureFixture[str]) -> None:
    env = environ(IMAGE_SIZE="1M", VM_HOSTNAME="-", VM_IP="nope")
    assert main([], env) == 2
    text = capsys.readouterr().err
    for name in ("IMAGE_SIZE", "VM_HOSTNAME", "VM_IP", "IMAGE_DOWNLOAD_URL"):
        assert name in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_leaves_nothing(number: int, web: Web, image: bytes, environ: Environ) -> None:
    page = Page(image, hold=threading.Event())
    web.pages["/i"] = page
    env = environ(IMAGE_DOWNLOAD_URL=web.url + "/i")
    kernels = Path(env["KERNELS_DIR"])
    child = subprocess.Popen([sys.executable, "-m", "dozlab.init_rootfs"], env={**os.environ, **env})
    try:
        deadline = time.monotonic() + 20
        while not list(kernels.glob("tmp/part.*/image")):
            assert time.monotonic() < deadline, "no temporary file was begun"
            time.sleep(0.01)
        child.send_signal(number)
        assert child.wait(60) == 128 + number
    finally:
        child.kill()
        child.wait()
    assert list((kernels / "tmp").iterdir()) == []
    assert not (kernels / "sha256").exists()
    assert Timeline(Path(env["SHARED_DIR"])).read()[-1].detail == f"stopped by {signal.Signals(number).name}"


def test_progress_speaks_at_most_once_a_second() -> None:
    now, said = [0.0], list[str]()

    def blocks() -> Iterator[bytes]:
        for _ in range(40):
            now[0] += 0.1
            yield bytes(1 << 20)

    progress = Progress(40 << 20, said.append, lambda: now[0])
    assert sum(len(block) for block in progress.watch(blocks())) == 40 << 20
    assert len(said) in (3, 4)
    assert said[0].startswith("10.0 MiB of 40.0 MiB (25 %), 10.0 MiB/s") or said[0].startswith("11.0 MiB of 40.0 MiB")
