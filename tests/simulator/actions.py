"""What users do: each call of theirs is a process of its own, so it can freeze or die anywhere inside."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from random import Random

from consumers.read_timeline import TimelineReader
from infra.composition import Stores
from infra.copying import copy_timelines
from infra.errors import DependencyError, TokenLost
from infra.events import REPLAY_HEADER, decode_activity, decode_deliveries, encode_deliveries
from infra.kafka import Message
from infra.paging import Cursor
from infra.rebuild import rebuild
from infra.shard_map import CLUSTERS
from infra.timelines import Kind
from infra.topics import ACTIVITY, DELIVERIES, Topic
from infra.tweet_bodies import Body
from infra.tweet_ids import EPOCH_MS
from tests.simulator.broker import Record
from tests.simulator.database import NO_TIME, PULLED, PUSHED, Tweet, User
from tests.simulator.oracle import Oracle
from tests.simulator.parts import Ground
from tests.simulator.profile import ACTIONS, Profile
from tests.simulator.scheduler import Process
from tests.simulator.watermark import Watermark

APIS = 2
RECENT = 8  # tweets among which a reader looks for one that was deleted
OPEN_MAX = 20  # calls at the same time
SLOW_PACES = (0.3, 0.1, 0.03)  # with the last, a step takes as long as the whole way of an event
STALLS_AT_MAX = 16  # steps of a call before it stands still once
STALL_STEPS = (100, 1_500)  # the way of an event takes some hundred
CLOCK_SKEW_MS = 300  # between publishers, each way
REPEAT_S = 0.1
TWEETS_MAX = 40  # before the first step
PULL_SHARE = 0.2  # of the authors
FOLLOW_SHARE = 0.5  # of the pairs


class Actions:
    """Begins calls of users in one world."""

    def __init__(
        self,
        ground: Ground,
        stores: Stores,
        reader: TimelineReader,
        oracle: Oracle,
        watermark: Watermark,
        profile: Profile,
    ) -> None:
        self.open: list[Process] = []
        self.apis = [Process(f"api {number}") for number in range(APIS)]  # their threads are the calls
        self._ground = ground
        self._scheduler = ground.scheduler
        self._database = ground.database
        self._rng: Random = ground.scheduler.rng
        self._stores = stores
        self._reader = reader
        self._oracle = oracle
        self._watermark = watermark
        self._slow = profile.slow
        self._weights = [profile.weights[name] + 1e-9 for name in ACTIONS]
        self._calls: dict[str, Callable[[], None]] = {name: getattr(self, f"_{name}") for name in ACTIONS}
        self._begun = 0
        self._sequence = count()

    def make_world(self, count: int) -> None:
        """Users, some of them celebrities, follows and tweets, as they are before the first step."""
        ids = [self._rng.randrange(1, 1 << 62) for _ in range(count)]
        for user in ids:
            self._database.users[user] = User(PULLED if self._rng.random() < PULL_SHARE else PUSHED)
        for follower in ids:
            for author in ids:
                if follower != author and self._rng.random() < FOLLOW_SHARE:
                    self._database.follows.add((follower, author))
                    self._database.once_followed.add((follower, author))
        for _ in range(self._rng.randrange(TWEETS_MAX)):
            self._scheduler.now_ms += self._rng.randrange(1_000)
            self._database.add(Tweet(self.new_id(), self._rng.choice(ids), None))

    def begin_one(self) -> None:
        """One more call, unless many are open."""
        if len(self.open) >= OPEN_MAX:
            return
        [name] = self._rng.choices(ACTIONS, self._weights)
        process = self.begin(name, self._calls[name])
        if self._rng.random() < self._slow:
            process.pace = self._rng.choice(SLOW_PACES)
        elif self._rng.random() < self._slow:
            process.stalls_at = self._rng.randint(1, STALLS_AT_MAX)
            process.stall_steps = self._rng.randint(*STALL_STEPS)

    def begin(self, name: str, call: Callable[[], object], api: Process | None = None) -> Process:
        """A call as a process of its own, open until it ends, in one of the APIs."""
        self._begun += 1
        process = Process(f"{name} {self._begun}", belongs_to=api or self._rng.choice(self.apis))

        def run() -> None:
            try:
                call()
            except (DependencyError, TokenLost):
                pass  # the caller is told, and may try again
            finally:
                self.open.remove(process)

        self.open.append(process)
        self._scheduler.spawn(process, process.name, run)
        return process

    # Publishing

    def _post(self, retweet_of: int | None = None) -> None:
        author, tweet_id = self._some_user(), self.new_id()
        self._scheduler.pause()
        if self._database.post(tweet_id, author, self._scheduler.now_ms, retweet_of):
            self._stores.write_through.put([Body(tweet_id, author, "text", NO_TIME, None, retweet_of)])

    def _retweet(self) -> None:
        originals = [one.id for one in self._database.tweets.values() if one.retweet_of is None]
        if originals:
            self._post(self._rng.choice(originals))

    def _delete(self) -> None:
        tweets = list(self._database.tweets)
        if not tweets:
            return
        self.delete(self._rng.choice(tweets[-self._rng.choice((3, 20)) :]))

    def delete(self, tweet_id: int) -> None:
        """Deletes a tweet, and repeats the call until it is acknowledged."""
        self._database.delete(tweet_id, self._scheduler.now_ms)
        while True:
            try:
                self._stores.bodies.bury([tweet_id])
            except DependencyError:
                self._scheduler.sleep(REPEAT_S)
            else:
                break
        self._oracle.acknowledged.add(tweet_id)

    def _follow(self) -> None:
        self._database.follow(*self._some_pair(), self._scheduler.now_ms)

    def _unfollow(self) -> None:
        follows = sorted(self._database.follows)
        if follows:
            self._database.unfollow(*self._rng.choice(follows), self._scheduler.now_ms)

    def _block(self) -> None:
        self._database.block(*self._some_pair(), self._scheduler.now_ms)

    # Reading

    def _home(self) -> None:
        self.read_home(self._some_user(), self._cursor())

    def read_home(self, user: int, cursor: Cursor) -> None:
        """A page of a home timeline, and what must hold of it."""
        deleted, applied = frozenset(self._oracle.acknowledged), self._watermark.applied
        page = self._reader.home(user, cursor)
        self._oracle.check_page(page, deleted, f"user {user}")
        if cursor.since_id is None and cursor.min_id is None:
            self._oracle.check_no_hole(page, applied, user, cursor.max_id)

    def _user(self) -> None:
        user, before = self._some_user(), frozenset(self._oracle.acknowledged)
        self._oracle.check_page(self._reader.user(user, self._cursor()), before, f"a reader of user {user}")

    def _tweet(self) -> None:
        """One tweet, by its id."""
        if not self._database.tweets:
            return
        gone = [one for one in list(self._database.tweets)[-RECENT:] if one in self._oracle.acknowledged]
        self.read_tweet(self._rng.choice(gone or list(self._database.tweets)))

    def read_tweet(self, tweet_id: int) -> None:
        """One tweet by its id, and what must hold of it."""
        deleted = frozenset(self._oracle.acknowledged)
        self._oracle.check_tweets(self._stores.bodies.read([tweet_id]).values(), deleted, "a reader of one tweet")

    def _rebuild(self) -> None:
        self._rebuild_some(renew=())

    def _renew(self) -> None:
        self._rebuild_some(renew=CLUSTERS)

    def _rebuild_some(self, *, renew: Sequence[str]) -> None:
        kind = self._rng.choice(list(Kind))
        rebuild(self._ground.engine, self._ground.timelines, kind, [self._some_user()], renew=renew)

    def _copy(self) -> None:
        """As repair does for one user."""
        kind, cluster = self._rng.choice(list(Kind)), self._rng.choice(CLUSTERS)
        copy_timelines(self._ground.timelines, cluster, kind, [self._some_user()])

    # Sending again

    def _replay(self) -> None:
        """An event of an author once more, at the end of his log."""
        self._scheduler.pause()
        found = self._some_record(ACTIVITY)
        if found is not None:
            event = decode_activity(found.value)
            headers = ((REPLAY_HEADER, b"any"),)
            self._ground.broker.append(Message(found.topic, found.value, b"%d" % event.author_id, headers=headers))

    def _redrive(self) -> None:
        """Records of a timeline's log once more, long after their turn."""
        self._scheduler.pause()
        found = self._some_record(DELIVERIES)
        if found is not None:
            records = [replace(one, verify=True) for one in decode_deliveries(found.value)]
            self._ground.broker.append(Message(found.topic, encode_deliveries(records), partition=found.partition))

    def _some_record(self, topic: Topic) -> Record | None:
        logs = [log for (name, _), log in self._ground.broker.logs.items() if name == topic.name and log]
        return self._rng.choice(self._rng.choice(logs)) if logs else None

    # Choosing

    def _cursor(self) -> Cursor:
        limit = self._rng.randint(1, 5)
        if not self._database.tweets or self._rng.random() < 0.5:
            return Cursor(limit)
        some = self._rng.choice(list(self._database.tweets))
        return self._rng.choice((Cursor(limit, max_id=some), Cursor(limit, since_id=some), Cursor(limit, min_id=some)))

    def _some_user(self) -> int:
        return self._rng.choice(list(self._database.users))

    def _some_pair(self) -> tuple[int, int]:
        follower, author = self._rng.sample(list(self._database.users), 2)
        return follower, author

    def new_id(self) -> int:
        """A tweet id of about now."""
        ms = self._scheduler.now_ms + self._rng.randint(-CLOCK_SKEW_MS, CLOCK_SKEW_MS)
        return ((ms - EPOCH_MS) << 22) + next(self._sequence)
