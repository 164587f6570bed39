"""A server of the HTTP API on a socket, clients of its live timelines, and logs that a test writes by hand."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import uvicorn
from confluent_kafka import Consumer, KafkaException, TopicPartition
from fastapi import FastAPI

from infra.api_server import ApiServer, bound_socket
from infra.composition import Stores
from infra.events import Activity, Delivery, DeliveryKind, encode_activity, encode_deliveries, one_chunk
from infra.http import create_app
from infra.kafka import GROUP, Message, TransactionalProducer
from infra.log_reader import Log, LogWatch
from infra.settings import Settings
from infra.slots import slot_of
from infra.tokens import Tokens
from infra.topics import ACTIVITY, DELIVERIES
from tests.waiting import wait_until

PATH = "/v1/timelines/home/stream"


class Event(NamedTuple):
    """One event; `name` is empty for one that only moves the position."""

    id: str | None
    name: str
    data: Any


class LiveClient:
    """Reads a stream on a thread of its own, until it ends or is closed."""

    def __init__(
        self, address: tuple[str, int], headers: dict[str, str], last_id: str | None = None, path: str = PATH
    ) -> None:
        self.events: list[Event] = []
        self.comments = 0
        self.retry_ms: list[int] = []
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False
        self._socket = socket.create_connection(address, timeout=60)
        asked = headers | ({"Last-Event-ID": last_id} if last_id else {})
        head = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n{head}\r\n".encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def told(self) -> list[Event]:
        """What the client was told, without what only moved its position."""
        return [event for event in self.events if event.name]

    @property
    def last_id(self) -> str | None:
        """What a browser would send as `Last-Event-ID`."""
        return next((event.id for event in reversed(self.events) if event.id), None)

    def wait_for(self, count: int, limit_s: float = 20.0) -> list[Event]:
        """The events, once there are so many."""
        wait_until(lambda: len(self.told) >= count or self.ended, f"{count} events, there are {self.told}", limit_s)
        return self.told

    def close(self) -> None:
        """Goes away."""
        self._socket.close() if self.ended else self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as file:
                first = file.readline()
                if not first:
                    raise ConnectionResetError("the server ended before it answered")
                self.status = int(first.split()[1])
                while line := file.readline().strip():
                    name, _, value = line.decode().partition(": ")
                    self.headers[name.lower()] = value
                if self.headers.get("transfer-encoding") == "chunked":
                    self._read_chunks(file)
                else:
                    file.read(int(self.headers.get("content-length", "0")))
        except OSError:
            pass
        finally:
            self.ended = True

    def _read_chunks(self, file: Any) -> None:
        rest = b""
        while size := int(file.readline() or b"0", 16):
            *blocks, rest = (rest + file.read(size)).split(b"\n\n")
            file.readline()
            for block in blocks:
                self._take(block.decode())

    def _take(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        self.comments += block.count(": heartbeat")
        self.retry_ms += [int(fields["retry"])] if "retry" in fields else []
        if "id" in fields or "event" in fields:
            data = json.loads(fields["data"]) if "data" in fields else None
            self.events.append(Event(fields.get("id"), fields.get("event", ""), data))


@dataclass(frozen=True)
class LiveServer:
    """The API on a socket. `stop` does what a signal does."""

    app: FastAPI
    address: tuple[str, int]
    server: uvicorn.Server
    stores: Stores
    clients: list[LiveClient] = field(default_factory=list)

    def listen(self, user_id: int, last_id: str | None = None) -> LiveClient:
        """A stream of this user."""
        return self.listen_with(Tokens(self.stores.engine).create(user_id)[1], last_id)

    def listen_with(self, token: str, last_id: str | None = None, path: str = PATH) -> LiveClient:
        """A stream with this token."""
        client = LiveClient(self.address, {"Authorization": f"Bearer {token}"}, last_id, path)
        self.clients.append(client)
        return client


class StoppableServer(ApiServer):
    """One in a process that goes on."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Without the end of the process."""
        for end in self._app.state.on_stop:
            end()
        await uvicorn.Server.shutdown(self, sockets)


@contextmanager
def serving(stores: Stores, settings: Settings) -> Iterator[LiveServer]:
    """A server on these stores, stopped at the end."""
    with bound_socket(replace(settings, api_port=0)) as bound:
        app = create_app(stores, settings)
        server = StoppableServer(app, settings)
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        address = bound.getsockname()[:2]
        thread.start()
        wait_until(lambda: server.started, "the server")
        running = LiveServer(app, address, server, stores)
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(20)
            for client in running.clients:
                client.close()
            assert not thread.is_alive()


def log_of(user_id: int) -> Log:
    """The deliveries partition of a user."""
    return DELIVERIES.name, slot_of(user_id) % DELIVERIES.partitions


class Logs:
    """Writes to both logs what fan_out and the relay would, and says how far the agents have worked them off."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._producer = TransactionalProducer(bootstrap, "test-live")

    def deliver(self, *records: tuple[DeliveryKind, int, Sequence[int]]) -> None:
        """One message with these records: kind, subject, targets of one partition."""
        made = [one_chunk(kind, subject, 0, targets) for kind, subject, targets in records]
        self.send(log_of(records[0][2][0]), made)

    def send(self, log: Log, records: Sequence[Delivery]) -> None:
        """One message to a deliveries partition."""
        self._producer.send([Message(DELIVERIES.name, encode_deliveries(records), partition=log[1])])

    def happen(self, activity: Activity) -> None:
        """One message of the activity log."""
        self.happen_together([activity])

    def happen_together(self, activities: Sequence[Activity]) -> None:
        """Messages of the activity log in one transaction."""
        self._producer.send(
            [Message(ACTIVITY.name, encode_activity(one).encode(), str(one.author_id).encode()) for one in activities]
        )

    def apply_all(self) -> None:
        """The agents have worked off what there is; again while a worker of another test is still their group's."""
        watch = LogWatch(self.bootstrap)
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": GROUP, "enable.auto.commit": False})
        offsets = [TopicPartition(*log, offset) for log, offset in watch.ends().items()]

        def committed() -> bool:
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException:
                return False
            return True

        wait_until(committed, "the group to be empty", 30)
        consumer.close()
        watch.close()

    def close(self) -> None:
        """Ends the producer."""
        self._producer.close()
