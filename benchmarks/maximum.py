"""The maximum of the live path: callers who post one tweet after the other as fast as they can, until all is delivered.

Half of it is the half load of `bench latency` and of `bench read`.
"""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.callers import locked, share_out
from benchmarks.stage import Ground
from benchmarks.warm_state import Audience
from consumers.applied import wait_until_applied
from consumers.delivered import delivered
from producers.publish import NewTweet

CALLERS = 32  # posts share transactions: with fewer the callers wait, and not the system
APPLIED_LIMIT_S = 600.0


def live_maximum(ground: Ground, audience: Audience, seconds: float, rng: np.random.Generator) -> tuple[float, float]:
    """Tweets and deliveries a second."""
    ground.watcher.step(f"the maximum: {CALLERS} callers post as fast as they can")
    end_s = time.monotonic() + seconds
    posted = 0

    def authors() -> Iterator[int]:
        nonlocal posted
        while time.monotonic() < end_s:
            yield from audience.some_authors(100, rng)
            posted += 100

    def post(author: int) -> None:
        ground.publisher.post(NewTweet(author, f"Measured tweet of user {author}"))

    before, began_s = delivered(ground.stores.clusters).deliveries, time.monotonic()
    share_out(CALLERS, locked(authors()), post)
    wait_until_applied(ground.stores.engine, ground.settings.kafka_bootstrap, APPLIED_LIMIT_S)
    took_s = time.monotonic() - began_s
    deliveries = delivered(ground.stores.clusters).deliveries - before
    ground.watcher.done(f"{posted / took_s:,.0f} tweets and {deliveries / took_s:,.0f} deliveries a second")
    return posted / took_s, deliveries / took_s
