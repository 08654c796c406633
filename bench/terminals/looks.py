"""Pictures of our terminal's page and of ttyd's with the same screen in it, in three sizes, to look at side by side.

Nothing is measured. The pictures go to `evidence/looks-SIZE-NAME.png`; they need the browser that the tests use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from bench.common import say, scratch
from bench.terminal import PASSWORD, Server, ours, theirs
from bench.terminals import sshd
from playwright.sync_api import Browser, Page, sync_playwright

EVIDENCE = Path(__file__).parent.parent.parent / "evidence"
SIZES = ((360, 640), (1120, 720), (1920, 1080))
_PATIENCE = 60_000
"""Milliseconds."""
_DEMO = r"""
clear
printf '\033[1;32mroot@lab\033[0m:\033[1;34m/workspace\033[0m$ ls --color\n'
printf '\033[1;34mdata\033[0m  \033[1;34msrc\033[0m  \033[1;32mbuild.sh\033[0m  compose.yaml  README.md\n\n'
for row in 3 4 9; do for n in 0 1 2 3 4 5 6 7; do printf "\033[${row}${n}m %s \033[0m" "$row$n"; done; echo; done
printf '\nna\303\257ve  \344\270\255\346\226\207  \360\237\230\200  \342\224\214\342\224\200\342\224\220\n'
for n in $(seq 0 4 100); do printf '\033[48;2;%d;%d;160m ' $((n*2)) $((200-n)); done; printf '\033[0m\n\n'
printf 'CONTAINER ID   IMAGE         COMMAND    STATUS\n'
printf '4f1c2a9d7e30   hello-world   "/hello"   Exited (0) 2 seconds ago\n'
"""


def _type(page: Page, demo: Path, text: Callable[[], str]) -> None:
    """Run the script in the page's terminal, and wait until it has been drawn."""
    page.keyboard.type(f". {demo}")
    page.keyboard.press("Enter")
    for _ in range(_PATIENCE // 100):
        if "Exited (0)" in text():
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)  # a picture needs no more than this: the glyphs are drawn


def _keep(page: Page, size: tuple[int, int], name: str) -> None:
    path = EVIDENCE / f"looks-{size[0]}-{name}.png"
    page.screenshot(path=path)
    say(str(path))


def _opened(browser: Browser, server: Server, size: tuple[int, int]) -> Page:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, has_touch=size[0] < 500)
    context.set_default_timeout(_PATIENCE)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    return page


def our_page(browser: Browser, server: Server, size: tuple[int, int], demo: Path) -> None:
    """Take the login, the terminal alone, with tabs and panes, and with each panel."""
    page = _opened(browser, server, size)
    page.get_by_label("Password").wait_for()
    _keep(page, size, "ours-login")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_function("() => document.body.dataset.state === 'live'")

    def text() -> str:
        return str(page.evaluate("window.dozlabScreenText()"))

    _type(page, demo, text)
    _keep(page, size, "ours")
    for panel in ("People", "Files", "Ports", "Recordings", "Settings"):
        page.get_by_role("button", name=panel, exact=True).click()
        page.wait_for_timeout(700)
        _keep(page, size, f"ours-{panel.lower()}")
        page.get_by_role("button", name="Close panel").click()
    page.keyboard.press("Control+Shift+E")
    page.wait_for_function("() => window.dozlabScreenText().includes('bench$')")
    _type(page, demo, text)
    page.keyboard.press("Control+Shift+S")
    page.wait_for_function("() => window.dozlabScreenText().includes('bench$')")
    page.locator(".tab-name").first.click()
    page.keyboard.press("Control+Shift+F")
    page.keyboard.type("hello")
    page.wait_for_timeout(500)
    _keep(page, size, "ours-split")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+M")
    page.wait_for_timeout(300)
    _keep(page, size, "ours-menu")
    page.context.close()


def their_page(browser: Browser, server: Server, size: tuple[int, int], demo: Path) -> None:
    """Take ttyd's only view."""
    page = _opened(browser, server, size)
    page.locator(".xterm-helper-textarea").focus()

    def text() -> str:
        lines = (
            "Array.from({length: term.rows}, (_, row) => term.buffer.active.getLine(row)?.translateToString() ?? '')"
        )
        return str(page.evaluate(f"window.term ? {lines}.join('\\n') : ''"))

    for _ in range(_PATIENCE // 100):
        if "bench$" in text():
            break
        page.wait_for_timeout(100)
    _type(page, demo, text)
    _keep(page, size, "ttyd")
    page.context.close()


def take() -> None:
    """Take them all."""
    EVIDENCE.mkdir(exist_ok=True)
    with scratch() as folder, sync_playwright() as playwright:
        demo = folder / "demo"
        demo.write_text(_DEMO)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--headless", "--no-sandbox"])
        try:
            with (
                sshd.running(folder) as guest,
                ours(folder, guest) as mine,
                theirs(folder / "ttyd", guest) as (ttyd, _),
            ):
                for size in SIZES:
                    our_page(browser, mine, size, demo)
                    their_page(browser, ttyd, size, demo)
        finally:
            browser.close()


if __name__ == "__main__":
    take()
