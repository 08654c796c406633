"""tools/flux: its command lines, its key, its modules. That the controllers work is in test_controllers.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.flux import build, controllers
from tools.flux.controllers import Ports


def test_helm_controller_finds_source_controller_without_dns() -> None:
    source, helm = controllers.controllers(Path("/p"), Path("/d"), Ports(1, 2, 3))
    assert source.argv[0] == "/p/source-controller"
    assert {"--storage-addr=127.0.0.1:1", "--storage-adv-addr=127.0.0.1:1"} <= set(source.argv)
    assert (source.health, helm.health) == ("http://127.0.0.1:2/readyz", "http://127.0.0.1:3/readyz")


def test_controllers_see_nothing_of_a_tests_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example")
    seen = controllers.environment(Path("/k"), Path("/d"))
    assert seen["KUBECONFIG"] == "/k"
    assert "HTTP_PROXY" not in seen


def test_the_key_follows_flags_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.key()
    assert build.key() == before
    monkeypatch.setattr(build, "KUSTOMIZE", "github.com/fluxcd/kustomize-controller@v0.0.1")
    assert build.key() != before


def test_the_modules_are_pinned_with_their_sums() -> None:
    required = (build.HERE / "go.mod").read_text()
    sums = (build.HERE / "go.sum").read_text()
    for name in build.CONTROLLERS:
        version = re.search(rf"\tgithub.com/fluxcd/{name} (v[\d.]+)\n", required)
        assert version
        assert f"github.com/fluxcd/{name} {version[1]} h1:" in sums
