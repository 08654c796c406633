"""A second session: all from a registry, values in a file, an own Secret, a kept volume, the node's cache; upgrades."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.kube import Kube, pod, show
from tests.support import until

pytestmark = [pytest.mark.timeout(1800)]


def test_two_sessions_side_by_side(kube: Kube, lab: str, second: str) -> None:
    assert kube.guest(second, "hostname").strip() == second
    assert kube.guest(lab, "hostname").strip() == lab
    assert {kube.container(name, "firecracker-vm")["restartCount"] for name in (lab, second)} == {0}


def test_an_email_address_is_a_user_id(kube: Kube, second: str) -> None:
    meta = kube.get("pod", pod(second))["metadata"]
    assert meta["labels"]["user-id"] == "ada.lovelace-example.org"
    assert meta["annotations"]["dozlab.io/user-id"] == "ada.lovelace@example.org"


def test_a_read_only_workspace_is_so_for_the_editor_and_the_guest(kube: Kube, second: str) -> None:
    for words in ("touch /workspace/x", "echo x > /workspace/x", "rm -rf /workspace/x && mkdir /workspace/x"):
        done = kube.kubectl("exec", pod(second), "-c", "code-server", "--", "sh", "-c", words, check=False)
        assert "Read-only file system" in done.stderr, done
    kube.guest(second, "until mountpoint -q /workspace; do sleep 1; done")
    assert "Operation not permitted" in kube.guest(second, "touch /workspace/x 2>&1; true")  # as SFTP calls it
    assert not kube.exists(second, "x")


def test_the_secret_is_the_users_own(kube: Kube, second: str) -> None:
    assert not kube.get("secret", f"lab-session-{second}-secrets")
    log = "".join(kube.logs(second, name) for name in ("terminal-sidecar", "code-server"))
    assert "own-pass-word" not in log


@pytest.fixture(scope="module")
def third(kube: Kube, second: str, second_words: list[str]) -> Iterator[str]:
    """The next session of that node, with a new disk: Ready."""
    own = [word for name in ("codeServer", "volumes.vmData.persistence") for word in ("--set", f"{name}.enabled=false")]
    kube.helm("install", "third", kube.chart, *second_words, "--set", "session.id=third", *own)
    try:
        kube.wait_ready("third")
        yield "third"
    finally:
        kube.uninstall("third")


def test_the_next_session_downloads_nothing(kube: Kube, second: str, third: str) -> None:
    assert "MiB/s" in kube.logs(second, "init-rootfs")
    assert "MiB/s" not in kube.logs(third, "init-rootfs")


def test_the_next_session_goes_on_from_what_the_first_has_saved(
    kube: Kube, second: str, third: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its stages, with their seconds since `helm install`, are printed."""
    assert "prepared: " in kube.logs(second, "prepare-snapshot")
    assert "a snapshot for this session is there" in kube.logs(third, "prepare-snapshot")
    for session in (second, third):
        (vmm,) = [row for row in kube.timeline(session) if (row["stage"], row["event"]) == ("vmm", "done")]
        assert vmm["detail"].endswith(", restored"), kube.logs(session, "firecracker-vm")
    assert "Hello from Docker" in kube.guest(third, "docker run --rm hello-world")
    with capsys.disabled():
        show(f"{second}, prepared", kube.seconds(second))
        show(f"{third}, restored", kube.seconds(third))


def test_they_are_different_machines(kube: Kube, second: str, third: str) -> None:
    """Names, keys and ids are a session's own, and neither lets the machine in that was saved."""
    files = (
        "/etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub /root/.ssh/authorized_keys /proc/sys/kernel/random/boot_id"
    )
    one, other = (kube.guest(session, f"hostname; cat {files}").splitlines() for session in (second, third))
    assert len(one) == len(other) == 5
    assert [first for first, second in zip(one, other, strict=True) if first == second] == []


def test_no_session_can_change_what_others_begin_from(kube: Kube, third: str) -> None:
    store = "/srv/vm/kernels/snapshots"
    assert kube.exec(third, "firecracker-vm", "ls", store).split()
    done = kube.kubectl("exec", pod(third), "-c", "firecracker-vm", "--", "touch", f"{store}/x", check=False)
    assert "Read-only file system" in done.stderr


