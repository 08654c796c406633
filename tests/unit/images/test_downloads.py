"""Downloads of a recipe from a real HTTP server: checksums, what counts as unreachable, what stands in, the cache."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dozlab.images import build, collect, downloads, overlay, recipe
from dozlab.images.store import Store
from dozlab.lib.errors import BadUsage, DozlabError

DATA = b"a tool\n" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Site(ThreadingHTTPServer):
    """Serves `files`; `asked` are the paths asked for; what is in `cut` ends in the middle so many times."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        name = self.path[1:]
        self.server.asked.append(name)
        if name not in self.server.files:
            self.send_error(404)
            return
        data = self.server.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.server.cut.get(name, 0):
            self.server.cut[name] -= 1
            data = data[: len(data) // 2]
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tool(site: Site, **more: object) -> recipe.Download:
    return replace(recipe.Download(f"{site.url}/v1/tool", "/usr/local/bin/tool", sha256=DIGEST, mode=0o755), **more)  # type: ignore[arg-type]


def listed(site: Site) -> recipe.Download:
    return tool(site, sha256="", checksums=f"{site.url}/v1/SHA256SUMS", checksum_name="tool")


def nowhere() -> str:
    """Return an address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}/tool"


def fetch(download: recipe.Download, tmp_path: Path, said: Callable[[str], None] = lambda text: None) -> Path:
    path, sha256 = downloads.fetch(download, tmp_path / "downloads", progress=said)
    assert path.name == sha256
    return path


def left(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "downloads").iterdir()} - {"lock"}


def test_a_file_is_fetched_once(site: Site, tmp_path: Path) -> None:
    site.files["v1/tool"] = DATA
    assert fetch(tool(site), tmp_path).read_bytes() == DATA
    assert fetch(tool(site), tmp_path) == tmp_path / "downloads" / DIGEST
    assert site.asked == ["v1/tool"] and left(tmp_path) == {DIGEST}


def test_the_published_list_says_what_the_file_is(site: Site, tmp_path: Path) -> None:
    site.files |= {"v1/tool": DATA, "v1/SHA256SUMS": f"{'0' * 64}  tool.sig\n{DIGEST} *./tool\n".encode()}
    assert fetch(listed(site), tmp_path).read_bytes() == DATA
    del site.files["v1/SHA256SUMS"]  # the list as it was read last serves
    assert fetch(listed(site), tmp_path).read_bytes() == DATA
    assert downloads.cached(listed(site), tmp_path / "downloads") == (tmp_path / "downloads" / DIGEST, DIGEST)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{DIGEST}\n", DIGEST),
        (f"{DIGEST.upper()}  tool\n", DIGEST),
        (f"SHA256 (tool) = {DIGEST}\n", DIGEST),
        (f"{DIGEST}  other\n", ""),
        (f"{DIGEST[:40]}  tool\n", ""),
        ("<html>not here</html>", ""),
        ("", ""),
    ],
)
def test_lists_of_every_kind_are_read(text: str, found: str) -> None:
    assert downloads.digest_in(text, "tool") == found


def test_another_file_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    site.files |= {"v1/tool": DATA + b"!", "v1/SHA256SUMS": f"{DIGEST}  tool\n".encode()}
    for download in (tool(site), listed(site)):
        with pytest.raises(DozlabError, match="is not the file that its checksum is of") as caught:
            fetch(download, tmp_path)
        assert not isinstance(caught.value, downloads.Unreachable)
    assert DIGEST not in left(tmp_path) and not [name for name in left(tmp_path) if name.startswith(".get")]


def test_a_list_without_the_file_is_a_fault(site: Site, tmp_path: Path) -> None:
    site.files |= {"v1/tool": DATA, "v1/SHA256SUMS": f"{DIGEST}  other\n".encode()}
    with pytest.raises(DozlabError, match="has no sha256 for tool"):
        fetch(listed(site), tmp_path)
    assert "v1/tool" not in site.asked


def test_a_damaged_file_of_the_cache_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    site.files["v1/tool"] = DATA
    fetch(tool(site), tmp_path).write_bytes(DATA[:-1])
    assert downloads.cached(tool(site), tmp_path / "downloads") is None
    assert fetch(tool(site), tmp_path).read_bytes() == DATA


def test_a_cut_transfer_is_begun_anew(site: Site, tmp_path: Path) -> None:
    site.files["v1/tool"], site.cut["v1/tool"], said = DATA, 2, list[str]()
    assert fetch(tool(site), tmp_path, said.append).read_bytes() == DATA
    assert len(said) == 2 and "the connection was lost" in said[0]
    site.cut["v1/tool"] = 3
    (tmp_path / "downloads" / DIGEST).unlink()
    with pytest.raises(downloads.Unreachable, match="the connection was lost"):
        fetch(tool(site), tmp_path)
    assert left(tmp_path) == set()


def test_what_cannot_be_reached(site: Site, tmp_path: Path) -> None:
    with pytest.raises(downloads.Unreachable, match="HTTP 404"):
        fetch(tool(site), tmp_path)
    with pytest.raises(downloads.Unreachable, match="SHA256SUMS: HTTP 404"):
        fetch(listed(site), tmp_path)
    with pytest.raises(downloads.Unreachable, match="refused"):
        fetch(tool(site, url=nowhere()), tmp_path)
    with pytest.raises(downloads.Unreachable, match="no-such-host"):
        fetch(tool(site, url="http://no-such-host.invalid/tool"), tmp_path)


def test_a_redirect_leaves_no_https() -> None:
    import urllib.request

    request = urllib.request.Request("https://example.org/tool")
    with pytest.raises(downloads.Unreachable, match="which is not https"):
        downloads._Redirects().redirect_request(request, io.BytesIO(), 302, "", {}, "http://example.org/tool")


# What a recipe brings together


def made(tmp_path: Path, *, downloads: tuple[recipe.Download, ...], **more: object) -> recipe.Recipe:
    script = (
        "mkdir -p {out}/usr/local/bin && echo made > {out}/usr/local/bin/tool && chmod 750 {out}/usr/local/bin/tool"
    )
    command = recipe.Generate("tool", ("sh", "-c", script), folder=tmp_path)
    given: dict[str, object] = {"generate": (command,), **more}
    return recipe.Recipe("lab", "trixie", ("git",), 1 << 30, downloads=downloads, **given)  # type: ignore[arg-type]


def gather(of: recipe.Recipe, tmp_path: Path, *, network: bool = True) -> tuple[collect.Collected, list[str]]:
    work, said = tmp_path / "work", list[str]()
    work.mkdir()
    return collect.collect(of, tmp_path, work, progress=said.append, network=network), said


def names(of: recipe.Recipe, found: collect.Collected) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of the files that are laid over."""
    out = io.BytesIO()
    overlay.write_tar(out, of, found.pieces, found.containers)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        files = {info.name: (info.mode, tar.extractfile(info).read()) for info in tar if info.isfile()}  # type: ignore[union-attr]
    return {name: what for name, what in files.items() if not name.startswith(overlay.BUILD_DIR)}


def test_a_download_is_laid_over(site: Site, tmp_path: Path) -> None:
    site.files["v1/tool"] = DATA
    of = made(tmp_path, downloads=(tool(site, otherwise="tool"),))
    found, said = gather(of, tmp_path)
    assert names(of, found) == {"usr/local/bin/tool": (0o755, DATA)} and said == []
    (part,) = found.parts
    assert (part.name, part.to, part.sha256) == ("tool", "/usr/local/bin/tool", DIGEST)
    assert part.url == f"{site.url}/v1/tool" and not part.by


def test_a_command_stands_in_for_all_that_it_makes(site: Site, tmp_path: Path) -> None:
    """One of two files is there: the command brings both, and says so."""
    site.files["v1/tool"] = DATA
    gone = tool(site, url=f"{site.url}/gone", sha256="1" * 64, otherwise="tool")
    of = made(tmp_path, downloads=(tool(site, otherwise="tool"), gone))
    found, said = gather(of, tmp_path)
    assert names(of, found) == {"usr/local/bin/tool": (0o750, b"made\n")}
    assert "gone: HTTP 404 Not Found: made here instead, by [[generate]] tool" in said[0]
    (part,) = found.parts
    assert part.name == "tool" and part.by.startswith("sh -c") and not part.url


def test_nothing_stands_in_for_a_wrong_file(site: Site, tmp_path: Path) -> None:
    site.files["v1/tool"] = DATA[1:]
    with pytest.raises(DozlabError, match="is not the file"):
        gather(made(tmp_path, downloads=(tool(site, otherwise="tool"),)), tmp_path)
    assert list((tmp_path / "work").iterdir()) == []


def test_nothing_stands_in_for_a_missing_file_without_otherwise(site: Site, tmp_path: Path) -> None:
    with pytest.raises(downloads.Unreachable, match="404"):
        gather(made(tmp_path, downloads=(tool(site),)), tmp_path)


def test_a_failing_command_is_one_line(tmp_path: Path) -> None:
    bad = recipe.Generate("bad", ("sh", "-c", "echo first; echo no compiler; exit 3"), always=True)
    with pytest.raises(DozlabError) as caught:
        gather(made(tmp_path, downloads=(), generate=(bad,)), tmp_path)
    assert str(caught.value) == "generate bad failed: no compiler"
    (tmp_path / "work").rename(tmp_path / "old")
    with pytest.raises(DozlabError, match="cannot start no-such-program"):
        gather(made(tmp_path, downloads=(), generate=(replace(bad, run=("no-such-program",)),)), tmp_path)


def test_without_a_network_every_missing_file_is_named(site: Site, tmp_path: Path) -> None:
    """What can be made here is not missing."""
    site.files["v1/tool"] = DATA
    fetch(tool(site), tmp_path)
    gone = [tool(site, url=f"{site.url}/{name}", sha256=str(number) * 64) for number, name in enumerate(("a", "b"))]
    of = made(tmp_path, downloads=(*gone, tool(site), replace(gone[0], url=f"{site.url}/c", otherwise="tool")))
    assert [line.partition(": not in ")[0] for line in collect.missing(of, tmp_path)] == [
        f"{site.url}/a", f"{site.url}/b"
    ]  # fmt: skip
    found, said = gather(replace(of, downloads=of.downloads[2:]), tmp_path, network=False)
    assert len(said) == 2 and [part.by[:2] for part in found.parts] == ["", "sh"]
    assert site.asked == ["v1/tool"]


def test_a_build_without_a_network_makes_nothing_when_files_are_missing(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    text = 'name = "lab"\nsuite = "trixie"\npackages = ["git"]\nsize_limit = "1Gi"\n'
    for name in ("a", "b"):
        text += f'[[downloads]]\nurl = "{site.url}/{name}"\nsha256 = "{DIGEST}"\nto = "/{name}"\n'
    (folder / "recipe.toml").write_text(text)
    with pytest.raises(DozlabError) as caught:
        build.build(folder, store=Store(tmp_path / "store"), cache=tmp_path / "cache", network=False)
    lines = str(caught.value).splitlines()
    assert [f"{site.url}/a" in lines[0], f"{site.url}/b" in lines[1]] == [True, True]
    assert not (tmp_path / "store").exists() and site.asked == []


# Archives


def archive(folder: Path, *, evil: str = "") -> Path:
    path = folder / "tool.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, mode in (("tool-1/bin/tool", 0o4755), ("tool-1/README", 0o664), ("tool-1/lib/a.so.1", 0o644)):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid = len(name), mode, 1000
            tar.addfile(info, io.BytesIO(name.encode()))
        for name, kind, target in (
            ("tool-1/lib/a.so", tarfile.SYMTYPE, "a.so.1"),
            ("tool-1/lib/b.so", tarfile.LNKTYPE, "tool-1/lib/a.so.1"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        if evil:
            tar.addfile(tarfile.TarInfo(evil))
    return path


def unpacked(piece: overlay.Piece) -> dict[str, tarfile.TarInfo]:
    out = io.BytesIO()
    overlay.write_tar(out, recipe.Recipe("lab", "trixie", ("git",), 1 << 30), [piece])
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        return {info.name: info for info in tar if not info.name.startswith(overlay.BUILD_DIR)}


def test_an_archive_is_unpacked_as_root_owns_it(tmp_path: Path) -> None:
    found = unpacked(overlay.Piece("archive", archive(tmp_path), "/opt/tool", strip=1))
    assert set(found) == {f"opt/tool/{name}" for name in ("bin/tool", "README", "lib/a.so.1", "lib/a.so", "lib/b.so")}
    assert found["opt/tool/bin/tool"].mode == 0o755 and {info.uid for info in found.values()} == {0}
    assert found["opt/tool/lib/a.so"].issym() and found["opt/tool/lib/a.so"].linkname == "a.so.1"
    assert found["opt/tool/lib/b.so"].isfile() and found["opt/tool/lib/b.so"].size == len("tool-1/lib/a.so.1")


def test_only_some_members_of_an_archive(tmp_path: Path) -> None:
    source = archive(tmp_path)
    only = ("tool-1/bin/tool", "*/a.so*")
    assert set(unpacked(overlay.Piece("archive", source, "/", only=only, strip=2))) == {"tool", "a.so.1", "a.so"}
    with pytest.raises(DozlabError, match="the archive has no tool-1/gone"):
        unpacked(overlay.Piece("archive", source, "/", only=("tool-1/gone",)))


@pytest.mark.parametrize("evil", ["/etc/passwd", "../x", "a/../../x"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, evil: str) -> None:
    with pytest.raises(DozlabError, match="lies outside"):
        unpacked(overlay.Piece("archive", archive(tmp_path, evil=evil), "/opt"))


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    with pytest.raises(DozlabError, match="cannot be read"):
        unpacked(overlay.Piece("archive", tmp_path / "x", "/opt"))


# Container images, and what tells one recipe from another


def test_container_images_come_from_the_recipe_or_from_a_command(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/web.tar").write_bytes(b"web")
    command = recipe.Generate(
        "images", ("sh", "-c", "mkdir -p {out}/images {out}/opt && echo db > {out}/images/db.tar && touch {out}/opt/x"),
        always=True,
    )  # fmt: skip
    of = made(
        tmp_path, downloads=(), generate=(command,), containers=("images/web.tar", "images/db.tar"), folders=(tmp_path,)
    )
    found, _ = gather(of, tmp_path)
    assert set(names(of, found)) == {f"{overlay.IMAGES_DIR}/web.tar", f"{overlay.IMAGES_DIR}/db.tar", "opt/x"}
    (tmp_path / "work").rename(tmp_path / "old")
    with pytest.raises(BadUsage, match=r"no images/gone\.tar"):
        gather(replace(of, containers=("images/gone.tar",)), tmp_path)


def test_a_recipe_is_another_one_when_what_it_makes_may_be(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("a")
    (tmp_path / "version").write_text("1")
    command = recipe.Generate("tool", ("true",), ("cat", "{recipe}/version"), folder=tmp_path)
    base = made(tmp_path, downloads=(), generate=(command,), files=(tmp_path / "files",), folders=(tmp_path,))
    first = build.recipe_id(base)
    assert build.recipe_id(replace(base, boot_checks=(recipe.BootCheck("a", "true"),))) == first
    others = [
        build.recipe_id(replace(base, packages=("git", "jq"))),
        build.recipe_id(replace(base, build_checks=("true",))),
        build.recipe_id(replace(base, memory=1024)),
        build.recipe_id(replace(base, downloads=(recipe.Download("https://x/y", "/y", sha256=DIGEST),))),
    ]
    (tmp_path / "version").write_text("2")
    others.append(build.recipe_id(base))
    (tmp_path / "files/a").write_text("b")
    others.append(build.recipe_id(base))
    assert len({first, *others}) == 7
