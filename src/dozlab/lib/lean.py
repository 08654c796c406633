"""Keeps out of a long-lived process what it never uses: a session's own processes have 100 MiB in all.

Only for a process of its own (`python -m`), and before asyncio is imported. `None` in `sys.modules` is the import
system's own mark for "not there"; the standard library does without each of these where Python was built without it.
"""

from __future__ import annotations

import sys
import types

_ARCHIVES = ("bz2", "lzma")  # shutil loads them and their libraries for archives that nobody unpacks here


def without_openssl() -> None:
    """Make `ssl`, OpenSSL's hashes and archive formats unavailable to this process: 3 MiB less.

    asyncio imports ssl whether it is used or not; hashlib then takes Python's own digests. Importing ssl later fails.
    """
    for name in ("ssl", "_hashlib", *_ARCHIVES):
        sys.modules[name] = None  # type: ignore[assignment]


def with_ssl_in_name_only() -> None:
    """The same where a library insists on `import ssl`: it gets a module of names, and any use of TLS fails at once."""
    without_openssl()
    import asyncio  # noqa: F401  (knows that there is no ssl)

    sys.modules["ssl"] = _Names("ssl")


class _Names(types.ModuleType):
    """A constant is 0, anything else an exception class of its own."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        value: object = 0 if name.isupper() else type(name, (Exception,), {"__module__": self.__name__})
        setattr(self, name, value)
        return value
