"""What an image holds: the SPDX document, and the difference of two images."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dozlab.cli.main import cli
from dozlab.images import contents, manifest
from dozlab.images.entry import Manifest, Part, read
from dozlab.images.store import Store, copy_sparse
from dozlab.lib import paths

DIGEST = "ab" * 32
TOOL = Part("tool.tar.gz", "/usr/local/bin", url="https://example.org/v1/tool.tar.gz", sha256="cd" * 32)
MADE = Part("engine", "/", by="make engine")
LAB = Manifest(
    DIGEST, 100 << 20, "lab", 1.0e9, {"git": "1:2.47", "libstdc++6": "14", "g++": "14", "g--": "14"}, "recipe",
    parts=(TOOL, MADE),
)  # fmt: skip


def test_the_document_names_all_that_the_image_holds() -> None:
    document = json.loads(contents.spdx(LAB))
    assert (document["spdxVersion"], document["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    assert document["SPDXID"] == "SPDXRef-DOCUMENT" and DIGEST in document["documentNamespace"]
    assert document["creationInfo"] == {"created": "2001-09-09T01:46:40Z", "creators": ["Tool: dozlab"]}
    image, *held = document["packages"]
    assert image["checksums"] == [{"algorithm": "SHA256", "checksumValue": DIGEST}]
    assert [each["name"] for each in held] == ["g++", "g--", "git", "libstdc++6", "tool.tar.gz", "engine"]
    assert held[2]["versionInfo"] == "1:2.47"
    assert held[3]["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/libstdc%2B%2B6@14"
    assert held[4]["downloadLocation"] == TOOL.url and held[4]["checksums"][0]["checksumValue"] == TOOL.sha256
    assert held[5]["downloadLocation"] == "NOASSERTION" and "make engine" in held[5]["comment"]


def test_the_document_is_as_spdx_wants_it() -> None:
    """SPDX 2.3, 7: the fields each package must have; 3.2: identifiers, which are unique."""
    document = json.loads(contents.spdx(LAB))
    ids = [each["SPDXID"] for each in document["packages"]]
    assert len(set(ids)) == len(ids) == 7
    for each in document["packages"]:
        assert re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", each["SPDXID"])
        assert each["name"] and each["downloadLocation"] and each["filesAnalyzed"] is False
    described, *contained = document["relationships"]
    assert described == {
        "spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": ids[0]
    }  # fmt: skip
    assert [each["relatedSpdxElement"] for each in contained] == ids[1:]
    assert {(each["spdxElementId"], each["relationshipType"]) for each in contained} == {(ids[0], "CONTAINS")}


def test_of_an_image_of_others_nobody_says_that_it_is_debians() -> None:
    _, *held = json.loads(contents.spdx(replace(LAB, recipe="")))["packages"]
    assert not [each for each in held if "supplier" in each or "externalRefs" in each]


def test_the_document_lies_beside_the_packed_image() -> None:
    assert contents.spdx_name("lab.ext4.zst") == "lab.spdx.json" and contents.spdx_name("lab.img") == ""


def test_the_difference_of_two_images() -> None:
    other = replace(
        LAB, size=90 << 20, packages={"git": "1:2.48", "libstdc++6": "14", "jq": "1"},
        parts=(replace(TOOL, sha256="ef" * 32),),
    )  # fmt: skip
    found = contents.difference(LAB, other)
    assert found.added == {"jq": "1"}
    assert found.removed == {"engine (/)": "make engine", "g++": "14", "g--": "14"}
    assert found.changed == {
        "git": ("1:2.47", "1:2.48"),
        "tool.tar.gz (/usr/local/bin)": ("sha256:cdcdcdcdcdcd", "sha256:efefefefefef"),
    }
    assert found.size == (100 << 20, 90 << 20)
    assert contents.difference(LAB, LAB) == contents.Difference({}, {}, {}, (LAB.size, LAB.size))


# The store, and what travels


@pytest.fixture
def store(home: Path) -> Store:
    """Two images, `lab` and `more`, with parts."""
    found = Store(paths.cache() / "store")
    for name, data, packages in (("lab", b"a", {"git": "1"}), ("more", b"b", {"git": "2", "jq": "1"})):
        source = home / name
        source.write_bytes(data + bytes((1 << 20) - 1))
        with found.begin() as temp:
            digest = copy_sparse(source, temp)
            found.commit(temp, digest, name=name, packages=packages, recipe="r", cpus=1, memory=256, parts=(TOOL, MADE))
    return found


def run(*words: str) -> str:
    done = CliRunner().invoke(cli, ["image", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_store_keeps_the_parts(store: Store) -> None:
    assert store.inspect("lab").parts == (TOOL, MADE)
    assert read({"digest": DIGEST, "size": 1, "parts": "no list"}) is None


def test_the_command_prints_them(store: Store) -> None:
    assert run("sbom", "lab") == contents.spdx(store.inspect("lab"))
    assert run("diff", "lab", "more").splitlines() == [
        "+ jq 1", "~ git 1 -> 2", "1 added, 0 removed, 1 changed; 1.0 MiB -> 1.0 MiB (+0 B)"
    ]  # fmt: skip
    assert json.loads(run("diff", "more", "lab", "-o", "json")) == {
        "added": {}, "removed": {"jq": "1"}, "changed": {"git": ["2", "1"]}, "size": [1 << 20, 1 << 20]
    }  # fmt: skip


def test_the_manifest_that_travels_has_the_parts() -> None:
    made = manifest.ImageManifest(
        DIGEST, 1, 1, manifest.frames_of(1, 4096, [(1, DIGEST)]), frame_size=4096, parts=(TOOL, MADE)
    )
    assert manifest.parse(made.dump(), where="x") == made
