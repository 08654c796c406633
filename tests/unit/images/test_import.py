"""From a source to an image in the store: the process that unpacks, what is checked, what is left out, what is said."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

from dozlab.cli.main import cli
from dozlab.images.importing import base, system
from dozlab.images.importing.layers import Tree
from dozlab.images.importing.system import Facts
from dozlab.images.store import Manifest, Store
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.proc import need, run
from dozlab.lib.units import MIB
from tests.unit.docs.markdown import REPOSITORY, first_cells
from tests.unit.images.crafted import Entry, Layout, docker_archive, file, folder, hard, link, machine, tar

Bring = Callable[..., Manifest]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache/store")


@pytest.fixture
def bring(tmp_path: Path, store: Store) -> Bring:
    """Return a function that imports bytes or a folder, and checks that nothing else is left."""

    def do(data: bytes | Path, *, size_limit: int = 64 * MIB, lines: list[str] | None = None) -> Manifest:
        source = tmp_path / "source"
        if isinstance(data, bytes):
            source.write_bytes(data)
        said = [] if lines is None else lines
        try:
            return base.bring(
                source if isinstance(data, bytes) else data, store=store, cache=tmp_path / "cache", name="lab",
                where="the lab", size_limit=size_limit, progress=said.append,
            )  # fmt: skip
        finally:
            left = list((tmp_path / "cache/build").iterdir()) if os.geteuid() == 0 else []
            assert left == [] and list((store.root / "tmp").iterdir()) == []

    return do


def cat(store: Store, name: str) -> str:
    """Return a file's content out of the image `lab`."""
    found = store.by_name("lab")
    assert found
    return run([need("debugfs", "e2fsprogs"), "-R", f"cat {name}", store.path(found.digest)]).out


def inode(store: Store, name: str) -> str:
    found = store.by_name("lab")
    assert found
    return run([need("debugfs", "e2fsprogs"), "-R", f"stat {name}", store.path(found.digest)]).out


LAYERS = (tar(*machine(), file("etc/old"), file("etc/note", "one")), tar(file("etc/.wh.old"), file("etc/note", "two")))


@pytest.mark.parametrize(
    ("pack", "suffix"), [(bytes, ""), (gzip.compress, "+gzip"), (zstandard.compress, "+zstd")], ids=["", "gzip", "zstd"]
)
def test_a_container_image_becomes_a_base_image(
    pack: Callable[[bytes], bytes], suffix: str, bring: Bring, store: Store, tmp_path: Path
) -> None:
    said: list[str] = []
    made = Layout(*LAYERS, env=["PATH=/opt/x:/bin", "COURSE=two words"], pack=pack, suffix=suffix)
    found = bring(made.archive() if suffix else made.write(tmp_path / "layout"), lines=said)
    assert store.names() == {"lab": found.digest} and found.packages == {"dash": "0.5"}
    assert cat(store, "/etc/note") == "two" and "Inode" not in inode(store, "/etc/old")
    assert "COURSE=two words\n" in cat(store, "/etc/environment")
    assert "export COURSE='two words'\n" in cat(store, f"/{system.PROFILE}")
    assert said[:2] == ["the lab: a container image, 2 layers", f"layer 1 of 2 ({said[1].partition('(')[2]}"]
    assert "the image has no docker: no Docker in the machine" in said
    check = run([need("e2fsck", "e2fsprogs"), "-fn", store.path(found.digest)], check=False)
    assert check.code == 0, check.out


def test_a_root_file_system_becomes_one_without_what_containers_leave(bring: Bring, store: Store) -> None:
    net_raw = {"SCHILY.xattr.security.capability": "\1\0\0\2\0\x20".ljust(20, "\0")}  # capabilities(7)
    found = bring(tar(*machine(), file("./usr/bin/ping", mode=0o4755), file("./usr/bin/raw", pax_headers=net_raw)))
    for name in (".dockerenv", "etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/ssh/ssh_host_rsa_key",
                 "usr/sbin/policy-rc.d", "run/leftover", system.PROFILE):  # fmt: skip
        assert "Inode" not in inode(store, f"/{name}"), name
    assert "Size: 0" in inode(store, "/etc/machine-id") and "Mode:  0444" in inode(store, "/etc/machine-id")
    assert "Mode:  04755" in inode(store, "/usr/bin/ping") and "User:     0" in inode(store, "/usr/bin/ping")
    assert "security.capability (20) = 01 00 00 02 00 20" in inode(store, "/usr/bin/raw")
    for name in ("dev", "proc", "sys", "run", "tmp", "root"):
        assert "Type: directory" in inode(store, f"/{name}"), name
    assert found.recipe == ""


