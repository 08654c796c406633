"""A recipe whose system comes from elsewhere: its faults, the way into the store, when it is built anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dozlab.images import build, contents, recipe
from dozlab.images.importing import sourced
from dozlab.images.store import Manifest, Store
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import need, run
from tests.unit.images.crafted import Layout, file, link, machine, tar

RECIPE = """
name = "course"
size_limit = "64Mi"
[source]
archive = "system.tar"
[services]
enable = ["ssh.service"]
mask = ["man-db.timer"]
[machine]
cpus = 1
memory = "512Mi"
[checks]
build = ["test -s /root/task", "[ ! -e /etc/hostname ]", "test -c /dev/null && [ $$ -lt 100 ]"]
"""
SYSTEMCTL = '#!/bin/sh\necho "$@" >> /etc/asked\n[ "$2" != none.service ]\n'


def system() -> bytes:
    """Return a small system in which a shell runs: busybox stands for Debian's programs."""
    busybox = Path(need("busybox", "busybox-static")).read_bytes()
    applets = [link(f"./usr/bin/{name}", "busybox") for name in ("sh", "test", "[", "timeout", "cat", "tail", "touch")]
    return tar(
        *machine(without="./usr/bin/sh"), file("./usr/bin/busybox", busybox, mode=0o755), *applets,
        file("./usr/bin/systemctl", SYSTEMCTL, mode=0o755), file("./usr/bin/passwd", "#!/bin/sh\n", mode=0o755),
    )  # fmt: skip


@pytest.fixture
def course(tmp_path: Path) -> Path:
    folder = tmp_path / "course"
    (folder / "files/root").mkdir(parents=True)
    (folder / "files/root/task").write_text("Find the tea.\n")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "system.tar").write_bytes(system())
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache/store")


Build = Callable[..., Manifest]


@pytest.fixture
def made(course: Path, store: Store, tmp_path: Path) -> Build:
    def do(**more: object) -> Manifest:
        try:
            return build.build(course, store=store, cache=tmp_path / "cache", **more)  # type: ignore[arg-type]
        finally:
            if (tmp_path / "cache/build").exists():
                assert list((tmp_path / "cache/build").iterdir()) == []

    return do


def cat(store: Store, name: str) -> str:
    found = store.by_name("course")
    assert found
    return run([need("debugfs", "e2fsprogs"), "-R", f"cat {name}", store.path(found.digest)]).out


def test_an_archives_system_gets_what_the_recipe_says(made: Build, store: Store) -> None:
    said: list[str] = []
    found = made(progress=said.append)
    assert cat(store, "/root/task") == "Find the tea.\n"
    assert cat(store, "/etc/asked") == "enable ssh.service\nmask man-db.timer\n"
    assert "0123" not in cat(store, "/etc/machine-id") and "secret" not in cat(store, "/etc/ssh/ssh_host_rsa_key")
    top = run([need("debugfs", "e2fsprogs"), "-R", "ls /", store.path(found.digest)]).out
    assert ".dozlab-build" not in top and "usr" in top
    assert (found.cpus, found.memory, found.packages) == (1, 512, {"dash": "0.5"})
    (part,) = found.parts
    assert (part.name, part.by) == ("system.tar", "an archive: system.tar")
    assert "an archive: system.tar" in contents.spdx(found)
    assert [line.split()[1] for line in said if "/3 " in line] == ["1/3", "2/3", "3/3"]
    assert made(progress=said.append) == found and "already built" in said[-1]


