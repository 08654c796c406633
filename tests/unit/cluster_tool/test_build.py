"""The build's key and arguments: any input changes the key, pins agree with each other."""

from __future__ import annotations

import shutil
from pathlib import Path

from tools import gobuild
from tools.cluster import build


def _copy(tmp_path: Path) -> Path:
    for target in build.TARGETS:
        shutil.copytree(build.HERE / target.folder, tmp_path / target.folder)
    return tmp_path


def test_key_follows_every_source(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    keys = {build.key(folder)}
    assert keys == {build.key()}
    for file in sorted(folder.glob("*/*")):
        with file.open("a") as out:
            out.write("// changed\n")
        keys.add(build.key(folder))
    assert len(keys) == 1 + len(list(folder.glob("*/*")))


def test_modules_are_pinned_to_the_versions_we_say() -> None:
    kube = (build.HERE / "kube/go.mod").read_text()
    assert f"k8s.io/kubernetes v{build.KUBERNETES}\n" in kube
    staging = f"v0.{build.KUBERNETES.partition('.')[2]}"
    replaced = [line for line in kube.splitlines() if "=>" in line]
    assert len(replaced) == 33
    assert all(line.endswith(f" {staging}") for line in replaced)
    containerd = (build.HERE / "containerd/go.mod").read_text()
    assert f"containerd/v2 v{build.CONTAINERD} " in containerd
    for text in (kube, containerd):
        [needed] = [line.split()[1] for line in text.splitlines() if line.startswith("go ")]
        assert tuple(int(part) for part in needed.split(".")) <= gobuild.GO_MINIMUM


def test_sources_name_every_part() -> None:
    main = (build.HERE / "kube/main.go").read_text()
    assert all(f'case "{part}":' in main for part in build.PARTS)


def test_build_is_reproducible_and_read_only() -> None:
    words = build.arguments(build.TARGETS[0], Path("/out"))
    assert {"-trimpath", "-buildvcs=false", "-mod=readonly"} <= set(words)
    assert f"gitVersion=v{build.KUBERNETES}" in words[words.index("-ldflags") + 1]
