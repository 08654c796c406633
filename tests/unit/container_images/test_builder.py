"""Builders and releases: the pure parts, and what happens without a Docker daemon."""

from __future__ import annotations

import pathlib

import pytest
from tools import images, images_builder, images_context, release
from tools.images_context import IMAGES
from tools.images_run import Conditions, specification

from dozlab.lib.errors import BadUsage, DozlabError


def test_host_sources_take_this_machines_mirrors_of_debian_12() -> None:
    listing = (
        "bookworm main http://mirror.example/debian/\nbookworm contrib http://mirror.example/debian\n"
        "bookworm-security main http://mirror.example/security\ntrixie main http://mirror.example/debian\n"
    )
    text = images_builder.host_sources(listing, "http://other.example/debian")
    assert text.count("Types: deb\n") == 2
    assert "URIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n" in text
    assert "URIs: http://mirror.example/security\nSuites: bookworm-security\n" in text
    assert "trixie" not in text


def test_host_sources_of_another_debian_fall_back_to_its_mirror() -> None:
    text = images_builder.host_sources("trixie main http://m.example/debian\n", "http://m.example/debian")
    assert "URIs: http://m.example/debian\nSuites: bookworm\n" in text


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("STEP 1\nE: Unable to locate package nosuch\nerror building: 100\n", "Unable to locate package nosuch"),
        ("a\nwriting: No space left on device\nb\n", "writing: No space left on device"),
        ("a\nlast words\n\n", "last words"),
        ("", "no output"),
    ],
)  # fmt: skip
def test_reason(output: str, why: str) -> None:
    assert images_builder.reason(output) == why


def test_a_failed_step_names_its_reason_and_its_log(tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    steps = images_builder.Steps(tmp_path, said.append)
    with pytest.raises(DozlabError, match=r"it failed: E? ?.*broken; see .*build\.log"):
        steps.run(["sh", "-c", "echo E: broken; exit 3"], "it")
    steps.run(["true"], "that")
    assert [line.split(" (")[0] for line in said] == ["that"]


@pytest.mark.parametrize(
    ("registry", "local"),
    [("127.0.0.1:5000/lab", True), ("localhost:5000", True), ("ghcr.io/dozlab", False), ("localhost.example", False)],
)
def test_plain_http_is_for_this_machine(registry: str, local: bool) -> None:
    assert images.is_local(registry) is local


def test_an_unknown_image_is_refused_before_anything_starts() -> None:
    with pytest.raises(BadUsage, match="no image nosuch"):
        images.build_all(["nosuch"])


def test_forget_keeps_the_newest(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for age, name in enumerate("abcde"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dozlab.tar").write_text("")
        os.utime(tmp_path / name / "dozlab.tar", (1000 - age, 1000 - age))
    images.forget(tmp_path, "dozlab", keep="e")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "e"}


def test_chart_versions_must_be_the_releases() -> None:
    assert release.chart_fault('version: 1.2.0\nappVersion: "1.2.0"\n', "1.2.0") == ""
    assert (
        release.chart_fault("version: 1.2.0\nappVersion: 1.1.0\n", "1.2.0")
        == "appVersion is 1.1.0, the release is 1.2.0"
    )
    assert release.chart_fault("version: 1.2.0\n", "1.2.0") == "appVersion is missing, the release is 1.2.0"


def test_sums_are_sorted_for_sha256sum() -> None:
    assert release.sums({"b": "2", "a": "1"}) == "1  a\n2  b\n"


def test_a_test_copy_is_not_published() -> None:
    release.check_firecracker("test-copy", "127.0.0.1:5000/lab")
    release.check_firecracker("release", "ghcr.io/dozlab")
    release.check_firecracker("test-copy", "")
    with pytest.raises(BadUsage, match="unset it"):
        release.check_firecracker("test-copy", "ghcr.io/dozlab")


def test_firecracker_of_an_unknown_kind_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv(images_context.FIRECRACKER_VARIABLE, "nosuch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("dozlab.images.kit.ensure", lambda progress: tmp_path)
    with pytest.raises(BadUsage, match="write release, test-copy or the path"):
        images_context.gather(IMAGES["dozlab-firecracker"], lambda line: None)


def test_a_container_runs_as_a_pod_runs_it() -> None:
    config = {"config": {"Env": ["PATH=/bin"], "WorkingDir": "/"}}
    spec = specification(pathlib.Path("/root-fs"), config, ["a", "b"], Conditions({"A": "1"}))
    process = spec["process"]
    assert process["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [1000]}
    assert process["noNewPrivileges"] is True
    assert set(map(tuple, process["capabilities"].values())) == {()}
    assert spec["root"] == {"path": "/root-fs", "readonly": True}
    assert "PATH=/bin" in process["env"]
    assert "A=1" in process["env"]
