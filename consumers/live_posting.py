"""Calls that threads hand to the event loop, in order, and wait for: so a slow loop holds up who reads for it."""

import asyncio
import threading
from collections.abc import Callable, Sequence

STOPPED_POLL_S = 0.1

Call = Callable[[], None]


def post(loop: asyncio.AbstractEventLoop, stopped: threading.Event, calls: Sequence[Call]) -> None:
    """Returns when the loop has made the calls, or whoever asks is stopped."""
    if not calls:
        return
    made = threading.Event()
    try:
        loop.call_soon_threadsafe(_make, calls, made)
    except RuntimeError:  # the loop has ended, and every stream with it
        return
    while not made.wait(STOPPED_POLL_S) and not stopped.is_set():
        continue


def _make(calls: Sequence[Call], made: threading.Event) -> None:
    for call in calls:
        call()
    made.set()
