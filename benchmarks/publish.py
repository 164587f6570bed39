"""bench publish: tweets a second by each way of publishing, with the whole stack running and everything durable.

Twice: authors without followers, and authors with 100 followers each whose timelines are warm. Beside them bare inserts
and a bare producer of the same run. The audit of all timelines comes last; without a clean one there is no figure.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any

import numpy as np
import sqlalchemy as sa
from rich.console import Console

from benchmarks.http_load import Load, Loaded, run_load
from benchmarks.publish_limits import insert_limit, produce_limit
from benchmarks.publish_slowly import idle_cpu_share, to_kafka_ms
from benchmarks.stage import Ground
from benchmarks.warm_state import warm
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.audit_report import AuditResult
from infra import outbox
from infra.cloud_events import TYPES
from infra.database import reading, transaction
from infra.errors import FanfoldError, StackError
from infra.events import Activity, ActivityType, encode_activity
from infra.kafka import producer_config
from infra.live_settings import set_live_settings
from infra.stack.status import read_status
from infra.tokens import Tokens
from infra.topics import ACTIVITY
from producers.publish import NewTweet, Tweet, need_all
from producers.relay import Row, as_message

AUTHORS = 1_000  # of each kind
FOLLOWERS_EACH = 100
FANS = 10_000  # who share out those follows
MANY_CALLERS = 2
MANY_AT_ONCE = 2_000  # tweets of one call of post_many
SINGLE_CALLERS = 32
CONNECTIONS = 64
APPLIED_LIMIT_S = 600.0
POLL_S = 0.02
IDLE_S = 10.0
NO_LIMIT = 100_000  # requests a second: the limiter works, and refuses nothing
TEXT = "A tweet that was posted to measure"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure: `tweets` by `post_many`, `seconds` of single posts and of HTTP."""

    tweets: int
    seconds: float
    workers: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What one kind of authors reached."""

    post_many_per_s: float
    post_per_s: float
    http: Loaded

    def as_json(self) -> dict[str, Any]:
        """The object of one kind."""
        p50, p99 = np.percentile(self.http.latency_ms, [50, 99])
        return {
            "post_many_per_s": round(self.post_many_per_s),
            "post_per_s": round(self.post_per_s),
            "http_posts_per_s": round(len(self.http.latency_ms) / self.http.seconds),
            "http_latency_ms_p50": round(float(p50), 1),
            "http_latency_ms_p99": round(float(p99), 1),
            "http_refused": self.http.refused,
            "http_client_cpu_share": round(self.http.cpu_s / self.http.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class PublishReport:
    """All that was found; `durability` is what the servers say of themselves."""

    without: Figures
    followed: Figures
    insert_limit_per_s: float
    produce_limit_per_s: float
    to_kafka_ms: Sequence[float]
    relay_idle_cpu_share: float
    durability: Mapping[str, str]
    workers: int
    audit: AuditResult

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints; the figures of authors without followers are at the top."""
        limit = min(self.insert_limit_per_s, self.produce_limit_per_s)
        measured = {
            **self.without.as_json(),
            "insert_limit_per_s": round(self.insert_limit_per_s),
            "produce_limit_per_s": round(self.produce_limit_per_s),
            "ratio": round(self.without.post_many_per_s / limit, 3),
            "to_kafka_ms_p50": round(float(np.percentile(self.to_kafka_ms, 50)), 1),
            "to_kafka_ms_p99": round(float(np.percentile(self.to_kafka_ms, 99)), 1),
            "relay_idle_cpu_share": round(self.relay_idle_cpu_share, 4),
            "followers_100": self.followed.as_json(),
        }
        shown = measured if self.audit.clean else dict.fromkeys(measured)
        return {
            **shown,
            "post_callers": SINGLE_CALLERS,
            "http_connections": CONNECTIONS,
            "durability": dict(self.durability),
            "workers": self.workers,
            "audit": asdict(self.audit.total),
        }


