"""VS Code as a learner meets it: login, no panels nobody asked for, a terminal with a Docker client. Real Chromium.

No guest here: the editor alone, in its sandbox, under a uid of its own where the tests run as root.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from dozlab.code_server import docker_cli, install
from dozlab.lib import paths
from tests.browsing import type_in_editors_terminal
from tests.support import EVIDENCE, free_port

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

REPO = Path(__file__).parents[2]
PASSWORD = "correct horse"
UID = 724_999  # of the range the sessions use


@dataclass
class Editor:
    url: str
    workspace: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    """Run the component as the session's supervisor does: what it needs bound below /mnt, no privileges."""
    code_server, docker = install.install(paths.cache()), docker_cli.install(paths.cache())
    folder = tmp_path_factory.mktemp("editor")
    port = free_port()
    binds = {"src": REPO / "src", "site": Path(sysconfig.get_path("purelib")), "code-server": code_server,
             "docker-cli": docker}  # fmt: skip
    view = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", "/mnt", "--cap-add", "ALL", "--die-with-parent"]
    for name, source in binds.items():
        view += ["--ro-bind", str(source), f"/mnt/{name}"]
    for name in ("vm-data", "coder", "shared"):
        (folder / name).mkdir()
        view += ["--bind", str(folder / name), f"/mnt/{name}"]
    (folder / "vm-data/workspace").mkdir()
    (folder / "vm-data/workspace/exercise.py").write_text("print('hello')\n")
    (folder / "shared/password").write_text(PASSWORD)
    drop: list[str] = []
    if os.getuid() == 0:
        drop = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--inh-caps", "-all",
                "--ambient-caps", "-all", "--bounding-set", "-all", "--no-new-privs"]  # fmt: skip
        for path in (folder, *folder.rglob("*")):
            os.chown(path, UID, UID)
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "/mnt/src:/mnt/site", "SESSION_ID": "browser-test",
        "PASSWORD_FILE": "/mnt/shared/password", "VM_DATA": "/mnt/vm-data", "VSCODE_DATA": "/mnt/coder",
        "SHARED_DIR": "/mnt/shared", "SANDBOX": "bwrap", "CODE_SERVER_DIR": "/mnt/code-server",
        "DOCKER_CLI_DIR": "/mnt/docker-cli", "PORT": str(port), "GATEWAY_IP": "127.0.0.1",
        "WORKSPACE_PORT": str(free_port()),
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*view, "--", *drop, os.path.realpath(sys.executable), "-m", "dozlab.code_server"],
            env=env, stdout=log, stderr=log, cwd="/", start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while b"is healthy" not in (folder / "log").read_bytes():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, f"not healthy: {(folder / 'log').read_text()}"
            time.sleep(0.1)
        yield Editor(f"http://127.0.0.1:{port}", folder / "vm-data/workspace", process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def page(editor: Editor, browser: Browser) -> Iterator[Page]:
    """Log in once; save a screenshot at the end, whatever happens."""
    EVIDENCE.mkdir(exist_ok=True)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    try:
        page.goto(editor.url)
        page.fill("input[type=password]", "wrong")
        page.click("input[type=submit]")
        page.wait_for_selector("text=Incorrect password")
        page.fill("input[type=password]", PASSWORD)
        page.click("input[type=submit]")
        page.wait_for_selector(".explorer-folders-view >> text=exercise.py")
        yield page
    finally:
        page.screenshot(path=EVIDENCE / "editor-last.png")
        page.close()


def test_opens_the_workspace_and_nothing_nobody_asked_for(page: Page, editor: Editor) -> None:
    page.wait_for_selector(".statusbar-item")
    page.wait_for_timeout(3000)  # give an unwanted panel the time to appear
    page.screenshot(path=EVIDENCE / "editor-start.png")
    assert page.locator(".part.auxiliarybar").filter(visible=True).count() == 0
    for unwanted in ("Welcome", "Walkthrough", "Get Started", "Copilot", "Build with Agent", "Sign in", "Sign In"):
        assert page.get_by_text(unwanted).filter(visible=True).count() == 0, unwanted
    assert page.locator(".notification-toast").filter(visible=True).count() == 0
    assert [cookie["name"] for cookie in page.context.cookies()] == ["code-server-session-browser-test"]


def test_terminal_has_docker_compose_and_buildx(page: Page, editor: Editor) -> None:
    script = "sh -c 'pwd; id -un; echo $DOCKER_HOST; docker version; docker compose version; docker buildx version'"
    type_in_editors_terminal(
        page,
        f"{script} > out.txt 2>&1; docker version",
        exists=lambda name: (editor.workspace / name).exists(),
        shot="editor-terminal.png",
    )
    out = (editor.workspace / "out.txt").read_text()
    assert out.startswith("/workspace\ncoder\ntcp://172.16.0.2:2375\n")
    assert re.search(r"Client:\n Version: +26", out)
    assert "Docker Compose version" in out
    assert "github.com/docker/buildx" in out


def test_no_agent_runs_beside_the_editor(page: Page, editor: Editor) -> None:
    """Chat is off in the settings; its helper processes must not run either."""
    lines = []
    for pid in _descendants(editor.process.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended while we looked
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    assert [line for line in lines if "bootstrap-fork" in line]
    assert not [line for line in lines if "agentHost" in line or "copilot" in line]


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended while we looked
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found
