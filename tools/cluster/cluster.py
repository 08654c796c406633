"""`up`, `down`, `status`, `load`, `kubectl`: what tests and the command line use.

No process of ours stays: the components run on their own, known by the record (cluster.json).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tools.cluster import build, certs, config, host, layout, oci, processes
from tools.cluster.layout import Layout
from tools.cluster.processes import Process

from dozlab.lib import files, proc, resolv
from dozlab.lib.errors import DozlabError

Say = Callable[[str], None]

NEEDED = {
    "etcd": "etcd-server",
    "runc": "runc",
    "docker-registry": "docker-registry",
    "nft": "nftables",
    "ip": "iproute2",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "gcc": "build-essential",
}
"""Program -> Debian package."""

DEVICES = ("kvm", "net/tun")
"""Files under /dev that Pods may ask for as dozlab.io/kvm and dozlab.io/tun, where the machine has them."""

VOLUMES = 16
"""Persistent volumes that a new cluster has."""

_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
"""The servers behind systemd-resolved's loopback address, which means nothing in a Pod."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Row:
    """One line of `status`."""

    name: str
    pid: int
    running: bool
    version: str


def up(say: Say, *, at: Layout | None = None, built: Path | None = None) -> Path:
    """Start the cluster and return the administrator's kubeconfig. When it is up already, say so.

    The node is Ready then, Pods can be made in `default`, Services have their addresses.

    :param built: folder of the programs; built where missing when not given
    :raises DozlabError: when something is missing or does not start; what was started is stopped again
    """
    at = at or layout.default()
    _need_root("up")
    for program, package in NEEDED.items():
        proc.need(program, package)
    at.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.locked(at.lock):
        record = files.read_json(at.record)
        if record and all(process.alive for process in _recorded(record).values()) and record.get("ready"):
            say(f"the cluster is up already: {at.kubeconfig}")
            return at.kubeconfig
        if record:
            say("cleaning up after a cluster that was not stopped")
            _down(at, say)
        if other := host.other_kubernetes():
            raise DozlabError(
                f"another Kubernetes uses this machine ({other} exists)", hint="stop it first, or use that one"
            )
        built = built or build.ensure(say)
        try:
            _start(at, built, say)
        except BaseException:
            say("that failed: stopping what was started")
            _down(at, lambda _: None)
            raise
    return at.kubeconfig


