"""What the page may do, and what text of the guest may do to it: the policy, the HTML and the page's sources."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from .conftest import TREE, Lab

WEB = TREE / "web" / "terminal"
SAFE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def rules(policy: str) -> dict[str, set[str]]:
    parts = [part.split() for part in policy.split(";") if part.strip()]
    return {name: set(values) for name, *values in parts}


async def test_the_page_runs_its_own_files_only(lab: Lab) -> None:
    visitor = lab.visitor()
    cookie = (await visitor.log_in()).cookie()
    nonces = set()
    for sent in ("", cookie, cookie):
        reply = await visitor.ask("/", Cookie=sent)
        found = rules(reply.headers["content-security-policy"])
        assert found["default-src"] == found["base-uri"] == found["frame-ancestors"] == {"'none'"}
        assert found["script-src"] == found["connect-src"] == found["form-action"] == {"'self'"}
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert not {"*", "https:", "http:", "data:", "blob:"} & (found["script-src"] | found["style-src"])
        nonces |= found["style-src"] - {"'self'"}
    assert len(nonces) == 2  # a new one for each page, none for the login


async def test_every_answer_has_the_headers(lab: Lab) -> None:
    visitor = lab.visitor()
    for path in ("/", "/health", "/metrics", "/timeline", "/nowhere", "/assets/index-abc.js", "/assets/none.js"):
        reply = await visitor.ask(path)
        assert SAFE.items() <= reply.headers.items(), path
        assert rules(reply.headers["content-security-policy"])["frame-ancestors"] == {"'none'"}, path
        assert "access-control-allow-origin" not in reply.headers


class _Inline(HTMLParser):
    """Collects what a strict policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "style" or (tag == "script" and not given.get("src")):
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            if name == "style" or name.startswith("on") or re.match(r"\s*(javascript|data):", value or "", re.I):
                self.found.append(f"{name}={value}")


def test_no_page_has_anything_inline() -> None:
    pages = sorted(WEB.glob("*.html"))
    assert {"index.html", "login.html"} <= {path.name for path in pages}
    for path in pages:
        parser = _Inline()
        parser.feed(path.read_text())
        assert parser.found == [], path.name


def test_text_never_becomes_html_or_code() -> None:
    """Titles, names, file names and notices go in as text: there is no way for them to become anything else."""
    sources = [path for path in sorted((WEB / "src").rglob("*.ts")) if not path.name.endswith(".test.ts")]
    assert len(sources) > 5
    word = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser"
        r"|\beval\(|new Function\b|srcdoc|setHTMLUnsafe|setTimeout\(\s*[\"'`]"
    )
    for path in sources:
        found = word.search(path.read_text())
        assert found is None, f"{path.name}: {found}"


def test_a_link_is_looked_at_before_it_is_opened() -> None:
    """What a program prints can name any scheme: nothing is opened but through isWebLink (input/links.ts)."""
    screen = (WEB / "src" / "screen.ts").read_text()
    assert screen.count("window.open(") == screen.count("if (isWebLink(uri)) window.open(uri,") == 1
    assert re.search(r"linkHandler: \{ activate: \(_event, uri\) => openLink\(uri\)", screen)
    assert '"noopener,noreferrer"' in screen


async def test_the_session_s_name_and_a_fault_are_text(lab: Lab) -> None:
    reply = await lab.visitor(session_id='<img src=x onerror="1">').ask("/")
    assert b"<img" not in reply.body and b"&lt;img" in reply.body
