"""A learner's session on Kubernetes: the commands of the chart's README, word for word but for the image's URL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from shlex import quote

import pytest
from playwright.sync_api import BrowserContext

from tests.browsing import (
    at_prompt,
    chromium,
    open_editor,
    open_terminal,
    screen_has,
    type_in_editors_terminal,
    type_line,
)
from tests.cluster.kube import CONTAINERS, PASSWORD, PYTHON, Kube, pod, show
from tests.support import EVIDENCE

pytestmark = [pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    with chromium() as context:
        yield context


def test_the_pod_becomes_ready(kube: Kube, lab: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its stages, with their seconds since `helm install`, are printed."""
    assert kube.kubectl("get", "pod", pod(lab), "--no-headers").stdout.split()[1:3] == ["3/3", "Running"]
    rows = kube.seconds(lab)
    with capsys.disabled():
        show(f"{lab}, booted", rows)
    assert {"rootfs", "network", "vmm", "kernel", "init", "sshd", "terminal"} <= {stage for stage, _ in rows}


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ("init-rootfs", "dozlab-vm|session disk"),
        ("network-setup", "tap0 172.16.0.1"),
        ("firecracker-vm", "sshd answers on 172.16.0.2:22"),
        ("terminal-sidecar", "serving .* on 0.0.0.0:8081"),
        ("code-server", "code-server is healthy"),
    ],
)
def test_logs_of_every_container(kube: Kube, lab: str, container: str, words: str) -> None:
    assert container in CONTAINERS
    log = kube.logs(lab, container)
    assert re.search(words, log), log[-3000:]
    assert PASSWORD not in log
    assert "Traceback" not in log


def test_describe_shows_the_session_and_no_secret(kube: Kube, lab: str) -> None:
    text = kube.kubectl("describe", "pod", pod(lab)).stdout
    for name in CONTAINERS:
        assert f"  {name}:" in text
    assert PASSWORD not in text


def test_ip_addr_shows_the_tap(kube: Kube, lab: str) -> None:
    shown = kube.exec(lab, "firecracker-vm", "ip", "addr", "show")
    assert re.search(r"\d+: tap0:.*\n.*\n\s+inet 172\.16\.0\.1/24", shown), shown


def test_no_container_has_more_rights_than_promised(kube: Kube, lab: str) -> None:
    for name in ("firecracker-vm", "terminal-sidecar", "code-server"):
        status = kube.exec(lab, name, "cat", "/proc/1/status")
        assert re.search(r"CapEff:\t0+\n", status), (name, status)
        assert re.search(r"NoNewPrivs:\t1\n", status)
        assert re.search(r"Seccomp:\t2\n", status)
        assert re.search(r"Uid:\t1000\t1000", status)
        refused = kube.exec(lab, name, "sh", "-c", "touch /usr/x; ls /var/run/secrets/kubernetes.io", check=False)
        assert refused == ""


def test_the_editor_sees_neither_keys_nor_disk(kube: Kube, lab: str) -> None:
    found = kube.exec(lab, "code-server", "sh", "-c", "ls -d /shared/id_ed25519 /vm-data/disk /srv/vm", check=False)
    assert found == ""


def test_both_pages_by_port_forward(kube: Kube, lab: str, context: BrowserContext) -> None:
    kube.wait_stage(lab, "dockerd")
    with kube.port_forward(lab, 8080, 8081) as local:
        page = open_terminal(context, f"http://127.0.0.1:{local[8081]}/", PASSWORD)
        for line, words in (
            ("systemctl status docker --no-pager | head -5", "active (running)"),
            ("clear; netstat -tlnp | grep 2375", "LISTEN"),
            ("clear; docker run --rm hello-world", "Hello from Docker"),
        ):
            at_prompt(page, f"root@{lab}:~#")
            type_line(page, line)
            screen_has(page, words)
        page.screenshot(path=EVIDENCE / "cluster-terminal.png")
        page.close()

        page = open_editor(context, f"http://127.0.0.1:{local[8080]}/", PASSWORD)
        line = "docker ps | tee ps.txt; docker run --rm hello-world | tee hello.txt"
        there = partial(kube.exists, lab)
        type_in_editors_terminal(page, line, exists=there, shot="cluster-editor.png")
        page.close()
    assert kube.exec(lab, "code-server", "cat", "/workspace/ps.txt").startswith("CONTAINER ID")
    assert "Hello from Docker" in kube.exec(lab, "code-server", "cat", "/workspace/hello.txt")


def test_the_workspace_is_the_guests_too(kube: Kube, lab: str) -> None:
    kube.guest(lab, "until mountpoint -q /workspace; do sleep 1; done", timeout=240)
    kube.exec(lab, "code-server", "sh", "-c", "echo from-editor > /workspace/a")
    assert kube.guest(lab, "cat /workspace/a; echo from-guest > /workspace/b").strip() == "from-editor"
    assert kube.exec(lab, "code-server", "cat", "/workspace/b").strip() == "from-guest"


