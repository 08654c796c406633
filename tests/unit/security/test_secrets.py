"""No secret is in a log, whatever the level: a live run with everything in it, and its whole log looked through."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from websockets.exceptions import InvalidStatus

from tests.unit.terminal_sidecar.conftest import PASSWORD, Guest, Sidecar, terminal

TYPED = "typed-into-a-prompt-7731"


@pytest.mark.parametrize("form", ["plain", "json"])
async def test_password_cookies_tickets_and_keys_are_never_logged(
    form: str, tmp_path: Path, guest: Guest, page: Path
) -> None:
    server = Sidecar(tmp_path, guest.port, page, LOG_LEVEL="debug", LOG_FORMAT=form)
    secrets = {PASSWORD, quote(PASSWORD), quote_plus(PASSWORD), "wrong-but-secret", TYPED}
    key = (tmp_path / "id_ed25519").read_text().splitlines()
    secrets |= set(key[1:-1])
    try:
        server.until("/ready", 200)
        server.login("wrong-but-secret")
        _, cookie = server.login()
        secrets |= {part.partition("=")[2] for part in cookie.split("; ")}
        sent = {"Cookie": cookie, "Origin": server.origin}
        async with terminal(server, cookie) as client:
            await client.until(b"guest$ ")
            await client.type(f"read -rs secret; echo e''cho $?\n{TYPED}\n")
            await client.until(b"echo 0")
            await client.socket.send(b"\x04")  # a broken frame
        made = server.request("POST", "/people/invitations", json.dumps({"role": "viewer"}), sent)[2]
        ticket = json.loads(made)["path"].partition("#")[2]
        assert len(ticket) > 30
        secrets.add(ticket)
        join = {"Origin": server.origin}
        status, headers, _ = server.request("POST", "/join", json.dumps({"ticket": ticket}), join)
        assert status == 200
        secrets.add(headers["set-cookie"].partition("=")[2].partition(";")[0])
        assert server.request("POST", "/join", json.dumps({"ticket": ticket}), join)[0] == 403
        for path in (f"/join?{ticket}", f"/files?path=/{TYPED}", f"/nowhere?{ticket}", f"/{ticket}"):
            server.request("GET", path, headers=sent)
        server.request("POST", "/logout", headers=sent)
        with pytest.raises(InvalidStatus):
            async with terminal(server, cookie):
                pass
        server.request("GET", "/ready%0aGET%20/", headers={"Cookie": cookie})
    finally:
        server.process.terminate()
        assert server.process.wait(60) == 0
        log = server.log()
        server.stop()
    assert "wrong password from" in log and "login from" in log and "is let go" in log
    found = [secret[:6] for secret in secrets if len(secret) > 5 and secret in log]
    assert found == []
    assert all(len(secret) > 5 for secret in secrets)


def test_secrets_are_in_no_repr_and_in_no_child_s_environment(running: Sidecar) -> None:
    for entry in Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split():
        assert PASSWORD.encode() not in Path(f"/proc/{entry}/environ").read_bytes()
    assert PASSWORD.encode() not in Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
