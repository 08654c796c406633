"""Build contexts: the lock file's part, what is left out, hard links, the key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tools import images_context
from tools.images_context import IMAGES, REPOSITORY, Inputs, key, left_out, link_tree, lock_part, patterns

from dozlab.lib.errors import BadUsage

LOCK = """\
aa==1.0 \\
    --hash=sha256:01 \\
    --hash=sha256:02
aa-bindings==2.0 \\
    --hash=sha256:03
zz==3.0 \\
    --hash=sha256:04
"""


def test_lock_part_keeps_versions_and_hashes() -> None:
    assert lock_part(LOCK, ["zz", "aa"]) == (
        "aa==1.0 \\\n    --hash=sha256:01 \\\n    --hash=sha256:02\nzz==3.0 \\\n    --hash=sha256:04\n"
    )


def test_lock_part_names_what_the_lock_file_lacks() -> None:
    with pytest.raises(BadUsage, match=r"requirements\.lock has no bb, cc"):
        lock_part(LOCK, ["cc", "aa", "bb"])


def test_the_libraries_are_all_locked() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    for image in IMAGES.values():
        assert lock_part(lock, image.libraries).count("==") == len(image.libraries)


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("node_modules/a/b.js.map", True),
        ("node_modules/a/b.js", False),
        ("x/node_modules/@github/copilot-sdk/package.json", False),
        ("node_modules/code-server/lib/vscode/node_modules/@github/copilot-sdk/package.json", True),
        ("node_modules/code-server/lib/vscode/extensions/copilot/dist/a.js", True),
        ("node_modules/code-server/lib/vscode/extensions/git/dist/a.js", False),
        ("n/@vscode/ripgrep-universal/bin/linux-x64/rg", False),
        ("n/@vscode/ripgrep-universal/bin/linux-arm64/rg", True),
        ("n/node-pty/prebuilds/linux-x64/pty.node", False),
        ("n/node-pty/prebuilds/darwin-x64/pty.node", True),
        ("bin/node", False),
    ],
)
def test_left_out_of_the_editor(path: str, left: bool) -> None:
    assert left_out(path, patterns(IMAGES["dozlab-code-server"])) is left


def test_link_tree_links_and_leaves_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_text("text")
    (source / "a/b/file.map").write_text("map")
    (source / "a/folder").symlink_to("b")
    (source / "dangling").symlink_to("nowhere")
    link_tree(source, tmp_path / "target", ("*.map",))
    assert (tmp_path / "target/a/b/file").samefile(source / "a/b/file")
    assert not (tmp_path / "target/a/b/file.map").exists()
    assert os.readlink(tmp_path / "target/a/folder") == "b"
    assert os.readlink(tmp_path / "target/dangling") == "nowhere"


def test_a_context_holds_our_files_and_nothing_else_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "lib").mkdir(parents=True)
    (site / "lib/__init__.py").write_text("")
    (site / "lib/__init__.py").chmod(0o644)
    monkeypatch.setattr(images_context, "site_packages", lambda image, cache: site)
    before = os.umask(0o077)
    try:
        context = images_context.prepare(Inputs(IMAGES["dozlab"]), tmp_path / "context", lambda line: None)
    finally:
        os.umask(before)
    assert (context / "Dockerfile").exists()
    assert os.access(context / "common/dozlab-run", os.X_OK)
    assert (context / "site-packages/lib/__init__.py").exists()
    found = {path.name for path in (context / "dozlab").iterdir()}
    assert found == {"__init__.py", "lib", "images", "init_rootfs", "network_setup", "terminal_sidecar"}
    assert not list(context.rglob("__pycache__"))
    for path in context.rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044, path
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_key_changes_with_name_sources_and_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Inputs(IMAGES["dozlab-firecracker"], kit=tmp_path / "kit-1")
    keys = {
        key(plain, ("a",)),
        key(plain, ("b",)),
        key(Inputs(IMAGES["dozlab-firecracker"], kit=tmp_path / "kit-2"), ("a",)),
        key(Inputs(IMAGES["dozlab-code-server"]), ("a",)),
    }
    assert len(keys) == 4
    assert key(plain, ("a",)) in keys
    folder = tmp_path / "images"
    for file in ("dozlab-run", "clean", "dozlab-firecracker/Dockerfile"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("one")
    monkeypatch.setattr(images_context, "FOLDER", folder)
    one = key(plain, ("a",))
    (folder / "dozlab-firecracker/Dockerfile").write_text("two")
    assert key(plain, ("a",)) != one
