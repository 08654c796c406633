"""Recipes: what is read, and that every fault is named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from dozlab.images import build, recipe
from dozlab.lib.errors import BadUsage
from dozlab.lib.units import GIB, MIB

GOOD = """
name = "small"
suite = "trixie"
packages = ["systemd", "openssh-server", "libstdc++6"]
size_limit = "1Gi"
headroom = "8Mi"
lean = false
hello_world = true
[services]
enable = ["ssh.service"]
mask = ["getty@tty1.service", "man-db.timer"]
"""


def test_a_whole_recipe_is_read() -> None:
    parsed = recipe.parse(GOOD)
    assert parsed == recipe.Recipe(
        name="small", suite="trixie", packages=("systemd", "openssh-server", "libstdc++6"), size_limit=GIB,
        headroom=8 * MIB, lean=False, hello_world=True, enable=("ssh.service",),
        mask=("getty@tty1.service", "man-db.timer"), files=None,
    )  # fmt: skip


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(BadUsage) as caught:
        recipe.parse(
            'name = "Bad Name"\nsuite = 13\npackages = ["a b", "git", "git"]\nsize_limit = "many"\nlean = "yes"\n'
            'colour = 1\n[services]\nenable = ["ssh"]\nstop = []\n',
            where="x.toml",
        )
    lines = str(caught.value).splitlines()
    for part in (
        "name:",
        "suite:",
        "'a b'",
        "git is there twice",
        "size_limit:",
        "lean:",
        "colour:",
        "'ssh'",
        "services.stop",
    ):
        assert [line for line in lines if part in line and line.startswith("x.toml: ")], part
    assert len(lines) == 9


def test_enabled_and_masked_is_a_fault() -> None:
    with pytest.raises(BadUsage, match="both enabled and masked"):
        recipe.parse(GOOD.replace('"man-db.timer"', '"ssh.service"'))


def test_not_toml() -> None:
    with pytest.raises(BadUsage, match="not TOML"):
        recipe.parse("name = ")


@pytest.mark.parametrize(
    "folder",
    [
        Path(__file__).parents[3] / "rootfs/dozlab-vm",
        Path(__file__).parents[3] / "tests/machine/recipes/debian12-stock",
    ],
)
def test_the_recipes_of_this_repository_are_good(folder: Path) -> None:
    assert recipe.load(folder).name == folder.name


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(BadUsage, match="dozlab-vm"):
        build.find("dozlab-wm")


def test_a_folder_without_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="no recipe at"):
        recipe.load(tmp_path)
