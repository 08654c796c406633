"""The same as an ordinary user: image built without root, a session, its workspace, a panic, nothing left behind."""

from __future__ import annotations

import pytest

from tests.machine.conftest import SMALL
from tests.support import Dozlab, Inventory, until


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
            seconds=90,
        )
        run = ["exec", "mine", "-c", "code-server", "--", "sh", "-c"]
        user.run(*run, "echo from-editor > /workspace/a")
        assert user.ssh("mine", "cat /workspace/a").strip() == "from-editor"
        assert "lab" not in user.run("ls").stdout  # root's sessions are not the user's

        # A panic ends the session as failed, with its words, and never boots again.
        crash = "nohup sh -c 'sleep 1; echo c > /proc/sysrq-trigger' >/dev/null 2>&1 &"
        user.ssh("mine", f"echo 1 > /proc/sys/kernel/sysrq; {crash}")
        until(lambda: user.json("status", "mine")["state"] == "failed", what="failed", seconds=90)
        assert "sysrq" in user.json("status", "mine")["reason"]
    finally:
        user.run("down", "mine", check=False)
