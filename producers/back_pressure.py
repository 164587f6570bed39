"""Back-pressure: no more is taken to write while the relay is behind, rather than promising what comes much later.

One request a second looks for all of them how old the oldest event is that is not in Kafka yet.
"""

import time
from collections.abc import Callable

import sqlalchemy as sa
from anyio.to_thread import run_sync

from infra.database import reading
from infra.errors import DatabaseUnavailable, Overloaded

PERIOD_S = 1.0

_OLDEST = sa.text("SELECT extract(epoch FROM clock_timestamp() - created_at) FROM outbox ORDER BY id LIMIT 1")


def oldest_age_s(engine: sa.Engine) -> float:
    """How long the oldest event has been waiting to be sent; 0 when all are sent."""
    with reading(engine) as connection:
        return float(connection.execute(_OLDEST).scalar_one_or_none() or 0.0)


class BackPressure:
    """What is known of the outbox's age. Used on one event loop."""

    def __init__(self, look: Callable[[], float], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock_s = clock_s
        self._age_s = 0.0
        self._next_look_s = clock_s()

    async def check(self, age_max_s: float) -> None:
        """Raises `Overloaded` when the oldest event was older than this at the last look; never when this is 0."""
        if not age_max_s:
            return
        now_s = self._clock_s()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + PERIOD_S  # before the look, so that nobody else looks meanwhile
            try:
                self._age_s = await run_sync(self._look)
            except DatabaseUnavailable:
                self._age_s = 0.0  # the route asks the same database, and says so
        if self._age_s > age_max_s:
            raise Overloaded(
                f"events have been waiting for {self._age_s:.0f} s to be worked off, and after {age_max_s:.0f} s "
                "nothing more is taken to write; try again later"
            )
