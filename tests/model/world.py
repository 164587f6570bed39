"""A world on real servers for the model: publishing, fan_out, deliver and rebuilds step by step, with logs in memory.

The oracle's database is kept beside the real one, by the same calls.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import sqlalchemy as sa

from consumers.read_timeline import TimelineReader
from infra import rebuild, redis_keys
from infra.composition import Stores
from infra.errors import UseError
from infra.events import Activity, decode_activity
from infra.paging import Cursor
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.timelines import Kind, Snapshot, new_token
from infra.topics import ACTIVITY, DELIVERIES
from producers.publish import NewTweet, Publisher
from streams.deliver import Deliverer, receive
from streams.fan_out import FanOut, by_tweet_id, pack_messages, read_facts
from tests.simulator.database import PULLED, Tweet, User
from tests.simulator.oracle import Oracle

LATE_MAX = 50  # calls that are kept to be sent again
GENERATIONS = count(1)  # of all examples: nodes keep their control records between them
OFFSETS = count(1)
SCROLL_LIMIT = 3
BATCH = 100  # in the end

Call = tuple[str, str, Sequence[Argument]]  # node, Function and arguments


@dataclass
class Rebuild:
    """A rebuild under way: where its token lies, and its snapshot once that was read."""

    kind: Kind
    user: int
    token: int
    held: rebuild.Held
    snapshot: Snapshot | None = None


class Recording(RedisClusters):
    """Clusters that keep the calls which were made, so that they can come again, late."""

    made: list[Call]

    def call_at_once(
        self, function: str, calls: Mapping[str, Sequence[Argument]], timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Makes and keeps them."""
        self.made = [*self.made, *((name, function, arguments) for name, arguments in calls.items())][-LATE_MAX:]
        return super().call_at_once(function, calls, timeout_s)


@dataclass
class Log:
    """A partition in memory, and how far it was worked off."""

    messages: list[tuple[int, bytes]] = field(default_factory=list)  # offset and value
    done: int = 0

    def append(self, value: bytes) -> None:
        """One message more."""
        self.messages.append((next(OFFSETS), value))

    def batch(self, size: int) -> list[tuple[int, bytes]]:
        """The next ones."""
        return self.messages[self.done : self.done + size]


