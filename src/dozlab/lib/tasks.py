"""asyncio tasks that are named, referenced and guarded: a failure is logged when it happens, never lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

log = logging.getLogger(__name__)

_running: set[asyncio.Task[Any]] = set()


async def _guard(coro: Coroutine[Any, Any, Any], name: str) -> Any:
    try:
        return await coro
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("task %s failed", name)
        raise


def start(coro: Coroutine[Any, Any, Any], *, name: str, guard: bool = True) -> asyncio.Task[Any]:
    """Run a coroutine in the background.

    :param guard: log an exception at once; False for a task whose result somebody awaits
    """
    task = asyncio.get_running_loop().create_task(_guard(coro, name) if guard else coro, name=name)
    _running.add(task)
    task.add_done_callback(_forget)
    return task


def _forget(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # seen: _guard has logged it, or the awaiter gets it


async def stop(tasks: Iterable[asyncio.Task[Any]], *, timeout: float = 5.0) -> None:
    """Cancel the tasks and wait; those that do not end in `timeout` seconds are named in the log."""
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    if pending:
        _, stuck = await asyncio.wait(pending, timeout=timeout)
        for task in stuck:
            log.error("task %s did not stop within %.0f s", task.get_name(), timeout)
