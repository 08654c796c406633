"""A cluster of the tests' own, kubectl and helm as a user runs them, and what tests ask of a session there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.cluster import cluster, inventory

from tests.support import EVIDENCE, REPOSITORY, until

CHART = str(REPOSITORY / "charts/dozlab-session")
CONTAINERS = ("init-rootfs", "network-setup", "firecracker-vm", "terminal-sidecar", "code-server")
PASSWORD = "lab-pass-word"
PYTHON = "/opt/dozlab/bin/python"
"""In every image."""


@contextmanager
def running_node(*archives: Path) -> Iterator[Path]:
    """Start a cluster with these images, yield its kubeconfig, and prove that its end leaves the machine as it was."""

    def say(line: str) -> None:
        print(f"cluster: {line}", file=sys.stderr, flush=True)

    assert not cluster.status(), "a cluster is up already: make cluster-down"
    before = inventory.take()
    kubeconfig = cluster.up(say)
    try:
        for archive in archives:
            cluster.load(archive)
        yield kubeconfig
    finally:
        cluster.down(say)
    left = inventory.differences(before, inventory.take())
    assert not left, left


@dataclass(frozen=True)
class Programs:
    """kubectl and helm with a kubeconfig, as a user has them."""

    kubeconfig: Path
    helm_path: Path
    kubectl_path: Path

    def environment(self) -> dict[str, str]:
        """Return the environment of both programs."""
        keep = ("PATH", "HOME", "LANG")
        return {**{name: os.environ[name] for name in keep if name in os.environ}, "KUBECONFIG": str(self.kubeconfig)}

    def _run(
        self, argv: list[str], *, check: bool, timeout: float, input: str | None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv, env=self.environment(), capture_output=True, text=True, errors="replace", check=False,
            timeout=timeout, input=input,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def kubectl(
        self, *words: str, check: bool = True, timeout: float = 120, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl."""
        return self._run([str(self.kubectl_path), *words], check=check, timeout=timeout, input=input)

    def helm(self, *words: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run helm."""
        return self._run([str(self.helm_path), *words], check=check, timeout=timeout, input=None)

    def get(self, *words: str) -> Any:
        """Return an object (or a list of them) as JSON; an empty mapping when there is none."""
        done = self.kubectl("get", *words, "-o", "json", "--ignore-not-found")
        return json.loads(done.stdout) if done.stdout.strip() else {}


@dataclass(frozen=True)
class Kube(Programs):
    """Sessions in a cluster. `image_url` is the base image's address as Pods reach it."""

    image_url: str
    small_url: str
    """A base image with neither sshd nor Docker."""
    chart: str = CHART

    def values(self, session: str, **more: str) -> list[str]:
        """Return the `--set` words of a session that every test uses; `a__b` in a keyword means `a.b`."""
        given = {
            "session.id": session,
            "rootfs.imageUrl": self.image_url,
            "codeServer.password": PASSWORD,
            "rootfs.diskSize": "2G",
            "vm.memory": "768",
            "firecracker.resources.requests.cpu": "100m",  # several at once on two cores
            "firecracker.resources.requests.memory": "1200Mi",
            "codeServer.resources.requests.cpu": "50m",
            **{name.replace("__", "."): value for name, value in more.items()},
        }
        return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]

    def install(self, session: str, *words: str, **more: str) -> None:
        """`helm install` one session."""
        self.helm("install", session, self.chart, *self.values(session, **more), *words)

    def uninstall(self, session: str) -> None:
        """`helm uninstall`, and wait until the Pod has gone."""
        self.helm("uninstall", session, "--wait", "--timeout", "240s", check=False)
        until(lambda: not self.get("pod", pod(session)), what=f"the end of Pod {pod(session)}", seconds=300)

    def container(self, session: str, name: str) -> dict[str, Any]:
        """Return a container's status; empty before there is one."""
        status = self.get("pod", pod(session)).get("status", {})
        rows = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return next((row for row in rows if row["name"] == name), {})

    def ready(self, session: str) -> bool:
        """Is the Pod Ready?"""
        conditions = self.get("pod", pod(session)).get("status", {}).get("conditions", [])
        return any(row["type"] == "Ready" and row["status"] == "True" for row in conditions)

    def wait_ready(self, session: str, *, seconds: float = 600) -> None:
        """Wait until the Pod is Ready; keep the evidence when it is not."""
        try:
            until(lambda: self.ready(session), what=f"Pod {pod(session)} Ready", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.evidence(session)}") from error

    def logs(self, session: str, container: str, *words: str) -> str:
        """Return a container's log."""
        return self.kubectl("logs", pod(session), "-c", container, *words, check=False).stdout

    def exec(self, session: str, container: str, *words: str, check: bool = True, timeout: float = 240) -> str:
        """Run a command in a container and return what it prints."""
        done = self.kubectl("exec", pod(session), "-c", container, "--", *words, check=check, timeout=timeout)
        return done.stdout

    def exists(self, session: str, name: str) -> bool:
        """Is there a file of that name in the workspace?"""
        return name in self.exec(session, "code-server", "ls", "/workspace").split()

    def timeline(self, session: str) -> list[dict[str, Any]]:
        """Return the session's timeline, as the Pod's terminal has it."""
        text = self.exec(session, "terminal-sidecar", "cat", "/shared/timeline.jsonl", check=False)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def stages(self, session: str) -> set[str]:
        """Return the stages that are done."""
        return {row["stage"] for row in self.timeline(session) if row["event"] == "done"}

    def wait_stage(self, session: str, stage: str, *, seconds: float = 600) -> None:
        """Wait for a stage of the timeline."""
        try:
            until(lambda: stage in self.stages(session), what=f"{stage} of {session}", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.evidence(session)}") from error

    def seconds(self, session: str) -> list[tuple[str, float]]:
        """Return each stage that is done, and "Ready", with the seconds from `helm install` to it."""
        found = self.get("pod", pod(session))
        begun = _epoch(found["metadata"]["creationTimestamp"])
        ended = [row for row in found["status"]["initContainerStatuses"] if row["name"] == "prepare-snapshot"]
        rows = [(row["stage"], row["t"] - begun) for row in self.timeline(session) if row["event"] == "done"]
        rows += [(row["name"], _epoch(row["state"]["terminated"]["finishedAt"]) - begun) for row in ended]
        ready = next(row for row in found["status"]["conditions"] if row["type"] == "Ready")
        return [*sorted(rows, key=lambda row: row[1]), ("Ready", _epoch(ready["lastTransitionTime"]) - begun)]

    def guest(self, session: str, command: str, *, timeout: float = 240, check: bool = True) -> str:
        """Run a command in the guest, with the session's own key, from the terminal's container."""
        script = (
            "import asyncio, sys\n"
            "import asyncssh\n"
            "async def main():\n"
            "    async with asyncssh.connect('172.16.0.2', username='root', client_keys=['/shared/id_ed25519'],"
            " known_hosts='/shared/known_hosts', config=None) as there:\n"
            "        done = await there.run(sys.argv[1])\n"
            "        sys.stdout.write(done.stdout); sys.stderr.write(done.stderr); sys.exit(done.exit_status or 0)\n"
            "asyncio.run(main())\n"
        )
        return self.exec(session, "terminal-sidecar", PYTHON, "-c", script, command, timeout=timeout, check=check)

    @contextmanager
    def port_forward(self, session: str, *ports: int) -> Iterator[dict[int, int]]:
        """`kubectl port-forward` of the session's ports; yields Pod's port -> local port."""
        words = [f":{port}" for port in ports]
        process = subprocess.Popen(
            [str(self.kubectl_path), "port-forward", "pod/" + pod(session), *words], env=self.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            assert process.stdout
            found: dict[int, int] = {}
            while len(found) < len(ports):
                line = process.stdout.readline()
                assert line, "kubectl port-forward has ended"
                if match := re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)", line):
                    found[int(match[2])] = int(match[1])
            yield found
        finally:
            process.terminate()
            process.communicate(timeout=60)

    def evidence(self, session: str) -> str:
        """Save everything about a session's Pod, and return its short form."""
        EVIDENCE.mkdir(exist_ok=True)
        described = self.kubectl("describe", "pod", pod(session), check=False).stdout
        parts = [described] + [
            f"== {name}\n{self.logs(session, name, '--tail=200')}" for name in (*CONTAINERS, "prepare-snapshot")
        ]
        path = EVIDENCE / f"cluster-{session}-{int(time.time())}.txt"
        path.write_text("\n".join(parts))
        events = described.partition("Events:")[2]
        return f"evidence: {path}\n{events}\n" + "\n".join(part[-1500:] for part in parts[1:])


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def show(title: str, rows: list[tuple[str, float]]) -> None:
    """Print the stages of a start."""
    print(f"\n{title:<18} seconds since helm install")
    for stage, seconds in rows:
        print(f"{stage:<18} {seconds:6.1f}")


def pod(session: str) -> str:
    """Return the Pod's name."""
    return f"lab-session-{session}"
