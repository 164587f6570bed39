"""ZooKeeper: the only module that knows kazoo. Values, compare-and-set, ephemeral members, watched values, election.

A watched value keeps its last state while ZooKeeper is away: reads and deliveries go on with it (G8).
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import BadVersionError, KazooException, LockTimeout, NodeExistsError, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry

from infra.errors import FanfoldError, ZooKeeperUnavailable

SESSION_S = 6.0
CONNECT_TIMEOUT_S = 10.0
ELECTION_TURN_S = 1.0
FIRST_VALUE_TIMEOUT_S = 20.0  # a coordinator that starts together with us needs a few seconds

PLACEMENT_PATH = "/placement"
LIVE_SETTINGS_PATH = "/settings"
NODES_PATH = "/nodes"
COORDINATOR_PATH = "/coordinator"
SNOWFLAKES_PATH = "/snowflakes"

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
        self.lost = threading.Event()  # the session is gone, and with it every lock and member
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
        self._client.stop()
        self._client.close()

    def read(self, path: str) -> tuple[bytes, int] | None:
        """The bytes and the version of a znode, or None."""
        try:
            data, stat = self._client.get(self._folder + path)
        except NoNodeError:
            return None
        except (KazooException, KazooTimeoutError) as error:
            raise self._away(error) from error
        return data, stat.version

    def children(self, path: str) -> list[str]:
        """The names below a znode, sorted; none when it is not there."""
        try:
            return sorted(self._client.get_children(self._folder + path))
        except NoNodeError:
            return []
        except (KazooException, KazooTimeoutError) as error:
            raise self._away(error) from error

    def create(self, path: str, data: bytes, ephemeral: bool = False) -> bool:
        """Creates a znode (and what is above it). False when it exists."""
        try:
            self._client.create(self._folder + path, data, ephemeral=ephemeral, makepath=True)
        except NodeExistsError:
            return False
        except (KazooException, KazooTimeoutError) as error:
            raise self._away(error) from error
        return True

    def owns(self, path: str) -> bool:
        """Whether a znode is there and goes with this session."""
        try:
            stat = self._client.exists(self._folder + path)
        except (KazooException, KazooTimeoutError) as error:
            raise self._away(error) from error
        session = self._client.client_id
        return stat is not None and session is not None and stat.ephemeralOwner == session[0]

    def compare_and_set(self, path: str, data: bytes, version: int) -> bool:
        """Writes a znode if it still has `version`. False when somebody else was first."""
        try:
            self._client.set(self._folder + path, data, version=version)
        except (BadVersionError, NoNodeError):
            return False
        except (KazooException, KazooTimeoutError) as error:
            raise self._away(error) from error
        return True

    def delete(self, path: str) -> None:
        """Removes a znode; one that is not there is fine."""
        try:
            self._client.delete(self._folder + path)
        except NoNodeError:
            return
        except (KazooException, KazooTimeoutError) as error:
            raise self._away(error) from error

    def watch(self, path: str, changed: Callable[[bytes | None], None]) -> None:
        """Calls `changed` with the bytes now and after every change, on ZooKeeper's own thread."""

        def on_change(data: bytes | None, *_: object) -> None:
            changed(data)

        self._client.DataWatch(self._folder + path, on_change)

    def lead(self, name: str, stop: threading.Event, waiting: Callable[[bool], None]) -> bool:
        """Waits until this process is the leader. False when `stop` was set first.

        Calls `waiting` about once a second meanwhile: true while another process leads, false when ZooKeeper is away.
        """
        lock = self._client.Lock(self._folder + COORDINATOR_PATH, name)
        while not stop.is_set():
            try:
                if lock.acquire(timeout=ELECTION_TURN_S):
                    return True
                waiting(False)
            except LockTimeout:
                waiting(True)
            except (KazooException, KazooTimeoutError) as error:
                log.warning("leader election waits", error=str(error))
                waiting(False)
                stop.wait(ELECTION_TURN_S)
        return False

    def _note_state(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self.suspended.clear()
        else:
            self.suspended.set()
        if state == KazooState.LOST:
            self.lost.set()

    def _away(self, error: Exception) -> ZooKeeperUnavailable:
        return ZooKeeperUnavailable(f"ZooKeeper at {self._hosts} does not answer: {str(error) or type(error).__name__}")


class Watched(Generic[T]):
    """The last known value of one znode, decoded. A value that cannot be decoded is reported and not taken."""

    def __init__(self, zookeeper: ZooKeeper, path: str, decode: Callable[[bytes], T]) -> None:
        self._path = path
        self._decode = decode
        self._value: T | None = None
        self._known = threading.Event()
        zookeeper.watch(path, self._changed)

    def value(self, timeout_s: float = FIRST_VALUE_TIMEOUT_S) -> T:
        """The last known value; waits for the first one. Raises `ZooKeeperUnavailable` when none comes."""
        if self._value is None and not self._known.wait(timeout_s):
            raise ZooKeeperUnavailable(f"ZooKeeper holds nothing at {self._path}: is a coordinator running?")
        assert self._value is not None
        return self._value

    def _changed(self, data: bytes | None) -> None:
        if data is None:
            return
        try:
            self._value = self._decode(data)
        except (ValueError, KeyError, TypeError, FanfoldError) as error:
            log.error("watched value refused", path=self._path, error=str(error))
            return
        self._known.set()
