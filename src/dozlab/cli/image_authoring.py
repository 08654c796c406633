"""`dozlab image build`, `test`, `sbom` and `diff`: what authors of images do."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dozlab.cli import image_import, output
from dozlab.cli.session_commands import as_json, read_values, values_files, values_set
from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import format_seconds, format_size

if TYPE_CHECKING:
    from dozlab.images.entry import Manifest
    from dozlab.session.boot_checks import Outcome


@click.command()
@click.argument("name")
@click.option("--again", is_flag=True, help="Build even though nothing of the recipe has changed.")
@click.option("--no-network", is_flag=True, help="Only with what is in the cache; says what is missing.")
def build(name: str, again: bool, no_network: bool) -> None:
    """Build an image from a recipe: a name below rootfs/, or a folder with a recipe.toml. `kit` builds the boot kit."""
    begun = time.monotonic()
    cache = paths.cache()
    if name == "kit":
        from dozlab.images import kit

        click.echo(kit.ensure(cache / "kit", progress=output.say))
        return
    manifest = _built(name, again=again, network=not no_network)
    click.echo(
        f"{manifest.name} sha256:{manifest.digest[:12]} {format_size(manifest.size)},"
        f" {len(manifest.packages)} packages, in {format_seconds(time.monotonic() - begun)}"
    )


@click.command()
@click.argument("name")
@values_files
@values_set
@as_json
def test(name: str, files: tuple[Path, ...], sets: tuple[str, ...], form: str) -> None:
    """Boot an image and run its recipe's own checks in the guest. Status 1 when one fails.

    NAME is as for `dozlab image build`, which is done first where the recipe has changed; -f and --set are those of
    `dozlab up`. The session that is started for it is gone afterwards.
    """
    from dozlab.images import recipe as recipes
    from dozlab.session import boot_checks

    raw = read_values(files, sets)
    recipe = recipes.load(recipes.find(name))
    manifest = _built(name, again=False, network=True)
    begun = time.time()
    report = boot_checks.run(
        recipe, manifest.digest, raw, progress=output.say, stages=output.Stages(begun).show, done=_show
    )
    failed = [each for each in report.checks if not each.ok]
    if form == "json":
        stages = output.durations(report.stages)
        told = {"name": recipe.name, "digest": manifest.digest, "size": manifest.size, "ok": not failed}
        output.as_json({**told, "stages": stages, "checks": [asdict(each) for each in report.checks]})
    if failed:
        raise DozlabError(f"{recipe.name} fails its check: {failed[0].name}")
    if form != "json":
        spent = format_seconds(time.time() - begun)
        click.echo(f"{recipe.name} {format_size(manifest.size)}: {len(report.checks)} checks passed, in {spent}")


def _show(outcome: Outcome) -> None:
    mark, took = "✓" if outcome.ok else "✗", format_seconds(outcome.seconds)
    output.say(f"  {mark} {outcome.name:<40} {took:>8}  +{outcome.at:.1f} s")
    for line in outcome.output.splitlines():
        output.say(f"      {line}")


@click.command()
@click.argument("reference", metavar="NAME|DIGEST")
def sbom(reference: str) -> None:
    """Print what an image holds as SPDX 2.3 (JSON): Debian's packages, downloads, what was made for it."""
    from dozlab.images import contents

    click.echo(contents.spdx(_found(reference)), nl=False)


@click.command()
@click.argument("first", metavar="NAME|DIGEST")
@click.argument("second", metavar="NAME|DIGEST")
@as_json
def diff(first: str, second: str, form: str) -> None:
    """Show what the second image has more, less and other than the first: packages, downloads, size."""
    from dozlab.images import contents

    found = contents.difference(_found(first), _found(second))
    if form == "json":
        click.echo(json.dumps(asdict(found), indent=2))
        return
    for name, version in found.removed.items():
        click.echo(f"- {name} {version}")
    for name, version in found.added.items():
        click.echo(f"+ {name} {version}")
    for name, (one, other) in found.changed.items():
        click.echo(f"~ {name} {one} -> {other}")
    one_size, other_size = found.size
    more = other_size - one_size
    click.echo(
        f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed;"
        f" {format_size(one_size)} -> {format_size(other_size)} ({'+' if more >= 0 else '-'}{format_size(abs(more))})"
    )


def _found(reference: str) -> Manifest:
    from dozlab.images.store import Store

    return Store(paths.cache() / "store").inspect(reference)


def _built(name: str, *, again: bool, network: bool) -> Manifest:
    from dozlab.images import build as builder
    from dozlab.images.store import Store

    store = Store(paths.cache() / "store")
    return builder.build(name, store=store, progress=output.say, again=again, network=network, pull=image_import.pull)


COMMANDS: list[click.Command] = [build, test, sbom, diff]
