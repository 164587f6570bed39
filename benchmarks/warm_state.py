"""The state that a benchmark starts from: active users whose home timelines are full of tweets that the database has.

Written straight into the tables, and warmed by the readers' own rebuild. Nothing of it passes the logs.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import psycopg
import sqlalchemy as sa

from consumers.read_timeline import TimelineReader
from infra.composition import Stores
from infra.database import reading, transaction
from infra.errors import Conflict, StackError
from infra.rebuild import BATCH_USERS_MAX
from infra.slots import Ids
from infra.tweet_ids import EPOCH_MS, TIME_SHIFT

FOLLOWS_EACH = 16  # authors whom every user follows
FOLLOWERS_SIGMA = 1.0  # of the log-normal number of followers: the best known author has some 20 times the mean
HISTORY_MS = 30 * 86_400_000  # the history ends a minute before the run
WARM_AT_ONCE = 3

ENTRY_BYTES = 10.6  # measured: an 800-entry list of 19-digit ids takes 8.3 kB with its key and allocation
LOGGED_BYTES = 40.0  # one delivery in Kafka's log and the database's, all runs: generous
NODE_MEMORY_SPARE = 1.5  # of what a node's share of the lists takes
BASE_MEMORY_BYTES = 2_500_000_000  # Kafka, PostgreSQL, ZooKeeper, the roles and this process
BASE_DISK_BYTES = 1_000_000_000

Counted = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """How large: `timelines` active users, lists of `entries`, authors with `fan_out` followers in the mean."""

    timelines: int
    entries: int
    fan_out: int

    @property
    def authors(self) -> int:
        """Everybody follows `FOLLOWS_EACH` of them."""
        return max(round(self.timelines * FOLLOWS_EACH / self.fan_out), FOLLOWS_EACH + 1)

    @property
    def history(self) -> int:
        """Tweets of each author before the run."""
        return -(-self.entries // FOLLOWS_EACH)

    @property
    def memory_bytes(self) -> int:
        """What the state and the servers take, three copies of every timeline."""
        return round(BASE_MEMORY_BYTES + 3 * self.timelines * (self.entries + 64) * ENTRY_BYTES)

    def disk_bytes(self, tweets: int) -> int:
        """What the logs and tables of all runs take."""
        return round(BASE_DISK_BYTES + tweets * self.fan_out * LOGGED_BYTES + self.timelines * FOLLOWS_EACH * 200)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One tweet and its author's followers."""

    tweet_id: int
    followers: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Audience:
    """The followers of each author. The users' ids begin at `first`; the first `authors` of them are the authors."""

    first: int
    followers: npt.NDArray[np.uint64]
    bounds: npt.NDArray[np.int64]

    @property
    def authors(self) -> int:
        """How many."""
        return len(self.bounds) - 1

    def of(self, author: int) -> Ids:
        """One author's followers."""
        at = author - self.first
        return self.followers[self.bounds[at] : self.bounds[at + 1]]

    def some_authors(self, tweets: int, rng: np.random.Generator) -> list[int]:
        """Who posts: each author equally often, in random order, so the mean fan-out is the mean of all."""
        rounds = -(-tweets // self.authors)
        order = np.concatenate([rng.permutation(self.authors) for _ in range(rounds)])[:tweets]
        return [int(author) + self.first for author in order]


def refuse_too_large(shape: Shape, tweets: int, free_memory_bytes: int, free_disk_bytes: int) -> None:
    """Raises `StackError` when the stated state cannot fit, before anything is started."""
    for what, needed, free in (
        ("memory", shape.memory_bytes, free_memory_bytes),
        ("disk", shape.disk_bytes(tweets), free_disk_bytes),
    ):
        if needed > free:
            raise StackError(
                f"{shape.timelines:,} timelines of {shape.entries} entries and {tweets:,} tweets need about "
                f"{needed >> 20:,} MiB of {what}, and {free >> 20:,} MiB are free: ask for fewer, or make room"
            )


def refuse_other_data(engine: sa.Engine, *, allowed: bool) -> None:
    """Raises `Conflict` when the database holds users or tweets, unless the caller was told to go on."""
    with reading(engine) as connection:
        users = connection.execute(sa.text("SELECT count(*) FROM users")).scalar_one()
    if users and not allowed:
        raise Conflict(
            f"the stack holds {users:,} users already, and a benchmark would mix its own with them: "
            "use an empty stack, or add --beside-other-data"
        )


def fill(engine: sa.Engine, shape: Shape, rng: np.random.Generator) -> Audience:
    """Writes users, follows and history, and returns who follows whom."""
    with transaction(engine) as connection:
        first = connection.execute(sa.text("SELECT coalesce(max(id), 0) + 1 FROM users")).scalar_one()
        audience = make_audience(shape, first, rng)
        connection.execute(_USERS, {"first": first, "last": first + shape.timelines - 1})
        _copy_follows(connection, audience)
        end_ms = time.time_ns() // 1_000_000 - 60_000
        total = shape.authors * shape.history
        step_ms = HISTORY_MS // total
        assert step_ms > 0, "two tweets of the history would have one id"
        connection.execute(
            _HISTORY,
            {"total": total, "authors": shape.authors, "start": end_ms - total * step_ms, "step": step_ms}
            | {"first": first, "epoch": EPOCH_MS, "shift": TIME_SHIFT},
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE users, follows, tweets"))
    return audience


def make_audience(shape: Shape, first: int, rng: np.random.Generator) -> Audience:
    """Everybody follows `FOLLOWS_EACH` distinct authors, never himself."""
    authors = shape.authors
    weights = rng.lognormal(sigma=FOLLOWERS_SIGMA, size=authors)
    cumulative = np.cumsum(weights / weights.sum())
    pairs = np.empty(0, dtype=np.int64)
    lacking = np.repeat(np.arange(shape.timelines), FOLLOWS_EACH)
    while len(lacking):
        drawn = np.minimum(np.searchsorted(cumulative, rng.random(len(lacking))), authors - 1)
        drawn = np.where(drawn == lacking, (drawn + 1) % authors, drawn)
        pairs = np.union1d(pairs, lacking * authors + drawn)
        have = np.bincount(pairs // authors, minlength=shape.timelines)
        lacking = np.repeat(np.arange(shape.timelines), FOLLOWS_EACH - have)
    author, follower = pairs % authors, pairs // authors
    order = np.argsort(author, kind="stable")
    bounds = np.concatenate(([0], np.cumsum(np.bincount(author, minlength=authors))))
    return Audience(first, (follower[order] + first).astype(np.uint64), bounds)


def warm(stores: Stores, users: Sequence[int], counted: Counted) -> None:
    """Every user reads his home timeline: it is rebuilt in all three clusters."""
    reader = TimelineReader(stores)
    batches = [users[at : at + BATCH_USERS_MAX] for at in range(0, len(users), BATCH_USERS_MAX)]
    done = 0
    with ThreadPoolExecutor(WARM_AT_ONCE) as threads:
        for batch, _ in zip(batches, threads.map(reader.warm, batches), strict=True):
            done += len(batch)
            counted(done, len(users))


def give_memory(stores: Stores, shape: Shape) -> None:
    """Lets each node hold its share of the lists without evicting."""
    nodes = stores.clusters.shard_map.nodes
    wanted = round(shape.memory_bytes / len(nodes) * NODE_MEMORY_SPARE)
    for name in nodes:
        node = stores.clusters.node(name)
        has = int(node.command("CONFIG", "GET", "maxmemory")[1])
        node.command("CONFIG", "SET", "maxmemory", max(has, wanted))


def _copy_follows(connection: sa.Connection, audience: Audience) -> None:
    """COPY in PostgreSQL's binary format: every row has the same 26 bytes."""
    row = np.dtype([("fields", ">i2"), ("size_1", ">i4"), ("follower", ">i8"), ("size_2", ">i4"), ("author", ">i8")])
    rows = np.empty(len(audience.followers), dtype=row)
    rows["fields"], rows["size_1"], rows["size_2"] = 2, 8, 8
    rows["follower"] = audience.followers
    rows["author"] = np.repeat(np.arange(audience.authors) + audience.first, np.diff(audience.bounds))
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with (
        driver.cursor() as cursor,
        cursor.copy("COPY follows (follower_id, author_id) FROM STDIN (FORMAT binary)") as copy,
    ):
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff")


_USERS = sa.text(
    "INSERT INTO users (id, handle) SELECT n, 'bench_' || n FROM generate_series(CAST(:first AS bigint), :last) AS n"
)
# A tweet each `step` ms, the authors in turn.
_HISTORY = sa.text(
    """
    INSERT INTO tweets (id, author_id, text, created_at)
    SELECT (CAST(:start AS bigint) + n * :step - :epoch) << :shift,
           CAST(:first AS bigint) + n % :authors, 'Tweet ' || n,
           to_timestamp((CAST(:start AS bigint) + n * :step) / 1000.0)
    FROM generate_series(CAST(0 AS bigint), :total - 1) AS n
    """
)
