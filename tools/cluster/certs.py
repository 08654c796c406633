"""Keys and certificates of a throw-away cluster: one authority, P-256, a year. Nothing else.

Who may do what follows from the subject: Kubernetes takes CN as the user and O as the group.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tools.cluster.layout import API_SERVICE_IP, NODE, NODE_IP

from dozlab.lib.files import write_atomic


@dataclass(frozen=True)
class Subject:
    """Who a certificate is for."""

    name: str
    group: str = ""
    hosts: tuple[str, ...] = ()
    """DNS names and addresses it serves under; empty for clients only."""


API_HOSTS = (
    "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
    API_SERVICE_IP, "127.0.0.1", NODE_IP,
)  # fmt: skip

SUBJECTS = {
    "apiserver": Subject("kube-apiserver", hosts=API_HOSTS),
    "apiserver-kubelet": Subject("kube-apiserver-kubelet-client", "system:masters"),
    "admin": Subject("admin", "system:masters"),
    "controller-manager": Subject("system:kube-controller-manager"),
    "scheduler": Subject("system:kube-scheduler"),
    "kubelet": Subject(f"system:node:{NODE}", "system:nodes", (NODE, NODE_IP)),
    "proxy": Subject("system:kube-proxy"),
    "front-proxy": Subject("front-proxy"),
}


def write_all(folder: Path) -> None:
    """Write ca.crt/.key, NAME.crt/.key for each of SUBJECTS, and the pair that signs service-account tokens."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _name(Subject("dozlab-cluster"))
    root = (
        _builder(issuer, issuer, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    _write(folder, "ca", authority, root)
    for name, subject in SUBJECTS.items():
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if subject.hosts else [])]
        builder = (
            _builder(_name(subject), issuer, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if subject.hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in subject.hosts])
            builder = builder.add_extension(names, critical=False)
        _write(folder, name, key, builder.sign(authority, hashes.SHA256()))
    tokens = rsa.generate_private_key(65537, 2048)
    write_atomic(folder / "tokens.key", _pem(tokens), mode=0o600)
    public = tokens.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_atomic(folder / "tokens.pub", public, mode=0o600)


def _name(subject: Subject) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject.group)] if subject.group else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, subject.name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=365))
    )  # fmt: skip


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=sign_certificates, crl_sign=sign_certificates, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    write_atomic(folder / f"{name}.key", _pem(key), mode=0o600)
    write_atomic(folder / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM), mode=0o600)