def test_another_source_is_another_image(made: Build, course: Path) -> None:
    first = made()
    loaded = recipe.load(course)
    (course / "system.tar").write_bytes(tar(*machine()) + system())
    assert build.recipe_id(recipe.load(course)) != first.recipe
    assert loaded.source and sourced.key(loaded.source)[:2] == ["archive", "system.tar"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"test -s /root/task"', '"echo no; false"', "course: the image fails its check: echo no; false: no"),
        ('["ssh.service"]', '["none.service"]', "course: no unit none.service to enable"),
        ('"64Mi"', '"1Mi"', "over its size_limit of 1.0 MiB"),
        ("system.tar", "none.tar", "course: source.archive: no such file: "),
        ('archive = "system.tar"', 'dockerfile = "."', "course: source.dockerfile: no Dockerfile in "),
    ],
)  # fmt: skip
def test_what_fails_is_said_and_not_stored(
    old: str, new: str, words: str, made: Build, course: Path, store: Store
) -> None:
    assert RECIPE.count(old) == 1
    (course / "recipe.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(DozlabError) as caught:
        made()
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert store.ls() == []


def test_a_system_that_is_no_machine_is_refused(made: Build, course: Path, store: Store) -> None:
    (course / "system.tar").write_bytes(tar(*machine(without="sshd")))
    with pytest.raises(DozlabError, match=r"system.tar lacks what a machine needs: sshd; .* openssh-server$"):
        made()
    assert store.ls() == []


def test_a_registrys_image_is_pulled(made: Build, course: Path, store: Store) -> None:
    (course / "recipe.toml").write_text(RECIPE.replace('archive = "system.tar"', 'oci = "oci://h.example/course:v1"'))
    asked: list[tuple[str, int]] = []

    def pull(url: str, folder: Path, most: int) -> None:
        asked.append((url, most))
        folder.mkdir()
        Layout(system()).write(folder)

    with pytest.raises(DozlabError, match=r"course: oci://h.example/course:v1: is fetched by each build; build it"):
        made(network=False)
    (part,) = made(pull=pull).parts
    assert asked == [("oci://h.example/course:v1", 256 << 20)]
    assert (part.name, part.url) == ("course:v1", "oci://h.example/course:v1")
    assert cat(store, "/root/task") == "Find the tea.\n"


def test_a_dockerfile_is_built(
    made: Build, course: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (course / "recipe.toml").write_text(RECIPE.replace('archive = "system.tar"', 'dockerfile = "machine"'))
    (course / "machine").mkdir()
    (course / "machine/Dockerfile").write_text("FROM debian:13\n")
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\n[ $1 = build ] && echo sha256:a > "$3" || cp {course}/system.tar "$3"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    first = made()
    assert cat(store, "/etc/asked").startswith("enable ssh.service")
    (course / "machine/Dockerfile").write_text("FROM debian:13\nRUN true\n")
    (course / "machine/link").symlink_to("Dockerfile")
    assert build.recipe_id(recipe.load(course)) != first.recipe


def parse(text: str, parent: recipe.Recipe | None = None) -> recipe.Recipe:
    return recipe.parse(text, parent=parent)


HEAD = 'name = "a"\nsize_limit = "1Gi"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[source]\n", "source: needs one of dockerfile, oci, archive"),
        ('[source]\noci = "oci://h/a"\narchive = "a"\n', "source: needs one of"),
        ('[source]\noci = "h/a"\n', "source.oci: must be an address such as oci://"),
        ('[source]\narchive = "../a"\n', "source.archive: must be a path below"),
        ('[source]\ndockerfile = "/a"\n', "source.dockerfile: must be the folder"),
        ('[source]\nimage = "a"\n', "source.image: no such field"),
        ('packages = ["jq"]\n[source]\narchive = "a"\n', "packages: is for a system of Debian's packages"),
        ('suite = "trixie"\nlean = false\n[source]\narchive = "a"\n', "lean: is for a system"),
    ],
)  # fmt: skip
def test_faults_of_a_source(text: str, words: str) -> None:
    with pytest.raises(BadUsage) as caught:
        parse(HEAD + text)
    assert f"recipe.toml: {words}" in str(caught.value)


def test_what_extends_a_recipe_with_a_source(course: Path) -> None:
    parent = recipe.load(course)
    child = parse('name = "b"\n', parent)
    assert child.source == parent.source and child.source and child.source.path == course / "system.tar"
    with pytest.raises(BadUsage, match="packages: is for a system of Debian's packages"):
        parse('name = "b"\npackages = ["jq"]\n', parent)
    with pytest.raises(BadUsage, match="source: a recipe that extends course has its system already"):
        parse('name = "b"\n[source]\narchive = "a"\n', parent)


def test_what_runs_in_the_system_cannot_leave_it(tmp_path: Path) -> None:
    words = sourced.argv(tmp_path)
    assert {"--unshare-net", "--unshare-pid", "--die-with-parent", "--clearenv"} <= set(words)
    kept = {words[at + 1] for at, word in enumerate(words) if word == "--cap-add"}
    assert not kept & {"CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}
    assert shutil.which(words[words.index("--bind") - 1])
