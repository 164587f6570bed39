"""How deliver waits: for nodes that do not answer or refuse, for copies that are lacking, and for a rebuild's servers.

It waits longer each time, says every few seconds what for, and beats meanwhile. Used by: deliver.py.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection

import structlog

from infra.errors import DependencyError, Fenced, RedisFull, RedisUnavailable, TokenLost
from infra.redis_node import CALL_TIMEOUT_S
from infra.shard_map import COPIES_MIN
from streams.progress import PROGRESS

# One may be a connection that died while it was idle. After one that hangs the second costs what its probe takes: 1.4 s
# after it hung it is marked (infra/breaker.py).
FAILURES_TO_MARK = 2
FULL_TO_MARK_S = 2.0  # a node without memory is waited for: its own buffers may take what is lacking, for a moment
# Of a call after a failure: the node is called again only if it has answered a probe. So it may work, and be slow at
# this one call; a mark would cost its repair.
CALL_AGAIN_TIMEOUT_S = 2 * CALL_TIMEOUT_S
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0
SAY_EVERY_S = 5.0
COPIES = "copies"  # what is lacking, beside the names of nodes

log = structlog.get_logger()


class Patience:
    """Of one call to the nodes of a partition."""

    def __init__(self, partition: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._partition = partition
        self._clock_s = clock_s
        self._delay_s = RETRY_FIRST_S
        self._said_s = time.monotonic() - SAY_EVERY_S + 1.0
        self._reasons: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._full_since_s: dict[str, float] = {}

    def note(self, node: str, reason: Exception) -> None:
        """Why a node did not do it."""
        self._reasons[node] = str(reason)
        if isinstance(reason, RedisFull):
            now_s = self._clock_s()
            full_s = now_s - self._full_since_s.setdefault(node, now_s)
            self._failures[node] = FAILURES_TO_MARK if full_s >= FULL_TO_MARK_S else 0
        else:
            self._full_since_s.pop(node, None)
            self._failures[node] = self._failures[node] + 1 if isinstance(reason, RedisUnavailable) else 0

    @property
    def call_timeout_s(self) -> float:
        """Of the next call."""
        return CALL_AGAIN_TIMEOUT_S if any(self._failures.values()) else CALL_TIMEOUT_S

    def may_mark(self, node: str) -> bool:
        """Whether it did not answer so often in a row, or has been full for so long, that it is marked down; one that
        refuses for another reason is there."""
        return self._failures[node] >= FAILURES_TO_MARK

    def wait(self, nodes: Collection[str], *, lacks_copies: bool) -> None:
        """A pause, for these nodes or until enough copies are in use."""
        reasons = {node: self._reasons[node] for node in sorted(nodes)}
        if lacks_copies:
            reasons[COPIES] = f"a slot has fewer than {COPIES_MIN} copies that are serving or filling"
        if time.monotonic() - self._said_s > SAY_EVERY_S:
            log.warning("deliver waits", partition=self._partition, nodes=sorted(nodes), reasons=reasons)
            self._said_s = time.monotonic()
        PROGRESS.beat(("deliver", self._partition), "nodes " + ", ".join(sorted(nodes)) if nodes else reasons[COPIES])
        time.sleep(self._delay_s)
        self._delay_s = min(self._delay_s * 2, RETRY_MAX_S)


def until_rebuilt(partition: int, step: Callable[[], object], between: Callable[[], object]) -> None:
    """Returns when a rebuild that must be done was done; does something else between two tries."""
    delay_s = RETRY_FIRST_S
    while True:
        try:
            step()
        except (DependencyError, Fenced, TokenLost) as error:
            log.warning("rebuild waits", error=str(error))
            PROGRESS.beat(("deliver", partition), f"a rebuild: {type(error).__name__}")
            time.sleep(delay_s)
            between()
            delay_s = min(delay_s * 2, RETRY_MAX_S)
        else:
            return