def test_the_machine_is_saved_and_goes_back_by_exec(kube: Kube, third: str) -> None:
    """The verbs of `dozlab checkpoint`, `reset`, `pause` and `resume`, asked of the container that owns the machine."""

    def ask(*words: str) -> str:
        return kube.exec(third, "firecracker-vm", "dozlab-run", "firecracker-vm", *words)

    def status() -> Any:
        return json.loads(ask("status"))

    kube.guest(third, "echo saved > /run/mark")
    assert ask("checkpoint", "one").startswith("checkpoint one: ")
    kube.guest(third, "echo later > /run/mark")
    boots = status()["boots"]
    assert ask("reset", "one") == "going back to checkpoint one\n"
    until(lambda: status()["boots"] > boots and status()["ssh"], what="the machine of the checkpoint", seconds=300)
    assert (status()["how"], status()["restored"]) == ("checkpoint", True)
    kube.wait_ready(third)
    assert kube.guest(third, "cat /run/mark").strip() == "saved"
    assert ask("pause") == "the machine is paused\n"
    assert kube.exec(third, "terminal-sidecar", "cat", "/shared/vm.json").count('"paused": "asked"') == 1
    assert ask("resume") == "the machine is running\n"
    refused = kube.kubectl(
        "exec", pod(third), "-c", "firecracker-vm", "--", "dozlab-run", "firecracker-vm", "reset", "two", check=False
    )
    assert "firecracker-vm: no checkpoint two; there are: one" in refused.stderr
    assert {kube.container(third, name)["restartCount"] for name in ("firecracker-vm", "terminal-sidecar")} == {0}


def _upgrade(kube: Kube, session: str, *words: str, check: bool = True) -> Any:
    return kube.helm("upgrade", session, kube.chart, "--reuse-values", *words, check=check)


def test_labels_service_and_ingress_change_in_place(kube: Kube, second: str) -> None:
    before = kube.get("pod", pod(second))["metadata"]["uid"]
    _upgrade(
        kube, second, "--set", "labels.course=linux-101", "--set", "service.type=NodePort",
        "--set", "ingress.enabled=true", "--set", "ingress.vscode.host=lab.example.org",
    )  # fmt: skip
    after = kube.get("pod", pod(second))
    assert after["metadata"]["uid"] == before
    assert after["metadata"]["labels"]["course"] == "linux-101"
    assert kube.get("service", f"lab-service-{second}")["spec"]["type"] == "NodePort"
    assert kube.get("ingress").get("items")


def test_the_vms_size_changes_with_a_new_pod_and_the_disk_stays(kube: Kube, second: str) -> None:
    """A Pod's spec cannot be changed in place: refused as told; it goes through once the Pod is deleted."""
    kube.guest(second, "echo kept > /root/file; sync")
    key = kube.guest(second, "cat /etc/ssh/ssh_host_ed25519_key.pub")
    refused = _upgrade(kube, second, "--set", "vm.memory=640", check=False)
    assert refused.returncode != 0
    assert "pod updates may not change" in refused.stderr or "Forbidden" in refused.stderr
    kube.kubectl("delete", "pod", pod(second), "--timeout=120s", timeout=150)
    _upgrade(kube, second, "--set", "vm.memory=640")
    kube.wait_ready(second)
    assert 500 < int(kube.guest(second, "awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo")) < 640
    assert kube.guest(second, "cat /root/file").strip() == "kept"
    assert kube.guest(second, "cat /etc/ssh/ssh_host_ed25519_key.pub") == key


def test_rollback(kube: Kube, second: str) -> None:
    revision = int(kube.helm("history", second, "-o", "json").stdout.count('"revision"'))
    kube.kubectl("delete", "pod", pod(second), "--timeout=120s", timeout=150)
    kube.helm("rollback", second, "1")
    until(lambda: kube.get("pod", pod(second)), what="the Pod of the first revision", seconds=240)
    env = next(row for row in kube.get("pod", pod(second))["spec"]["containers"] if row["name"] == "firecracker-vm")[
        "env"
    ]
    assert {row["name"]: row.get("value") for row in env}["MEMORY"] == "768"
    assert "course" not in kube.get("pod", pod(second))["metadata"]["labels"]
    assert revision >= 3


def test_a_kept_volume_outlives_the_release(kube: Kube, second: str, second_words: list[str]) -> None:
    """`helm uninstall` while it boots, then the same install again: its disk, key and files are there."""
    kube.uninstall(second)
    for kind in ("service", "secret", "ingress"):
        names = [row["metadata"]["name"] for row in kube.get(kind).get("items", [])]
        assert not [name for name in names if name.endswith(second)], names
    kube.helm("install", second, kube.chart, *second_words)
    kube.wait_ready(second)
    assert kube.guest(second, "cat /root/file").strip() == "kept"


def test_the_charts_own_secret_is_unchanged_over_an_upgrade(kube: Kube, lab: str) -> None:
    def held() -> tuple[str, str]:
        secret = kube.get("secret", f"lab-session-{lab}-secrets")
        return secret["metadata"]["uid"], base64.b64decode(secret["data"]["vscode-password"]).decode()

    before = held()
    _upgrade(kube, lab, "--set", "labels.course=linux-101")
    assert held() == before
