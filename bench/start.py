"""`dozlab up` costs little over the virtual machine itself.

Rival: QEMU started by hand on the same disks: the same base image of the store, the same kernel, initramfs and
identity, a fresh session disk, the same memory, processors and accelerator, its user-mode network. Its disks are made
beforehand; ours are made within our clock. Both clocks run from the start of the command to the first SSH banner on a
port of 127.0.0.1. Rounds alternate: ours, rival, ours, rival.

With --snapshot: from a prepared snapshot against our own cold start, to SSH and to Docker; and against QEMU that loads
the same state by hand (rivals/raw_restore.py), to Docker's first answer. That machine is nobody's: it has no identity.

With --clones N: N sessions of 512 MiB from one snapshot, all started at once. Rival: one such session alone.

With --nested: the component firecracker-vm with the real Firecracker, in an emulated machine (tests/firecracker): cold
start against start from a snapshot, and what memory further sessions of one snapshot take (3, or --clones N).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.common import Command, Goal, Report, free_port, machine, main, ratio_of_medians, say, scratch, sessions

from dozlab.firecracker_vm import inputs
from dozlab.firecracker_vm.settings import Settings
from dozlab.images import kit
from dozlab.images.cmdline import cmdline
from dozlab.images.snapshots import Snapshot, Snapshots
from dozlab.init_rootfs.__main__ import main as init_rootfs
from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.files import copy_sparse
from dozlab.lib.proc import need
from dozlab.lib.timeline import Timeline
from dozlab.session import image_choice, vmm_choice

GOAL = 1.10
LIMIT = 300.0
"""Seconds until a start is given up."""
PAUSE = 0.05
"""Seconds between two looks, the same for both."""
CPUS, MEMORY, DISK = 2, 1024, 4 << 30
CLONE_MEMORY, CLONE_DISK = 512, 2 << 30
PARTS_OFF = ["--set", "codeServer.enabled=false", "--set", "terminal.enabled=false"]


def banner(port: int) -> bool:
    """Tell whether an SSH banner comes from that port of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            return sock.recv(64).startswith(b"SSH-2.0-")
    except OSError:
        return False


def until_banner(port: int, reached_init: Callable[[], bool], alive: Callable[[], str]) -> dict[str, float]:
    """Return `{"init", "seconds"}`: when the guest's init ran and the first banner came, in seconds from now.

    The port is asked only once init runs: before, nobody could answer.

    :param alive: returns why the machine ended, empty while it runs
    :raises DozlabError: when it ends or takes too long
    """
    begun, init = time.monotonic(), 0.0
    while not (init and banner(port)):
        if not init and reached_init():
            init = time.monotonic() - begun
        if why := alive():
            raise DozlabError(why)
        if time.monotonic() - begun > LIMIT:
            raise DozlabError(f"no SSH banner on port {port} after {LIMIT:.0f} s")
        time.sleep(PAUSE)
    return {"init": round(init, 2), "seconds": round(time.monotonic() - begun, 2)}