def nothing_stored(store: Store) -> None:
    assert store.ls() == [] and store.names() == {}


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("systemd/systemd", "needs: systemd as /sbin/init, udev; .* RUN apt-get .* systemd systemd-sysv udev$"),
        ("systemd-udevd", "machine needs: udev; .* udev$"),
        ("sshd", "machine needs: sshd; .* openssh-server$"),
        ("ssh.service", "an sshd that starts at boot; add to its Dockerfile: RUN systemctl unmask ssh && systemctl"),
        ("./lib", r"a merged /usr \(/lib as a link to usr/lib\); .* usrmerge$"),
        ("./usr/bin/sh", "machine needs: /bin/sh; .* dash$"),
    ],
)  # fmt: skip
def test_what_a_machine_needs_is_said_at_once(without: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match=words) as caught:
        base.check(laid(tmp_path, *machine(without=without)), "the lab")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("the lab lacks ")


def laid(folder: Path, *entries: Entry) -> Facts:
    """Return the facts of a system out of such entries."""
    Tree(folder, MIB).apply(io.BytesIO(tar(*entries)), whiteouts=False)
    return system.facts(folder)


def test_a_system_that_has_it_all(tmp_path: Path) -> None:
    found = laid(tmp_path, *machine())
    base.check(found, "the lab")
    assert found == Facts("debian", packages={"dash": "0.5"}, absent=("docker", "python3", "sshfs"))


def test_what_lacks_something_is_not_stored(bring: Bring, store: Store) -> None:
    with pytest.raises(DozlabError, match=r"the lab lacks what a machine needs: sshd; .* openssh-server$"):
        bring(tar(*machine(without="sshd")))
    nothing_stored(store)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Facts("alpine", missing=("systemd",)), "Alpine has no systemd: build FROM debian or ubuntu"),
        (Facts("", missing=("systemd",)), "begin with an image of Debian or Ubuntu and add: systemd systemd-sysv, "),
        (Facts("fedora", missing=("systemd", "sshd")), "RUN dnf install -y systemd openssh-server && "),
        (Facts("arch", missing=("merged-usr",)), "begin with a newer image"),
    ],
)  # fmt: skip
def test_advice_fits_the_system(facts: Facts, words: str) -> None:
    assert words in base.advice(facts)


def test_a_system_for_another_processor(tmp_path: Path) -> None:
    arm = [file("./usr/bin/sh", b"\x7fELF" + bytes(14) + b"\xb7\0", mode=0o755), *machine(without="./usr/bin/sh")]
    with pytest.raises(DozlabError, match="the lab is for another processor; a machine is linux/amd64"):
        base.check(laid(tmp_path, *arm), "the lab")


def test_a_masked_sshd_does_not_start(tmp_path: Path) -> None:
    masked = link("./etc/systemd/system/ssh.service", "/dev/null")
    assert laid(tmp_path, *machine(), masked).missing == ("sshd.enabled",)


def test_docker_needs_what_makes_its_network(tmp_path: Path) -> None:
    found = laid(tmp_path, *machine(), file("./usr/sbin/dockerd"), file("./usr/sbin/iptables"))
    assert found.missing == ("modprobe",) and "docker" not in found.absent
    with pytest.raises(DozlabError, match=r"needs: modprobe, which its Docker needs; .* RUN apt-get .* kmod$"):
        base.check(found, "the lab")