def test_ssh_through_the_service_with_a_key_of_ones_own(
    kube: Kube, lab: str, probe: str, learner_key: tuple[str, str]
) -> None:
    address = kube.get("service", f"lab-service-{lab}")["spec"]["clusterIP"]
    known = kube.exec(lab, "terminal-sidecar", "cat", "/shared/known_hosts").split(maxsplit=1)[1].strip()
    script = (
        'cd /tmp && umask 077 && printf %s "$KEY" > key && printf \'%s %s\\n\' "$1" "$2" > known &&'
        ' ssh -i key -o UserKnownHostsFile=known -o BatchMode=yes -p 22 "root@$1" hostname'
    )
    script = "KEY=$(cat; echo .) && KEY=${KEY%.} && " + script
    done = kube.kubectl("exec", "-i", probe, "--", "sh", "-c", script, "sh", address, known, input=learner_key[0])
    assert done.stdout.strip() == lab


def test_helm_test_passes(kube: Kube, lab: str) -> None:
    done = kube.helm("test", lab, "--timeout", "120s")
    assert "Succeeded" in done.stdout, done.stdout


def test_from_another_pod_only_four_ports_are_open(kube: Kube, lab: str, second: str, probe: str) -> None:
    address = kube.get("pod", pod(lab))["status"]["podIP"]
    wanted = [2222, 8080, 8081, 8082]
    assert _scan(kube, probe, address, (*range(1, 10_001), 15000, 22222, 50000), wanted) == wanted
    service = kube.get("service", f"lab-service-{lab}")["spec"]["clusterIP"]
    wanted = [22, 8080, 8081, 8082]
    assert _scan(kube, probe, service, (22, 2222, 2375, 5540, 8080, 8081, 8082), wanted) == wanted


_SCAN = """
import asyncio, json, sys
targets = json.loads(sys.argv[1]) if sys.argv[1:] else json.load(sys.stdin)
async def main():
    room = asyncio.Semaphore(2000)
    found = []
    async def look(host, port, seconds=4):
        async with room:
            try:
                async with asyncio.timeout(seconds):
                    _, writer = await asyncio.open_connection(host, port)
            except (OSError, TimeoutError):
                return
            writer.close()
            found.append([host, port])
    await asyncio.gather(*(look(*target) for target in targets))
    print(json.dumps(found))
asyncio.run(main())
"""


PATIENCE = 90
"""Seconds in which a port answers that is to be open, however busy the machine is."""


def _scan(kube: Kube, probe: str, address: str, ports: Iterable[int], wanted: list[int]) -> list[int]:
    """Return the ports that are open; those that are to be, `wanted`, are given more time."""
    targets = [(address, port, *([PATIENCE] if port in wanted else [])) for port in ports]
    done = kube.kubectl(
        "exec", "-i", probe, "--", PYTHON, "-c", _SCAN, input=json.dumps(targets), timeout=300
    )  # fmt: skip
    return sorted(port for _, port in json.loads(done.stdout))


def test_the_guest_reaches_the_internet_and_nothing_of_the_cluster(
    kube: Kube, lab: str, second: str, probe: str, outside: tuple[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    node = kube.get("nodes")["items"][0]["status"]["addresses"]
    node_ip = next(row["address"] for row in node if row["type"] == "InternalIP")
    api = kube.get("service", "kubernetes")["spec"]["clusterIP"]
    own = kube.get("pod", pod(lab))["status"]["podIP"]
    other = kube.get("pod", pod(second))["status"]["podIP"]
    other_service = kube.get("service", f"lab-service-{second}")["spec"]["clusterIP"]
    bystander = kube.get("pod", probe)["status"]["podIP"]
    bridge = ".".join([*own.split(".")[:3], "1"])
    closed = [
        *((node_ip, port) for port in (22, 6443, 10250, 10255, 10256, 15000, 16443, 2379, 12379)),
        *((bridge, port) for port in (22, 10250, 16443)),
        (api, 443), ("169.254.169.254", 80), ("169.254.169.254", 443), ("169.254.1.1", 80),
        *((other, port) for port in (2222, 8080, 8081, 8082, 2375)),
        *((other_service, port) for port in (22, 8080, 8081, 8082)),
        (bystander, 8000),
        *((own, port) for port in (8080, 8081, 8082, 2222)),
        *(("172.16.0.1", port) for port in (22, 2222, 8080, 8081, 8082)),
        ("10.0.0.1", 80), ("192.168.0.1", 80), ("172.17.255.1", 80), ("100.64.0.1", 80), ("127.0.0.2", 8080),
        ("::1", 8081), ("fe80::1%eth0", 8081), ("fd00::1", 80), ("fec0::1", 80), ("2001:db8::1", 80),
    ]  # fmt: skip
    assert len(closed) >= 30
    words = f"python3 -c {quote(_SCAN)} {quote(json.dumps([*closed, (*outside, PATIENCE)]))}"
    text = kube.guest(lab, words, timeout=300)
    with capsys.disabled():
        print(f"\n{len(closed)} ways into the cluster tried from the guest")
    assert json.loads(text) == [list(outside)]
    assert not kube.guest(lab, "ip -6 route show default").strip()
