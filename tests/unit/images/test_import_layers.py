"""Layers on top of each other: whiteouts, owners, modes, attributes, links; and archives that mean harm."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from dozlab.images.importing.layers import Tree
from dozlab.lib.errors import DozlabError
from tests.unit.images.crafted import Entry, entry, file, folder, hard, link, tar

MOST = 1 << 17


def lay(root: Path, *layers: list[Entry], whiteouts: bool = True, most: int = MOST) -> None:
    root.mkdir(exist_ok=True)
    tree = Tree(root, most)
    for layer in layers:
        tree.apply(io.BytesIO(tar(*layer)), whiteouts=whiteouts)


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def test_a_layer_lies_over_the_one_below(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    lay(
        root,
        [folder("etc"), file("etc/a", "one"), file("etc/b", "one"), folder("var/x"), file("var/x/y"), file("c")],
        [file("etc/a", "two", mode=0o4750), folder("c"), file("c/d"), file("var/x", "now a file"), folder("etc")],
    )
    assert (root / "etc/a").read_text() == "two" and (root / "etc/b").read_text() == "one"
    assert stat.S_IMODE((root / "etc/a").stat().st_mode) == 0o4750
    assert (root / "var/x").read_text() == "now a file" and (root / "c/d").is_file()
    assert (root / "etc/a").stat().st_mtime == (root / "etc").stat().st_mtime == 1_000_000_000


def test_whiteouts_hide_what_lies_below(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    below = [file("a/gone"), file("a/stays"), folder("b"), file("b/one"), file("b/deep/two"), file("c/d/e"), file("f")]
    lay(root, below, [file("a/.wh.gone"), file("b/.wh..wh..opq"), file(".wh.c"), file(".wh.never"), file(".wh.f")])
    assert names(root) == {"a/stays"} and (root / "b").is_dir() and not (root / "c").exists()


@pytest.mark.parametrize("first", [True, False])
def test_whiteouts_hide_nothing_of_their_own_layer(first: bool, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    below = [file("a/old"), file("b/old"), file("b/sub/old"), file("c")]
    hiding = [file("a/.wh..wh..opq"), file(".wh.b"), file(".wh.c")]
    bringing = [file("a/new"), folder("b/sub"), file("b/sub/new"), file("c", "new")]
    lay(root, below, hiding + bringing if first else bringing + hiding)
    assert names(root) == {"a/new", "b/sub/new", "c"} and (root / "c").read_text() == "new"


def test_names_of_whiteouts_are_names_in_a_plain_root_file_system(tmp_path: Path) -> None:
    lay(tmp_path / "tree", [file("a"), file(".wh.a"), file(".wh..wh.plnk")], whiteouts=False)
    assert names(tmp_path / "tree") == {"a", ".wh.a", ".wh..wh.plnk"}


def test_what_aufs_kept_for_itself_is_left_out(tmp_path: Path) -> None:
    lay(tmp_path / "tree", [file("a"), file(".wh..wh.plnk"), file(".wh..wh.aufs")])
    assert names(tmp_path / "tree") == {"a"}


def test_links_are_followed_inside_the_tree_only(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    system = [folder("usr/lib"), link("lib", "/usr/lib"), link("lib64", "lib"), link("passwd", "/etc/passwd")]
    lay(root, system, [file("lib/a"), file("lib64/x/b"), file("passwd", "a file of its own"), file("lib/.wh.gone")])
    assert (root / "usr/lib/a").is_file() and (root / "usr/lib/x/b").is_file() and (root / "lib").is_symlink()
    assert not (root / "passwd").is_symlink() and (root / "passwd").read_text() == "a file of its own"


def test_a_folder_takes_the_place_of_a_link(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    lay(root, [folder("a"), file("a/old"), link("b", "a")], [folder("b"), file("b/new")])
    assert names(root) == {"a/old", "b/new"} and not (root / "b").is_symlink()


def test_hard_links_name_one_file(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    lay(root, [file("a", "x"), link("s", "a")], [hard("b", "a"), hard("b", "b"), hard("t", "./s")])
    assert (root / "a").samefile(root / "b") and (root / "a").stat().st_nlink == 2
    assert (root / "t").is_symlink() and (root / "b").read_text() == "x"


def test_fifos_are_made_and_devices_left_out(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    devices = [entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3), entry("dev/sda", tarfile.BLKTYPE)]
    lay(root, [*devices, entry("run/pipe", tarfile.FIFOTYPE, mode=0o620)])
    assert names(root) == {"run/pipe"}
    assert (root / "run/pipe").is_fifo() and stat.S_IMODE((root / "run/pipe").stat().st_mode) == 0o620


def test_attributes_are_kept_when_they_belong_to_the_file(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    told = {"SCHILY.xattr.user.note": "ä\0b", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.other": "z"}
    lay(root, [file("a", "x", pax_headers=told)])
    assert {name: os.getxattr(root / "a", name) for name in os.listxattr(root / "a")} == {"user.note": "ä\0b".encode()}


def test_holes_stay_holes(tmp_path: Path) -> None:
    root, size = tmp_path / "tree", 1 << 40  # lastlog of a user with a large number
    told = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "log",
        "GNU.sparse.realsize": str(size),
    }
    data = f"1\n{size - 4}\n4\n".encode().ljust(512, b"\0") + b"last"
    lay(root, [file("GNUSparseFile.0/log", data, pax_headers=told)])
    assert (root / "log").stat().st_size == size and (root / "log").stat().st_blocks < 100
    with (root / "log").open("rb") as log:
        log.seek(size - 4)
        assert log.read() == b"last"


def test_the_root_itself_can_be_entered_by_everybody(tmp_path: Path) -> None:
    lay(tmp_path / "tree", [folder("./", mode=0o700), file("./a")])
    assert stat.S_IMODE((tmp_path / "tree").stat().st_mode) == 0o755


OUT = [folder("d"), link("d/up", "../../outside"), link("d/deep", "up/..")]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([file("/etc/passwd")], "is an absolute path"),
        ([file("../outside/x")], "has .. in it"),
        ([file("a/../../outside/x")], "has .. in it"),
        ([folder("a/..")], "has .. in it"),
        ([*OUT, file("d/up/x")], "leads out of the image"),
        ([*OUT, file("d/deep/x")], "leads out of the image"),
        ([*OUT, folder("d/up/x")], "leads out of the image"),
        ([*OUT, link("d/up/x", "y")], "leads out of the image"),
        ([*OUT, file("d/up/.wh.victim")], "leads out of the image"),
        ([*OUT, file("d/up/.wh..wh..opq")], "leads out of the image"),
        ([*OUT, hard("mine", "d/up/victim")], "leads out of the image"),
        ([hard("mine", "../outside/victim")], "has .. in it"),
        ([hard("mine", "/etc/passwd")], "is an absolute path"),
        ([hard("mine", "./")], "is a hard link to no file"),
        ([hard("mine", "nothing")], "is a hard link to 'nothing', which is not there"),
        ([file(".wh...")], "hides nothing"),
        ([file("a/.wh..")], "hides nothing"),
        ([file(".wh.")], "hides nothing"),
        ([link("a", "b"), link("b", "a"), file("a/x")], "go round in circles"),
        ([file("a"), file("a/b")], "which is no folder"),
        ([file("x" * 300)], "File name too long"),
        ([entry("a", b"Z")], "is of an unknown kind"),
        ([file("a", bytes(MOST))], "unpacks to more than"),
        ([file(f"{number}") for number in range(MOST // 512)], "unpacks to more than"),
    ],
)
def test_what_means_harm_is_refused_and_touches_nothing_outside(
    entries: list[Entry], words: str, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    with pytest.raises(DozlabError, match=words):
        lay(tmp_path / "tree", [folder("ok")], entries)
    assert names(tmp_path) - {f"tree/{name}" for name in names(tmp_path / "tree")} == {"outside/victim"}
    assert (outside / "victim").read_text() == "untouched" and (outside / "victim").stat().st_nlink == 1


def test_links_that_lead_out_are_links_like_others(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    lay(root, [link("a", "/../../etc"), link("b", "../../etc/passwd")], [file("b", "new"), file(".wh.a")])
    assert names(root) == {"b"} and (root / "b").read_text() == "new"


def test_an_absolute_link_leads_to_the_images_own_root(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    lay(root, [link("a", str(tmp_path / "outside"))], [file("a/x")])
    assert not (tmp_path / "outside").exists()
    assert (root / str(tmp_path / "outside").lstrip("/") / "x").is_file()


@pytest.mark.parametrize("cut", [100, 700, 1500])
def test_a_damaged_archive_is_told(cut: int, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    data = tar(file("a", bytes(100)), file("b", bytes(100)))
    broken = data[:1030] + b"\xff" + data[1031:] if cut == 1500 else data[:cut]
    with pytest.raises(DozlabError, match="the archive is damaged"):
        Tree(tmp_path / "tree", MOST).apply(io.BytesIO(broken), whiteouts=True)