def ours(command: Command, session: str, vmm: str, extra: list[str], *, docker: bool = False) -> dict[str, Any]:
    """Start a session and return `{"init", "seconds", "stages": {stage: seconds until it was done}}`.

    :param docker: go on until Docker answers too
    """
    port = free_port()
    words = ["--set", f"vm.memory={MEMORY}", "--set", f"vm.cpuCount={CPUS}", "--set", f"rootfs.diskSize={DISK}",
             "--set", f"firecracker.vmm={vmm}", "--set", f"publish.ssh={port}", *extra]  # fmt: skip
    timeline = Timeline(paths.runtime() / session / "shared")

    def reached_init() -> bool:
        return "init" in finished(timeline)

    begun = time.time()
    child = subprocess.Popen(
        command.argv("up", session, "--no-docker-wait", *words), env=command.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        took = until_banner(port, reached_init, lambda: "dozlab up failed" if child.poll() else "")
        while docker and "dockerd" not in finished(timeline):
            if time.time() - begun > LIMIT:
                raise DozlabError(f"Docker did not answer within {LIMIT:.0f} s")
            time.sleep(PAUSE)
        stages = {stage: round(t - begun, 2) for stage, t in finished(timeline).items()}
    finally:
        child.terminate()
        _, words_of_up = child.communicate(timeout=60)
        if child.returncode == 1:
            say(words_of_up)
        command.run("down", "--all")
    return {**took, "stages": stages}


def finished(shared: Timeline) -> dict[str, float]:
    """Return stage -> when it was done, in seconds since the epoch; `first` is the timeline's first entry."""
    entries = shared.read()
    first = {"first": entries[0].t} if entries else {}
    if begun := [entry.t for entry in entries if (entry.stage, entry.event) == ("vmm", "start")]:
        first["vmm_start"] = begun[-1]
    return first | {entry.stage: entry.t for entry in entries if entry.event == "done"}


def rival_argv(folder: Path, kit_dir: Path, image: str, accel: str, port: int) -> list[str]:
    """Make the rival's disks and return QEMU's command line, as one would type it who knows how."""
    for name in ("vm-data", "shared"):
        (folder / name).mkdir(parents=True)
    environ = {
        "SESSION_ID": "bench-rival", "KERNELS_DIR": str(paths.cache() / "store"), "VM_DATA": str(folder / "vm-data"),
        "SHARED_DIR": str(folder / "shared"), "KIT_DIR": str(kit_dir), "IMAGE_SHA256": image, "IMAGE_SIZE": str(DISK),
    }  # fmt: skip
    if init_rootfs([], environ) != 0:
        raise DozlabError("init-rootfs failed")
    files = inputs.collect(Settings.from_env(environ), "qemu")
    drives = []
    for drive in files.drives:
        how = "readonly=on" if drive.read_only else "cache=writeback,discard=unmap"
        drives += ["-drive", f"if=virtio,format=raw,file={drive.path},{how}"]
    # No workspace behind it, as in our half with the editor off.
    words = cmdline(vmm="qemu", accel="kvm" if accel == "kvm" else "tcg", vm_ip="172.16.0.2",
                    gateway_ip="172.16.0.1", workspace_port=0)  # fmt: skip
    net = f"user,id=n,net=172.16.0.0/24,host=172.16.0.1,dns=172.16.0.3,hostfwd=tcp:127.0.0.1:{port}-172.16.0.2:22"
    return [
        need("qemu-system-x86_64", "qemu-system-x86"), "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-machine", "q35,usb=off,vmport=off,sata=off",
        "-accel", "kvm" if accel == "kvm" else "tcg,thread=multi", "-cpu", "host" if accel == "kvm" else "max",
        "-smp", str(CPUS), "-m", f"{MEMORY}M", "-kernel", str(files.kernel), "-initrd", str(files.initrd),
        "-append", words, "-serial", f"file:{folder / 'console'}", "-device", "virtio-rng-pci", *drives,
        "-netdev", net, "-device", "virtio-net-pci,netdev=n,romfile=",
    ]  # fmt: skip


def rival(folder: Path, kit_dir: Path, image: str, accel: str) -> dict[str, Any]:
    """Start QEMU by hand and return `{"init", "seconds"}`."""
    port, console = free_port(), folder / "console"
    argv = rival_argv(folder, kit_dir, image, accel, port)

    def reached_init() -> bool:
        return console.exists() and b"dozlab: stage=init" in console.read_bytes()

    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        return until_banner(port, reached_init, lambda: "QEMU ended" if child.poll() is not None else "")
    finally:
        child.kill()
        child.communicate(timeout=30)


def raw_restore(folder: Path, snapshot: Snapshot, accel: str) -> float:
    """Load the snapshot's state with QEMU by hand, in a network namespace; return the seconds until Docker answered."""
    folder.mkdir()
    copy_sparse(snapshot.disk, folder / "disk")
    script = Path(__file__).parent / "rivals/raw_restore.py"
    done = subprocess.run(
        ["unshare", "--net", "--", sys.executable, str(script), str(folder), str(snapshot.folder), accel],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise DozlabError(f"restore by hand: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return float(done.stdout)


def measure_snapshot(options: argparse.Namespace) -> Report:
    """Run the rounds of cold start, start from a snapshot, and restore by hand."""
    kit_dir = kit.ensure(paths.cache() / "kit", progress=say)
    decision = vmm_choice.decide(kit_dir, vmm="qemu")
    facts = machine(decision.accel)
    extra = [] if options.everything else PARTS_OFF
    name = f"bench-start-{os.getpid()}"
    cold: list[dict[str, Any]] = []
    quick: list[dict[str, Any]] = []
    raw: list[float] = []
    with sessions() as command, scratch() as folder:
        words = ["--set", f"vm.memory={MEMORY}", "--set", f"vm.cpuCount={CPUS}", "--set", f"rootfs.diskSize={DISK}",
                 "--set", "firecracker.vmm=qemu"]  # fmt: skip
        command.run("image", "prepare", *words)
        snapshot = Snapshots(paths.cache() / "store" / "snapshots").ls()[0]
        for number in range(options.rounds):
            cold.append(ours(command, name, "qemu", ["--cold", *extra], docker=True))
            quick.append(ours(command, name, "qemu", extra, docker=True))
            raw.append(raw_restore(folder / f"raw{number}", snapshot, decision.accel))
            shown = (cold[-1]["stages"], quick[-1]["stages"], raw[-1])
            say("round {}: cold {}, snapshot {}, by hand {:.2f} s".format(number + 1, *shown))

    def speedup(value: Callable[[dict[str, Any]], float]) -> float:
        return round(1 / ratio_of_medians([value(each) for each in quick], [value(each) for each in cold]), 1)

    to_docker = speedup(lambda each: float(each["stages"]["dockerd"]))
    to_ssh = speedup(lambda each: float(each["seconds"]))
    # From the VMM's start, which is where the rival begins, to Docker's answer.
    own = [each["stages"]["dockerd"] - each["stages"]["vmm_start"] for each in quick]
    over_raw = round(ratio_of_medians(own, raw), 2)
    return Report(
        claim="from a snapshot a session starts many times faster than it boots, and hardly slower than by hand",
        rival="our own cold start; QEMU that loads the same state by hand",
        machine=facts,
        goals=[
            Goal("cold start over snapshot, to Docker, medians", to_docker, 25, "at least", "x"),
            Goal("cold start over snapshot, to SSH, medians", to_ssh, 10, "at least", "x"),
            Goal("from the VMM's start to Docker, over the restore by hand", over_raw, 1.3, "at most", "x"),
        ],
        figures={
            "snapshot_speedup_docker": to_docker, "snapshot_speedup_ssh": to_ssh, "over_raw_restore": over_raw,
            "snapshot_bytes": snapshot.size, "rounds": {"cold": cold, "snapshot": quick, "raw": raw},
        },
        lines=[
            *(f"     cold: {_shown(each)}" for each in cold),
            *(f" snapshot: {_shown(each)}" for each in quick),
            *(f"  by hand: Docker {each:.2f} s" for each in raw),
        ],
    )  # fmt: skip


def clone_up(command: Command, session: str, words: list[str]) -> float:
    """Start one session and return the seconds from `dozlab up` to the first SSH banner. It stays."""
    port, begun = free_port(), time.monotonic()
    child = subprocess.Popen(
        command.argv("up", session, "--no-docker-wait", "--set", f"publish.ssh={port}", *words),
        env=command.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, words_of_up = child.communicate(timeout=LIMIT)
    if child.returncode != 0:
        raise DozlabError(f"{session}: {(words_of_up.strip() or 'failed').splitlines()[-1]}")
    while not banner(port):
        if time.monotonic() - begun > LIMIT:
            raise DozlabError(f"no SSH banner of {session} after {LIMIT:.0f} s")
        time.sleep(PAUSE)
    return round(time.monotonic() - begun, 2)


def measure_clones(options: argparse.Namespace) -> Report:
    """Start one session alone, then all of them at once."""
    kit_dir = kit.ensure(paths.cache() / "kit", progress=say)
    facts = machine(vmm_choice.decide(kit_dir, vmm="qemu").accel)
    words = ["--set", f"vm.memory={CLONE_MEMORY}", "--set", f"vm.cpuCount={CPUS}", "--set",
             f"rootfs.diskSize={CLONE_DISK}", "--set", "firecracker.vmm=qemu", *PARTS_OFF]  # fmt: skip
    names = [f"bench-{os.getpid()}-{number:02}" for number in range(options.clones)]
    with sessions() as command:
        command.run("image", "prepare", *words)
        load = round(os.getloadavg()[0], 2)
        alone = clone_up(command, names[0], words)
        command.run("down", names[0])
        begun = time.monotonic()
        with ThreadPoolExecutor(len(names)) as pool:
            took = sorted(pool.map(lambda name: clone_up(command, name, words), names))
        whole = round(time.monotonic() - begun, 2)
        restored = sum("restored" in _vmm_detail(command, name) for name in names)
    p50, p95 = (round(value, 2) for value in (statistics.median(took), percentile(took, 95)))
    # Side by side they share the cores: N times the time of one alone is what one after the other would take.
    share = round(whole / (alone * len(names)), 2)
    return Report(
        claim="from a snapshot many sessions start side by side",
        rival="as many starts one after the other, each as quick as one alone",
        machine={**facts, "load": load},
        goals=[
            Goal("sessions that began with the snapshot", restored, len(names), "at least"),
            Goal("all at once over one after the other", share, 1.0),
        ],
        figures={
            "alone": alone, "clones": len(names), "p50": p50, "p95": p95, "all": whole, "share": share, "up": took,
        },
        lines=[
            f"  one alone: {alone:.2f} s from `dozlab up` to SSH",
            f"  {len(names)} at once: p50 {p50:.2f} s, p95 {p95:.2f} s, the last after {whole:.2f} s",
        ],
    )  # fmt: skip


def measure_nested(options: argparse.Namespace) -> Report:
    """Run the steps of tests/firecracker once, and look at how long they took."""
    from tests.firecracker.test_nested import run_steps

    facts = machine("kvm")
    with scratch() as folder:
        (folder / "nested").mkdir()
        steps = run_steps(folder / "nested", options.clones or 3)
    cold = {name: float(steps[name]["seconds"]) for name in ("ssh", "docker")}
    quick = float(steps["restored"]["seconds"])
    memory = steps["clones"]
    alone = float(memory["alone"]["Pss"])
    further = round((sum(each["Pss"] for each in memory["all"]) - alone) / (len(memory["all"]) - 1), 1)
    to_docker, to_ssh = (round(cold[name] / quick, 1) for name in ("docker", "ssh"))
    return Report(
        claim="on Firecracker a session starts from a snapshot many times faster than it boots, and shares its memory",
        rival="its own cold start; the first session of the snapshot",
        machine={**facts, "processor of the guest": "nested SVM in an emulated machine"},
        goals=[
            Goal("cold start over snapshot, to Docker", to_docker, 10, "at least", "x"),
            Goal("memory (PSS) of a further session over that of the first", round(further / alone, 2), 0.7),
        ],
        figures={
            "snapshot_speedup_docker": to_docker, "snapshot_speedup_ssh": to_ssh, "cold": cold, "snapshot": quick,
            "pss_alone": alone, "pss_further": further, "memory": memory,
        },
        lines=[
            f"      cold: SSH {cold['ssh']:.1f} s, Docker {cold['docker']:.1f} s",
            f"  snapshot: SSH and Docker {quick:.1f} s (looked at twice a second)",
            f"  memory (PSS): {alone:.0f} MiB alone, {further:.0f} MiB for each further one of {len(memory['all'])}",
        ],
    )  # fmt: skip


def _vmm_detail(command: Command, session: str) -> str:
    rows = json.loads(command.run("status", session, "-o", "json"))["stages"]
    return next((str(row["detail"]) for row in rows if (row["stage"], row["event"]) == ("vmm", "done")), "")


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that `percent` percent of all do not exceed (nearest rank).

    :raises ValueError: when there are none
    """
    if not values:
        raise ValueError("nothing was measured")
    return sorted(values)[max(0, -int(-len(values) * percent // 100) - 1)]


def _shown(took: dict[str, Any]) -> str:
    return f"SSH {took['seconds']:.2f} s, Docker {took['stages']['dockerd']:.2f} s"


def measure(options: argparse.Namespace) -> Report:
    """Run the rounds."""
    if options.nested:
        return measure_nested(options)
    if options.clones:
        return measure_clones(options)
    if options.snapshot:
        return measure_snapshot(options)
    kit_dir = kit.ensure(paths.cache() / "kit", progress=say)
    decision = vmm_choice.decide(kit_dir, vmm="qemu")  # remembered: neither side pays for the probe boot
    image = image_choice.choose("", "", paths.cache() / "store")[1]
    facts = machine(decision.accel)
    extra = [] if options.everything else PARTS_OFF
    rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "rival": []}
    loads = []
    with sessions() as command, scratch() as folder:
        for number in range(options.rounds):
            rounds["ours"].append(ours(command, f"bench-start-{os.getpid()}", "qemu", ["--cold", *extra]))
            rounds["rival"].append(rival(folder / str(number), kit_dir, image, decision.accel))
            loads.append(round(os.getloadavg()[0], 2))
            say(f"round {number + 1}: ours {rounds['ours'][-1]['seconds']} s, rival {rounds['rival'][-1]['seconds']} s")
    times = {who: [item["seconds"] for item in items] for who, items in rounds.items()}
    ratio = round(ratio_of_medians(times["ours"], times["rival"]), 3)
    what = "everything on" if options.everything else "terminal and editor off"
    return Report(
        claim=f"`dozlab up` to SSH ({what}) costs little over the virtual machine itself",
        rival="QEMU started by hand on the same disks",
        machine=facts,
        goals=[Goal("up to SSH over QEMU by hand, medians", ratio, GOAL)],
        figures={"ratio": ratio, "rounds": rounds, "load_after_each_round": loads},
        lines=[
            f"{who:>6}: " + "  ".join(f"{item['seconds']:.1f} s (init at {item['init']:.1f} s)" for item in items)
            for who, items in rounds.items()
        ]
        + [f"  ours, stages done at: {rounds['ours'][-1]['stages']}", f"  load after each round: {loads}"],
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3, help="rounds of ours and rival in turn (3)")
    arguments.add_argument("--everything", action="store_true", help="with terminal and editor (default: without)")
    arguments.add_argument(
        "--snapshot", action="store_true", help="prepared snapshot, cold start, restore by hand (root)"
    )
    arguments.add_argument("--clones", type=int, default=0, help="that many sessions from one snapshot at once")
    arguments.add_argument("--nested", action="store_true", help="the real Firecracker, in an emulated machine")
    sys.exit(main(__doc__, measure, arguments))
