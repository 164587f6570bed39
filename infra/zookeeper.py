"""ZooKeeper: the only module that knows kazoo. Values, compare-and-set, transactions, ephemeral members, watched
values, places in a line.

A watched value keeps its last state while ZooKeeper is away: reads and deliveries go on with it (G8).
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import structlog
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    LockTimeout,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.recipe.lock import Lock
from kazoo.retry import KazooRetry

from infra.errors import ZooKeeperUnavailable
from infra.lease import Lease
from infra.watches import Watches
from infra.znodes import ANY_VERSION, Change, Create, Remove, Replace

SESSION_S = 6.0  # ZooKeeper must grant it: with its usual tick of 2 s it grants 4 to 40
CONNECT_TIMEOUT_S = 10.0
WATCH_TIMEOUT_S = SESSION_S  # kazoo can lose a question while a session is renewed: then it is asked again
# A server that lost its data refuses without a word who has seen more than it has, and kazoo would try for ever.
# So a client that is away for longer than any session lasts says that it has seen nothing; then its session is over.
FORGET_AFTER_S = 2 * SESSION_S
ELECTION_TURN_S = 1.0
FIRST_VALUE_TIMEOUT_S = 20.0  # a coordinator that starts together with us needs a few seconds

PLACEMENT_PATH = "/placement"
COPIES_PATH = "/copies"
LIVE_SETTINGS_PATH = "/settings"
LIVE_SETTINGS_HISTORY_PATH = "/settings_history"
NODES_PATH = "/nodes"
WISHES_PATH = "/wishes"
LEASES_PATH = "/leases"
SNOWFLAKES_PATH = "/snowflakes"
REPLAYS_PATH = "/replays"

_NOT_REACHED = (RolledBackError, RuntimeInconsistency)  # of a transaction: what stands before and behind the refused
_NOT_AS_EXPECTED = (BadVersionError, NoNodeError, NodeExistsError, NotEmptyError)
_SEQUENCE_DIGITS = 10

log = structlog.get_logger()
T = TypeVar("T")


class ZooKeeper:
    """One session. All paths are below the folder that `hosts` ends with (`host:port/folder`).

    Raises `ZooKeeperUnavailable` when ZooKeeper does not answer.
    """

    def __init__(self, hosts: str) -> None:
        self._hosts = hosts
        servers, slash, folder = hosts.partition("/")
        self._folder = slash + folder
        retry = KazooRetry(max_tries=-1, max_delay=2.0)
        self._client = KazooClient(hosts=servers, timeout=SESSION_S, connection_retry=retry)
        self.suspended = threading.Event()
        self._watches = Watches(self._read_watched)
        self._suspended_s = 0.0  # since when, by the monotonic clock
        self._client.add_listener(self._note_state)
        try:
            self._client.start(timeout=CONNECT_TIMEOUT_S)
            self._client.ensure_path(self._folder or "/")
        except (KazooException, KazooTimeoutError, OSError) as error:
            self._client.stop()
            self._client.close()
            raise self._away(error) from error

    def close(self) -> None:
        """Ends the session; its ephemeral members are gone at once."""
        self._watches.end()
        self._client.stop()
        self._client.close()

    def read(self, path: str) -> tuple[bytes, int] | None:
        """The bytes and the version of a znode, or None."""
        found = self._get(path)
        return None if found is None else (found[0], found[1].version)

    def read_own(self, path: str) -> tuple[bytes, int] | None:
        """The bytes and the version of a znode that goes with this session; None when it is not there or another's."""
        found = self._get(path)
        return None if found is None or not self._is_own(found[1]) else (found[0], found[1].version)

    def sync(self, path: str) -> None:
        """Makes later reads of this session see all that was written before: its server may lag behind the leader."""
        with self._answering():
            self._client.sync(self._folder + path)

    def children(self, path: str) -> list[str]:
        """The names below a znode, sorted; none when it is not there."""
        with self._answering(), suppress(NoNodeError):
            return sorted(self._client.get_children(self._folder + path))
        return []

    def create(self, path: str, data: bytes, ephemeral: bool = False) -> bool:
        """Creates a znode (and what is above it). False when it exists."""
        with self._answering(), suppress(NodeExistsError):
            self._client.create(self._folder + path, data, ephemeral=ephemeral, makepath=True)
            return True
        return False

    def owns(self, path: str) -> bool:
        """Whether a znode is there and goes with this session."""
        with self._answering():
            stat = self._client.exists(self._folder + path)
        return stat is not None and self._is_own(stat)

    def compare_and_set(self, path: str, data: bytes, version: int) -> bool:
        """Writes a znode if it still has `version`. False when somebody else was first."""
        with self._answering(), suppress(BadVersionError, NoNodeError):
            self._client.set(self._folder + path, data, version=version)
            return True
        return False

    def delete(self, path: str) -> None:
        """Removes a znode; one that is not there is fine."""
        with self._answering(), suppress(NoNodeError):
            self._client.delete(self._folder + path)

    def watch(self, path: str, changed: Callable[[bytes | None], None]) -> None:
        """Calls `changed` with the bytes soon and after every change, on a thread of this session; None: no znode."""
        self._watches.add(path, changed)

    def write_together(self, changes: Sequence[Change], holding: Lease | None = None) -> bool:
        """All changes in one transaction, or none. False when something was not as a change expects it, or when the
        lease that the caller is `holding` is gone; then the lease knows it too.

        The path of a lease's znode has never been another's, and it goes with its holder's session: as long as it is
        there nobody else holds the lease. ZooKeeper itself looks at it, so neither a clock nor a late call matters.
        When `ZooKeeperUnavailable` is raised, the changes may have been made or not: read again.
        """
        request = self._client.transaction()
        if holding is not None:
            request.check(self._folder + holding.path, ANY_VERSION)
        with self._answering():
            for change in changes:
                self._add(request, change)
            results = request.commit()
        refusals = [one for one in results if isinstance(one, Exception) and not isinstance(one, _NOT_REACHED)]
        if refusals and not isinstance(refusals[0], _NOT_AS_EXPECTED):
            raise self._away(refusals[0]) from refusals[0]
        if refusals and holding is not None and results[0] is refusals[0]:
            holding.lose("its znode is gone from ZooKeeper")
        return not refusals

    def created(self, path: str) -> int | None:
        """The number of the transaction that created a znode: every later one has a higher number. None when it is not
        there."""
        with self._answering():
            stat = self._client.exists(self._folder + path)
        return None if stat is None else int(stat.czxid)

    def candidate(self, path: str, data: bytes) -> "Candidate":
        """A place for this session in the line below `path`, once it is asked for."""
        return Candidate(self._client.Lock(self._folder + path, data.decode()), path, self._away)

    def another(self) -> "ZooKeeper":
        """One more session with the same servers and folder. Raises `ZooKeeperUnavailable`."""
        return ZooKeeper(self._hosts)

    def _get(self, path: str) -> tuple[bytes, Any] | None:
        """The bytes and kazoo's description of a znode, or None."""
        with self._answering(), suppress(NoNodeError):
            data, stat = self._client.get(self._folder + path)
            return data, stat
        return None

    def _is_own(self, stat: Any) -> bool:
        session = self._client.client_id
        return session is not None and stat.ephemeralOwner == session[0]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Raises `ZooKeeperUnavailable` for what kazoo raises and nobody here expects."""
        try:
            yield
        except (KazooException, KazooTimeoutError) as error:
            raise self._away(error) from error

    def _add(self, request: Any, change: Change) -> None:
        path = self._folder + change.path
        match change:
            case Create():
                self._client.ensure_path(path.rpartition("/")[0])
                request.create(path, change.data, ephemeral=change.ephemeral)
            case Replace():
                request.set_data(path, change.data, change.version)
            case Remove():
                request.delete(path, change.version)
            case _:
                request.check(path, change.version)

    def _note_state(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self.suspended.clear()
            self._watches.look()
        elif not self.suspended.is_set():
            self._suspended_s = time.monotonic()
            self.suspended.set()

    def _read_watched(self, path: str, told: Callable[..., None]) -> bytes | None:
        """The newest bytes, and a watch on the next change. A server that lags has caught up before it answers."""
        client, path = self._client, self._folder + path
        if self.suspended.is_set():  # questions would pile up
            self._forget_what_was_seen()
            raise ZooKeeperUnavailable(f"ZooKeeper at {self._hosts} does not answer")
        with self._answering():
            client.sync_async(path).get(timeout=WATCH_TIMEOUT_S)
            while True:
                try:
                    data, _ = client.get_async(path, watch=told).get(timeout=WATCH_TIMEOUT_S)
                except NoNodeError:
                    if client.exists_async(path, watch=told).get(timeout=WATCH_TIMEOUT_S) is None:
                        return None
                else:
                    return bytes(data)

    def _forget_what_was_seen(self) -> None:
        away_s = time.monotonic() - self._suspended_s
        if away_s > FORGET_AFTER_S and self._client.last_zxid:
            log.warning("ZooKeeper is away for so long that its data may be gone", hosts=self._hosts, away_s=away_s)
            self._client.last_zxid = 0

    def _away(self, error: Exception) -> ZooKeeperUnavailable:
        return ZooKeeperUnavailable(f"ZooKeeper at {self._hosts} does not answer: {str(error) or type(error).__name__}")


class Candidate:
    """A place in a line: kazoo's recipe for waiting and waking, and nothing of its belief in who holds what.

    The path of its znode has a random part and a sequence number, and has never been another's.
    """

    def __init__(self, lock: Lock, folder: str, away: Callable[[Exception], ZooKeeperUnavailable]) -> None:
        self._lock = lock
        self._folder = folder
        self._away = away

    @property
    def path(self) -> str:
        """The znode of the place, once `is_first` was true."""
        return f"{self._folder}/{self._lock.node}"

    @staticmethod
    def order(name: str) -> str:
        """What places are sorted by: the sequence number, which ends the znode's name."""
        return name[-_SEQUENCE_DIGITS:]

    def is_first(self, timeout_s: float) -> bool:
        """Whether nobody is in front any more; waits for it. A place that was not first in time is given up."""
        self._lock.is_acquired = False  # kazoo never clears it when the session is lost
        try:
            return bool(self._lock.acquire(timeout=timeout_s))
        except LockTimeout:
            return False
        except NoNodeError:  # whoever was the last in the line has removed it
            self._lock.assured_path = False
            return False
        except (KazooException, KazooTimeoutError) as error:
            raise self._away(error) from error


