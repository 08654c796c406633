"""Base images in a registry: pulled and pushed (OCI image and distribution spec 1.1).

There they are container images of two layers (`images/layers.py`): the manifest, and the packed file, frame by frame.
Only so can a kubelet mount the same one as a volume: containerd mounts no artifacts (containerd#11907). An annotation
tells them from other images. A registry on a loopback address may speak plain HTTP, as Docker has it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

from dozlab.images import layers, manifest
from dozlab.images.manifest import ImageManifest
from dozlab.init_rootfs import auth
from dozlab.init_rootfs.client import Client, Cut, refusal
from dozlab.init_rootfs.source import BLOCK, HttpSource, Meta, Source
from dozlab.init_rootfs.urls import is_loopback, origin, shown
from dozlab.lib.errors import BadUsage, DozlabError, TransientError

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

MARK = "io.dozlab.image.sha256"
"""Annotation of a base image: the digest of what is packed in it."""
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

_MAX_MANIFEST = 4 << 20  # distribution spec: registries should take manifests up to 4 MiB
_REFERENCE = re.compile(
    r"^oci://(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?P<port>:\d+)?"
    r"/(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Reference:
    """What an oci:// address names. `host` with its port."""

    host: str
    repository: str
    tag: str = "latest"
    digest: str = ""

    @property
    def wanted(self) -> str:
        """Return what the registry is asked for: the digest where one is given."""
        return self.digest or self.tag


def parse(url: str) -> Reference:
    """Return what the address names. Pure.

    :raises BadUsage: when it is none
    """
    found = _REFERENCE.match(url)
    if not found:
        raise BadUsage(f"not the address of an image in a registry: {shown(url)} (oci://HOST[:PORT]/NAME[:TAG])")
    return Reference(
        found["host"].lower() + (found["port"] or ""), found["repository"], found["tag"] or "latest",
        found["digest"] or "",
    )  # fmt: skip