@pytest.mark.parametrize(
    ("config", "included", "shut"),
    [
        ("PermitRootLogin no\n", "", True),
        ("#PermitRootLogin no\nPermitRootLogin prohibit-password\nPermitRootLogin no\n", "", False),
        ("Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin no\n", "permitrootlogin=yes", False),
        ("include sshd_config.d/*.conf\n", "PermitRootLogin\tforced-commands-only # x\n", True),
        ("PubkeyAuthentication no\n", "", True),
        ("Match User learner\nPermitRootLogin no\n", "", False),
        ("Include / a** //x\nPasswordAuthentication no\n", "PermitRootLogin no\n", False),
    ],
)
def test_an_sshd_that_shuts_root_out(config: str, included: str, shut: bool, tmp_path: Path) -> None:
    more = [file("./etc/ssh/sshd_config", config), file("./etc/ssh/sshd_config.d/10-x.conf", included)]
    found = laid(tmp_path, *machine(), *more)
    assert found.missing == (("sshd.root",) if shut else ())
    if shut:
        with pytest.raises(DozlabError, match=r"machine needs: an sshd that takes root's key; .* RUN printf 'Permit"):
            base.check(found, "the lab")


OUTSIDE = [folder("usr"), link("usr/up", "../../../../../../../../../../..")]


@pytest.mark.parametrize(
    "entries",
    [
        [file("../escaped")],
        [*OUTSIDE, file("usr/up/escaped")],
        [*OUTSIDE, hard("usr/mine", "usr/up/etc/passwd")],
        [file("usr/a"), file("/etc/escaped")],
    ],
)
def test_hostile_archives_leave_no_trace(entries: list[Entry], bring: Bring, store: Store) -> None:
    with pytest.raises(DozlabError, match="the archive is refused"):
        bring(tar(folder("etc"), *entries))
    nothing_stored(store)
    assert not Path("/escaped").exists() and not Path("/etc/escaped").exists()


def test_files_of_the_system_that_are_links_out_of_it_are_the_images_own(bring: Bring, store: Store) -> None:
    """After chroot they lead to the image's root: nothing of this machine is read, written or removed."""
    before = Path("/etc/hosts").stat()
    entries = [
        each for each in machine() if each[0].name not in ("./etc/os-release", "./etc/hosts", "./etc/machine-id")
    ]
    bring(
        tar(
            *entries, link("./etc/os-release", "/etc/passwd"), link("./etc/hosts", "/etc/hosts"),
            link("./etc/machine-id", "/etc/passwd"), link("./etc/environment", "/../../note"),
        )
    )  # fmt: skip
    assert Path("/etc/hosts").stat().st_mtime_ns == before.st_mtime_ns
    assert "Type: regular" in inode(store, "/etc/machine-id")


def test_an_image_over_the_limit_is_refused(bring: Bring, store: Store) -> None:
    with pytest.raises(DozlabError, match=r"lab came out at .*, over the limit of 4\.0 MiB; make it smaller or raise"):
        bring(tar(*machine()), size_limit=4 * MIB)
    with pytest.raises(DozlabError, match=r"unpacks to more than 16\.0 MiB; raise --size-limit"):
        bring(tar(*machine(), file("./usr/big", bytes(17 * MIB))), size_limit=4 * MIB)
    nothing_stored(store)


@pytest.mark.parametrize("which", ["packed", "unpacked"])
def test_a_layer_with_another_digest_is_refused(which: str, bring: Bring, store: Store) -> None:
    made = Layout(tar(*machine()))
    name = f"blobs/{made.packed[0]['digest'].replace(':', '/')}"
    if which == "packed":
        made.files[name] = made.files[name].replace(b"0123", b"3210")
    else:
        config = json.loads(made.files[f"blobs/{made.config['digest'].replace(':', '/')}"])
        config["rootfs"]["diff_ids"] = [f"sha256:{'0' * 64}"]
        made.finish(config=made.config | made.put(json.dumps(config).encode()))
    with pytest.raises(DozlabError, match="a layer is damaged: its digest is"):
        bring(made.archive())
    nothing_stored(store)