class PublishBench:
    """The measurement on a stack that is up and our own: its relay is stopped for a limit."""

    def __init__(self, options: Options, ground: Ground) -> None:
        if ground.stack is None:
            raise StackError("bench publish needs a stack of its own: it stops the relay for one of the limits")
        self._options = options
        self._stack = ground.stack
        self._settings = ground.settings
        self._stores = ground.stores
        self._watcher = ground.watcher
        self._publisher = ground.publisher

    def run(self) -> PublishReport:
        """Both kinds of authors, then the limits, then the audit."""
        set_live_settings(self._stores.zookeeper, rate_per_token=NO_LIMIT, rate_per_address=NO_LIMIT)
        authors, followed = self._fill()
        without = self._figures("without followers", authors)
        with_followers = self._figures(f"with {FOLLOWERS_EACH} followers each", followed)
        limits = self._insert_limit(authors), self._produce_limit(authors)
        slowly = self._to_kafka_ms(authors), self._relay_idle_cpu_share()
        self._watcher.step("comparing all timelines with the database")
        result = audit(self._stores.engine, self._stores.timelines, complete=True, progress=self._watcher.counted)
        return PublishReport(
            without, with_followers, *limits, *slowly, self._durability(), self._options.workers, result
        )

    def _fill(self) -> tuple[range, range]:
        """Users by id: authors without followers, authors with followers, and these."""
        self._watcher.step(f"writing {2 * AUTHORS + FANS:,} users and {AUTHORS * FOLLOWERS_EACH:,} follows")
        followed, fans = range(AUTHORS + 1, 2 * AUTHORS + 1), range(2 * AUTHORS + 1, 2 * AUTHORS + FANS + 1)
        with transaction(self._stores.engine) as connection:
            connection.execute(_USERS, {"last": fans[-1]})
            connection.execute(
                _FOLLOWS,
                {"first": followed[0], "authors": AUTHORS, "fan": fans[0], "fans": FANS, "each": FOLLOWERS_EACH},
            )
        with self._stores.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE users, follows"))
        self._watcher.step(f"{FANS:,} users read their home timelines for the first time")
        warm(self._stores, fans, self._watcher.counted)
        return range(1, AUTHORS + 1), followed

    def _figures(self, kind: str, authors: Sequence[int]) -> Figures:
        many = self._measured(f"post_many, authors {kind}", lambda: self._post_many(authors))
        single = self._measured(f"{SINGLE_CALLERS} callers of post, authors {kind}", lambda: self._post(authors))
        self._watcher.step(f"{CONNECTIONS} HTTP connections, authors {kind}")
        http = self._http(authors)
        self._watcher.done(f"{len(http.latency_ms) / http.seconds:,.0f} a second")
        self._settle()
        return Figures(many, single, http)

    def _measured(self, what: str, rate: Callable[[], float], *, settle: bool = True) -> float:
        self._watcher.step(what)
        found = rate()
        self._watcher.done(f"{found:,.0f} a second")
        if settle:
            self._settle()
        return found

    def _post_many(self, authors: Sequence[int]) -> float:
        """Until Kafka has acknowledged the last event: then the outbox is empty."""
        new = [NewTweet(author, TEXT) for author in islice(cycle(authors), self._options.tweets)]
        calls = [new[at : at + MANY_AT_ONCE] for at in range(0, len(new), MANY_AT_ONCE)]
        began_s = time.monotonic()
        with ThreadPoolExecutor(MANY_CALLERS) as threads:
            for _ in threads.map(lambda call: need_all(self._publisher.post_many(call)), calls):
                continue
        self._wait_relayed()
        return len(new) / (time.monotonic() - began_s)

    def _post(self, authors: Sequence[int]) -> float:
        turn, lock, until_s = cycle(authors), threading.Lock(), time.monotonic() + self._options.seconds
        began_s = time.monotonic()

        def call() -> int:
            posted = 0
            while time.monotonic() < until_s:
                with lock:
                    author = next(turn)
                self._publisher.post(NewTweet(author, TEXT))
                posted += 1
            return posted

        with ThreadPoolExecutor(SINGLE_CALLERS) as threads:
            posted = sum(one.result() for one in [threads.submit(call) for _ in range(SINGLE_CALLERS)])
        return posted / (time.monotonic() - began_s)

    def _http(self, authors: Sequence[int]) -> Loaded:
        tokens = Tokens(self._stores.engine)
        texts = [tokens.create(author)[1] for author in authors[:CONNECTIONS]]
        host, port = self._settings.api_host, self._settings.api_port
        return run_load(Load(host, port, texts, CONNECTIONS, self._options.seconds))

    def _insert_limit(self, authors: Sequence[int]) -> float:
        self._stack.stop_part("relay")
        try:
            some = list(islice(cycle(authors), self._options.tweets))
            return self._measured(
                "bare inserts", lambda: insert_limit(self._stores.engine, some, TEXT, MANY_CALLERS), settle=False
            )
        finally:
            self._stack.start_part("relay")

    def _produce_limit(self, authors: Sequence[int]) -> float:
        posted = need_all(self._publisher.post_many([NewTweet(author, TEXT) for author in authors]))
        messages = list(islice(cycle(map(_message, posted)), self._options.tweets))
        return self._measured("a bare producer", lambda: produce_limit(self._settings.kafka_bootstrap, messages))

    def _to_kafka_ms(self, authors: Sequence[int]) -> list[float]:
        self._watcher.step("one post after the other, until it can be read from Kafka")
        found = to_kafka_ms(self._publisher, self._settings.kafka_bootstrap, authors, TEXT)
        self._watcher.done(f"{np.percentile(found, 50):,.1f} ms in the median")
        self._settle()
        return found

    def _relay_idle_cpu_share(self) -> float:
        self._watcher.step(f"nobody posts for {IDLE_S:g} s")
        [address] = [part.address for part in read_status(self._settings).parts if part.name == "relay"]
        found = idle_cpu_share(address, IDLE_S)
        self._watcher.done(f"the relay takes {found:.2%} of a processor")
        return found

    def _settle(self) -> None:
        wait_until_applied(self._stores.engine, self._settings.kafka_bootstrap, APPLIED_LIMIT_S)

    def _wait_relayed(self) -> None:
        deadline_s = time.monotonic() + APPLIED_LIMIT_S
        while not outbox.is_empty(self._stores.engine):
            if time.monotonic() > deadline_s:
                raise FanfoldError(f"the outbox is not empty after {APPLIED_LIMIT_S:g} s; the relay's log says why")
            time.sleep(POLL_S)

    def _durability(self) -> dict[str, str]:
        with reading(self._stores.engine) as connection:
            names = ("fsync", "synchronous_commit")
            found = {name: str(connection.execute(sa.text(f"SHOW {name}")).scalar_one()) for name in names}
        return {**found, "acks": str(producer_config("")["acks"])}