class Watched(Generic[T]):
    """The last known value of one znode, decoded; `taken` is told of each.

    A value that cannot be decoded is reported and not taken. A znode that goes leaves the last value in force.
    """

    def __init__(
        self,
        zookeeper: ZooKeeper,
        path: str,
        decode: Callable[[bytes], T],
        taken: Callable[[T], None] = lambda _: None,
    ) -> None:
        self._zookeeper = zookeeper
        self._path = path
        self._decode = decode
        self._taken = taken
        self._value: T | None = None
        self._refused = ""
        self._known = threading.Event()
        zookeeper.watch(path, self._changed)

    def value(self, timeout_s: float = FIRST_VALUE_TIMEOUT_S) -> T:
        """The last known value; waits for the first one. Raises `ZooKeeperUnavailable` when none comes."""
        if self._value is None and not self._known.wait(timeout_s):
            raise ZooKeeperUnavailable(self._why_none())
        assert self._value is not None
        return self._value

    def _changed(self, data: bytes | None) -> None:
        if data is None:
            log.warning("watched value is not there", path=self._path)
            return
        try:
            value = self._decode(data)
        except Exception as error:  # noqa: BLE001 - whatever somebody has written there, the last value stays in force
            self._refused = str(error) or type(error).__name__
            log.error("watched value refused", path=self._path, error=self._refused)
            return
        self._value, self._refused = value, ""
        self._known.set()
        self._taken(value)

    def _why_none(self) -> str:
        if self._refused:
            return f"what ZooKeeper holds at {self._path} cannot be read: {self._refused}"
        if self._zookeeper.suspended.is_set():
            return f"ZooKeeper does not answer, and {self._path} was not read before"
        return f"ZooKeeper holds nothing at {self._path}: is a coordinator running?"
