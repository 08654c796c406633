"""Runs inside the emulated machine (L1), by its own Python: one session's VM under the real Firecracker.

Prints one JSON line per step: {"step": str, "seconds": float, ...what was seen}. The tests judge; this only acts.
Arguments: the folder of the product disk (`src/`, `kit/`, `bin/firecracker`, `vm/`, `shared/`), and the sessions to run
side by side from one snapshot.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(sys.argv[1])
sys.path.insert(0, str(ROOT / "src"))

from dozlab.images import snapshots  # noqa: E402  (out of the product disk)

SHARED = Path("/run/lab-shared")
NS = "lab"
UID = 1000
POWERLESS = (
    "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
    "--no-new-privs",
)  # fmt: skip
ENV = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT / "src"), "SESSION_ID": "nested",
    "VMM": "firecracker",
    "FIRECRACKER_BIN": str(ROOT / "bin/firecracker"), "KERNELS_DIR": "/", "VM_DATA": str(ROOT / "vm"),
    "SHARED_DIR": str(SHARED), "KIT_DIR": str(ROOT / "kit"), "CPU_COUNT": "1", "MEMORY": "768", "PROBE_DEADLINE": "120",
    "BOOT_PATIENCE": "120", "STOP_GRACE": "120", "DNS_SERVERS": "10.9.0.3", "TAP_UID": str(UID),
}  # fmt: skip


def say(step: str, since: float, **seen: Any) -> None:
    sys.stdout.write(json.dumps({"step": step, "seconds": round(time.monotonic() - since, 1), **seen}) + "\n")
    sys.stdout.flush()


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=120)


def in_lab(module: str, *wrap: str) -> list[str]:
    return ["ip", "netns", "exec", NS, *wrap, sys.executable, "-m", module]


def verb(what: str, shared: Path = SHARED, **arguments: Any) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(240 if what == "checkpoint" else 30)
        sock.connect(str(shared / "vm.sock"))
        sock.sendall(json.dumps({"v": 1, "verb": what, **arguments}).encode() + b"\n")
        with sock.makefile("rb") as file:
            answer = json.loads(file.readline())
    assert isinstance(answer, dict)
    return answer


class Vm:
    """The component firecracker-vm, started for real."""

    def __init__(self, **environ: str) -> None:
        self.began = time.monotonic()
        with open("/run/vm.out", "wb") as out, open("/run/vm.err", "wb") as err:
            self.process = subprocess.Popen(
                in_lab("dozlab.firecracker_vm", *POWERLESS), env={**ENV, **environ}, stdout=out, stderr=err
            )

    def until(self, wanted: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        seen: dict[str, Any] = {"error": "no answer yet"}
        while time.monotonic() - self.began < seconds and self.process.poll() is None:
            try:
                seen = verb("status")
                if wanted(seen):
                    return seen
            except (OSError, ValueError):
                pass
            time.sleep(0.5)
        return {**seen, "late": True}

    def end(self, seconds: float = 180) -> dict[str, Any]:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        err = Path("/run/vm.err").read_text(errors="replace")
        return {"code": code, "err": err[-1500:], "console": Path("/run/vm.out").read_text(errors="replace")[-2500:]}


def ask(command: str) -> str:
    """Run a command in the guest (L2) with the session's own key, its host key pinned."""
    argv = [
        "ip", "netns", "exec", NS, "ssh", "-F", "/dev/null", "-i", str(SHARED / "id_ed25519"), "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={SHARED / 'known_hosts'}", "-o", "ConnectTimeout=30", "root@172.16.0.2", command,
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout or done.stderr


def vmm_pid() -> int:
    """Return the Firecracker process's id."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == "firecracker":
                    return int(entry.name)
            except OSError:
                continue
    return 0


def rights(pid: int) -> dict[str, Any]:
    """Return a process's user and effective capabilities, as the kernel tells them."""
    text = Path(f"/proc/{pid}/status").read_text() if pid else ""
    uid, caps = re.search(r"Uid:\s*(\d+)", text), re.search(r"CapEff:\s*(\w+)", text)
    return {"uid": int(uid[1]) if uid else -1, "caps": caps[1] if caps else ""}


class Clone:
    """A session of its own where the disks have the names that were saved: in mounts of its own, as sessions are."""

    def __init__(self, number: int, blank: Path, disk: Path) -> None:
        self.began = time.monotonic()
        self.space, self.shared = f"clone{number}", Path(f"/run/clone{number}")
        vm = ROOT / f"vm{number}"
        shutil.copytree(ROOT / "vm", vm, ignore=lambda _folder, names: [n for n in names if "ext4" in n])
        shutil.copytree(ROOT / "shared", self.shared)
        run("cp", "--sparse=always", str(blank), str(vm / disk.relative_to(ROOT / "vm")))
        run("chown", "-R", f"{UID}:{UID}", str(vm), str(self.shared))
        add_network(self.space, f"10.8.{number + 1}")
        binds = f"mount --bind {vm} {ROOT / 'vm'} && mount --bind {self.shared} {SHARED}"
        inside = ["ip", "netns", "exec", self.space, "sh", "-c", f'{binds} && exec "$@"', "sh"]
        run(
            *inside,
            "env",
            *(f"{name}={value}" for name, value in ENV.items()),
            sys.executable,
            "-m",
            "dozlab.network_setup",
        )
        environ = {**ENV, "SNAPSHOTS_DIR": str(ROOT / "snapshots")}
        self.process = subprocess.Popen(
            [*inside, *POWERLESS, sys.executable, "-m", "dozlab.firecracker_vm"], env=environ,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ready(self) -> bool:
        """Wait until it answers by SSH and Docker."""
        while time.monotonic() - self.began < 300 and self.process.poll() is None:
            try:
                seen = verb("status", self.shared)
                if seen.get("ssh") and seen.get("docker"):
                    return True
            except (OSError, ValueError):
                pass
            time.sleep(0.5)
        return False

    @property
    def pid(self) -> int:
        """Return its Firecracker's process id."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "firecracker")

    def memory(self) -> dict[str, int]:
        """Return what its Firecracker takes, in MiB (proc(5), smaps_rollup)."""
        rows = [line.split() for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]]
        return {row[0].rstrip(":"): int(row[1]) >> 10 for row in rows if row[0] in KINDS}

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(60)


KINDS = ("Rss:", "Pss:", "Private_Dirty:")


def clones(number: int, blank: Path, disk: Path) -> None:
    """Start some sessions from the one snapshot and look at their memory: the first alone, then all."""
    began = time.monotonic()
    started = [Clone(0, blank, disk)]
    ready = [started[0].ready()]
    took = round(time.monotonic() - began, 1)
    alone = started[0].memory()
    for each in range(1, number):
        started.append(Clone(each, blank, disk))
        ready.append(started[each].ready())
    found = [each.memory() for each in started]
    for each_clone in started:
        each_clone.end()
    say("clones", began, ready=ready, alone=alone, all=found, first=took)


def add_network(name: str, net: str) -> None:
    """Make a network namespace with an uplink eth0 and a default route that leads nowhere."""
    run("ip", "netns", "add", name)
    run("ip", "link", "add", f"{name}-0", "type", "veth", "peer", "name", "eth0", "netns", name)
    for line in (f"addr add {net}.2/24 dev eth0", "link set lo up", "link set eth0 up"):
        run("ip", "-n", name, *line.split())
    run("ip", "link", "set", f"{name}-0", "up")
    run("ip", "-n", name, "route", "add", "default", "via", f"{net}.1")


def prepare() -> None:
    began = time.monotonic()
    for module in ("kvm_amd", "tun", "veth"):
        run("modprobe", module)
    shutil.copytree(ROOT / "shared", SHARED, dirs_exist_ok=True)
    run("chown", "-R", f"{UID}:{UID}", str(SHARED), str(ROOT / "vm"))
    run("chmod", "0755", str(ROOT))
    for device in ("/dev/kvm", "/dev/net/tun"):
        run("chmod", "0666", device)
    run("chmod", "0644", "/dev/vda")
    add_network(NS, "10.8.0")
    say("prepare", began, kvm=os.path.exists("/dev/kvm"))


def main() -> None:
    prepare()
    vm = Vm()
    say("missing tap", vm.began, **vm.end())  # holds the probe boot too
    began = time.monotonic()
    done = subprocess.run(in_lab("dozlab.network_setup"), env=ENV, capture_output=True, text=True, timeout=120)
    say("network-setup", began, code=done.returncode, err=done.stderr[-500:])
    vm = Vm(KERNEL_PATH=str(ROOT / "kit/vmlinuz"))
    say("wrong kernel", vm.began, **vm.end())

    disk = next((ROOT / "vm").rglob("session.ext4"))
    blank = disk.with_name("kept.ext4")
    run("cp", "--sparse=always", "-p", str(disk), str(blank))
    out = ROOT / "out"
    out.mkdir()
    os.chown(out, UID, UID)
    vm = Vm(SNAPSHOT_OUT=str(out))
    seen = vm.until(lambda status: bool(status.get("ssh")), 300)
    say("ssh", vm.began, **seen, **rights(vmm_pid()))
    seen = vm.until(lambda status: bool(status.get("docker")), 360)
    say("docker", vm.began, **seen)
    began = time.monotonic()
    say("saved", began, **vm.end(300), files={path.name: path.stat().st_blocks * 512 for path in out.iterdir()})
    for path in out.iterdir():
        os.chown(path, 0, 0)
        path.chmod(0o644)
    out.chmod(0o755)
    snapshots.Snapshots(ROOT / "snapshots").add(out)

    clones(int(sys.argv[2]), blank, disk)
    blank.rename(disk)
    vm = Vm(SNAPSHOTS_DIR=str(ROOT / "snapshots"))
    seen = vm.until(lambda status: bool(status.get("docker") and status.get("ssh")), 300)
    say("restored", vm.began, **seen, **rights(vmm_pid()), log=Path("/run/vm.err").read_text(errors="replace")[-1500:])
    began, asked = time.monotonic(), time.time()
    say(
        "guest",
        began,
        asked=asked,
        told=ask("hostname; date +%s.%N; cat /proc/sys/kernel/random/boot_id"),
        now=time.time(),
    )
    began = time.monotonic()
    paused = verb("pause").get("state")
    say("pause", began, paused=paused, resumed=verb("resume").get("state"))
    began = time.monotonic()
    ask("echo saved > /run/mark")
    saved = verb("checkpoint", name="one")
    say("checkpoint", began, **saved)
    began = time.monotonic()
    ask("echo later > /run/mark")
    vm.began = time.monotonic()
    boots = verb("reset", name="one").get("boots")
    seen = vm.until(lambda status: bool(status.get("boots") != boots and status.get("ssh")), 300)
    asked = time.time()
    say("reset", began, **seen, asked=asked, mark=ask("cat /run/mark; date +%s.%N"), now=time.time())
    began = time.monotonic()
    vm.process.send_signal(signal.SIGTERM)
    say("stop", began, **vm.end(), left=vmm_pid())

    vm = Vm()
    say("init", vm.began, **vm.until(lambda status: status.get("state") == "running", 300))
    began = time.monotonic()
    if pid := vmm_pid():
        os.kill(pid, signal.SIGKILL)
    files = {name: (SHARED / name).exists() for name in ("fc.sock", "vm.sock")} if vm.process.wait(60) else {}
    timeline = (SHARED / "timeline.jsonl").read_text()[-1500:]
    say("killed", began, **vm.end(), left=vmm_pid(), files=files, timeline=timeline)


main()
