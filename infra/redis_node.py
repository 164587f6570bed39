"""One Redis node: the only module that knows Redis's client. Calls Functions with a short time-out and no retry.

A call that timed out may still run later; whoever calls numbers its calls or holds a token.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.errors import FanfoldError, Fenced, RedisRefused, RedisUnavailable, Superseded
from infra.hiding import hide_secrets

LIBRARIES = ("timelines.lua", "rate_limits.lua", "counts.lua")
CALL_TIMEOUT_S = 5.0  # a bounded call takes under 0.1 s; a busy two-core machine can hold it back for a second
CONNECT_TIMEOUT_S = 1.0
CONNECTIONS_MAX = 64  # threads of one process that call one node at the same time
IDLE_MAX = 16  # connections kept beside the pool, so that as many threads find theirs
LOOK_AFTER_S = 1.0  # of idling: a connection in constant use tells by itself that the server has closed it

# What a server says that is alive and will take the same call later.
NOT_NOW = ("LOADING", "BUSY", "OOM", "MASTERDOWN", "READONLY", "Function not found", "ERR Function not found")

Argument = bytes | str | int | float


class RedisNode:
    """A client of one server, safe to share between threads. Errors become `RedisUnavailable` or `Fenced`."""

    def __init__(self, name: str, url: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self.name = name
        self.url = url
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(CONNECT_TIMEOUT_S, timeout_s),
            retry=Retry(NoBackoff(), 0),
            max_connections=CONNECTIONS_MAX + IDLE_MAX,
            protocol=2,
        )
        self._idle: list[tuple[redis.Connection, float]] = []  # what `finish` gave back, and when; the latest is last

    def call(self, function: str, *arguments: Argument) -> Any:
        """Runs a writing Function of our libraries."""
        return self.command("FCALL", function, 0, *arguments)

    def start(self, commands: Sequence[Sequence[Argument]]) -> "Reply":
        """Sends commands together and returns; their reply has to be got. Raises `RedisUnavailable`.

        Several nodes work at the same time this way without a thread for each.
        """
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
        return Reply(self, connection, len(commands))

    def _connection(self) -> redis.Connection:
        """One that is free. The pool looks at a socket each time it gives a connection out, and counts it; that is a
        quarter of what a short command costs, so those in constant use do not go through it."""
        try:
            connection, idle_since_s = self._idle.pop()
        except IndexError:
            return self._client.connection_pool.get_connection()
        if time.monotonic() - idle_since_s < LOOK_AFTER_S:
            return connection
        self._client.connection_pool.release(connection)
        return self._client.connection_pool.get_connection()

    def finish(self, connection: redis.Connection, count: int) -> list[Any]:
        """Reads the answers to what `start` sent, a refusal among them as the error it is, and gives the connection
        back; closed, unless they were read to their end: whoever is given it next would take the rest for his own."""
        answers: list[Any] = []
        try:
            for _ in range(count):
                try:
                    answers.append(connection.read_response())
                except redis.ResponseError as error:
                    answers.append(self._refusal(error))
        except (redis.RedisError, OSError) as error:
            self.drop(connection)
            raise self._ours(error) from error
        except BaseException:
            self.drop(connection)
            raise
        if len(self._idle) < IDLE_MAX:
            self._idle.append((connection, time.monotonic()))
        else:
            self._client.connection_pool.release(connection)
        return answers

    def drop(self, connection: redis.Connection) -> None:
        """Gives a connection back whose answer nobody will read."""
        connection.disconnect()  # type: ignore[no-untyped-call]
        self._client.connection_pool.release(connection)

    def look(self, function: str, *arguments: Argument) -> Any:
        """Runs a reading Function of our libraries."""
        return self.command("FCALL_RO", function, 0, *arguments)

    def command(self, *arguments: Argument) -> Any:
        """Any one command. Raises `RedisUnavailable`, or `Fenced` when a Function refused the caller."""
        with self._our_errors():
            return self._client.execute_command(*arguments)  # type: ignore[no-untyped-call]

    def commands(self, batch: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Several commands in one round trip; all are run, the first error is raised."""
        pipeline = self._client.pipeline(transaction=False)
        for arguments in batch:
            pipeline.execute_command(*arguments)  # type: ignore[no-untyped-call]
        with self._our_errors():
            return list(pipeline.execute())

    def load_functions(self) -> None:
        """Loads our libraries, replacing older ones."""
        codes = [files("infra.lua").joinpath(name).read_text(encoding="utf-8") for name in LIBRARIES]
        self.commands([("FUNCTION", "LOAD", "REPLACE", code) for code in codes])

    def close(self) -> None:
        """Closes every connection."""
        self._client.close()

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
        return RedisUnavailable(f"Redis node {self.name} at {hide_secrets(self.url)} does not answer: {error}")

    def _refusal(self, error: redis.ResponseError) -> FanfoldError:
        text = str(error)
        if text.startswith("SUPERSEDED"):
            return Superseded(f"Redis node {self.name} refused an old worker: {text}")
        if text.startswith("FENCED"):
            return Fenced(f"Redis node {self.name} refused a write: {text}")
        if text.startswith(NOT_NOW):
            return RedisUnavailable(f"Redis node {self.name} cannot take the call now: {text}")
        return RedisRefused(f"Redis node {self.name} refused a command: {text}")


class Reply:
    """The answers to commands that were sent. Got or dropped, since their connection is given back then; got once."""

    def __init__(self, node: RedisNode, connection: redis.Connection, count: int) -> None:
        self._node = node
        self._connection: redis.Connection | None = connection
        self._count = count

    def get(self) -> list[Any]:
        """Waits for them; what the node refused is an error among them. Raises `RedisUnavailable`, and `LookupError`
        the second time: the connection may be another caller's by then."""
        connection, self._connection = self._connection, None
        if connection is None:
            raise LookupError("this reply was got or dropped before")
        return self._node.finish(connection, self._count)

    def drop(self) -> None:
        """Closes the connection of a reply that was not got."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._node.drop(connection)
