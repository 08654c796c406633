"""Recipes: what is read, and that every fault is named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from dozlab.images import recipe
from dozlab.lib.errors import BadUsage
from dozlab.lib.units import GIB, MIB
from tests.unit.docs.markdown import first_cells

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
        mask=("getty@tty1.service", "man-db.timer"),
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


ROOTFS = Path(__file__).parents[3] / "rootfs"


@pytest.mark.parametrize(
    "folder",
    [
        *sorted(path.parent for path in ROOTFS.glob("*/recipe.toml")),
        Path(__file__).parents[3] / "tests/machine/recipes/debian12-stock",
    ],
    ids=lambda folder: folder.name,
)
def test_the_recipes_of_this_repository_are_good(folder: Path) -> None:
    assert recipe.load(folder).name == folder.name


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(BadUsage, match="dozlab-vm"):
        recipe.find("dozlab-wm")


def test_a_folder_without_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="no recipe at"):
        recipe.load(tmp_path)


PARENT = (
    GOOD
    + """
[[downloads]]
url = "https://example.org/v1/tool.tar.gz"
checksums = "https://example.org/v1/SHA256SUMS"
to = "/usr/local/bin/"
unpack = true
only = ["tool-1/tool"]
strip = 1
otherwise = "tool"
[[generate]]
name = "tool"
run = ["make", "{out}"]
key = ["cat", "version"]
[[containers]]
archive = "images/web.tar"
[checks]
build = ["test -x /usr/local/bin/tool"]
[[checks.boot]]
name = "the tool runs"
run = "tool --version"
timeout = "2m"
[machine]
cpus = 4
memory = "3Gi"
[kernel]
modules = ["br_netfilter"]
"""
)


def recipes(folder: Path, **texts: str) -> Path:
    """Write recipes, each with a `files/` of its own, and return the folder of them all."""
    for name, text in texts.items():
        (folder / name / "files").mkdir(parents=True)
        (folder / name / "recipe.toml").write_text(text)
    return folder


def test_downloads_commands_checks_and_the_machine_are_read() -> None:
    parsed = recipe.parse(PARENT)
    assert parsed.downloads == (
        recipe.Download(
            url="https://example.org/v1/tool.tar.gz", to="/usr/local/bin", checksum_name="tool.tar.gz",
            checksums="https://example.org/v1/SHA256SUMS", unpack=True, only=("tool-1/tool",), strip=1,
            otherwise="tool",
        ),
    )  # fmt: skip
    assert parsed.generate == (recipe.Generate("tool", ("make", "{out}"), ("cat", "version")),)
    assert parsed.containers == ("images/web.tar",)
    assert parsed.build_checks == ("test -x /usr/local/bin/tool",)
    assert parsed.boot_checks == (recipe.BootCheck("the tool runs", "tool --version", 120),)
    assert (parsed.cpus, parsed.memory, parsed.modules) == (4, 3072, ("br_netfilter",))


def test_a_recipe_is_laid_over_the_one_that_it_extends(tmp_path: Path) -> None:
    folder = recipes(
        tmp_path, small=PARENT,
        more='name = "more"\nextends = "small"\nsize_limit = "2Gi"\npackages = ["jq", "systemd"]\n'
        '[services]\nenable = ["man-db.timer"]\n[machine]\nmemory = "4Gi"\n'
        '[[generate]]\nname = "tool"\nrun = ["other"]\nalways = true\n',
        most='name = "most"\nextends = "more"\nlean = true\n[checks]\nbuild = ["true"]\n',
    )  # fmt: skip
    made = recipe.load(folder / "most")
    assert (made.name, made.suite, made.lean, made.hello_world) == ("most", "trixie", True, True)
    assert made.packages == ("systemd", "openssh-server", "libstdc++6", "jq")
    assert (made.size_limit, made.headroom) == (2 * GIB, 8 * MIB)
    assert made.enable == ("ssh.service", "man-db.timer") and made.mask == ("getty@tty1.service",)
    assert [path.parent.name for path in made.files] == ["small", "more", "most"]
    assert made.folders == tuple(path.parent for path in made.files)
    (command,) = made.generate
    assert (command.run, command.always, command.folder) == (("other",), True, folder / "more")
    assert made.build_checks == ("test -x /usr/local/bin/tool", "true")
    assert (made.cpus, made.memory) == (4, 4096)
    assert len(made.downloads) == len(made.boot_checks) == 1


def test_a_recipe_elsewhere_extends_one_of_the_checkout(tmp_path: Path) -> None:
    recipes(tmp_path, mine='name = "mine"\nextends = "dozlab-vm"\n')
    made = recipe.load(tmp_path / "mine")
    assert made.name == "mine" and "docker.io" in made.packages
    assert made.folders == (ROOTFS / "dozlab-vm", tmp_path / "mine")


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ({"a": 'name = "a"\nextends = "b"\n', "b": 'name = "b"\nextends = "a"\n'}, "cannot be its own parent"),
        ({"a": 'name = "a"\nextends = "a"\n'}, "cannot be its own parent"),
        ({"a": 'name = "a"\nextends = "gone"\n'}, "no recipe gone beside a/"),
        ({"a": 'name = "a"\nextends = "b"\nsuite = "bookworm"\n', "b": GOOD}, "cannot be bookworm"),
        ({"a": 'name = "a"\nextends = "b"\n', "b": GOOD.replace("1Gi", "many")}, "b/recipe.toml: size_limit"),
    ],
)
def test_what_cannot_be_extended_is_one_line(tmp_path: Path, texts: dict[str, str], why: str) -> None:
    with pytest.raises(BadUsage, match=why) as caught:
        recipe.load(recipes(tmp_path, **texts) / "a")
    assert len(str(caught.value).splitlines()) == 1


DIGEST = "0" * 64
BAD = [
    ('url = "ftp://x/y"\nsha256 = "{d}"\nto = "/x"', "downloads.url"),
    ('url = "https://me:pw@x/y"\nsha256 = "{d}"\nto = "/x"', "downloads.url"),
    ('url = "http://x/y"\nchecksums = "https://x/s"\nto = "/x"', "over plain http only with sha256"),
    ('url = "https://x/y"\nto = "/x"', "needs either sha256 or checksums"),
    ('url = "https://x/y"\nsha256 = "{d}"\nchecksums = "https://x/s"\nto = "/x"', "needs either"),
    ('url = "https://x/y"\nchecksums = "http://x/s"\nto = "/x"', "downloads.checksums"),
    ('url = "https://x/y"\nsha256 = "abc"\nto = "/x"', "downloads.sha256"),
    ('url = "https://x/y"\nsha256 = "{d}"\nto = "x"', "downloads.to"),
    ('url = "https://x/y"\nsha256 = "{d}"\nto = "/usr/../x"', "downloads.to"),
    ('url = "https://x/y"\nsha256 = "{d}"\nto = "/x"\nmode = "rwx"', "downloads.mode"),
    ('url = "https://x/y"\nsha256 = "{d}"\nto = "/x"\nonly = ["a"]', "is for unpack = true"),
    ('url = "https://x/y"\nsha256 = "{d}"\nto = "/x"\nunpack = true\nonly = ["../a"]', "downloads.only"),
    ('url = "https://x/y"\nsha256 = "{d}"\nto = "/x"\notherwise = "none"', "no [[generate]] is called none"),
    ('url = "https://x/y"\nsha256 = "{d}"\nto = "/x"\ncolour = 1', "downloads.colour"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_a_faulty_download_is_named(text: str, why: str) -> None:
    with pytest.raises(BadUsage) as caught:
        recipe.parse(GOOD + "[[downloads]]\n" + text.replace("{d}", DIGEST))
    assert why in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[generate]]\nname = "a"\n', "generate.run: must not be empty"),
        ('[[generate]]\nname = "a"\nrun = ["x"]\n[[generate]]\nname = "a"\nrun = ["y"]\n', "a is there twice"),
        ('[[containers]]\narchive = "/etc/x.tar"\n', "containers.archive"),
        ('[[containers]]\narchive = "a/x.tar"\n[[containers]]\narchive = "b/x.tar"\n', "x.tar is there twice"),
        ('[checks]\nbuild = ["a\\nb"]\n', "is not a command of one line"),
        ('[[checks.boot]]\nname = "a"\nrun = "x"\ntimeout = "soon"\n', "checks.boot.timeout"),
        ('[machine]\ncpus = 100\n', "machine.cpus"),
        ('[machine]\nmemory = 2048\n', "less than any machine needs"),
        ('[kernel]\nmodules = ["a b"]\n', "kernel.modules"),
        ('checks = 1\n', "checks: must be a table"),
    ],
)  # fmt: skip
def test_a_faulty_table_is_named(text: str, why: str) -> None:
    with pytest.raises(BadUsage) as caught:
        recipe.parse(text + GOOD if text.startswith("checks =") else GOOD + text)
    assert why in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_every_field_is_in_the_reference() -> None:
    page = (ROOTFS.parent / "docs/reference/recipes.md").read_text()
    tables = {
        "The image": {
            *recipe._FIELDS, "services.enable", "services.mask", "machine.cpus", "machine.memory", "kernel.modules"
        } - {"services", "machine", "kernel", "downloads", "generate", "containers", "checks"},
        "Downloads": set(recipe._DOWNLOAD),
        "Files made by a command": set(recipe._GENERATE),
        "Container images": {"archive"},
        "Checks": {"name", "run", "timeout"},
    }  # fmt: skip
    assert {heading: set(first_cells(page, heading)) for heading in tables} == tables


def test_the_example_of_the_reference_is_a_good_one(tmp_path: Path) -> None:
    page = (ROOTFS.parent / "docs/reference/recipes.md").read_text()
    made = recipe.load(recipes(tmp_path, mylab=page.split("```toml\n")[1].split("```")[0]) / "mylab")
    assert "docker.io" in made.packages and made.packages[-2:] == ("gcc", "make")
    assert made.downloads[0].only == ("tool-linux-amd64/tool",) and len(made.boot_checks) > 1
