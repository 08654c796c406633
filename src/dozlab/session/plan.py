"""What a supervisor starts: each component's environment, worked out beforehand from the values.

The launcher writes it, so that the supervisor, which lives as long as the session, need not carry the values' library.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from dozlab.lib import files

Environment = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """One session's processes. `uid`: of the components; None, the user's own."""

    id: str
    uid: int | None
    environments: dict[str, Environment]
    """Component -> environment; a component that is switched off is not in it."""
    read_only: dict[str, str]
    """Name below /mnt -> path on the host, mounted read-only."""
    writable: dict[str, str]
    """The same, mounted writable."""
    certificate: list[str] = field(default_factory=list)
    """The user's files of the terminal's key and certificate; none: plain HTTP."""

    def save(self, path: Path) -> None:
        """Write it down, for us alone."""
        files.write_json(path, asdict(self), mode=0o600)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read it back."""
        return cls(**files.read_json(path))
