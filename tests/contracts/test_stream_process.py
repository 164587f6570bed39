"""`fanfold api` as a process with many streams: what idle ones take, and that they end at a signal."""

import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

from infra.composition import Stores
from infra.events import DeliveryKind
from infra.settings import Settings
from infra.slots import slot_of
from infra.tokens import Tokens
from infra.topics import DELIVERIES
from producers.publish import NewTweet, Publisher
from tests.contracts.test_api_process import READY_WITHIN_S, STOPPED_WITHIN_S, started, stopped
from tests.live_client import PATH, Logs
from tests.waiting import wait_until

STREAMS, OF_ONE_USER = 2_000, 10
STREAM_BYTES_MAX = 64 * 1024  # what an idle one may take: 5,000 stay below a third of a gigabyte
WARM = 50  # streams that are there before it is measured: what all share is made with the first


def opened(port: int, token: str) -> socket.socket:
    """A stream that was asked for."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=60)
    stream.sendall(f"GET {PATH} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return stream


def read_until(stream: socket.socket, wanted: bytes) -> bytes:
    """What comes, up to the first piece with this in it."""
    found = b""
    while wanted not in found:
        piece = stream.recv(65_536)
        assert piece, found
        found += piece
    return found


def test_thousands_of_idle_streams_take_little_and_each_is_told_and_ended(
    stores: Stores, settings: Settings, tmp_path: Path, publisher: Publisher, make_users: Callable[[int], list[int]]
) -> None:
    users = make_users(STREAMS // OF_ONE_USER)
    tokens = [token for user in users for token in [Tokens(stores.engine).create(user)[1]] * OF_ONE_USER]
    logs = Logs(settings.kafka_bootstrap)
    logs.apply_all()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with ExitStack() as open_, started(settings, tmp_path, port) as process:
        wait_until((tmp_path / "ready").exists, "the api", READY_WITHIN_S)
        memory = psutil.Process(process.pid).memory_info
        streams = [open_.enter_context(opened(port, token)) for token in tokens[:WARM]]
        for stream in streams:
            read_until(stream, b"\nid: ")
        before = memory().rss
        streams += [open_.enter_context(opened(port, token)) for token in tokens[WARM:]]
        for stream in streams[WARM:]:
            read_until(stream, b"\nid: ")
        bytes_each = (memory().rss - before) / (STREAMS - WARM)
        print(f"an idle stream takes {bytes_each:.0f} bytes")  # noqa: T201 - the figure for whoever asks
        assert bytes_each < STREAM_BYTES_MAX
        tweet = publisher.post(NewTweet(users[0], "Hello"))
        for partition in range(DELIVERIES.partitions):
            targets = [user for user in users if slot_of(user) % DELIVERIES.partitions == partition]
            logs.deliver((DeliveryKind.DELIVER, tweet.id, targets))
        for stream in streams:
            read_until(stream, b"event: update\n")
        code, took_s = stopped(process, signal.SIGTERM)
        assert (code, took_s < STOPPED_WITHIN_S) == (0, True)
        for stream in streams:
            assert b"retry: " in read_until(stream, b"\r\n0\r\n\r\n")
        assert process.stderr is not None
        said = process.stderr.read()
        assert "Traceback" not in said
        assert "unanswered" not in said
    logs.close()