def test_a_root_file_system_that_is_cut_off(bring: Bring, store: Store) -> None:
    whole = tar(*machine(), file("./last", b"x" * 512))
    end = whole.rindex(b"x" * 512) + 512
    with pytest.raises(DozlabError, match="the archive is cut off: it has no end"):
        bring(whole[:end])
    with pytest.raises(DozlabError, match="the archive is damaged: "):
        bring(whole[: end - 200])
    nothing_stored(store)


def test_a_process_that_dies_is_told(bring: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DozlabError, match="unpacking failed: exit status 1"):
        bring(tar(*machine()))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("oci://h.example:5000/labs/Linux-101:v2", "linux-101"),
        (f"oci://h/a_b@sha256:{'0' * 64}", "a-b"),
        ("/x/My Lab.tar.gz", "my-lab"),
        ("lab.v1.oci.tar", "lab.v1"),
        ("./layout/", "layout"),
    ],
)
def test_names_are_told_from_sources(source: str, name: str) -> None:
    assert base.name_for(source) == name


def test_the_messages_that_the_guide_explains_are_ours() -> None:
    page = (REPOSITORY / "docs/how-to/bring-a-container-image.md").read_text()
    sources = "".join(path.read_text() for path in (REPOSITORY / "src/dozlab/images/importing").glob("*.py"))
    messages = first_cells(page, "When it is refused")
    assert len(messages) > 5 and [each for each in messages if each not in sources] == []


def test_no_name_can_be_told() -> None:
    with pytest.raises(BadUsage, match="give one with --name"):
        base.name_for("/")


def in_folder(root: Path, *entries: tuple[str, str]) -> Path:
    for name, text in entries:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_environment_is_for_shells_and_what_was_there_stays(tmp_path: Path) -> None:
    root = in_folder(tmp_path / "root", ("etc/environment", "LANG=C"))
    env = ["A=1", "LANG=de", "B=it's", "HOME=/x", "PATH=" + system._PATH, "bad-name=1", "C=a\nb", "D", "E= x"]
    system.tidy(root, env)
    assert (root / "etc/environment").read_text() == "LANG=C\nA=1\n"
    lines = (root / system.PROFILE).read_text().splitlines()
    assert lines[1:] == ["export A=1", "export LANG=de", """export B='it'"'"'s'""", "export E=' x'"]
    shell = run(["sh", "-c", f'. {root / system.PROFILE}; printf %s "$B$E"']).out
    assert shell == "it's x"


def test_a_policy_of_ones_own_stays(tmp_path: Path) -> None:
    root = in_folder(
        tmp_path / "root", ("usr/sbin/policy-rc.d", "#!/bin/sh\n[ $1 = x ] || exit 101\n"), ("etc/hosts", "1 a\n"),
        ("var/lib/dbus/machine-id", "1"), ("dev/null", ""), ("etc/machine-id", "x"),
    )  # fmt: skip
    system.tidy(root, [])
    assert (root / "usr/sbin/policy-rc.d").exists() and (root / "etc/hosts").read_text() == "1 a\n"
    assert os.readlink(root / "var/lib/dbus/machine-id") == "/etc/machine-id"
    assert list((root / "dev").iterdir()) == [] and stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777


def test_the_disks_of_another_machine_are_not_waited_for(tmp_path: Path) -> None:
    there = "UUID=12-34 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\ntmpfs /tmp tmpfs size=1g 0 0\n# a note\n"
    root = in_folder(tmp_path / "root", ("etc/fstab", there))
    system.tidy(root, [])
    active = [line for line in (root / "etc/fstab").read_text().splitlines() if not line.startswith("#")]
    assert active == ["tmpfs /tmp tmpfs size=1g 0 0"]


