"""Verbs on sessions: up, down, ls, status, logs, ssh, exec, open, doctor."""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dozlab.cli import output
from dozlab.lib.errors import BadUsage, DozlabError
from dozlab.lib.files import read_json
from dozlab.lib.units import format_seconds, format_size
from dozlab.session.layout import COMPONENTS, Layout, check_id

DEFAULT_ID = "lab"
READY_LIMIT = 600.0
"""Seconds until a start is given up; an emulated guest on a busy machine takes two or three minutes."""
DOCKER_LIMIT = 240.0
"""Seconds to wait for Docker after everything else is ready; an image may have none."""
SLOW = 5.0
"""Seconds of a start from which on a prepared snapshot is worth a word."""
MACHINE = ("vm.", "rootfs.", "network.", "firecracker.", "volumes.", "codeServer.enabled=")
"""Beginnings of the values that make the guest's machine what it is."""

as_json = click.option(
    "-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", help="How to print."
)


def complete_id(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return session ids for the shell's completion."""
    from dozlab.session import state

    return [name for name in state.ids() if name.startswith(incomplete)]


session_id = click.argument("session_id", metavar="ID", shell_complete=complete_id)
values_files = click.option(
    "-f", "--values", "files", multiple=True, type=click.Path(path_type=Path), help="Values file (YAML)."
)
values_set = click.option(
    "--set", "sets", multiple=True, metavar="K=V", help="One value, such as vm.memory=4096; repeatable."
)


def read_values(files: tuple[Path, ...], sets: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of files and `--set`s, the later ones laid over the earlier."""
    import yaml

    from dozlab import values

    merged: dict[str, Any] = {}
    for path in files:
        try:
            raw = yaml.safe_load(path.read_text()) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise BadUsage(f"{path}: {error.strerror if isinstance(error, OSError) else 'not a text file'}") from error
        except yaml.YAMLError as error:
            raise BadUsage(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(raw, dict):
            raise BadUsage(f"{path}: must hold a mapping of values")
        merged = values.merge(merged, raw)
    for expression in sets:
        merged = values.merge(merged, values.parse_set(expression))
    return merged


@click.command()
@click.argument("session_id", metavar="[ID]", default="", shell_complete=complete_id)
@values_files
@values_set
@click.option("--image", default="", help="Base image: a name in the store, a URL or a file. Default: dozlab-vm.")
@click.option("--cold", is_flag=True, help="Boot, even where a prepared snapshot is there.")
@click.option(
    "--prepare",
    is_flag=True,
    help="If it had to boot, prepare the image in the background: the next such session starts in seconds.",
)
@click.option("--no-wait", is_flag=True, help="Return as soon as the start is under way.")
@click.option(
    "--no-docker-wait", is_flag=True, help="Return when SSH, terminal and editor are ready; Docker may follow."
)
@click.option("--keep-failed", is_flag=True, help="Leave a session that does not start, to look at its logs.")
def up(
    session_id: str,
    files: tuple[Path, ...],
    sets: tuple[str, ...],
    image: str,
    cold: bool,
    prepare: bool,
    no_wait: bool,
    no_docker_wait: bool,
    keep_failed: bool,
) -> None:
    """Start a session: a machine of its own, its terminal and VS Code.

    The values are the chart's. A stopped session starts again on its own disk.
    Ctrl-C while it starts, and a start that fails, remove the session again (one that existed before is only stopped).
    """
    from dozlab.session import operations, planning, state

    if prepare and no_wait:
        raise BadUsage("--prepare begins when the session is ready: leave out --no-wait")
    raw = read_values(files, sets)
    name = session_id or _id_in(raw) or DEFAULT_ID
    existed = check_id(name) in state.ids()
    begun = time.time()
    layout = Layout(name)
    started = False
    try:
        make_plan = functools.partial(planning.make_plan, cold=cold)
        operations.start(name, raw, image=image, progress=output.say, make_plan=make_plan)
        started = True
        output.say(f"session {name}")
        if not no_wait:
            _follow(layout, begun, docker=not no_docker_wait)
    except KeyboardInterrupt:
        if state.alive(layout):
            output.say("\ninterrupted: stopping the session")
            operations.down(layout, keep=existed, progress=output.say)
        raise
    except DozlabError:
        if started and not keep_failed:
            operations.down(layout, keep=existed, progress=output.say)
        raise
    took = time.time() - begun
    _print_access(layout, took, waited=not no_wait)
    worth_a_word = took > SLOW and not cold
    if no_wait or existed or not (prepare or worth_a_word) or not _could_be_prepared(layout):
        return
    if prepare:
        from dozlab.cli.image_commands import prepare_beside

        log = prepare_beside(image, files, sets)
        click.echo(f"  next time in seconds: the image is being prepared in the background (how it goes: {log})")
    else:
        words = same_machine(["dozlab", "image", "prepare", *([image] if image else [])], files, sets)
        click.echo(f"  next time in seconds: {words}")


def _could_be_prepared(layout: Layout) -> bool:
    """Tell whether a snapshot would help the next such session: this one did not begin with one."""
    from dozlab.session import state

    known = (read_json(layout.vm_data / "disk/base.json") or {}).get("digest")
    return bool(known) and not asyncio.run(state.status(layout)).vm.get("restored")


def same_machine(words: list[str], files: tuple[Path, ...], sets: tuple[str, ...]) -> str:
    """Return a command line with those of the options that make the machine what it is. Pure.

    A password, for one, has no business on the screen.
    """
    for path in files:
        words = [*words, "-f", str(path)]
    for text in sets:
        if text.startswith(MACHINE):
            words = [*words, "--set", text]
    return shlex.join(words)


def _id_in(raw: dict[str, Any]) -> str:
    group = raw.get("session")
    return str(group.get("id", "")) if isinstance(group, dict) else ""


def _follow(layout: Layout, begun: float, *, docker: bool) -> None:
    """Show the stages until everything is ready.

    :raises DozlabError: when the session ends, its guest cannot be reached, or it takes too long
    """
    from dozlab.session import operations

    values = operations.values_of(layout)
    wanted = ["sshd"]
    wanted += ["terminal"] if values.terminal.enabled else []
    wanted += ["editor"] if values.code_server.enabled else []
    watch, stages = operations.Watch(layout), output.Stages(begun)
    deadline = time.monotonic() + READY_LIMIT
    while not watch.done(*wanted):
        stages.show(watch.new())
        watch.check()
        if why := watch.failed("sshd"):
            raise DozlabError(f"session {layout.id} cannot be used: {why}")
        if time.monotonic() > deadline:
            missing = ", ".join(stage for stage in wanted if not watch.done(stage))
            raise DozlabError(
                f"session {layout.id} is not ready after {format_seconds(READY_LIMIT)}: waiting for {missing}",
                hint="see why: dozlab up --keep-failed, then dozlab logs",
            )
        time.sleep(0.05)
    deadline = time.monotonic() + DOCKER_LIMIT
    while docker and not (watch.done("dockerd") or watch.failed("dockerd")) and time.monotonic() < deadline:
        stages.show(watch.new())
        watch.check()
        time.sleep(0.1)
    stages.show(watch.new())


def _print_access(layout: Layout, took: float, *, waited: bool) -> None:
    from dozlab.session import operations, state

    facts = state.Facts.load(layout.facts)
    assert facts is not None
    values = operations.values_of(layout)
    where = state.urls(facts, values.terminal.base_path, tls=values.terminal.tls.served)
    if waited:
        click.echo(f"\n{layout.id} is ready after {format_seconds(took)}.")
    else:
        click.echo(f"\n{layout.id} is starting: dozlab status {layout.id}")
    if values.terminal.enabled:
        click.echo(f"  Terminal  {where['terminal']}")
    if values.code_server.enabled:
        click.echo(f"  VS Code   {where['vscode']}")
    click.echo(f"  Password  {layout.password.read_text()}")
    click.echo(f"  SSH       dozlab ssh {layout.id}")
    click.echo(f"  Stop it   dozlab down {layout.id}")


@click.command()
@click.argument("session_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_id)
@click.option("--all", "everything", is_flag=True, help="Every session.")
@click.option("--keep", is_flag=True, help="Keep disk, workspace and logs: `dozlab up ID` goes on from there.")
def down(session_ids: tuple[str, ...], everything: bool, keep: bool) -> None:
    """Stop sessions and remove them, disk and workspace included (unless --keep)."""
    from dozlab.session import operations, state

    if everything == bool(session_ids):
        raise BadUsage("name the sessions to stop, or --all")
    layouts = [state.find(name) for name in (state.ids() if everything else session_ids)]
    for layout in layouts:
        operations.down(layout, keep=keep, progress=output.say)
        click.echo(f"{layout.id} {'stopped' if keep else 'removed'}")


@click.command("ls")
@as_json
def ls(form: str) -> None:
    """List the sessions of this machine, stopped ones included."""
    from dozlab.session import state

    found = state.all_status()
    if form == "json":
        output.as_json([asdict(item) for item in found])
        return
    if not found:
        click.echo("no sessions; start one: dozlab up")
        return
    rows = []
    for item in found:
        age = format_seconds(time.time() - item.created) if item.created else "-"
        reason = item.reason.splitlines()[0][:60] if item.reason else ""
        rows.append([item.id, item.state, age, item.urls.get("terminal", "-"), item.urls.get("vscode", "-"), reason])
    output.table(["ID", "STATE", "AGE", "TERMINAL", "VSCODE", "REASON"], rows)


@click.command()
@session_id
@as_json
def status(session_id: str, form: str) -> None:
    """Show one session: state, parts, addresses and how long each stage of its start took."""
    from dozlab.session import state

    layout = state.find(session_id)
    item = asyncio.run(state.status(layout))
    stages = output.durations(state.timeline(layout).read())
    if form == "json":
        output.as_json({**asdict(item), "stages": stages})
        return
    click.echo(f"{item.id}: {item.state}" + (f" ({item.reason})" if item.reason else ""))
    for name, where in item.urls.items():
        click.echo(f"  {name:<9} {where}")
    if item.vm.get("vmm"):
        click.echo(
            f"  vm        {item.vm.get('vmm')} with {item.vm.get('accel')}, ssh {_yes(item.vm.get('ssh'))},"
            f" docker {_yes(item.vm.get('docker'))}, boots {item.vm.get('boots')}{_began(item.vm)}"
        )
    for each in item.vm.get("checkpoints", []):
        age = format_seconds(max(0.0, time.time() - each["created"]))
        click.echo(f"  checkpoint {each['name']}: {format_size(each['size'])}, {age} ago")
    for name, part in item.components.items():
        click.echo(f"  {name:<17} {'running' if part['running'] else 'ended'}, restarts {part['restarts']}")
    if stages:
        click.echo("")
        rows = [
            [row["stage"], f"{row['took']:.1f} s", f"+{row['at']:.1f} s", row["event"], row["detail"]] for row in stages
        ]
        output.table(["STAGE", "TOOK", "AT", "EVENT", "DETAIL"], rows)


def _began(vm: dict[str, Any]) -> str:
    """Return what its newest boot began with, where it was none of the ordinary kind."""
    name = vm.get("name")
    words = {"snapshot": "a prepared snapshot", "checkpoint": f"checkpoint {name}", "clean": "the clean image"}
    found = words.get(str(vm.get("how")))
    return f", began with {found}" if found else ""


def _yes(value: Any) -> str:
    return "answers" if value else "does not answer"


@click.command()
@session_id
@click.option(
    "-c",
    "--container",
    "component",
    default="",
    help=f"One of {', '.join(COMPONENTS)}, supervisor, pasta. Default: all.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
@click.option("--tail", type=click.IntRange(0), default=None, help="Only the last N lines.")
def logs(session_id: str, component: str, follow: bool, tail: int | None) -> None:
    """Print the logs of a session's parts; firecracker-vm's holds the guest's console."""
    from dozlab.session import state

    layout = state.find(session_id)
    names = [*COMPONENTS, "supervisor", "pasta"]
    if component and component not in names:
        raise BadUsage(f"no component {component!r}; there are: {', '.join(names)}")
    chosen = [component] if component else names
    offsets: dict[str, int] = {}
    for name in chosen:
        path = layout.log(name)
        data = path.read_bytes() if path.exists() else b""
        offsets[name] = len(data)
        lines = data.decode(errors="replace").splitlines()
        for line in lines[-tail:] if tail else lines if tail is None else []:
            click.echo(line if component else f"[{name}] {line}")
    while follow and state.alive(layout):
        for name in chosen:
            offsets[name] = _print_from(layout.log(name), offsets[name], "" if component else f"[{name}] ")
        time.sleep(0.2)


def _print_from(path: Path, offset: int, prefix: str) -> int:
    """Print whole lines from `offset` on and return the new offset; a log that was started anew is read from 0."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return offset
    with path.open("rb") as file:
        file.seek(offset if size >= offset else 0)
        offset = file.tell()
        while (line := file.readline()).endswith(b"\n"):
            click.echo(prefix + line.decode(errors="replace").rstrip("\n"))
            offset = file.tell()
    return offset


@click.command(context_settings={"ignore_unknown_options": True})
@session_id
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(session_id: str, command: tuple[str, ...]) -> None:
    """Open a shell in the guest, or run a command there: dozlab ssh lab -- docker ps."""
    from dozlab.session import operations, state

    layout = state.find(session_id)
    if not state.alive(layout):
        raise DozlabError(f"session {session_id} is not running", hint=f"start it: dozlab up {session_id}")
    if (read_json(layout.shared / "vm.json") or {}).get("paused") == "asked":  # it would wait without a word
        raise DozlabError(f"session {session_id} is paused", hint=f"let it go on: dozlab resume {session_id}")
    words = operations.ssh_argv(layout, list(command))
    os.execv(words[0], words)  # noqa: S606


@click.command("exec", context_settings={"ignore_unknown_options": True})
@session_id
@click.option("-c", "--container", "component", required=True, help=f"One of {', '.join(COMPONENTS)}.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def exec_(session_id: str, component: str, command: tuple[str, ...]) -> None:
    """Run a command where a part of the session runs: dozlab exec lab -c code-server -- docker ps."""
    from dozlab.session import inside, state

    words = inside.exec_argv(state.find(session_id), component, list(command))
    os.execv(words[0], words)  # noqa: S606


@click.command("open")
@session_id
@click.option("--vscode", is_flag=True, help="VS Code instead of the terminal.")
def open_(session_id: str, vscode: bool) -> None:
    """Open the session's terminal (or VS Code) in the browser."""
    from dozlab.session import operations, state

    item = asyncio.run(state.status(state.find(session_id)))
    url = operations.address(item.id, item.urls, "vscode" if vscode else "terminal")
    click.echo(url)
    if click.launch(url) != 0:
        output.say("no browser could be started; open the address above")


@click.command()
def setup() -> None:
    """Fetch and build what every session uses: boot kit, VS Code, Docker's client. `up` does it too when needed."""
    from dozlab import values
    from dozlab.session import resources

    for name, path in resources.ensure(values.parse({}), output.say).items():
        click.echo(f"{name:<16} {path}")


@click.command()
@as_json
def doctor(form: str) -> None:
    """Say what this machine lacks for sessions, each with the command that fixes it, and which VMM is used and why."""
    from dozlab.session import doctor as examine

    found = examine.checks()
    if form == "json":
        output.as_json([asdict(item) for item in found])
    else:
        for item in found:
            mark = "✓" if item.ok else "✗" if item.needed else "!"
            click.echo(f"{mark} {item.name:<22} {item.detail}")
            if not item.ok and item.fix:
                click.echo(f"  {'':<22} fix: {item.fix}")
    if any(item.needed and not item.ok for item in found):
        raise DozlabError("this machine cannot run sessions yet", hint="run the commands above")


COMMANDS: list[click.Command] = [up, down, ls, status, logs, ssh, exec_, open_, setup, doctor]
