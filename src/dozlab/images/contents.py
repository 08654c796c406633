"""What an image holds, told to others: an SPDX document, and the difference of two images. Pure.

Sources: SPDX 2.3 (JSON), package URLs (purl-spec, type deb).
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from dozlab.images.entry import Manifest, Part
from dozlab.images.manifest import name_for

SUFFIX = ".spdx.json"
_NONE = "NOASSERTION"


def spdx(image: Manifest) -> str:
    """Return the software bill of materials of an image, as SPDX 2.3 in JSON; the same text for the same image."""
    ids, name = _Ids(), image.name or "image"
    whole = {
        **_package(ids, name, f"sha256:{image.digest[:12]}"),
        "checksums": [{"algorithm": "SHA256", "checksumValue": image.digest}],
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    }
    held = [_debian(ids, *each, ours=bool(image.recipe)) for each in sorted(image.packages.items())]
    held += [_part(ids, each) for each in image.parts]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{image.digest}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.created)),
            "creators": ["Tool: dozlab"],
        },
        "packages": [whole, *held],
        "relationships": [
            _related("SPDXRef-DOCUMENT", "DESCRIBES", whole["SPDXID"]),
            *(_related(whole["SPDXID"], "CONTAINS", each["SPDXID"]) for each in held),
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def spdx_name(packed: str) -> str:
    """Return the document's name beside a packed image: `lab.ext4.zst` has `lab.spdx.json`. Empty for other files."""
    return name_for(packed).removesuffix(".json") + SUFFIX if name_for(packed) else ""


@dataclass(frozen=True)
class Difference:
    """What a second image has more, less and other than a first one. Sizes in bytes."""

    added: dict[str, str]
    removed: dict[str, str]
    changed: dict[str, tuple[str, str]]
    """Name -> its version in the first, and in the second."""
    size: tuple[int, int]


def difference(first: Manifest, second: Manifest) -> Difference:
    """Return how two images differ: packages by version, downloads by digest, what commands made by the command."""
    one, other = ({**image.packages, **_versions(image.parts)} for image in (first, second))
    return Difference(
        added={name: other[name] for name in sorted(other.keys() - one.keys())},
        removed={name: one[name] for name in sorted(one.keys() - other.keys())},
        changed={
            name: (one[name], other[name]) for name in sorted(one.keys() & other.keys()) if one[name] != other[name]
        },
        size=(first.size, second.size),
    )


def _versions(parts: tuple[Part, ...]) -> dict[str, str]:
    return {f"{part.name} ({part.to})": f"sha256:{part.sha256[:12]}" if part.sha256 else part.by for part in parts}


class _Ids:
    """Gives SPDX identifiers of letters, digits, dots and hyphens, no two the same."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def new(self, name: str) -> str:
        base = f"SPDXRef-{re.sub('[^A-Za-z0-9.-]', '.', name)}"
        found, number = base, 1
        while found in self._given:
            number += 1
            found = f"{base}.{number}"
        self._given.add(found)
        return found


def _package(ids: _Ids, name: str, version: str, where: str = _NONE) -> dict[str, Any]:
    return {
        "SPDXID": ids.new(name),
        "name": name,
        **({"versionInfo": version} if version else {}),
        "downloadLocation": where,
        "filesAnalyzed": False,
        "licenseConcluded": _NONE,
        "licenseDeclared": _NONE,
        "copyrightText": _NONE,
    }


def _debian(ids: _Ids, name: str, version: str, *, ours: bool) -> dict[str, Any]:
    """Return a package; of one that we installed it is known that it is Debian's."""
    told = _package(ids, name, version)
    if not ours:
        return told
    locator = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}"
    reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}
    return {**told, "supplier": "Organization: Debian", "externalRefs": [reference]}


def _part(ids: _Ids, part: Part) -> dict[str, Any]:
    told = _package(ids, part.name, "", part.url or _NONE)
    if part.sha256:
        told["checksums"] = [{"algorithm": "SHA256", "checksumValue": part.sha256}]
    return {**told, "comment": f"{'made by: ' + part.by if part.by else 'downloaded'}, laid at {part.to}"}


def _related(one: str, how: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other}
