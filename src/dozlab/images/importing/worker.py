"""The process that unpacks: it enters the folder by chroot(2) before it reads a byte of an archive, then reports.

Run as root, in a user namespace for ordinary users (`making.work.as_root`). Reads the job as JSON on stdin; writes JSON
lines: `{"say"}`, and at the end `{"facts"}` or `{"fault", "hint"}`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import encodings.idna  # noqa: F401  # whatever Python loads late would not be found after chroot
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

import zstandard  # noqa: F401  # as above

from dozlab.images.importing import system
from dozlab.images.importing.archive import Layer
from dozlab.images.importing.layers import Tree
from dozlab.images.importing.streams import Part, Tap, unpacked
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import die_with_parent
from dozlab.lib.units import GIB, format_size

_MEMORY = 2 * GIB  # an archive may ask its unpacker for any amount


def main() -> int:
    """Do the job on stdin; return the exit status."""
    die_with_parent()
    job = json.load(sys.stdin)
    try:
        told = work(Path(job["tree"]), [Layer(**each) for each in job["layers"]], job["environment"], job["most"])
    except DozlabError as error:
        _tell(fault=error.message, hint=error.hint)
        return 1
    except MemoryError:
        _tell(fault="the archive needs too much memory to be unpacked", hint="")
        return 1
    except OSError as error:
        _tell(fault=f"cannot unpack: {error.strerror}: {error.filename or ''}", hint="")
        return 1
    _tell(facts=dataclasses.asdict(told))
    return 0


def work(folder: Path, layers: list[Layer], environment: list[str], most: int) -> system.Facts:
    """Unpack the layers in a folder, from which there is no way back, and make a machine's system of them.

    A system that lacks what a machine needs is left as it is.
    """
    os.umask(0)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(layer.path, "rb")) for layer in layers]
        os.chdir(folder)
        os.chroot(folder)
        root = Path("/")
        root.chmod(0o755)
        tree = Tree(root, most)
        count = sum(layer.whiteouts for layer in layers)  # not the files of a recipe
        for number, (layer, file) in enumerate(zip(layers, files, strict=True), 1):
            if count > 1 and layer.whiteouts:
                _tell(say=f"layer {number} of {count} ({format_size(layer.size)})")
            _lay(tree, layer, file, most)
    found = system.facts(root)
    if not found.missing and not found.foreign:
        system.tidy(root, environment)
    return found


def _lay(tree: Tree, layer: Layer, file: BinaryIO, most: int) -> None:
    packed = Tap(Part(file, layer.offset, layer.size), hashed=bool(layer.digest))
    stream = Tap(unpacked(packed), hashed=bool(layer.diff_id), most=most)
    tree.apply(stream, whiteouts=layer.whiteouts)  # type: ignore[arg-type]
    stream.drain()
    packed.drain()
    known = False
    for wanted, tap in ((layer.digest, packed), (layer.diff_id, stream)):
        known = known or bool(wanted)
        if wanted and tap.digest() != wanted:
            raise DozlabError(
                f"a layer is damaged: its digest is {tap.digest()[:19]} instead of {wanted[:19]}",
                hint="make or copy it again",
            )
    if not known and stream.tail.strip(b"\0"):
        raise DozlabError("the archive is cut off: it has no end", hint="make or copy it again")


def _tell(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
