"""The terminal's TLS on one machine: what is refused, what the terminal is told, how renewed files reach it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dozlab import values
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.session import certificate, operations, planning, state
from dozlab.session.layout import Layout
from dozlab.session.plan import Plan
from dozlab.session.ports import Ports
from dozlab.terminal_sidecar.tls import Certificate
from tests.certificates import write_pair
from tests.unit.security.test_tls import shown


def pair(folder: Path, name: str = "lab.example") -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    return write_pair(folder, name)


def wanted(cert: str, key: str) -> values.Values:
    return values.parse({"terminal": {"tls": {"certFile": cert, "keyFile": key}}})


def test_files_that_cannot_serve_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    cert, key = pair(tmp_path / "a")
    _, other = pair(tmp_path / "b")
    for given, words in (
        ((cert, str(tmp_path / "none")), "No such file or directory; give PEM files"),
        ((cert, other), "cannot be used"),
        (("/mnt/tls.crt", key), "terminal.tls.certFile: /mnt/tls.crt lies below /mnt"),
    ):
        raw = {"terminal": {"tls": {"certFile": given[0], "keyFile": given[1]}}}
        with pytest.raises(BadUsage, match=words) as caught:
            operations.start("lab", raw, image="", progress=lambda line: None)
        assert "\n" not in str(caught.value) and "terminal.tls" in str(caught.value)
    assert not (tmp_path / "state").exists()


def test_what_the_terminal_is_told(tmp_path: Path) -> None:
    facts = state.Facts("lab", Ports(1, 2, 3), "127.0.0.1", None, 0, 0.0, {"kit": "/kit"})
    cert, key = pair(tmp_path / "a")
    plan = planning.make_plan(Layout("lab"), facts, wanted(cert, key))
    told = plan.environments["terminal-sidecar"]
    assert (told["TLS_CERT"], told["TLS_KEY"]) == ("/mnt/shared/tls.crt", "/mnt/shared/tls.key")
    assert plan.certificate == [key, cert]
    assert all("TLS_KEY" not in plan.environments[name] for name in plan.environments if name != "terminal-sidecar")
    plain = planning.make_plan(Layout("lab"), facts, values.parse({}))
    assert (plain.certificate, plain.environments["terminal-sidecar"]["TLS_CERT"]) == ([], "")
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_where_the_terminal_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = state.Facts("lab", Ports(1, 2, 3), "127.0.0.1", None, 0, 0.0)
    found = state.urls(facts, "/a", tls=True)
    assert (found["terminal"], found["vscode"]) == ("https://127.0.0.1:2/a/", "http://127.0.0.1:1/")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    layout = Layout("lab")
    layout.state.mkdir(parents=True)
    facts.save(layout.facts)
    layout.values.write_text('{"terminal": {"tls": {"certFile": "/a", "keyFile": "/b"}}}')
    (item,) = state.all_status()
    assert item.urls["terminal"] == "https://127.0.0.1:2/"


def test_renewed_files_are_copied_and_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cert, key = pair(tmp_path / "a", "old.example")
    shared = tmp_path / "shared"
    shared.mkdir()
    copies = certificate.Copies([key, cert], shared, None)
    copies.lay()
    assert {path.name: path.stat().st_mode & 0o777 for path in shared.iterdir()} == {"tls.crt": 0o600, "tls.key": 0o600}
    served = Certificate(str(shared / "tls.crt"), str(shared / "tls.key"))
    copies.look()
    served.look()
    assert shown(served, "old.example")
    pair(tmp_path / "a", "new.example")
    copies.look()
    served.look()
    assert shown(served, "new.example") and "was renewed" in caplog.text
    os.unlink(key)
    copies.look()
    served.look()
    assert shown(served, "new.example")
    assert "cannot copy the terminal's certificate: " in caplog.text and "the old one stays in use" in caplog.text
    with pytest.raises(DozlabError, match="No such file or directory"):
        copies.lay()


async def test_without_a_certificate_nothing_is_looked_after(tmp_path: Path) -> None:
    copies = certificate.Copies([], tmp_path, 7)
    copies.lay()
    await copies.watch()
    assert list(tmp_path.iterdir()) == []


def test_what_was_renewed_while_the_session_started_is_copied_too(tmp_path: Path) -> None:
    """The launcher copies, and the supervisor watches, some time later."""
    cert, key = pair(tmp_path, "one")
    shared = tmp_path / "shared"
    shared.mkdir()
    certificate.Copies([key, cert], shared, None).lay()
    before = (shared / "tls.crt").read_bytes()
    certificate.Copies([key, cert], shared, None).look()
    assert (shared / "tls.crt").read_bytes() == before
    Path(cert).write_bytes(b"renewed")
    certificate.Copies([key, cert], shared, None).look()
    assert (shared / "tls.crt").read_bytes() == b"renewed"


def test_the_copies_are_the_sessions_own_from_the_start(tmp_path: Path) -> None:
    """Given by descriptor: in that user's folder a path may lead elsewhere a moment later."""
    cert, key = pair(tmp_path / "a")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shadow").write_text("root's")
    (tmp_path / "shared/tls.key").symlink_to(tmp_path / "shadow")
    uid = 4242 if os.getuid() == 0 else os.getuid()  # only root gives files away
    certificate.Copies([key, cert], tmp_path / "shared", uid).lay()
    assert {path.lstat().st_uid for path in (tmp_path / "shared").iterdir()} == {uid}
    assert (tmp_path / "shadow").read_text() == "root's" and (tmp_path / "shadow").stat().st_uid == os.getuid()
