"""One Redis node: the only module that knows Redis's client. Calls Functions with a short time-out and no retry.

A call that timed out may still run later; whoever calls numbers its calls or holds a token.
"""

import select
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra import metrics
from infra.breaker import PROBE_TIMEOUT_S, Breaker
from infra.errors import FanfoldError, Fenced, RedisAddressWrong, RedisFull, RedisRefused, RedisUnavailable, Superseded
from infra.hiding import hide_secrets
from infra.late_replies import LATE_MAX, LateReplies
from infra.redis_keys import COUNTS_NODE, NODE

# Of calls that deliveries and readers wait for. A bounded call takes under 0.1 s, adaptively under 0.5 s, and may stand
# behind another one. Longer, and a node that hangs holds everybody up for longer; shorter, and a busy machine looks
# like one that hangs: then the node is marked, which is safe, but it is emptied and has to be repaired.
CALL_TIMEOUT_S = 1.0
# Of single commands that nobody waits for, such as an audit's dumps of many timelines, and merges, which are megabytes.
LONG_CALL_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.0
LAST_LOOK_S = 0.005  # at an answer whose time is over: it may lie in the socket, since others were waited for first
CONNECTIONS_MAX = 64  # threads of one process that call one node at the same time
IDLE_MAX = 16  # connections kept beside the pool, so that as many threads find theirs
LOOK_AFTER_S = 1.0  # of idling: a connection in constant use tells by itself that the server has closed it

# What a server that is alive says where it will take the same call later. redis-py cuts the code off of those it knows.
NOT_NOW = ("BUSY", "Function not found", "ERR Function not found")
NOT_NOW_ERRORS = (redis.exceptions.MasterDownError, redis.exceptions.ReadOnlyError)

Argument = bytes | str | int | float

# Each library, and what a node forgets when another version was there, which may have written what this one does not
# know: that its marks have all that it holds (lua/timelines.lua), or that its counts are of this placement
# (lua/counts.lua).
LIBRARIES: Mapping[str, tuple[Argument, ...]] = {
    "timelines.lua": ("HDEL", NODE, "built"),
    "rate_limits.lua": (),
    "counts.lua": ("HDEL", COUNTS_NODE, "epoch"),
}


