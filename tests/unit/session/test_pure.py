"""The pure half of session: command lines, ports, environments, back-off."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from dozlab import values
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.session import environment, operations, pasta, planning, ports, privileges, state
from dozlab.session.backoff import Backoff
from dozlab.session.host import host_dns, online
from dozlab.session.layout import Layout, check_id
from dozlab.values import Publish


def test_pasta_as_root() -> None:
    words = pasta.argv("pasta", ["cmd"], root=True, publish="127.0.0.1", ports=[(18081, 8081)], dns=True)
    assert (
        words
        == (
            "pasta --config-net --foreground --quiet --ipv4-only --ns-ifname eth0 --netns-only --runas 0:0 --no-map-gw"
            " -T none -U none -u none --dns-forward 169.254.1.53 -t 127.0.0.1/18081:8081 -- cmd"
        ).split()
    )


def test_pasta_as_a_user() -> None:
    words = pasta.argv("pasta", ["cmd"], root=False, publish="127.0.0.1", ports=[], dns=False)
    assert "--netns-only" not in words
    assert "--dns-forward" not in words
    assert words[-4:] == ["-t", "none", "--", "cmd"]
    assert "--no-map-gw" in words


def test_components_keep_no_capability_but_the_one_they_name() -> None:
    assert (
        privileges.argv("setpriv", ["x"], uid=7)
        == (
            "setpriv --reuid 7 --regid 7 --clear-groups --inh-caps -all --ambient-caps -all --bounding-set -all"
            " --no-new-privs x"
        ).split()
    )
    assert privileges.kept("firecracker-vm", user_namespace=True) == ()
    assert privileges.kept("code-server", user_namespace=False) == ()
    assert "-all,+net_admin" in privileges.argv("setpriv", ["x"], uid=None, keep=["net_admin"])


def test_a_port_that_was_asked_for_and_is_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(DozlabError) as caught:
            ports.choose(Publish(terminal=port))
    assert str(caught.value) == (
        f"publish.terminal: port {port} of 127.0.0.1 is in use;"
        " stop what listens there or set publish.terminal to another port"
    )


def test_usual_ports_that_are_taken_are_replaced_by_free_ones() -> None:
    usual = {8080, 8081, 8082, 2222}
    chosen = ports.choose(Publish(), taken=usual)
    assert {chosen.vscode, chosen.terminal, chosen.ssh, chosen.ports}.isdisjoint(usual)
    assert len({chosen.vscode, chosen.terminal, chosen.ssh}) == 3


def test_the_proxy_is_published_where_it_is_served() -> None:
    assert ports.choose(Publish(), proxy=False).ports == 0
    assert ports.Ports(1, 2, 3).pairs() == [(1, 8080), (2, 8081), (3, 2222)]  # a session of before
    assert ports.Ports(1, 2, 3, 4).pairs()[-1] == (4, 8082)
    facts = state.Facts("lab", ports.Ports(1, 2, 3, 18082), "127.0.0.1", None, 0, 0.0)
    plan = planning.make_plan(Layout("lab"), facts, values.parse({"ports": {"origin": "https://p.example"}}))
    told = plan.environments["terminal-sidecar"]
    assert {told[name] for name in ("PORTS_PORT", "PORTS_PUBLISHED", "PORTS_ORIGIN")} == {
        "8082", "18082", "https://p.example"
    }  # fmt: skip
    off = {"enabled": False}
    for given, port in (({}, "8082"), ({"terminal": off}, "0"), ({"ports": off}, "0")):
        assert environment.network_setup(values.parse(given), tap_uid=1)["PORTS_PORT"] == port


def test_nothing_is_published_of_a_session_that_is_being_saved() -> None:
    assert ports.NONE.pairs() == []
    facts = state.Facts("saved", ports.NONE, "127.0.0.1", None, 0, 0.0)
    assert state.urls(facts) == {}
    with pytest.raises(DozlabError, match="session saved is being saved"):
        operations.address("saved", state.urls(facts), "ssh")


def test_a_session_whose_network_died_says_what_pasta_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    layout = Layout("lost")
    layout.logs.mkdir(parents=True)
    assert state.died(layout) == "its supervisor was killed"
    layout.log("pasta").write_text(
        "pasta (1)\n0.7: ERROR:   Failed to bind any port for '-t 127.0.0.1/1:2222', exiting\n"
    )
    assert state.died(layout) == (
        "pasta, its network, ended: Failed to bind any port for '-t 127.0.0.1/1:2222', exiting"
    )


def test_the_environment_carries_no_secret() -> None:
    parsed = values.parse({"codeServer": {"password": "hunter2"}, "ssh": {"authorizedKeys": ["ssh-ed25519 AAAA me"]}})
    whole = {
        **environment.common(parsed, dns=""),
        **environment.init_rootfs(parsed),
        **environment.network_setup(parsed, tap_uid=1),
        **environment.firecracker_vm(parsed),
        **environment.terminal_sidecar(parsed),
        **environment.code_server(parsed),
    }
    assert "hunter2" not in "".join(whole.values())
    assert whole["IMAGE_SIZE"] == str(4 << 30)
    assert whole["SSH_AUTHORIZED_KEYS"] == "ssh-ed25519 AAAA me"
    assert all(isinstance(value, str) for value in whole.values())


def test_mirrors_are_of_the_image_that_is_named_beside_them() -> None:
    raw = {"rootfs": {"imageUrl": "https://a.example/x", "mirrors": ["oci://b.example/x"]}}
    told = environment.init_rootfs(values.parse(operations._with_image(raw, values.parse(raw), "")))
    assert told["IMAGE_DOWNLOAD_URL"] == "https://a.example/x oci://b.example/x"
    told = environment.init_rootfs(values.parse(operations._with_image(raw, values.parse(raw), "https://c.example/y")))
    assert told["IMAGE_DOWNLOAD_URL"] == "https://c.example/y"


def test_an_address_with_a_password_is_refused_and_not_shown() -> None:
    for rootfs in ({"imageUrl": "https://u:hunter2@a.example/x"}, {"mirrors": ["oci://u:hunter2@a.example/x"]}):
        with pytest.raises(BadUsage, match="a user or password in an address") as caught:
            values.parse({"rootfs": rootfs})
        assert "hunter2" not in str(caught.value)


def test_backoff_doubles_to_a_limit_and_forgets_after_a_healthy_life() -> None:
    backoff = Backoff(first=1, limit=4, healthy=60)
    assert [backoff.next(lived=0) for _ in range(4)] == [1, 2, 4, 4]
    assert backoff.next(lived=61) == 1


@pytest.mark.parametrize("bad", ["", "-a", "a-", "A", "a/b", "..", "a" * 41, "a\n"])
def test_bad_ids_are_refused(bad: str) -> None:
    with pytest.raises(BadUsage):
        check_id(bad)


def test_a_leader_that_is_not_recorded_yet_has_no_members() -> None:
    """Session 0 is the kernel's own: `down` must never end what belongs to it."""
    assert state.members(0) == []
    # A session of its own: the runner's may be 0, which is how one looks whose leader is outside this PID namespace.
    leader = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert state.members(leader.pid) == [leader.pid]
    finally:
        leader.kill()
        leader.wait()


def test_layout_stays_below_its_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Layout("a").vm_data == tmp_path / "dozlab/sessions/a/vm-data"


def test_host_facts(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("search x\nnameserver ::1\n")
    assert not host_dns(resolv)
    resolv.write_text("nameserver 10.0.0.1\n")
    assert host_dns(resolv)
    assert not host_dns(tmp_path / "none")
    route = tmp_path / "route"
    route.write_text("Iface Destination ...\neth0 0000A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n")
    assert not online(route)
    route.write_text("Iface Destination ...\neth0 00000000 0100A8C0 0003 0 0 0 00000000 0 0 0\n")
    assert online(route)
