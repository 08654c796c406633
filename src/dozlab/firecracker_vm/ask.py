"""The verbs of a running machine from inside its container (kubectl exec ... dozlab-run firecracker-vm VERB)."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from dozlab.firecracker_vm.checkpoints import DEFAULT, SAVE_LIMIT
from dozlab.lib.control import call
from dozlab.lib.errors import DozlabError
from dozlab.lib.units import format_size

VERBS = {
    "status": "what the machine does, as JSON",
    "pause": "stop its processors where they are",
    "resume": "let them run on",
    "checkpoint": "save the machine as it is under NAME; it stands still meanwhile",
    "reset": "set it back to checkpoint NAME, or with none to the clean image",
    "forget": "remove checkpoint NAME",
}


def main(words: list[str]) -> int:
    """Ask the firecracker-vm that runs here; returns 0.

    :raises DozlabError: with its words, when it says no or does not answer
    """
    parser = argparse.ArgumentParser(prog="firecracker-vm", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, meaning in VERBS.items():
        one = verbs.add_parser(verb, help=meaning, description=meaning)
        if verb in ("checkpoint", "reset", "forget"):
            one.add_argument("name", nargs="?", default="" if verb == "reset" else DEFAULT)
    told = vars(parser.parse_args(words))
    path = Path(os.environ.get("SHARED_DIR", "/shared")) / "vm.sock"
    if not path.exists():
        raise DozlabError(
            f"nobody answers on {path}: the machine starts, or has ended", hint="see this container's log"
        )
    answer = asyncio.run(call(path, told["verb"], timeout=SAVE_LIMIT, name=told.get("name", "")))
    sys.stdout.write(f"{describe(told['verb'], told.get('name', ''), answer)}\n")
    return 0


def describe(verb: str, name: str, answer: dict[str, Any]) -> str:
    """Return what is printed for an answer. Pure."""
    if verb == "status":
        return json.dumps({key: value for key, value in answer.items() if key not in ("v", "ok")}, indent=2)
    if verb == "checkpoint":
        (size,) = (each["size"] for each in answer["checkpoints"] if each["name"] == name)
        return f"checkpoint {name}: {format_size(size)}"
    if verb == "reset":
        return f"going back to {f'checkpoint {name}' if name else 'the clean image'}"
    return f"checkpoint {name} is removed" if verb == "forget" else f"the machine is {answer['state']}"
