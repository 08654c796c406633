"""Images on their way to Pods: mounted by the kubelet, or from a registry with login and own CA; and TLS by value."""

from __future__ import annotations

import http.client
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tools.cluster import layout

from dozlab.images.store import Store
from tests.certificates import write_pair
from tests.cluster.kube import Kube, pod
from tests.cluster.registry import WORD, registry
from tests.cluster.test_troubles import said
from tests.support import until
from tests.tiny import without_services

pytestmark = [pytest.mark.timeout(1200)]


def push(*words: str, **environ: str) -> None:
    """`dozlab image push`, as a teacher does it."""
    argv = [str(Path(sys.executable).with_name("dozlab")), "image", "push", "--level", "1", *words]
    done = subprocess.run(argv, env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    write_pair(folder)
    return folder


def give(kube: Kube, tls: Path) -> None:
    """Put the pair into its Secret."""
    words = ["create", "secret", "tls", "own-tls", f"--cert={tls / 'tls.crt'}", f"--key={tls / 'tls.key'}"]
    made = kube.kubectl(*words, "--dry-run=client", "-o", "yaml").stdout
    kube.kubectl("apply", "-f", "-", input=made)


@pytest.fixture(scope="module")
def mounted(kube: Kube, tls: Path) -> Iterator[str]:
    """A session whose base image the kubelet has mounted, and whose terminal speaks TLS: Ready."""
    push("dozlab-vm", f"oci://{layout.REGISTRY}/labs/dozlab-vm:v1")
    give(kube, tls)
    more = {
        "rootfs__imageUrl": "",
        "rootfs__imageVolume__reference": f"{layout.REGISTRY}/labs/dozlab-vm:v1",
        "terminal__tls__existingSecret__name": "own-tls",
    }
    kube.install("mounted", **more)
    try:
        kube.wait_ready("mounted")
        yield "mounted"
    finally:
        kube.uninstall("mounted")


def test_a_session_from_an_image_volume(kube: Kube, mounted: str) -> None:
    """The kubelet has fetched it; init-rootfs reads it frame by frame, and nobody else sees it."""
    assert kube.guest(mounted, "hostname").strip() == mounted
    assert "from file:///image/image.ext4.zst" in kube.logs(mounted, "init-rootfs")
    events = kube.kubectl("describe", "pod", pod(mounted)).stdout
    assert f'Successfully pulled image "{layout.REGISTRY}/labs/dozlab-vm:v1"' in events
    assert "/image" not in kube.exec(mounted, "firecracker-vm", "cat", "/proc/mounts").split()


def page(port: int, tls: Path) -> int:
    """Return the status of the terminal's health, believing the pair's certificate alone.

    :raises ssl.SSLCertVerificationError: when another one is shown
    """
    context = ssl.create_default_context(cafile=str(tls / "tls.crt"))
    connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_terminal_speaks_tls_and_takes_a_renewed_certificate(kube: Kube, mounted: str, tls: Path) -> None:
    with kube.port_forward(mounted, 8081) as ports:
        assert page(ports[8081], tls) == 200
        write_pair(tls)
        with pytest.raises(ssl.SSLCertVerificationError):
            page(ports[8081], tls)
        give(kube, tls)
        kube.kubectl("annotate", "pod", pod(mounted), "renewed=yes")  # or the kubelet looks in a minute

        def renewed() -> bool:
            try:
                return page(ports[8081], tls) == 200
            except OSError:  # the old one yet, or a connection that kubectl could not make
                return False

        until(renewed, what="the renewed certificate", seconds=300)
    assert kube.container(mounted, "terminal-sidecar")["restartCount"] == 0


def test_helm_test_asks_over_tls(kube: Kube, mounted: str) -> None:
    done = kube.helm("test", mounted, "--timeout", "120s")
    assert "Succeeded" in done.stdout, done.stdout


def test_the_key_is_the_terminals_alone(kube: Kube, mounted: str) -> None:
    assert "0440" in kube.exec(mounted, "terminal-sidecar", "stat", "-L", "-c", "%#04a", "/run/secrets/tls/tls.key")
    for name in ("firecracker-vm", "code-server"):
        assert kube.exec(mounted, name, "ls", "/run/secrets", check=False).split() == (
            ["dozlab"] if name == "code-server" else []
        )


def test_a_registry_with_login_and_own_certificate(kube: Kube, trouble: str, web: str, tmp_path: Path) -> None:
    """The first address has nothing, the second is a registry; the image is too small to become Ready, and need not."""
    cache = tmp_path / "cache"
    Store(cache / "dozlab/store").add_file(without_services(tmp_path), name="small")
    (tmp_path / "registry").mkdir()
    with registry(layout.NODE_IP, tmp_path / "registry") as here:
        url = f"oci://{here.address}/labs/small:v1"
        push("small", url, "--auth-file", str(here.login), "--ca-file", str(here.ca), XDG_CACHE_HOME=str(cache))
        login = {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own-login"},
            "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": here.login.read_text()},
        }  # fmt: skip
        ca = {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own-ca"},
            "data": {"ca.crt": here.ca.read_text()},
        }  # fmt: skip
        kube.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([login, ca]))
        more = {
            "rootfs__imageUrl": f"{web}/missing.ext4.zst",
            "rootfs__mirrors[0]": url,
            "rootfs__auth__existingSecret__name": "own-login",
            "rootfs__ca__configMap__name": "own-ca",
        }
        kube.install(trouble, **more)
        said(kube, trouble, "init-rootfs", f"from {url}")
        log = kube.logs(trouble, "init-rootfs")
        assert "404" in log and "trying the next address" in log
        assert WORD not in log.replace("password", "")
