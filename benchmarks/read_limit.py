"""The limit of `bench read`: bare redis-py with the Redis commands of the same reads, and no logic around them.

A reader over `RecordingClusters` shows which commands its reads send; redis-py's own clients send them again, one after
the other, and what comes back is dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import redis

from consumers.read_timeline import TimelineReader
from infra.composition import Stores
from infra.live_settings import watch_live_settings
from infra.paging import Cursor
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument, Reply
from infra.timelines import Timelines
from infra.tweet_bodies import TweetBodies

TIMEOUT_S = 60.0

Command = tuple[str, Sequence[Argument]]  # a node's name, and the command's words


class RecordingClusters(RedisClusters):
    """Notes what is sent."""

    sent: list[Command]

    def start(self, name: str, commands: Sequence[Sequence[Argument]], timeout_s: float | None = None) -> Reply:
        """The same as without notes."""
        self.sent += [(name, command) for command in commands]
        return super().start(name, commands, timeout_s)


def commands_of(stores: Stores, readers: Sequence[int], cursor: Cursor) -> list[list[Command]]:
    """What one home read of each of these users sends."""
    recording = RecordingClusters(stores.shard_maps)
    try:
        live = watch_live_settings(stores.zookeeper)
        timelines, bodies = Timelines(recording, live), TweetBodies(recording, stores.engine)
        reader = TimelineReader(replace(stores, timelines=timelines, bodies=bodies))
        found = []
        for user_id in readers:
            recording.sent = []
            reader.home(user_id, cursor)
            found.append(recording.sent)
        return found
    finally:
        recording.close()


class BareReader:
    """Sends the commands of recorded reads. Close it."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._clients = {
            name: redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, protocol=2) for name, url in addresses.items()
        }

    def read(self, commands: Sequence[Command]) -> None:
        """One read's."""
        for name, command in commands:
            self._clients[name].execute_command(*command)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Closes every connection."""
        for client in self._clients.values():
            client.close()
