"""Looks at the outbox every two seconds for the relay's metrics: how much is unsent, and for how long.

A standby looks as well: it still tells when the active relay is stuck.
"""

import math
import threading

import sqlalchemy as sa

from infra import metrics
from infra.database import reading
from infra.errors import DatabaseUnavailable

PERIOD_S = 2.0
COUNTED_MAX = 20_000  # rows that one look reads: some milliseconds; beyond that the age says more than the count

_LOOK = sa.text(
    """
    SELECT count(*), greatest(coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0), 0)
    FROM (SELECT created_at FROM outbox ORDER BY id LIMIT :counted_max) AS unsent
    """
)


def look(engine: sa.Engine) -> tuple[int, float]:
    """(unsent events, seconds since the oldest was written); (0, 0.0) when everything is sent."""
    with reading(engine) as connection:
        unsent, age_s = connection.execute(_LOOK, {"counted_max": COUNTED_MAX}).one()
        return int(unsent), float(age_s)


def watch_outbox(engine: sa.Engine, stop: threading.Event) -> None:
    """Keeps both gauges current until `stop` is set; not a number while the database is away."""
    while not stop.is_set():
        try:
            _show(*look(engine))
        except DatabaseUnavailable:
            _show(math.nan, math.nan)
        stop.wait(PERIOD_S)


def _show(unsent: float, age_s: float) -> None:
    metrics.OUTBOX_UNSENT.set(unsent)
    metrics.OUTBOX_AGE.set(age_s)