def _message(tweet: Tweet) -> Any:
    event = encode_activity(Activity(ActivityType.POSTED, tweet.author_id, tweet.id, time.time_ns() // 1_000_000))
    return as_message(
        Row(tweet.id, ACTIVITY.name, str(tweet.author_id), TYPES[ActivityType.POSTED], event, datetime.now(UTC), None)
    )


_USERS = sa.text("INSERT INTO users (id, handle) SELECT id, 'u' || id FROM generate_series(1, :last) AS one (id)")
_FOLLOWS = sa.text(
    """
    INSERT INTO follows (follower_id, author_id)
    SELECT :fan + (at * :each + place) % :fans, :first + at
    FROM generate_series(0, :authors - 1) AS author (at), generate_series(0, :each - 1) AS one (place)
    """
)


def print_publish(report: PublishReport) -> None:
    """For people, on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if not report.audit.clean:
        console.print("no figure: the audit found differences")
        return
    shown = report.as_json()
    console.print("\nTweets a second, each durable: " + ", ".join(f"{k} {v}" for k, v in report.durability.items()))
    for kind, figures in (("without followers", shown), ("with 100 followers each", shown["followers_100"])):
        console.print(f"  authors {kind}")
        console.print(f"    post_many {figures['post_many_per_s']:>10,}  (until Kafka has acknowledged all)")
        console.print(f"    post      {figures['post_per_s']:>10,}  ({SINGLE_CALLERS} callers)")
        console.print(
            f"    HTTP      {figures['http_posts_per_s']:>10,}  ({CONNECTIONS} connections, p50 "
            f"{figures['http_latency_ms_p50']} ms, p99 {figures['http_latency_ms_p99']} ms; the client took "
            f"{figures['http_client_cpu_share']:.0%} of a processor)"
        )
    console.print(
        f"  bare inserts  {shown['insert_limit_per_s']:>10,}\n  bare producer {shown['produce_limit_per_s']:>10,}"
    )
    console.print(f"  post_many to the lower of them: {shown['ratio']}")
    console.print(
        f"  one post after the other can be read from Kafka after {shown['to_kafka_ms_p50']} ms (p50), "
        f"{shown['to_kafka_ms_p99']} ms (p99); an idle relay takes {shown['relay_idle_cpu_share']:.2%} of a processor"
    )