class RedisNode:
    """A client of one server, safe to share between threads. Errors become `RedisUnavailable` or `Fenced`.

    `timeout_s` is that of single commands; what is sent with `start` has `CALL_TIMEOUT_S` at most. With a breaker no
    call is made to a node that is known not to answer: it is for callers who can do without the node, or mark it.
    """

    _breaker: Breaker | None = None

    def __init__(
        self, name: str, url: str, timeout_s: float = LONG_CALL_TIMEOUT_S, *, with_breaker: bool = False
    ) -> None:
        self.name = name
        self.url = url
        self._call_timeout_s = min(timeout_s, CALL_TIMEOUT_S)
        self.late = LateReplies(self._note_failure)
        try:
            self._client = redis.Redis(connection_pool=_pool(url, timeout_s))
            self._pool = _pool(url, self._call_timeout_s)
        except ValueError as error:  # nobody is known to be there
            raise RedisAddressWrong(f"Redis node {name} has an address that is none: {error}") from error
        if with_breaker:
            self._breaker = Breaker(self._answers_probe)
        self._idle: list[tuple[redis.Connection, float]] = []  # what `finish` gave back, and when; the latest is last

    def call(self, function: str, *arguments: Argument, timeout_s: float | None = None) -> Any:
        """Runs a writing Function of our libraries, by default with the time that single commands have."""
        if timeout_s is None:
            return self.command("FCALL", function, 0, *arguments)
        [answer] = self.start([("FCALL", function, 0, *arguments)], timeout_s).get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def answers(self) -> bool:
        """False while the last call and the probe behind it got no answer; waits for nothing."""
        return self._breaker is None or self._breaker.answers

    @property
    def is_prompt(self) -> bool:
        """Whether it answers, and none of its answers is awaited that did not come in time."""
        return self.answers and not self.late.any()

    def start(self, commands: Sequence[Sequence[Argument]], timeout_s: float | None = None) -> "Reply":
        """Sends commands together and returns; their reply has to be got. It may take `timeout_s` from now on, by
        default as long as a call may. Raises `RedisUnavailable`.

        Several nodes work at the same time this way without a thread for each.
        """
        self._check_breaker()
        until_s = time.monotonic() + (self._call_timeout_s if timeout_s is None else timeout_s)
        try:
            connection = self._connection()
            try:
                if len(commands) == 1:
                    packed = connection.pack_command(*commands[0])  # type: ignore[no-untyped-call]
                else:
                    packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
                connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
            except BaseException:
                self.drop(connection)
                raise
        except (redis.RedisError, OSError) as error:
            raise self._ours(error) from error
        return Reply(self, connection, len(commands), until_s)

    def _connection(self) -> redis.Connection:
        """One that is free. The pool looks at a socket each time it gives a connection out, and counts it; that is a
        quarter of what a short command costs, so those in constant use do not go through it."""
        try:
            connection, idle_since_s = self._idle.pop()
        except IndexError:
            return self._pool.get_connection()
        if time.monotonic() - idle_since_s < LOOK_AFTER_S:
            return connection
        self._pool.release(connection)
        return self._pool.get_connection()

    def finish(self, connection: redis.Connection, count: int, answers: list[Any], until_s: float) -> None:
        """Adds what is left of the answers to what `start` sent, a refusal among them as the error it is, and gives the
        connection back; closed, unless they were read to their end: whoever is given it next would take the rest for
        his own. It waits until `until_s` (monotonic seconds)."""
        self._read(connection, count, answers, until_s)

    def finish_within(self, connection: redis.Connection, count: int, answers: list[Any], within_s: float) -> bool:
        """Adds what has come, waiting for each part for so long. Whether that is all: then the connection is given
        back."""
        try:
            self._read(connection, count, answers, within_s=within_s)
        except BlockingIOError:
            return False
        return True

    def _read(
        self,
        connection: redis.Connection,
        count: int,
        answers: list[Any],
        until_s: float = 0.0,
        within_s: float | None = None,
    ) -> None:
        try:
            while len(answers) < count:
                try:
                    left_s = max(until_s - time.monotonic(), LAST_LOOK_S) if within_s is None else within_s
                    answers.append(connection.read_response(timeout=left_s, disconnect_on_error=False))
                except redis.ResponseError as error:
                    answers.append(self._refusal(error))
        except (redis.RedisError, OSError) as error:
            if within_s is not None and isinstance(error, redis.TimeoutError):
                raise BlockingIOError from None
            self.drop(connection)
            if not isinstance(error, redis.TimeoutError):
                self._drop_idle()
            raise self._ours(error) from error
        except BaseException:
            self.drop(connection)
            raise
        if len(self._idle) < IDLE_MAX:
            self._idle.append((connection, time.monotonic()))
        else:
            self._pool.release(connection)

    def _drop_idle(self) -> None:
        """Closes all that idle, once one was found to be closed: the others were, too, when the server was emptied or
        restarted, and each would cost somebody a failure."""
        while self._idle:
            try:
                connection, _ = self._idle.pop()
            except IndexError:  # another thread has taken the last one
                return
            self.drop(connection)

    def drop(self, connection: redis.Connection) -> None:
        """Gives a connection back whose answer nobody will read."""
        connection.disconnect()  # type: ignore[no-untyped-call]
        self._pool.release(connection)

    def look(self, function: str, *arguments: Argument) -> Any:
        """Runs a reading Function of our libraries."""
        return self.command("FCALL_RO", function, 0, *arguments)

    def command(self, *arguments: Argument) -> Any:
        """Any one command. Raises `RedisUnavailable`, or `Fenced` when a Function refused the caller."""
        self._check_breaker()
        with self._our_errors():
            return self._client.execute_command(*arguments)  # type: ignore[no-untyped-call]

    def commands(self, batch: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Several commands in one round trip; all are run, the first error is raised."""
        self._check_breaker()
        pipeline = self._client.pipeline(transaction=False)
        for arguments in batch:
            pipeline.execute_command(*arguments)  # type: ignore[no-untyped-call]
        with self._our_errors():
            answers = list(pipeline.execute(raise_on_error=False))  # else it puts words before an error that we look at
            for answer in answers:
                if isinstance(answer, redis.RedisError):
                    raise answer
        return answers

    def load_functions(self) -> None:
        """Loads our libraries where they differ from what is there; before it, the node forgets what they go by."""
        there = [part for library in self.command("FUNCTION", "LIST", "WITHCODE") for part in library]
        for name, forget in LIBRARIES.items():
            code = files("infra.lua").joinpath(name).read_bytes()
            if code not in there:
                load = ("FUNCTION", "LOAD", "REPLACE", code)
                self.commands([forget, load] if forget else [load])

    def close(self) -> None:
        """Closes every connection."""
        self.late.close()
        self._client.close()
        self._client.connection_pool.disconnect()
        self._pool.disconnect()

    def _check_breaker(self) -> None:
        if self._breaker is not None and not self._breaker.lets_through():
            raise RedisUnavailable(
                f"Redis node {self.name} at {hide_secrets(self.url)} is not called: it answered neither a call nor the "
                "probe after it, and is probed again soon"
            )

    def _note_failure(self) -> None:
        if self._breaker is not None:
            self._breaker.note_failure()

    def _answers_probe(self) -> bool:
        """Whether the node answers a PING over a fresh connection soon; a refusal is an answer."""
        pool = _pool(self.url, PROBE_TIMEOUT_S)
        try:
            redis.Redis(connection_pool=pool).ping()
        except redis.ResponseError:
            return True
        except (redis.RedisError, OSError):
            metrics.FAILED_PROBES.labels(self.name[0]).inc()
            return False
        finally:
            pool.disconnect()
        return True

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise self._ours(error) from error

    def _ours(self, error: Exception) -> FanfoldError:
        if isinstance(error, redis.ResponseError):
            return self._refusal(error)
        if isinstance(error, redis.DataError):  # never sent: no waiting would mend it
            return RedisRefused(f"Redis node {self.name} cannot be sent these arguments: {error}")
        title = f"Redis node {self.name} at {hide_secrets(self.url)}"
        if isinstance(error, redis.AuthenticationError):
            return RedisAddressWrong(f"{title} refuses user or password: {error}")
        if isinstance(error, redis.exceptions.InvalidResponse):  # its text is the server's, and may be anything
            return RedisAddressWrong(f"{title} is no Redis or Valkey server: what it answers is another protocol")
        self._note_failure()
        return RedisUnavailable(f"{title} does not answer: {error}")

    def _refusal(self, error: redis.ResponseError) -> FanfoldError:
        text = str(error)
        if text.startswith(("SUPERSEDED", "FENCED")):
            metrics.REFUSED.labels(self.name[0]).inc()
        if text.startswith("SUPERSEDED"):
            return Superseded(f"Redis node {self.name} refused an old worker: {text}")
        if text.startswith("FENCED"):
            return Fenced(f"Redis node {self.name} refused a write: {text}")
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            return RedisFull(f"Redis node {self.name} has no memory left for a write, raise its maxmemory: {text}")
        if isinstance(error, NOT_NOW_ERRORS) or text.startswith(NOT_NOW):
            return RedisUnavailable(f"Redis node {self.name} cannot take the call now: {text}")
        return RedisRefused(f"Redis node {self.name} refused a command: {text}")


def _pool(url: str, timeout_s: float) -> redis.ConnectionPool:
    """Connections that are only opened: no word about the client is sent, whose answer a node that hangs would owe."""
    return redis.ConnectionPool.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(CONNECT_TIMEOUT_S, timeout_s),
        retry=Retry(NoBackoff(), 0),
        max_connections=CONNECTIONS_MAX + IDLE_MAX + LATE_MAX,
        protocol=2,
        driver_info=None,
    )


class Reply:
    """The answers to commands that were sent. Got, dropped or left, since their connection is given back then; got
    once."""

    def __init__(self, node: RedisNode, connection: redis.Connection, count: int, until_s: float) -> None:
        self._node = node
        self._connection: redis.Connection | None = connection
        self._count = count
        self._until_s = until_s
        self._answers: list[Any] = []  # those that `poll` has read so far

    def get(self) -> list[Any]:
        """Waits for them; what the node refused is an error among them. Raises `RedisUnavailable`, and `LookupError`
        the second time: the connection may be another caller's by then."""
        connection, self._connection = self._connection, None
        if connection is None:
            raise LookupError("this reply was got or dropped before")
        self._node.finish(connection, self._count, self._answers, self._until_s)
        return self._answers

    def poll(self, within_s: float = 0.0) -> list[Any] | None:
        """The same without waiting, or waiting a little: None when not all has come; then the reply can still be
        polled, got, dropped or left. One thread at a time."""
        connection, self._connection = self._connection, None
        if connection is None:
            raise LookupError("this reply was got or dropped before")
        if self._node.finish_within(connection, self._count, self._answers, max(within_s, 0.0)):
            return self._answers
        self._connection = connection
        return None

    def drop(self) -> None:
        """Closes the connection of a reply that was not got."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._node.drop(connection)

    def leave(self) -> None:
        """Waits no longer for what was a reading call: its connection is used again when the answers have come."""
        if self._connection is not None:
            self._node.late.add(self)

    def fileno(self) -> int:
        """The socket; -1 when it is closed."""
        socket = None if self._connection is None else self._connection._sock  # noqa: SLF001 - there is no other way to it
        return -1 if socket is None else int(socket.fileno())


def wait_for_any(replies: Sequence[Reply], within_s: float) -> list[Reply]:
    """Those of which something has come, or whose connection is closed, after waiting for one for so long."""
    poller, by_socket = select.poll(), {}
    for reply in replies:
        number = reply.fileno()
        if number < 0:
            return [reply]
        by_socket[number] = reply
        poller.register(number, select.POLLIN)
    return [by_socket[number] for number, _ in poller.poll(within_s * 1000)]
