"""Housekeeping beside the relay: removes idempotency keys that are over a day old, and ends the erasing of users that
somebody began and left. Every step is repeatable, so several relays may do it at the same time.
"""

import threading
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
import structlog

from infra.composition import stores
from infra.database import transaction
from infra.errors import DependencyError
from infra.settings import Settings
from producers import idempotency
from producers.erasing import Eraser, left_behind
from producers.publish import ignore_progress, now_ms

PERIOD_S = 60.0
LEFT_BEHIND_AFTER_S = 300.0  # whoever erases a user of very many tweets needs time
# The longest silence of a healthy housekeeping: the pause, or one user and then a batch that waits for servers.
ROUND_S = LEFT_BEHIND_AFTER_S + 60.0

log = structlog.get_logger()


def keep_house(
    settings: Settings, engine: sa.Engine, stop: threading.Event, beat: Callable[[], None], period_s: float = PERIOD_S
) -> None:
    """Until `stop`. A chore that fails, whatever the reason, is tried again at the next round: nobody else does it."""
    chores = (partial(sweep_keys, engine), partial(erase_left_behind, settings, engine, LEFT_BEHIND_AFTER_S, beat))
    while not stop.wait(period_s):
        for chore in chores:
            beat()
            _try(chore)


def _try(chore: Callable[[], object]) -> None:
    try:
        chore()
    except DependencyError as error:
        log.warning("housekeeping waits", error=str(error))
    except Exception:
        log.exception("housekeeping failed")


def sweep_keys(engine: sa.Engine) -> int:
    """Removes all keys that are over a day old, some in each transaction; how many."""
    total = 0
    while True:
        with transaction(engine) as connection:
            swept = idempotency.sweep(connection)
        total += swept
        if swept < idempotency.KEYS_PER_SWEEP_MAX:
            return total


def erase_left_behind(
    settings: Settings, engine: sa.Engine, after_s: float, beat: Callable[[], None] = lambda: None
) -> int:
    """Ends the erasing of users that began over `after_s` ago; how many there were. Opens Redis's clients only for
    that. Beats before each user."""
    users = left_behind(engine, after_s)
    if not users:
        return 0
    with stores(settings) as opened:
        eraser = Eraser(opened.engine, opened.bodies, opened.reactions, now_ms)
        for user_id in users:
            beat()
            _try(partial(_erase, eraser, user_id))  # one who cannot be erased does not keep the others
    return len(users)


def _erase(eraser: Eraser, user_id: int) -> None:
    erased = eraser.erase(user_id, time.monotonic() + LEFT_BEHIND_AFTER_S, ignore_progress)
    log.info("user erased", user=user_id, tweets=erased.tweets, follows=erased.follows, done=erased.complete)