@dataclass
class World:
    """Real servers, logs in memory, and the oracle's copy of the database."""

    stores: Stores
    clusters: Recording
    publisher: Publisher
    users: Sequence[int]
    oracle: Oracle
    rebuilds: list[Rebuild] = field(default_factory=list)
    activity: dict[int, Log] = field(default_factory=lambda: defaultdict(Log))
    deliveries: dict[int, Log] = field(default_factory=lambda: defaultdict(Log))
    _fan_outs: dict[int, FanOut] = field(default_factory=dict)
    _deliverers: dict[int, Deliverer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reader = TimelineReader(self.stores)
        self.oracle.database.users.update({user: User() for user in self.users})
        self.begin_generation()

    # Publishing

    def make_celebrity(self, user: int) -> None:
        """As an import does, before anybody follows him."""
        self.oracle.database.users[user] = User(PULLED)
        with self.stores.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE users SET status = 'pull', status_before = 'both' WHERE id = :id"), {"id": user}
            )

    def post(self, author: int, retweet_of: int | None = None) -> None:
        """A tweet; a retweet of what is not live is refused."""
        try:
            made = self.publisher.post(NewTweet(author, "" if retweet_of else "text", retweet_of=retweet_of))
        except UseError:
            assert retweet_of is not None
            assert not self.oracle.database.is_live(retweet_of)
        else:
            self.oracle.database.add(Tweet(made.id, author, made.retweet_of))

    def delete(self, tweet_id: int) -> None:
        """Acknowledged when it returns."""
        self.publisher.delete(tweet_id)
        self.oracle.database.tweets[tweet_id].deleted = True
        self.oracle.acknowledged.add(tweet_id)

    def follow(self, follower: int, author: int) -> None:
        """A block forbids it."""
        try:
            self.publisher.follow(follower, author)
        except UseError:
            assert {(follower, author), (author, follower)} & self.oracle.database.blocks
        self.oracle.database.follow(follower, author, 0)

    def unfollow(self, follower: int, author: int) -> None:
        """Ends a follow that may not be there."""
        self.publisher.unfollow(follower, author)
        self.oracle.database.unfollow(follower, author, 0)

    def block(self, blocker: int, blocked: int) -> None:
        """Begins a block, or ends it."""
        if (blocker, blocked) in self.oracle.database.blocks:
            self.publisher.unblock(blocker, blocked)
        else:
            self.publisher.block(blocker, blocked)
        self.oracle.database.block(blocker, blocked, 0)

    # The way of an event

    def begin_generation(self) -> None:
        """Workers with nothing in memory."""
        for one in self._fan_outs.values():
            one.close()
        self._fan_outs.clear()
        self._deliverers.clear()
        self._generation = next(GENERATIONS)

    def relay(self, size: int) -> bool:
        """Events in the order of the outbox. False when it is empty."""
        with self.stores.engine.begin() as connection:
            rows = connection.execute(
                sa.text("SELECT id, aggregateid, payload FROM outbox ORDER BY id LIMIT :size"), {"size": size}
            ).all()
            connection.execute(sa.text("DELETE FROM outbox WHERE id = ANY (:ids)"), {"ids": [row.id for row in rows]})
        for row in rows:
            self.activity[int(row.aggregateid) % ACTIVITY.partitions].append(row.payload.encode())
        return bool(rows)

    def fan_out(self, places: Sequence[int], size: int, *, again: bool) -> bool:
        """A round of some partitions; with `again` it is not acknowledged. False when nothing waited."""
        batches = {place: self.activity[place].batch(size) for place in places}
        decoded = {place: [decode_activity(value) for _, value in batch] for place, batch in batches.items() if batch}
        if not decoded:
            return False
        length = self.stores.timelines.live.timeline_entries
        events: list[Activity] = [event for part in decoded.values() for event in part]
        facts = read_facts(self.stores.engine, events, length)
        plans = [self._fan_out(place).plan(part, facts, length) for place, part in decoded.items()]
        for message in pack_messages(by_tweet_id(plans)):
            assert message.partition is not None
            assert message.value is not None
            self.deliveries[message.partition].append(message.value)
        if not again:
            for place, batch in batches.items():
                self.activity[place].done += len(batch)
        return True

    def deliver(self, place: int, size: int, *, again: bool) -> bool:
        """A batch of a partition; with `again` it is not acknowledged. False when nothing waited."""
        log = self.deliveries[place]
        batch = log.batch(size)
        if not batch:
            return False
        if place not in self._deliverers:
            timelines = self.stores.timelines
            self._deliverers[place] = Deliverer(self.stores.engine, timelines, place, self._generation)
        self._deliverers[place].apply([receive(offset, value) for offset, value in batch])
        if not again:
            log.done += len(batch)
        return True

    def send_late(self, number: int) -> None:
        """A call that was made before arrives again."""
        if self.clusters.made:
            name, function, arguments = self.clusters.made[number % len(self.clusters.made)]
            self.clusters.node(name).start([("FCALL", function, 0, *arguments)]).get()

    # Timelines

    def begin_rebuild(self, kind: Kind, user: int) -> None:
        """Puts tokens as the product does."""
        token = new_token()
        held = rebuild._claim(self.stores.timelines, kind, {}, [user], token)
        self.rebuilds.append(Rebuild(kind, user, token, held))

    def go_on_with_rebuild(self, number: int) -> None:
        """Reads the snapshot of one, or merges it."""
        one = self.rebuilds[number % len(self.rebuilds)]
        timelines = self.stores.timelines
        if one.snapshot is None:
            length = timelines.live.timeline_entries
            [one.snapshot] = rebuild.read_snapshots(self.stores.engine, one.kind, [one.user], length)
        else:
            rebuild._merge(timelines, one.kind, one.held, [one.snapshot], one.token, must=False)
            self.rebuilds.remove(one)

    def evict(self, kind: Kind, user: int, cluster: str) -> None:
        """One copy of one timeline, and of the set of celebrities beside it."""
        node = self.clusters.node_for(cluster, user)
        node.command("DEL", kind.key(user), redis_keys.celebrities(user))

    def restart(self, name: str) -> None:
        """A node comes back empty and is registered; what was under way to it is lost with its connections."""
        self.clusters.made = [call for call in self.clusters.made if call[0] != name]
        node = self.clusters.node(name)
        node.command("FLUSHALL")
        # The incarnation that everybody knows, as if all had heard of a new one: what was on the way is lost anyway.
        shard_map = self.clusters.shard_map
        node.command("HSET", "n", "incarnation", shard_map.copies.incarnations[name], "built", 0)
        node.call("install_epoch", shard_map.epoch)
        node.call("open_node", shard_map.fence(name))

    def read(self, user: int, cursor: Cursor) -> None:
        """A page, which is checked."""
        page = self.reader.home(user, cursor)
        self.oracle.check_page(page, frozenset(self.oracle.acknowledged), f"user {user}")

    # Checking

    def check_lists(self) -> None:
        """What must hold at every moment."""
        for where, key, value in self._values():
            self.oracle.check_list(where, key, value)

    def come_to_rest(self) -> None:
        """Applies everything, and compares everything."""
        for one in list(self.rebuilds):
            while one in self.rebuilds:
                self.go_on_with_rebuild(self.rebuilds.index(one))
        moved = True
        while moved:
            moved = self.relay(BATCH) | self.fan_out(range(ACTIVITY.partitions), BATCH, again=False)
            for place in range(DELIVERIES.partitions):
                moved |= self.deliver(place, BATCH, again=False)
        for where, key, value in self._values():
            self.oracle.check_present(where, key, value)
        for user in self.users:
            self.oracle.check_scrolled(user, self._scrolled(user))

    def _values(self) -> Sequence[tuple[str, bytes, Any]]:
        return [(name, key, value) for name in self.clusters.shard_map.nodes for key, value in self._values_of(name)]

    def _values_of(self, name: str) -> Sequence[tuple[bytes, Any]]:
        node = self.clusters.node(name)
        keys = [kind.key(user) for kind in Kind for user in self.users]
        sets = [redis_keys.celebrities(user) for user in self.users]
        lists = node.commands([("LRANGE", key, 0, -1) for key in keys])
        members = node.commands([("SMEMBERS", key) for key in sets])
        return [
            *((key, found or None) for key, found in zip(keys, lists, strict=True)),
            *((key, set(found)) for key, found in zip(sets, members, strict=True)),
        ]

    def _scrolled(self, user: int) -> list[int]:
        found: list[int] = []
        below: int | None = None
        while True:
            page = self.reader.home(user, Cursor(limit=SCROLL_LIMIT, max_id=below))
            found += [tweet.id for tweet in page.tweets]
            below = page.next_max_id
            if below is None:
                return found

    def _fan_out(self, place: int) -> FanOut:
        if place not in self._fan_outs:
            self._fan_outs[place] = FanOut(self.stores.engine)
        return self._fan_outs[place]
