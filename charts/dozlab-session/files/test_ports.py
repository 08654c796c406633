"""`helm test`: HOST DEADLINE WHAT:PORT..., where WHAT is `ssh` for its banner, or a path that must answer 200.

`https:` before the path: over TLS. The certificate is for the names that learners use, and so not looked at here.
"""

# ruff: noqa: T201

import http.client
import os
import socket
import ssl
import sys
import time

service, deadline, checks = sys.argv[1], time.monotonic() + float(sys.argv[2]), sys.argv[3:]
# What Kubernetes tells a Pod of the Services there are: it serves without cluster DNS too.
host = os.environ.get(f"{service.upper().replace('-', '_')}_SERVICE_HOST", "")
host = service if host in ("", "None") else host


def ask(what: str, port: int) -> str:
    """Return what is seen there.

    :raises OSError: when it is not what a session shows
    """
    if what == "ssh":
        with socket.create_connection((host, port), timeout=10) as connection:
            line = connection.recv(64).decode(errors="replace").strip()
        if not line.startswith("SSH-2.0"):
            raise OSError(f"no SSH banner but {line!r}")
        return line
    connection = http.client.HTTPConnection(host, port, timeout=10)
    if what.startswith("https:"):
        context = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(host, port, timeout=10, context=context)
    try:
        connection.request("GET", what.removeprefix("https:"))
        status = connection.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP: {error!r}") from error
    finally:
        connection.close()
    if status != 200:
        raise OSError(f"status {status}")
    return "200"


failed = 0
for check in checks:
    what, _, port = check.rpartition(":")
    while True:
        try:
            print(f"ok      {service}:{port} {what}: {ask(what, int(port))}")
            break
        except OSError as error:
            if time.monotonic() > deadline:
                print(f"failed  {service}:{port} {what}: {error}")
                failed = 1
                break
            time.sleep(1)
sys.exit(failed)
