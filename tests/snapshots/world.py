"""A network of the tests' own: two namespaces, in one of which `dozlab` runs as on a host, the other is its internet.

The internet has a name server, the only one the host knows, and a TLS server whose certificate is good for two days.
Namespaces have no names: they end with the processes that hold them.
"""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import Dozlab
from tests.unit.network_setup.netns import HOLD, Held

NAME = "tls.dozlab.test"
ADDRESS = "198.51.100.10"  # TEST-NET-2 (RFC 5737): open to guests, and nobody's
HOST, GATEWAY = "198.18.53.2/24", "198.18.53.1/24"  # for tests of networks (RFC 2544)


@dataclass
class Placed(Dozlab):
    """The command line in another network and mount namespace."""

    prefix: tuple[str, ...] = field(default=())

    def argv(self, *words: str) -> list[str]:
        """See `Dozlab.argv`."""
        return [*self.prefix, *super().argv(*words)]


class World:
    """Host and internet; `prefix` runs a command on that host, `authority` (PEM) vouches for the server."""

    def __init__(self, folder: Path) -> None:
        self._held: list[Held] = []
        resolv = folder / "resolv.conf"
        resolv.write_text(f"nameserver {ADDRESS}\n")
        self.authority, certificate = _certificates()
        (folder / "server.pem").write_text(certificate)
        try:
            internet = self._hold("unshare", "--net", sys.executable, "-c", HOLD)
            host = self._hold("unshare", "--net", "--mount", sys.executable, "-c", HOLD)
            self.prefix = ("nsenter", f"--net=/proc/{host.pid}/ns/net", f"--mount=/proc/{host.pid}/ns/mnt", "--")
            inside = ("nsenter", f"--net=/proc/{internet.pid}/ns/net", "--")
            for line in (
                f"link add eth0 type veth peer name w0 netns {internet.pid}",
                f"addr add {HOST} dev eth0",
                "link set lo up",
                "link set eth0 up",
                f"route add default via {GATEWAY.partition('/')[0]}",
            ):
                _run(*self.prefix, "ip", *line.split())
            for line in (
                f"addr add {GATEWAY} dev w0",
                f"addr add {ADDRESS}/32 dev lo",
                "link set lo up",
                "link set w0 up",
            ):
                _run(*inside, "ip", *line.split())
            _run(*self.prefix, "mount", "--bind", str(resolv), "/etc/resolv.conf")
            serve = str(Path(__file__).with_name("serve.py"))
            self._hold(*inside, sys.executable, serve, ADDRESS, NAME, str(folder / "server.pem"))
        except BaseException:
            self.close()
            raise

    def _hold(self, *argv: str) -> Held:
        held = Held(argv)
        self._held.append(held)
        return held

    def close(self) -> None:
        """End it all."""
        while self._held:
            self._held.pop().close()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def _certificates() -> tuple[str, str]:
    """Return an authority's certificate, and certificate and key of the server it vouches for; from yesterday on."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("Dozlab's tests", NAME)]
    made = []
    for number in range(2):
        builder = x509.CertificateBuilder(
            issuer_name=names[0],
            subject_name=names[number],
            public_key=keys[number].public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - day,
            not_valid_after=now + day,
        ).add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
        if number:
            alternatives = [x509.DNSName(NAME), x509.IPAddress(ipaddress.IPv4Address(ADDRESS))]
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())
    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made[0], made[1] + key.decode()
