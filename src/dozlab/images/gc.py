"""Which images of a store may go, by age and by size, and their going. An image in use never goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dozlab.images import partial
from dozlab.images.store import Manifest, Store

GRACE = 600.0
"""Seconds since its last use that an image is safe for: a session that starts has chosen it, and has no disk yet."""
DEFAULT_AGE = 30 * 86400.0
"""Seconds: what has not been used for so long goes, where nothing else is said."""


@dataclass(frozen=True)
class Candidate:
    """An image as this decision sees it. `used`: seconds since the epoch; `size`: bytes on the disk."""

    image: Manifest
    used: float
    size: int
    names: tuple[str, ...] = ()
    user: str = ""
    """Who needs it; empty: nobody."""


@dataclass(frozen=True)
class Collected:
    """What went, or would have gone; `left`: bytes of unfinished downloads that nobody goes on with."""

    gone: tuple[Candidate, ...]
    left: int = 0


def choose(
    candidates: Sequence[Candidate], *, now: float, older_than: float | None, max_size: int | None, named: bool
) -> list[Candidate]:
    """Return what goes, the longest unused first. Pure.

    :param older_than: what has not been used for so many seconds goes
    :param max_size: then the longest unused go until the rest has at most so many bytes, those that stay for
        another reason counted
    :param named: images with a name may go as well
    """
    free = [each for each in candidates if not each.user and (named or not each.names) and now - each.used >= GRACE]
    free.sort(key=lambda each: (each.used, each.image.digest))
    gone = [each for each in free if older_than is not None and now - each.used >= older_than]
    total = sum(each.size for each in candidates) - sum(each.size for each in gone)
    for each in free:
        if max_size is None or total <= max_size:
            break
        if each not in gone:
            gone.append(each)
            total -= each.size
    return gone


def candidates(store: Store, in_use: Callable[[str], str]) -> list[Candidate]:
    """Return every image of the store."""
    names: dict[str, list[str]] = {}
    for name, digest in store.names().items():
        names.setdefault(digest, []).append(name)
    found = []
    for each in store.ls():
        try:
            size = store.size(each.digest)
        except FileNotFoundError:  # gone meanwhile
            continue
        used = store.used(each.digest)
        found.append(Candidate(each, used, size, tuple(names.get(each.digest, ())), in_use(each.digest)))
    return found


def collect(
    store: Store,
    *,
    in_use: Callable[[str], str],
    older_than: float | None = None,
    max_size: int | None = None,
    named: bool = False,
    dry_run: bool = False,
) -> Collected:
    """Remove what `choose` says, and unfinished downloads that nobody goes on with.

    A session that takes an image meanwhile keeps it: whether its use is still that of before is asked when it goes,
    under the store's lock, and nobody who has it open loses it.

    :param in_use: asked with a digest; returns who needs it, or an empty text
    :raises DozlabError: in a read-only store
    """
    there = candidates(store, in_use)
    chosen = choose(there, now=time.time(), older_than=older_than, max_size=max_size, named=named)
    if dry_run:
        return Collected(tuple(chosen))
    before = {each.image.digest: each.used for each in there}

    def busy(digest: str) -> str:
        return in_use(digest) or ("a session that starts" if store.used(digest) != before[digest] else "")

    gone = tuple(each for each in chosen if not store.remove(each.image.digest, busy))
    return Collected(gone, store.sweep(older=partial.KEEP))
