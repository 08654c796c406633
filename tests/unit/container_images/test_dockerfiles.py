"""What every Dockerfile of images/ must hold, and what `dozlab-run` makes of its arguments."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tools.images_context import FOLDER, IMAGES, Image

EACH = pytest.mark.parametrize("image", IMAGES.values(), ids=lambda image: image.name)


def dockerfile(image: Image) -> str:
    return (FOLDER / image.name / "Dockerfile").read_text()


def test_every_folder_is_an_image() -> None:
    assert {path.parent.name for path in FOLDER.glob("*/Dockerfile")} == set(IMAGES)


@EACH
def test_base_is_an_argument(image: Image) -> None:
    assert "ARG BASE=debian:bookworm-slim\n" in dockerfile(image)
    assert set(re.findall(r"^FROM (\S+)", dockerfile(image), re.MULTILINE)) == {"${BASE}", "common"}


@EACH
def test_the_first_layers_are_the_same(image: Image) -> None:
    def head(text: str) -> str:
        return text[text.index("# The same first layers") : text.index("COPY common/dozlab-run")]

    assert head(dockerfile(image)) == head(dockerfile(IMAGES["dozlab"]))


@EACH
def test_user_entry_point_and_python(image: Image) -> None:
    text = dockerfile(image)
    assert "\nUSER 1000:1000\n" in text
    assert text.index("USER 1000:1000") > text.rindex("\nRUN ")
    assert '\nENTRYPOINT ["dozlab-run"]\n' in text
    assert "--uid 1000 --user-group" in text
    for name in ("PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "PYTHONSAFEPATH=1"):
        assert name in text
    assert f'\nENV DOZLAB_COMPONENTS="{" ".join(image.components)}"\n' in text
    assert "compileall -q --invalidation-mode unchecked-hash" in text


@EACH
def test_labels(image: Image) -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', dockerfile(image)))
    assert set(labels) == {"title", "description", "licenses", "version", "revision", "source"}
    assert labels["title"] == image.name
    assert labels["licenses"] == "Apache-2.0"


@EACH
def test_packages_come_without_recommends_and_leave_nothing(image: Image) -> None:
    text = dockerfile(image)
    assert text.count("apt-get install") == text.count("--no-install-recommends")
    for step in re.findall(r"^RUN (?:.*\\\n)*.*$", text, re.MULTILINE):
        if "apt-get install" in step:  # the stage that only picks files out is thrown away
            assert "/run/context/clean" in step or "pick-qemu" in step
    assert not re.search(r"https?://(?!github\.com)", text)


@EACH
def test_every_room_is_there_and_no_component_is_in_two_images(image: Image) -> None:
    for room in image.rooms:
        assert (FOLDER.parent / "src/dozlab" / room / "__init__.py").exists()
    for component in image.components:
        assert component.replace("-", "_") in image.rooms
        assert [each.name for each in IMAGES.values() if component in each.components] == [image.name]


def dozlab_run(tmp_path: Path, components: str, *argv: str) -> subprocess.CompletedProcess[str]:
    tini = tmp_path / "tini"
    tini.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    tini.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DOZLAB_COMPONENTS": components}
    return subprocess.run([FOLDER / "dozlab-run", *argv], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("component", [name for image in IMAGES.values() for name in image.components])
def test_dozlab_run_starts_the_component(tmp_path: Path, component: str) -> None:
    done = dozlab_run(tmp_path, f"a {component}", component, "--only", "a b;$(c)")
    module = f"dozlab.{component.replace('-', '_')}"
    assert done.stdout == f"-s|--|/opt/dozlab/bin/python|-m|{module}|--only|a b;$(c)|"


@pytest.mark.parametrize("argv", [(), ("",), ("code-server",), ("init-rootfs network-setup",), ("--help",)])
def test_dozlab_run_says_what_there_is(tmp_path: Path, argv: tuple[str, ...]) -> None:
    done = dozlab_run(tmp_path, "init-rootfs", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: dozlab-run COMPONENT [ARGUMENT]...; this image has: init-rootfs\n"