class Login:
    """Who we are to one registry: nobody at first, then what its challenge asks for (basic, or a token it gives)."""

    def __init__(self, client: Client, host: str, scope: str) -> None:
        self._client, self._host, self._scope = client, host, scope
        self._value = ""

    def header(self, url: str) -> str:
        """Return the Authorization header for the registry itself; where it sends us on to gets nothing."""
        if not self._value or urlsplit(url).netloc.lower() != self._host:
            return ""
        scheme, host, _ = origin(url)
        auth.refuse_clear(scheme, host)
        return self._value

    def renew(self, response: httpx2.Response) -> bool:
        """Take up the challenge of a 401 (distribution spec, RFC 7235)."""
        before = self._value
        kind, _, rest = response.headers.get("www-authenticate", "").partition(" ")
        own = self._client.credentials.header(str(response.url))
        if kind.lower() == "basic" or own.startswith("Bearer "):
            self._value = own
            return bool(own) and own != before
        told = dict(_CHALLENGE.findall(rest))
        if kind.lower() != "bearer" or "realm" not in told:
            return False
        self._value = f"Bearer {self._token(told, own)}"
        return True

    def _token(self, told: dict[str, str], own: str) -> str:
        realm = urljoin(f"https://{self._host}", told["realm"])
        query = {"scope": told.get("scope", self._scope), **({"service": told["service"]} if "service" in told else {})}
        scheme, host, _ = origin(realm)
        if own:
            auth.refuse_clear(scheme, host)
        headers = {"Authorization": own} if own else {}
        text = self._client.text(f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}", headers, 1 << 20)
        try:
            answer = json.loads(text)
            return str(answer.get("token") or answer["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise DozlabError(f"{shown(realm)} gives no token") from error


class Registry:
    """One repository of a registry."""

    def __init__(self, client: Client, reference: Reference, *, push: bool = False) -> None:
        self._client, self.reference = client, reference
        scope = f"repository:{reference.repository}:{'pull,push' if push else 'pull'}"
        self.login = Login(client, reference.host, scope)
        self._base = self._find()

    def _find(self) -> str:
        """Return the address of the repository. A loopback registry that speaks no TLS is asked without."""
        host = self.reference.host
        try:
            self._open("GET", f"https://{host}/v2/").close()
            return f"https://{host}/v2/{self.reference.repository}"
        except TransientError:
            if not is_loopback(origin(f"https://{host}")[1]):
                raise
        self._client.retry(lambda: self._open("GET", f"http://{host}/v2/")).close()
        return f"http://{host}/v2/{self.reference.repository}"

    def _open(
        self, method: str, url: str, headers: dict[str, str] | None = None, content: Any = None
    ) -> httpx2.Response:
        return self._client.open(url, headers or {}, auth=self.login, method=method, content=content)

    # -- pull

    def blob_url(self, digest: str) -> str:
        """Return where a blob lies."""
        return f"{self._base}/blobs/{digest}"

    def manifest_url(self, wanted: str) -> str:
        """Return where the manifest of a tag or digest lies."""
        return f"{self._base}/manifests/{wanted}"

    def document(self, url: str, digest: str, most: int, accept: str = "*/*") -> bytes:
        """Return a small document, checked against its digest where one is given.

        :raises DozlabError: when it is not there or not the one
        """
        text = self._client.retry(lambda: self._client.text(url, {"Accept": accept}, most, auth=self.login))
        if digest and _digest(text) != digest:
            raise DozlabError(f"{shown(url)} has not the digest {digest[:19]}", hint="push it again")
        return text

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the container image.

        :raises DozlabError: when there is none, or it is no base image
        """
        at = self.reference
        url = f"{self._base}/manifests/{at.wanted}"
        name = f"{at.host}/{at.repository}:{at.wanted}"
        try:
            told = json.loads(self.document(url, at.digest, _MAX_MANIFEST, OCI_MANIFEST))
            ours = MARK in told.get("annotations", {})
            kind = str(told.get("artifactType") or told["config"]["mediaType"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DozlabError(f"{name} has no manifest that is understood") from error
        if not ours:
            raise DozlabError(
                f"{name} is no base image, but {kind}", hint="push one there: dozlab image push NAME oci://..."
            )
        return dict(told)

    # -- push

    def put_blob(self, digest: str, size: int, content: Any) -> bool:
        """Upload a blob unless it is there; tell whether it was uploaded.

        :param content: called for the bytes
        """
        url = self.blob_url(digest)
        head = self._open("HEAD", url)
        head.close()
        if head.status_code == 200:
            return False
        begun = self._expect(self._open("POST", f"{self._base}/blobs/uploads/", {"Content-Length": "0"}), url, 202)
        place = urljoin(str(begun.url), begun.headers["location"])
        place += ("&" if "?" in place else "?") + urlencode({"digest": digest})
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        self._expect(self._open("PUT", place, headers, content), url, 201)
        return True

    def put_manifest(self, text: bytes) -> str:
        """Upload the container image's manifest under its tag; return its digest."""
        url = f"{self._base}/manifests/{self.reference.wanted}"
        self._expect(self._open("PUT", url, {"Content-Type": OCI_MANIFEST}, lambda: text), url, 201)
        return _digest(text)

    def _expect(self, response: httpx2.Response, url: str, status: int) -> httpx2.Response:
        said = ""
        try:
            if response.status_code >= 400:
                said = _reason(b"".join(self._client.body(response))[:4096])
        except Cut:
            pass
        finally:
            response.close()
        if response.status_code != status:
            error = refusal(response, url)
            raise type(error)(error.message.replace("download", "push", 1) + said, hint=error.hint)
        return response


class Inside(Source):
    """The packed file in its layer of a registry: the blob without what stands before and behind it."""

    def __init__(self, blob: HttpSource, digest: str, length: int) -> None:
        self._blob = blob
        self.meta = Meta(digest, "", length)
        self.unchanged = False

    def __exit__(self, *error: object) -> None:
        self._blob.__exit__(*error)

    def blocks(self, start: int = 0) -> Iterator[bytes]:
        """Yield the file's bytes from `start` on."""
        left = self.meta.length - start
        for block in self._blob.blocks(layers.START + start):
            yield block[:left]
            left -= len(block)
            if left <= 0:
                return

    def span(self, start: int, end: int) -> Iterator[bytes]:
        """Yield a part of the file; several threads may at once."""
        return self._blob.span(layers.START + start, layers.START + end)


def open_image(client: Client, url: str) -> tuple[ImageManifest, Source]:
    """Return the manifest of an image in a registry, and the source of its bytes.

    :raises DozlabError: when there is none; TransientError when a later try may work
    """
    registry = Registry(client, parse(url))
    told = registry.manifest()
    try:
        about, image = told["layers"]
        length, digest = int(image["size"]), str(image["digest"])
        text = registry.document(registry.blob_url(str(about["digest"])), str(about["digest"]), manifest.MAX_TEXT)
    except (ValueError, KeyError, TypeError) as error:
        raise DozlabError(f"{shown(url)} has no manifest that is understood") from error
    found = manifest.parse(layers.read(text, layers.MANIFEST, where=shown(url)), where=shown(url))
    if layers.length(found.length) != length:
        raise DozlabError(f"{shown(url)} does not match its own manifest", hint="push it again")
    blob = HttpSource(client, registry.blob_url(digest), auth=registry.login, fixed=Meta(digest, "", length))
    return found, Inside(blob, digest, found.length)


def push(client: Client, packed: Path, image: ImageManifest, url: str) -> str:
    """Push a packed image with its manifest; return the digest of the container image.

    :raises DozlabError: when the registry refuses or cannot be reached
    """
    registry = Registry(client, parse(url), push=True)
    size = packed.stat().st_size
    sum256 = hashlib.sha256()
    for block in _tar(packed, size):
        sum256.update(block)
    blob = f"sha256:{sum256.hexdigest()}"
    registry.put_blob(blob, layers.length(size), lambda: _tar(packed, size))
    about = layers.layer(layers.MANIFEST, image.dump().encode())
    config = _json(
        {
            "architecture": "amd64",  # as the machines are: boot kit and VMM know no other
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(about), blob]},
        }
    )
    for data in (about, config):
        registry.put_blob(_digest(data), len(data), lambda data=data: data)
    told = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": _digest(config), "size": len(config)},
        "layers": [
            {"mediaType": OCI_LAYER, "digest": _digest(about), "size": len(about)},
            {"mediaType": OCI_LAYER, "digest": blob, "size": layers.length(size)},
        ],
        "annotations": {MARK: image.sha256, "org.opencontainers.image.title": image.name or "image"},
    }
    return registry.put_manifest(_json(told))


def _tar(path: Path, size: int) -> Iterator[bytes]:
    """Yield the layer of a packed image."""
    yield layers.head(layers.FILE, size)
    yield from _blocks(path)
    yield layers.tail(size)


def _json(told: dict[str, Any]) -> bytes:
    return json.dumps(told, indent=2).encode()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _reason(body: bytes) -> str:
    """Return the words of a registry's error document, with what goes before them; empty when there are none."""
    try:
        first = json.loads(body)["errors"][0]
        return f" ({first.get('message') or first['code']})"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return ""
