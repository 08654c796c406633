"""Who may open a terminal: exact Origin, a cookie of this session's own, and neither without the other."""

from __future__ import annotations

import pytest

from .conftest import HOST, ORIGIN, Lab, Visitor

STRANGERS = [
    "null", f"https://{HOST}", "http://lab.example", "http://lab.example:8080", f"{ORIGIN}.evil.example",
    f"http://evil.example/{HOST}", f"http://{HOST}@evil.example", "http://xlab.example:8081", f"{ORIGIN}/",
]  # fmt: skip


async def test_only_the_exact_origin_opens_a_terminal(lab: Lab) -> None:
    visitor = lab.visitor()
    cookie = (await visitor.log_in()).cookie()
    for origin in STRANGERS:
        assert await visitor.knock(Cookie=cookie, Origin=origin) == 403, origin
    assert await visitor.knock(Cookie=cookie) == 101


async def test_a_cookie_without_an_origin_opens_nothing_and_changes_nothing(lab: Lab) -> None:
    visitor = lab.visitor()
    cookie = (await visitor.log_in()).cookie()
    assert await visitor.knock(Cookie=cookie, Origin="") == 403
    assert (await visitor.ask("/logout", method="POST", Cookie=cookie, Origin="")).status == 403
    assert await visitor.knock(Cookie=cookie) == 101  # still logged in


async def test_an_origin_without_a_cookie_opens_nothing(lab: Lab) -> None:
    visitor = lab.visitor()
    assert await visitor.knock() == 401
    assert await visitor.knock(Cookie="dozlab-terminal-lab1=guess") == 401


@pytest.mark.parametrize("origin", STRANGERS)
async def test_no_other_origin_logs_anybody_in_or_out(lab: Lab, origin: str) -> None:
    visitor = lab.visitor()
    assert (await visitor.log_in(Origin=origin)).status == 403
    cookie = (await visitor.log_in()).cookie()
    assert (await visitor.ask("/logout", method="POST", Cookie=cookie, Origin=origin)).status == 403
    assert await visitor.knock(Cookie=cookie) == 101


async def test_the_scheme_counts(lab: Lab) -> None:
    visitor = lab.visitor()
    visitor.scheme = "https"
    assert (await visitor.log_in()).status == 403
    cookie = (await visitor.log_in(Origin=f"https://{HOST}")).cookie()
    visitor.scheme = "wss"
    assert await visitor.knock(Cookie=cookie) == 403
    assert await visitor.knock(Cookie=cookie, Origin=f"https://{HOST}") == 101


async def test_a_host_that_is_not_listed_is_not_served(lab: Lab) -> None:
    visitor = lab.visitor(allowed_origins=("https://lab.example",))
    for host in ("rebound.example", "lab.example:8081", "lab.example@evil.example"):
        reply = await visitor.ask("/", Host=host)
        assert reply.status == 421, host
    cookie = (await visitor.log_in(Host="lab.example", Origin="https://lab.example")).cookie()
    assert await visitor.knock(Cookie=cookie, Host="lab.example", Origin="https://lab.example") == 101
    assert await visitor.knock(Cookie=cookie, Host="rebound.example", Origin="https://lab.example") == 403


async def test_a_page_of_the_same_site_is_not_the_page(lab: Lab) -> None:
    """Cookies ignore ports: what another port of this host asks for comes with our cookie."""
    visitor = lab.visitor()
    cookie = (await visitor.log_in()).cookie()
    assert (await visitor.ask("/timeline", Cookie=cookie, Sec_Fetch_Site="same-origin", Origin="")).status == 200
    for site in ("same-site", "cross-site"):
        assert (await visitor.ask("/timeline", Cookie=cookie, Sec_Fetch_Site=site, Origin="")).status == 403


async def test_a_session_s_cookies_are_its_own(lab: Lab) -> None:
    reply = await lab.visitor().log_in()
    assert len(reply.cookies) == 2
    for line in reply.cookies:
        name, *attributes = line.split("; ")
        assert name.startswith("dozlab-terminal-lab1")
        assert {"Path=/", "HttpOnly", "SameSite=Strict"} <= set(attributes)
        assert not any(attribute.startswith("Domain") for attribute in attributes)
    below = lab.visitor(base_path="labs/x", session_id="lab2")
    reply = await below.ask("/labs/x/login", method="POST", body=b"password=correct+horse")
    assert reply.status == 303
    for line in reply.cookies:
        assert line.startswith("dozlab-terminal-lab2") and "Path=/labs/x/" in line.split("; ")


async def test_another_session_s_cookie_opens_nothing(lab: Lab) -> None:
    one, two = lab.visitor(), lab.visitor(session_id="lab2")
    cookie = (await one.log_in()).cookie()
    assert await two.knock(Cookie=cookie) == 401
    assert await two.knock(Cookie=cookie.replace("lab1", "lab2")) == 401


async def test_a_page_of_another_port_changes_nobody_by_cookies_of_its_own(lab: Lab) -> None:
    application = lab.sidecar()
    visitor, name = Visitor(application.app), application.cookies.session
    own, theirs = application.tokens.issue("owner"), application.tokens.issue("viewer")
    for added in ("", "junk", theirs):
        for both in (f"{name}={own}; {name}={added}", f"{name}={added}; {name}={own}"):
            reply = await visitor.ask("/people", Cookie=both)
            assert reply.status == 200 and b"invitations" in reply.body, both  # which only owners are told
    flood = "; ".join(f"{name}=junk{number}" for number in range(1000))
    assert (await visitor.ask("/people", Cookie=flood)).status == 401


async def test_a_cookie_is_secure_exactly_behind_tls(lab: Lab) -> None:
    plain, tls = lab.visitor(), lab.visitor()
    tls.scheme, tls.headers["Origin"] = "https", f"https://{HOST}"
    assert all("Secure" not in line.split("; ") for line in (await plain.log_in()).cookies)
    secure = (await tls.log_in()).cookies
    assert secure and all("Secure" in line.split("; ") for line in secure)
