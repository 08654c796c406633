"""The ports panel and the proxy behind it: an app with a WebSocket in a tab of its own, and a hostile one."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from websockets.sync.server import ServerConnection, serve

from tests.browser.conftest import PAGE, open_live, shot
from tests.support import free_port
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

HOSTILE = """<!doctype html><title>app</title><body><h1>An app</h1><pre id="out"></pre><script>
document.cookie = "dozlab-terminal-lab1=evil; path=/";
document.cookie = "mine=1; path=/";
const out = document.getElementById("out"), tried = {};
const done = (name, what) => { tried[name] = what; out.textContent = JSON.stringify(tried); };
const ask = (name, url, init) => fetch(url, {credentials: "include", ...init}).then(
  (reply) => reply.text().then((text) => done(name, text.length ? "read" : "sent")), () => done(name, "refused"));
for (const host of ["127.0.0.1", "localhost"]) {
  const base = `http://${host}:TERMINAL`;
  ask(`${host} get`, `${base}/files`);
  ask(`${host} post`, `${base}/logout`, {method: "POST"});
  ask(`${host} put`, `${base}/files/content?path=HOSTILE`, {method: "PUT", body: "x"});
  const socket = new WebSocket(`ws://${host}:TERMINAL/ws`, "dozlab.terminal.v1");
  socket.onopen = () => done(`${host} ws`, "open");
  socket.onerror = () => done(`${host} ws`, "refused");
}
done("opener", String(window.opener));
navigator.serviceWorker.register("/worker.js").then(() => done("worker", "there"), () => done("worker", "refused"));
</script>"""


@pytest.fixture
def sidecar(tmp_path: Path, guest: Guest) -> Iterator[Sidecar]:
    """Yield a sidecar with a proxy."""
    server = Sidecar(tmp_path, guest.port, PAGE, PORTS_PORT=str(free_port()))
    yield server
    assert server.stop() == 0


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def app(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Yield the folder of a web server in the guest, and its port."""
    folder = tmp_path / "www"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, server.server_port
        server.shutdown()


def open_port(tab: Page, port: int) -> Page:
    """Follow the panel's link."""
    with tab.context.expect_page() as opened:
        tab.get_by_role("link", name=f"Open port {port} in a new tab").click()
    opened.value.wait_for_url("**/")  # the ticket has been taken
    return opened.value


def test_an_app_opens_at_the_root_of_its_own_origin(
    tab: Page, sidecar: Sidecar, guest: Guest, app: tuple[Path, int]
) -> None:
    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(f"echo of {message!r}")

    folder, port = app
    (folder / "index.html").write_text("<!doctype html><title>app</title><h1>An app</h1><a href='/next.html'>next</a>")
    (folder / "next.html").write_text("<!doctype html><title>next</title><h1>Next</h1>")
    open_live(tab, sidecar, guest)
    tab.get_by_role("button", name="Ports", exact=True).click()
    expect(tab.get_by_role("link", name=f"Open port {port} in a new tab")).to_be_visible()
    shot(tab, "ports")
    page = open_port(tab, port)
    expect(page.get_by_role("heading")).to_have_text("An app")
    assert page.evaluate("location.hostname + location.pathname + location.hash") == "localhost/"
    page.get_by_role("link", name="next").click()
    expect(page.get_by_role("heading")).to_have_text("Next")

    with serve(echo, "127.0.0.1", 0) as server:  # it appears while the panel is open
        threading.Thread(target=server.serve_forever, daemon=True).start()
        open_port(tab, server.socket.getsockname()[1]).close()
        answer = page.evaluate("""() => new Promise((resolve, reject) => {
            const socket = new WebSocket(`ws://${location.host}/`);
            socket.onopen = () => socket.send("hello");
            socket.onmessage = (event) => resolve(event.data);
            socket.onerror = () => reject(new Error("no socket"));
        })""")
        assert answer == "echo of 'hello'"
        server.shutdown()
    link = tab.get_by_role("link", name=f"Open port {port} in a new tab")
    link.focus()
    tab.route("**/ports", lambda route: route.abort())
    expect(tab.get_by_text("The server does not answer.")).to_be_visible()
    expect(link).to_be_focused()  # the links stay meanwhile
    tab.unroute("**/ports")
    expect(tab.get_by_text("The server does not answer.")).to_be_hidden()
    tab.set_viewport_size({"width": 360, "height": 640})
    tab.wait_for_function("() => document.documentElement.scrollWidth <= 360")


def test_a_hostile_app_reaches_neither_the_terminal_nor_its_cookies(
    browser: Browser, sidecar: Sidecar, guest: Guest, app: tuple[Path, int]
) -> None:
    folder, port = app
    written = folder.parent / "written"
    (folder / "index.html").write_text(HOSTILE.replace("TERMINAL", str(sidecar.port)).replace("HOSTILE", str(written)))
    (folder / "worker.js").write_text("")
    context = browser.new_context()  # whose console will be full of refusals
    tab = context.new_page()
    open_live(tab, sidecar, guest)
    tab.get_by_role("button", name="Ports", exact=True).click()
    page = open_port(tab, port)
    page.wait_for_function("() => Object.keys(tried).length === 10")
    tried = page.evaluate("tried")
    assert tried.pop("opener") == "null"
    assert set(tried.values()) == {"refused"}, tried
    assert page.evaluate("document.cookie.split('; ').sort()") == ["dozlab-terminal-lab1=evil", "mine=1"]  # its own
    assert not written.exists()
    tab.reload()
    expect(tab.locator("#state")).to_have_text("Live")  # still logged in
    context.close()