def test_no_unit_fails_for_the_kernels_sake_and_nothing_is_built_anew_at_each_boot(tmp_path: Path) -> None:
    root = in_folder(tmp_path / "root", ("etc/systemd/system/systemd-binfmt.service", "[Service]\n"))
    system.tidy(root, [])
    units = {each: root / "etc/systemd/system" / each for each in system.MASKED}
    assert not units.pop("systemd-binfmt.service").is_symlink()  # the image's own
    assert units and {os.readlink(each) for each in units.values()} == {"/dev/null"}
    for name in ("etc/.updated", "var/.updated"):
        assert (root / name).stat().st_mtime > (root / "etc").stat().st_mtime


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("ID=debian", "debian"), ("ID=linuxmint\nID_LIKE='ubuntu debian'", "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos"', "fedora"),
        ('ID="opensuse-leap"', "suse"), ("ID=arch", "arch"), ("ID=alpine", "alpine"), ("ID=void", ""),
    ],
)  # fmt: skip
def test_families(text: str, family: str, tmp_path: Path) -> None:
    assert system.facts(in_folder(tmp_path, ("etc/os-release", text))).family == family


def test_packages_of_a_distroless_image(tmp_path: Path) -> None:
    root = in_folder(tmp_path, ("var/lib/dpkg/status.d/libc6", "Package: libc6\nVersion: 2.41\n"),
                     ("var/lib/dpkg/status.d/libc6.md5sums", "Package: x\nVersion: 1\n"))  # fmt: skip
    assert system.packages(root) == {"libc6": "2.41"} and system.packages(tmp_path / "none") == {}


FAKE = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
case $1 in
build) [ ! -e "$4/fails" ] || { echo "step 1 went wrong" >&2; exit 1; }; [ -e "$4/nowhere" ] || echo sha256:abc > "$3";;
save) cp "$(dirname "$0")/image.tar" "$3";;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for docker that builds and saves one image; return its folder. The Dockerfile lies in `course`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(FAKE)
    (tmp_path / "bin/docker").chmod(0o755)
    (tmp_path / "bin/image.tar").write_bytes(docker_archive(*LAYERS))
    in_folder(tmp_path / "course", ("Dockerfile", "FROM debian\n"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "bin"


def invoke(*words: object) -> str:
    return CliRunner().invoke(cli, ["image", "import", *map(str, words)], catch_exceptions=False).output


def test_a_dockerfile_is_built_saved_and_imported(docker: Path, tmp_path: Path) -> None:
    output = invoke("--dockerfile", tmp_path / "course")
    assert output.splitlines()[-1].startswith("course sha256:") and "start it: dozlab up --image course" in output
    assert list(Store(tmp_path / "cache/dozlab/store").names()) == ["course"]
    build, save = (docker / "asked").read_text().splitlines()
    assert build.split()[0] == "build" and build.split()[-1] == str(tmp_path / "course")
    assert save.split()[:2] == ["save", "--output"] and save.split()[-1] == "sha256:abc"
    assert list((tmp_path / "cache/dozlab/build").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("fails", "docker build failed: its own words are above"), ("nowhere", "docker build has kept no image")],
)
def test_a_build_that_fails(name: str, words: str, docker: Path, tmp_path: Path) -> None:
    (tmp_path / "course" / name).touch()
    with pytest.raises(DozlabError, match=words):
        invoke("--dockerfile", tmp_path / "course")
    assert list((tmp_path / "cache/dozlab/build").iterdir()) == []


def test_without_docker_it_says_what_to_do(docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for program in ("mke2fs", "du", "find", "rm"):
        (tools / program).symlink_to(need(program, program))
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(
        DozlabError, match="docker is not installed; install it, or build elsewhere and import what docker"
    ):
        invoke("--dockerfile", tmp_path / "course")
    with pytest.raises(BadUsage, match="no Dockerfile in"):
        invoke("--dockerfile", tools)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either SOURCE or --dockerfile DIR"),
        (("a.tar", "--size-limit", "much"), "--size-limit: "),
        (("a.tar", "--name", "No"), "not a name for an image: 'No'"),
        (("a.tar",), "cannot read a.tar"),
        (("oci://h/A",), "not the address of an image in a registry"),
    ],
)
def test_bad_usage_changes_nothing(words: tuple[str, ...], message: str, docker: Path, tmp_path: Path) -> None:
    with pytest.raises(DozlabError, match=message):
        invoke(*words)
    assert Store(tmp_path / "cache/dozlab/store").ls() == []
