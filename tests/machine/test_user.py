"""The same as an ordinary user: images made without root, a session, its workspace, a panic, nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dozlab.lib.proc import need, run
from tests.machine.conftest import SMALL
from tests.support import Dozlab, Inventory, until
from tests.unit.images.crafted import file, machine, tar
from tests.unit.images.test_source import RECIPE, system


@pytest.mark.root
def test_an_ordinary_user_imports_with_the_owners_that_the_archive_names(user_dozlab: Dozlab, clean: Inventory) -> None:
    user, folder = user_dozlab, Path(user_dozlab.env["HOME"]) / "import-test"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "imported.tar").write_bytes(tar(*machine(), file("./etc/keys", "x", uid=7, gid=8, mode=0o640)))
    course = folder / "course"
    course.mkdir()
    (course / "system.tar").write_bytes(system())
    (course / "recipe.toml").write_text(RECIPE.replace("test -s /root/task", "true"))
    user.run("image", "import", str(folder / "imported.tar"))
    user.run("image", "build", str(course))  # its checks run in the system, as its root
    try:
        owners = {"imported": ("/etc/keys", "7", "8"), "course": ("/usr/sbin/sshd", "0", "0")}
        for name, (path, uid, gid) in owners.items():
            image = Path(user.json("image", "inspect", name)["path"])
            words = run([need("debugfs", "e2fsprogs"), "-R", f"stat {path}", image]).out.split()
            assert words[words.index("User:") + 1] == uid and words[words.index("Group:") + 1] == gid
        assert "enable ssh.service" in run([need("debugfs", "e2fsprogs"), "-R", "cat /etc/asked", image]).out
    finally:
        user.run("image", "rm", "imported", "course")
        shutil.rmtree(folder)


@pytest.mark.root
@pytest.mark.timeout(1500)
def test_an_ordinary_user_builds_and_runs(user_dozlab: Dozlab, clean: Inventory) -> None:
    user = user_dozlab
    user.run("image", "build", "dozlab-vm", timeout=500)
    try:
        user.run("up", "mine", *SMALL, timeout=900)
        # Owners came out right although nobody was root when the image was made.
        wrong = user.ssh(
            "mine", "find / -xdev ! -uid 0 -not -path '/var/*' -not -path '/run/*' -not -path '/proc/*' | head"
        )
        assert wrong.strip() == ""
        assert user.ssh("mine", "stat -c %U:%G /etc/shadow /usr/bin/passwd").split() == ["root:shadow", "root:root"]
        assert "Hello" in user.ssh("mine", "docker run --rm hello-world")
        until(
            lambda: "sshfs" in user.ssh("mine", "findmnt -no FSTYPE /workspace", check=False),
            what="workspace",
            seconds=240,
        )
        run = ["exec", "mine", "-c", "code-server", "--", "sh", "-c"]
        user.run(*run, "echo from-editor > /workspace/a")
        assert user.ssh("mine", "cat /workspace/a").strip() == "from-editor"
        assert "lab" not in user.run("ls").stdout  # root's sessions are not the user's

        # A panic ends the session as failed, with its words, and never boots again.
        crash = "nohup sh -c 'sleep 1; echo c > /proc/sysrq-trigger' >/dev/null 2>&1 &"
        user.ssh("mine", f"echo 1 > /proc/sys/kernel/sysrq; {crash}")
        until(lambda: user.json("status", "mine")["state"] == "failed", what="failed", seconds=240)
        assert "sysrq" in user.json("status", "mine")["reason"]
    finally:
        user.run("down", "mine", check=False)
