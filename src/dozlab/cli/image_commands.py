"""`dozlab image`: prepare, list, inspect, verify and remove base images; the modules beside make and move them."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dozlab.cli import image_authoring, image_import, image_transport, output
from dozlab.cli.session_commands import as_json, read_values, same_machine, values_files, values_set
from dozlab.lib import paths
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import format_seconds, format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from dozlab.images.snapshots import Snapshot


@click.group()
def image() -> None:
    """Base images: build from a recipe, test, prepare for a quick start, fetch and send, list, check, remove."""


@image.command()
@click.argument("name", default="")
@values_files
@values_set
@click.option("--again", is_flag=True, help="Prepare it even though that has been done for such a machine.")
def prepare(name: str, files: tuple[Path, ...], sets: tuple[str, ...], again: bool) -> None:
    """Boot an image once and save the running machine: `dozlab up` then starts from there, in seconds.

    NAME, -f and --set are those of `dozlab up` (its --image, default dozlab-vm). The snapshot serves sessions with the
    same vm.cpuCount, vm.memory, rootfs.diskSize and network addresses; all others boot, as with `dozlab up --cold`.
    """
    _prepare(name, files, sets, again=again)


def _prepare(name: str, files: tuple[Path, ...], sets: tuple[str, ...], *, again: bool = False) -> None:
    from dozlab.images.snapshots import SIZE_LIMIT
    from dozlab.session import image_choice, preparing

    stages = output.Stages(time.time())
    raw = read_values(files, sets)
    done = preparing.prepare(raw, image=name, again=again, progress=output.say, stages=stages.show)
    label = name or ("the image" if raw.get("rootfs", {}).get("imageUrl") else image_choice.DEFAULT_IMAGE)
    what = f"{label} for {preparing.describe(done.snapshot)}"
    if not done.new:
        age = format_seconds(time.time() - done.snapshot.created)
        click.echo(f"{what} was prepared {age} ago; to do it anew: --again")
        return
    for each in done.gone:
        output.say(f"removed {preparing.describe(each)}: all take at most {format_size(SIZE_LIMIT)} together")
    use = same_machine(["dozlab", "up", *(["--image", name] if name else [])], files, sets)
    click.echo(f"{what} prepared in {format_seconds(done.seconds)}; start from it: {use}")


def prepare_beside(name: str, files: tuple[Path, ...], sets: tuple[str, ...]) -> Path:
    """Begin what `prepare` does, in the background; return the file that tells how it goes."""
    from dozlab.session import preparing

    def work() -> int:
        try:
            _prepare(name, files, sets)
        except DozlabError as error:
            output.say(f"error: {error}")
            return error.exit_code
        except KeyboardInterrupt:
            output.say("interrupted")
            return 130
        return 0

    preparing.beside(work)
    return preparing.log()


@image.command("ls")
@as_json
def ls(form: str) -> None:
    """List the images in the store, and the machines each is prepared for."""
    from dozlab.images.store import Store
    from dozlab.session import preparing

    store = Store(paths.cache() / "store")
    names: dict[str, list[str]] = {}
    for name, digest in store.names().items():
        names.setdefault(digest, []).append(name)
    entries, machine = store.ls(), preparing.this_machine()
    prepared = [(each, preparing.stale(each.needs, machine)) for each in preparing.snapshots().ls()]
    of_base: dict[str, list[tuple[Snapshot, str]]] = {}
    for each, why in prepared:
        of_base.setdefault(str(each.needs.get("base")), []).append((each, why))
    if form == "json":
        output.as_json(
            [
                {
                    "digest": e.digest,
                    "size": e.size,
                    "names": names.get(e.digest, []),
                    "prepared": [_facts(each, why) for each, why in of_base.get(e.digest, [])],
                }
                for e in entries
            ]
        )
        return
    if not entries:
        click.echo("no images; build one: dozlab image build dozlab-vm")
    else:
        rows = []
        for entry in entries:
            age = f"{format_seconds(time.time() - entry.created)} ago"
            usable = [preparing.describe(each) for each, why in of_base.get(entry.digest, []) if not why]
            name = ", ".join(names.get(entry.digest, ["-"]))
            rows.append([name, entry.digest[:12], format_size(entry.size), age, ", ".join(usable) or "-"])
        output.table(["NAME", "DIGEST", "SIZE", "CREATED", "PREPARED"], rows)
    if unused := [each.size for each, why in prepared if why]:
        output.say(
            f"{len(unused)} of what was prepared is of no use any more ({format_size(sum(unused))}): dozlab image gc"
        )


def _facts(snapshot: Snapshot, stale: str) -> dict[str, Any]:
    """Return what programs are told of a snapshot; `stale`: why it is of no use any more."""
    told = ("cpus", "memory", "disk", "vmm", "accel", "kit")
    return {
        **{name: snapshot.needs.get(name) for name in told},
        "size": snapshot.size,
        "created": snapshot.created,
        "path": str(snapshot.folder),
        "stale": stale,
    }


@image.command()
@click.argument("reference", metavar="NAME|DIGEST")
@as_json
def inspect(reference: str, form: str) -> None:
    """Show one image: digest, size, packages."""
    from dozlab.images.store import Store

    store = Store(paths.cache() / "store")
    found = store.inspect(reference)
    if form == "json":
        output.as_json({**asdict(found), "path": str(store.path(found.digest))})
        return
    click.echo(f"name      {found.name or '-'}")
    click.echo(f"digest    sha256:{found.digest}")
    click.echo(f"size      {format_size(found.size)}")
    click.echo(f"file      {store.path(found.digest)}")
    click.echo(f"packages  {len(found.packages)} (-o json lists them)")
    for part in found.parts:
        click.echo(f"part      {part.name} at {part.to}, {part.url or f'made by: {part.by}'}")
    if found.cpus or found.memory:
        click.echo(f"machine   {found.cpus or 'any'} vCPUs, {found.memory or 'any'} MiB, unless told otherwise")


@image.command()
@click.argument("references", metavar="NAME|DIGEST", nargs=-1, required=True)
def rm(references: tuple[str, ...]) -> None:
    """Remove images that no session needs, with what was prepared of them."""
    from dozlab.images.store import Store
    from dozlab.session import state

    for reference in references:
        gone = Store(paths.cache() / "store").rm(reference, in_use=state.who_needs)
        prepared = _remove_prepared(gone.digest)
        also = f", and {format_size(prepared)} prepared" if prepared else ""
        click.echo(f"{reference} removed ({format_size(gone.size)}{also})")


def _remove_prepared(digest: str) -> int:
    """Remove what was prepared of an image; return its bytes."""
    from dozlab.session import preparing

    prepared = preparing.of_base(digest)
    for each in prepared:
        preparing.snapshots().rm(each)
    return sum(each.size for each in prepared)


def _remove_stale(gone: set[str], *, dry_run: bool) -> int:
    """Remove prepared snapshots that no start can use any more, and say so; return their bytes.

    :param gone: digests of images that go; in a dry run they are still there
    """
    from dozlab.session import preparing

    machine, freed = preparing.this_machine(), 0
    machine = replace(machine, bases=machine.bases - gone)
    for each in preparing.snapshots().ls():
        if why := preparing.stale(each.needs, machine):
            freed += each.size
            base = str(each.needs.get("base"))[:12]
            click.echo(f"{base} prepared for {preparing.describe(each)}: {why}")
            if not dry_run:
                preparing.snapshots().rm(each)
    return freed if dry_run else freed + preparing.snapshots().sweep()


class Age(click.ParamType[float]):
    """A time such as 12h or 30d, in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        try:
            return float(parse_duration(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType[int]):
    """A size such as 20G, in bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@image.command()
@click.option("--older-than", type=Age(), help="Remove what no session has used for so long: 12h, 30d.")
@click.option(
    "--max-size", type=Size(), help="Then remove the longest unused until the images take at most so much: 20G."
)
@click.option("--all", "named", is_flag=True, help="Images with a name may go as well.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(older_than: float | None, max_size: int | None, named: bool, dry_run: bool) -> None:
    """Remove images that no session needs, a stopped one included, by age and by size (30 days, unless told otherwise).

    Images with a name stay without --all. Unfinished downloads that nobody has gone on with for a day go as well, and
    what was prepared (`dozlab image prepare`) of an image that is gone, or for an older boot kit, VMM or processor.
    """
    from dozlab.images import gc as collector
    from dozlab.images.store import Store
    from dozlab.session import state

    if older_than is None and max_size is None:
        older_than = collector.DEFAULT_AGE
    done = collector.collect(
        Store(paths.cache() / "store"), in_use=state.who_needs, older_than=older_than, max_size=max_size, named=named,
        dry_run=dry_run,
    )  # fmt: skip
    freed = done.left
    for each in done.gone:
        freed += each.size
        name = f"{', '.join(each.names)} " if each.names else ""
        age = format_seconds(max(0.0, time.time() - each.used))
        click.echo(f"{name}{each.image.digest[:12]}  {format_size(each.size)}, used {age} ago")
    freed += _remove_stale({each.image.digest for each in done.gone}, dry_run=dry_run)
    click.echo(f"{format_size(freed)} {'would be freed' if dry_run else 'freed'}")


@image.command()
@click.argument("references", metavar="[NAME|DIGEST]...", nargs=-1)
@click.option("--full", is_flag=True, help="Read everything and compare the sha256, too.")
def verify(references: tuple[str, ...], full: bool) -> None:
    """Check images of the store, all of them where none is named. Status 1 when one is damaged."""
    from dozlab.images.store import Store

    store = Store(paths.cache() / "store")
    found = [store.inspect(each) for each in references] if references else store.ls()
    names = {digest: name for name, digest in store.names().items()}
    damaged = 0
    for each in found:
        fault = store.check(each.digest, full=full)
        damaged += bool(fault)
        click.echo(f"{names.get(each.digest, '-')} {each.digest[:12]}  {fault or 'ok'}")
    if damaged:
        raise DozlabError(
            f"{damaged} of {len(found)} images are damaged",
            hint="remove them (dozlab image rm), then build or fetch them again",
        )


for each in (*image_authoring.COMMANDS, *image_import.COMMANDS, *image_transport.COMMANDS):
    image.add_command(each)
COMMANDS: list[click.Command] = [image]
