"""`python -m dozlab.code_server.confine WORKSPACE PROGRAM [ARGUMENT]...`: run a program that sees only the workspace.

The step between the bridge and sftp-server where bubblewrap is not allowed: Landlock on itself, then exec.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dozlab.code_server import landlock
from dozlab.code_server.sandbox import libraries
from dozlab.lib.errors import DozlabError
from dozlab.lib.proc import run


def main(argv: list[str] | None = None) -> int:
    """Confine this process and become the program."""
    workspace, program, *arguments = sys.argv[1:] if argv is None else argv
    try:
        needed = [program, *libraries(run(["ldd", program]).out)]
        readable = [path for path in map(Path, ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf")) if path.exists()]
        os.chdir(workspace)
        landlock.restrict(
            [
                (Path(workspace), landlock.FOLDER),
                (Path("/dev/null"), landlock.READ | landlock.WRITE_FILE),
                *((Path(path), landlock.RUN) for path in needed),
                *((path, landlock.READ) for path in (*readable, Path("/etc/ld.so.cache"))),
            ]
        )
        os.execv(program, [program, *arguments])  # noqa: S606
    except (DozlabError, OSError) as error:
        sys.stderr.write(f"workspace bridge: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
