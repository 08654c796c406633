"""Runs the real helm and reads what it renders. `python -m tests.chart.render` rewrites the golden files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
SESSION, NODE = REPOSITORY / "charts/dozlab-session", REPOSITORY / "charts/dozlab-node"
HERE = Path(__file__).resolve().parent
EVERYTHING = HERE / "everything.yaml"
NEEDED = ("--set", "rootfs.imageUrl=https://images.example/base.ext4.zst", "--set", "codeServer.password=hunter2222")

Objects = list[dict[str, Any]]
GOLDEN: dict[str, tuple[Path, tuple[str, ...]]] = {
    "defaults": (SESSION, NEEDED),
    "everything": (SESSION, ("-f", str(EVERYTHING))),
    "node": (NODE, ("-f", str(HERE / "node.yaml"))),
}
"""Golden file -> what is rendered."""


@cache
def helm() -> str:
    """Return the program, fetched first where it is missing."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.kubetools"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()[0]


def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm and return what it said, whatever its status."""
    return subprocess.run(
        [helm(), *arguments], input=text, capture_output=True, text=True, check=False, timeout=60, cwd=REPOSITORY
    )


def template(*arguments: str, chart: Path = SESSION, release: str = "lab", values: Any = None) -> str:
    """Return what the chart renders to.

    :raises AssertionError: with helm's words, when it refuses
    """
    return _template(arguments, chart, release, None if values is None else json.dumps(values))


@cache
def _template(arguments: tuple[str, ...], chart: Path, release: str, values: str | None) -> str:
    """Return what `template` does; each way to ask is asked once (helm takes a quarter of a second)."""
    given = ("-f", "-") if values is not None else ()
    done = run("template", release, str(chart), "-n", "labs", *arguments, *given, text=values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(*arguments: str, chart: Path = SESSION, release: str = "lab", values: Any = None) -> Objects:
    """Return the rendered objects."""
    text = template(*arguments, chart=chart, release=release, values=values)
    return [document for document in yaml.load_all(text, Loader=StrictLoader) if document]


def refusal(*arguments: str, values: Any = None) -> list[str]:
    """Return the lines in which helm says why it refuses, without the frame that it puts around them.

    :raises AssertionError: when it does not refuse
    """
    given = ("-f", "-") if values is not None else ()
    done = run("template", "lab", str(SESSION), *arguments, *given, text=None if values is None else json.dumps(values))
    assert done.returncode, "not refused"
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("Use --debug")]
    if lines[0].startswith("Error: values don't meet"):
        assert lines[1] == "dozlab-session:"
        return lines[2:]
    head, _, first = lines[0].partition(":1:4): ")
    assert head.startswith("Error: execution error at"), done.stderr
    return [first, *lines[1:]]


def kind(found: Objects, name: str) -> dict[str, Any]:
    """Return the one object of a kind that is no test."""
    hits = [
        item for item in found
        if item["kind"] == name and "helm.sh/hook" not in item["metadata"].get("annotations", {})
    ]  # fmt: skip
    assert len(hits) == 1, [item["metadata"]["name"] for item in found]
    return hits[0]


def container(found: Objects, name: str) -> dict[str, Any]:
    """Return one container of the session's Pod."""
    spec = kind(found, "Pod")["spec"]
    return next(item for item in spec["initContainers"] + spec["containers"] if item["name"] == name)


def environment(found: Objects, name: str) -> dict[str, str]:
    """Return what a container is told."""
    return {item["name"]: item.get("value", "") for item in container(found, name)["env"]}


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every leaf; list items by their name where they have one."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and node:
        for at, value in enumerate(node):
            name = value.get("name", value.get("mountPath", at)) if isinstance(value, dict) else at
            yield from flat(value, f"{path}[{name}]")
    else:
        yield path, node


def leaves(found: Objects) -> dict[str, Any]:
    """Return path -> value over all objects, paths beginning with Kind/name."""
    return {f"{item['kind']}/{item['metadata']['name']}:{path}": value for item in found for path, value in flat(item)}


def changes(before: Objects, after: Objects) -> dict[str, Any]:
    """Return path -> new value (None where it is gone) of everything that differs."""
    old, new = leaves(before), leaves(after)
    return {
        path: new.get(path)
        for path in sorted(old | new)
        if old.get(path) != new.get(path) or (path in old) != (path in new)
    }


class StrictLoader(yaml.CSafeLoader):
    """Refuses a key that stands twice. libyaml's parser: eight times as fast as Python's."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return the mapping."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{sorted(twice)} twice, {node.start_mark}"
        return super().construct_mapping(node, deep)


def main() -> None:
    """Rewrite the golden files."""
    for name, (chart, arguments) in GOLDEN.items():
        (HERE / f"{name}.golden.yaml").write_text(template(*arguments, chart=chart))
        sys.stdout.write(f"tests/chart/{name}.golden.yaml\n")


if __name__ == "__main__":
    main()