def _start(at: Layout, programs: Path, say: Say) -> None:
    record: dict[str, Any] = {
        "programs": str(programs),
        "absent": host.absent(),
        "sysctls": host.sysctls(),
        "tables": sorted(host.tables()),
        "processes": {},
    }
    files.write_json(at.record, record)
    shutil.rmtree(at.logs, ignore_errors=True)
    for folder in (at.certs, at.config, at.config / "cni", at.data, at.volumes, at.logs):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(VOLUMES):
        (at.volumes / f"local-{number:02}").mkdir()
    certs.write_all(at.certs)
    servers = resolv.host_nameservers() or resolv.host_nameservers(_RESOLVED)
    for path, text in config.files(at, proc.need("runc", "runc"), servers).items():
        files.write_atomic(path, text, mode=0o600)
    for name in ("admin", "controller-manager", "scheduler", "kubelet", "proxy"):
        files.write_atomic(at.kubeconfig_of(name), config.kubeconfig(at.certs, name), mode=0o600)
    host.add_link()
    host.add_rules()
    devices = _devices()
    waiting = {part.name: part for part in config.components(at, programs, devices)}
    running: dict[str, Process] = {}

    def begin(*names: str) -> None:
        for name in names:
            if name in waiting:
                running[name] = _begin(at, record, waiting[name])

    def wait(what: str, ready: Callable[[], bool], seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            for name, process in running.items():
                if not process.alive:
                    raise DozlabError(f"{name} ended: {_last(at.logs / f'{name}.log')}", hint=f"see {at.logs}")
            if time.monotonic() > deadline:
                raise DozlabError(f"{what} after {seconds:.0f} s", hint=f"see {at.logs}")
            time.sleep(0.1)
        say(what.replace("not ", ""))

    def ask(*words: str) -> str:
        done = proc.run(_kubectl(at, programs, words), check=False, timeout=30)
        return done.out if done.code == 0 else ""

    def offered(field: str) -> bool:
        return ask("get", "node", layout.NODE, field) not in ("", "0")

    begin("etcd", "containerd", "registry", "kube-apiserver")
    image = at.data / "pause.tar"
    oci.pause(image)
    wait("containerd not ready", lambda: _ctr(at, programs, "version").code == 0)
    _import(at, programs, image)
    wait("API server not ready", lambda: ask("get", "--raw", "/readyz") == "ok")
    begin("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    wait("kubelet not ready", lambda: Path("/var/lib/kubelet/device-plugins/kubelet.sock").exists())
    begin("device-plugin")
    proc.run(_kubectl(at, programs, ("apply", "-f", "-")), input=config.objects(at, VOLUMES).encode(), timeout=60)
    ready = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    wait("node not ready", lambda: ask("get", "node", layout.NODE, ready) == "True")
    wait("service account of Pods not ready", lambda: bool(ask("get", "serviceaccount", "default", "-o=name")))
    wait("Services not ready", lambda: "ip kube-proxy" in host.tables())
    for name in (Path(device).name for device in devices):
        field = f"-o=jsonpath={{.status.allocatable.dozlab\\.io/{name}}}"
        wait(f"device {name} not ready", partial(offered, field))
    record["ready"] = True
    files.write_json(at.record, record)


def _begin(at: Layout, record: dict[str, Any], part: config.Component) -> Process:
    log = at.logs / f"{part.name}.log"
    process = processes.start(part.argv, log, environment(at, Path(record["programs"])))
    record["processes"][part.name] = [process.pid, process.start]
    files.write_json(at.record, record)
    return process


def environment(at: Layout, programs: Path) -> dict[str, str]:
    """Return the environment of every component: a search path, our mark, a proxy for image pulls if there is one."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return passed | {"PATH": f"{programs}:{_PATH}", "HOME": str(at.data), layout.MARK: str(at.root)}


def down(say: Say, *, at: Layout | None = None) -> None:
    """Stop the cluster, delete its data and leave the machine as it was; logs stay until the next `up`.

    Works after any crash, and when nothing is up.

    :raises DozlabError: when something cannot be undone
    """
    at = at or layout.default()
    _need_root("down")
    at.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.locked(at.lock):
        _down(at, say)


def _down(at: Layout, say: Say) -> None:
    record = files.read_json(at.record) or {}
    recorded = _recorded(record)
    running = {name: process for name, process in recorded.items() if process.alive}
    # Controllers first, so that nobody makes a deleted Pod again.
    processes.kill(running[name] for name in ("kube-controller-manager", "kube-scheduler") if name in running)
    if {"kube-apiserver", "etcd", "kubelet", "containerd"} <= running.keys():
        say("deleting Pods")
        words = ("delete", "pods", "--all", "--all-namespaces", "--grace-period=2", "--timeout=15s")
        with contextlib.suppress(DozlabError):
            proc.run(_kubectl(at, Path(record["programs"]), words), check=False, timeout=20)
    say("stopping processes")
    order = ["kubelet", "kube-proxy", "device-plugin", "kube-apiserver", "etcd", "registry", "containerd"]
    left = processes.kill(running[name] for name in order if name in running)
    # The shims, and what an `up` that was killed had no time to record.
    for _ in range(3):
        left = processes.kill(processes.marked(layout.MARK, str(at.root)))
    if left:
        raise DozlabError(f"process {left[0].pid} does not end", hint="then run: make cluster-down")
    if record:
        host.delete_cgroups()
    say("removing mounts, links and rules")
    host.unmount([at.root])
    host.delete_links()
    host.delete_rules(record.get("tables"))
    host.set_sysctls(record.get("sysctls", {}))
    host.delete_outside(record.get("absent", ()))
    for path in at.root.iterdir():
        if path == at.logs:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != at.record:
            path.unlink()
    at.record.unlink(missing_ok=True)  # last: until here a next `down` knows what the machine was like
    say("the cluster is gone" if record else "no cluster was up")


def stop(name: str) -> None:
    """End one component with SIGKILL, as a crash would; `start` brings it back.

    :raises DozlabError: when no cluster is up or there is no such component
    """
    at = layout.default()
    with files.locked(at.lock):
        recorded = _recorded(_record(at))
        if name not in recorded:
            raise DozlabError(f"no component {name}", hint=f"one of: {', '.join(recorded)}")
        processes.kill([recorded[name]])


def start(name: str) -> None:
    """Start a component that has ended. Does not wait until it answers.

    :raises DozlabError: when no cluster is up, there is no such component, or it runs
    """
    at = layout.default()
    with files.locked(at.lock):
        record = _record(at)
        parts = {part.name: part for part in config.components(at, Path(record["programs"]), _devices())}
        if name not in parts:
            raise DozlabError(f"no component {name}", hint=f"one of: {', '.join(parts)}")
        if name in (recorded := _recorded(record)) and recorded[name].alive:
            raise DozlabError(f"{name} runs already (process {recorded[name].pid})")
        _begin(at, record, parts[name])


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """Let one component stand still (SIGSTOP) as long as the block lasts: it answers nobody and loses nothing.

    :raises DozlabError: when no cluster is up or there is no such component
    """
    recorded = _recorded(_record(layout.default()))
    if name not in recorded:
        raise DozlabError(f"no component {name}", hint=f"one of: {', '.join(recorded)}")
    processes.send(recorded[name], signal.SIGSTOP)
    try:
        yield
    finally:
        processes.send(recorded[name], signal.SIGCONT)


def _devices() -> tuple[str, ...]:
    return tuple(name for name in DEVICES if Path("/dev", name).exists())


def _record(at: Layout) -> dict[str, Any]:
    record: dict[str, Any] | None = files.read_json(at.record)
    if not record:
        raise DozlabError("no cluster is up", hint="run: make cluster-up")
    return record


def status(at: Layout | None = None) -> list[Row]:
    """Return a row for each component; none when no cluster is up."""
    at = at or layout.default()
    record = files.read_json(at.record) or {}
    return [
        Row(name, process.pid, process.alive, _version(name, Path(record["programs"])))
        for name, process in _recorded(record).items()
    ]


def _version(name: str, programs: Path) -> str:
    if name == "containerd":
        return build.CONTAINERD
    if name.startswith("kube") or name == "device-plugin":
        return build.KUBERNETES
    argv = {"etcd": ["etcd", "--version"], "registry": ["docker-registry", "--version"]}[name]
    words = proc.run(argv, check=False).out.split()
    return next((word.removeprefix("v") for word in words if word.lstrip("v")[:1].isdigit()), "")


def kubectl(*words: str, input: bytes | None = None, timeout: float = 60.0, check: bool = True) -> proc.Result:
    """Run the cluster's own kubectl as administrator.

    :raises DozlabError: with the last line of its output, when it fails and `check` is set
    """
    at = layout.default()
    return proc.run(_kubectl(at, programs(), words), input=input, timeout=timeout, check=check)


def programs() -> Path:
    """Return the folder with the running cluster's programs, kubectl and ctr among them.

    :raises DozlabError: when no cluster is up
    """
    return Path(_record(layout.default())["programs"])


def _kubectl(at: Layout, programs: Path, words: tuple[str, ...]) -> list[str]:
    return [f"{programs}/kubectl", f"--kubeconfig={at.kubeconfig}", f"--cache-dir={at.data}/kubectl", *words]


def load(file: Path) -> list[str]:
    """Import an OCI or Docker archive into the node and return the images' names, as Pods write them.

    :raises DozlabError: when the archive holds no name or containerd refuses it
    """
    at = layout.default()
    names = archive_names(file)
    if not names:
        raise DozlabError(f"{file} names no image", hint="save it with a full name, as localhost/thing:1")
    _import(at, programs(), file)
    return names


def archive_names(file: Path) -> list[str]:
    """Return the image names an archive holds (OCI layout or `docker save`)."""
    names: list[str] = []
    try:
        with tarfile.open(file) as tar:
            for member in ("index.json", "manifest.json"):
                try:
                    content = tar.extractfile(member)
                except KeyError:
                    continue
                value = json.load(content) if content else {}
                if member == "index.json":
                    notes = [entry.get("annotations", {}) for entry in value.get("manifests", ())]
                    names += [
                        note.get("io.containerd.image.name") or note.get("org.opencontainers.image.ref.name", "")
                        for note in notes
                    ]
                else:
                    names += [tag for entry in value for tag in entry.get("RepoTags") or ()]
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "empty"
        raise DozlabError(f"{file} is no image archive: {reason.rstrip(':')}") from error
    return sorted({name for name in names if ":" in name})


def _import(at: Layout, programs: Path, file: Path) -> None:
    done = _ctr(at, programs, "images", "import", "--local", str(file))
    if done.code:
        raise DozlabError(f"containerd does not take {file}: {done.last_line()}")


def _ctr(at: Layout, programs: Path, *words: str) -> proc.Result:
    argv = [f"{programs}/ctr", "--address", str(at.containerd), "--namespace", "k8s.io", *words]
    return proc.run(argv, check=False, timeout=300)


def _recorded(record: dict[str, Any] | None) -> dict[str, Process]:
    return {name: Process(*found) for name, found in (record or {}).get("processes", {}).items()}


def _last(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1][:300] if lines else "without a word"


def _need_root(verb: str) -> None:
    if os.geteuid() != 0:
        raise DozlabError("a cluster needs root", hint=f"run: sudo .venv/bin/python -m tools.cluster {verb}")
