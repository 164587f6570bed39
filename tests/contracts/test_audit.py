"""The audit on real servers. A checker is tested by damage: each kind must be found, and counted as what it is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count

import pytest
import sqlalchemy as sa

from consumers import applied
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.audit_pauses import ASKS_MAX
from consumers.audit_report import AuditResult, Counts
from consumers.delivered import Delivered, delivered, expected_deliveries
from infra import redis_keys
from infra.errors import CheckFailed, RedisUnavailable
from infra.rebuild import rebuild
from infra.redis_node import Argument, RedisNode
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.timelines import Kind, Timelines
from infra.topics import DELIVERIES

FIRST = 10**18
READER, OTHER_READER, AUTHOR, STRANGER, CELEBRITY, RETWEETER = 1, 2, 11, 12, 13, 14
LIVE = [FIRST + place for place in (1, 2, 3, 5, 6)]
DELETED, BY_STRANGER, BY_CELEBRITY, DEAD_RETWEET = FIRST + 4, FIRST + 10, FIRST + 11, FIRST + 12
RETWEET = FIRST + 7
EXPECTED = [*LIVE, RETWEET]


@dataclass(frozen=True, slots=True)
class World:
    """A small database, and the home timelines of its two readers in the three clusters."""

    engine: sa.Engine
    timelines: Timelines

    def run(self, statement: str, **values: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def post(self, author: int, *ids: int) -> None:
        self.run(
            "INSERT INTO tweets (id, author_id, text, created_at) "
            "SELECT id, :author, 'x', now() FROM unnest(CAST(:ids AS bigint[])) AS new (id)",
            ids=list(ids),
            author=author,
        )

    def delete(self, *ids: int) -> None:
        self.run("UPDATE tweets SET deleted_at = now(), text = NULL WHERE id = ANY (:ids)", ids=list(ids))

    def rebuild(self, *users: int) -> None:
        rebuild(self.engine, self.timelines, Kind.HOME, users, renew=CLUSTERS)

    def node(self, cluster: str, user: int = READER) -> RedisNode:
        return self.timelines.clusters.node_for(cluster, user)

    def replace(self, cluster: str, head: int | str, entries: list[int], user: int = READER) -> None:
        key = redis_keys.home_timeline(user)
        self.node(cluster, user).commands([("DEL", key), ("RPUSH", key, head, *entries)])

    def audit(self, *, complete: bool = False, pause: Callable[[float], None] | None = None) -> AuditResult:
        return audit(self.engine, self.timelines, complete=complete, pause=pause or (lambda _: None))


@pytest.fixture
def world(engine: sa.Engine, timelines: Timelines) -> World:
    """Two active readers of one author: five live tweets, a deleted one, retweets, a stranger's and a celebrity's."""
    made = World(engine, timelines)
    for user in (READER, OTHER_READER, AUTHOR, STRANGER, CELEBRITY, RETWEETER, 99):
        made.run("INSERT INTO users (id, handle) VALUES (:id, :handle)", id=user, handle=f"u{user}")
    made.run("UPDATE users SET status = 'pull' WHERE id = :id", id=CELEBRITY)
    made.run("UPDATE users SET status = 'both' WHERE id = :id", id=AUTHOR)
    for author in (AUTHOR, CELEBRITY, RETWEETER):
        made.run("INSERT INTO follows (follower_id, author_id) VALUES (:reader, :author)", reader=READER, author=author)
    made.run("INSERT INTO follows (follower_id, author_id) VALUES (:f, :a)", f=OTHER_READER, a=AUTHOR)
    made.run("INSERT INTO follows (follower_id, author_id) VALUES (:f, :a)", f=99, a=AUTHOR)
    made.post(AUTHOR, *LIVE, DELETED)
    made.post(STRANGER, BY_STRANGER)
    made.post(CELEBRITY, BY_CELEBRITY)
    made.post(RETWEETER, RETWEET, DEAD_RETWEET)
    made.run("UPDATE tweets SET retweet_of = :o WHERE id = :id", o=BY_STRANGER, id=RETWEET)
    made.run("UPDATE tweets SET retweet_of = :o WHERE id = :id", o=DELETED, id=DEAD_RETWEET)
    made.delete(DELETED)
    made.rebuild(READER, OTHER_READER)
    return made


CLEAN = Counts(timelines=2, entries=len(EXPECTED) + len(LIVE))


def test_exact_timelines_pass(world: World) -> None:
    result = world.audit(complete=True)
    assert result.clean
    assert result.active_users == 2  # user 99 never read anything
    assert result.clusters == dict.fromkeys(CLUSTERS, CLEAN)
    assert result.total.timelines == 6
    assert not result.differences


# The reader's list in cluster b: entries, what must be counted, and the sentence.
DAMAGE = {
    "missing": ([*LIVE[1:], RETWEET], {"missing": 1}, f"tweet {LIVE[0]} by user 11 is missing"),
    "newest missing": (LIVE, {"missing": 1}, f"tweet {RETWEET} by user 14 is missing"),
    "all missing": ([], {"missing": 6}, f"tweet {LIVE[0]} by user 11 is missing (and 5 more)"),
    "duplicate": ([LIVE[0], *EXPECTED], {"duplicate": 1}, f"tweet {LIVE[0]} by user 11 stands there more than once"),
    "deleted": (
        [*LIVE[:3], DELETED, *LIVE[3:], RETWEET],
        {"unexpected": 1},
        f"tweet {DELETED} by user 11 must not be there: it is deleted",
    ),
    "not followed": (
        [*EXPECTED, BY_STRANGER],
        {"unexpected": 1},
        f"tweet {BY_STRANGER} by user 12 must not be there: the user does not follow its author",
    ),
    "celebrity": (
        [*EXPECTED, BY_CELEBRITY],
        {"unexpected": 1},
        f"tweet {BY_CELEBRITY} by user 13 must not be there: its author is a celebrity",
    ),
    "retweet of a deleted tweet": (
        [*EXPECTED, DEAD_RETWEET],
        {"unexpected": 1},
        f"tweet {DEAD_RETWEET} by user 14 must not be there: it is deleted",
    ),
    "no tweet": (
        [*EXPECTED, 5 * FIRST],
        {"unexpected": 1},
        f"tweet {5 * FIRST} must not be there: no tweet has this id",
    ),
    "misordered": (
        [LIVE[1], LIVE[0], *EXPECTED[2:]],
        {"misordered": 1},
        f"tweet {LIVE[0]} by user 11 stands above a newer one",
    ),
}


@pytest.mark.parametrize(("entries", "counts", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_in_one_copy_is_found_and_counted_there_only(
    world: World, entries: list[int], counts: dict[str, int], words: str
) -> None:
    world.replace("b", 0, entries)
    result = world.audit()
    damaged = replace(CLEAN, entries=CLEAN.entries + len(entries) - len(EXPECTED), **counts)
    assert result.clusters == {"a": CLEAN, "b": damaged, "c": CLEAN}
    assert result.differences == (f"user 1, cluster b: {words}",)
    assert not result.clean


def test_an_absent_timeline_is_counted_apart(world: World) -> None:
    world.node("c").command("DEL", redis_keys.home_timeline(READER))
    result = world.audit()
    assert result.clusters == {"a": CLEAN, "b": CLEAN, "c": Counts(1, len(LIVE), absent=1)}
    assert result.clean
    strict = world.audit(complete=True)
    assert not strict.clean
    assert strict.clusters == result.clusters
    assert strict.differences == ("user 1, cluster c: the timeline is absent",)


def test_a_timeline_under_a_token_counts_as_absent_when_the_rebuild_does_not_end(world: World) -> None:
    world.node("a").command("LSET", redis_keys.home_timeline(READER), 0, "-77")
    pauses: list[float] = []
    result = world.audit(complete=True, pause=pauses.append)
    assert result.clusters == {"a": Counts(1, len(LIVE), absent=1), "b": CLEAN, "c": CLEAN}
    assert result.differences == ("user 1, cluster a: the timeline is under a rebuild's token",)
    assert pauses


def test_a_rebuild_that_ends_during_the_audit_does_not_count(world: World) -> None:
    key = redis_keys.home_timeline(READER)
    world.node("a").command("LSET", key, 0, "-77")
    assert world.audit(complete=True, pause=lambda _: world.node("a").command("LSET", key, 0, 0)).clean


def test_an_entry_that_arrives_during_the_audit_does_not_count(world: World) -> None:
    world.replace("b", 0, LIVE)
    key = redis_keys.home_timeline(READER)
    arrivals: Iterator[int] = iter([RETWEET])

    def arrive(_: float) -> None:
        for entry in arrivals:
            world.node("b").command("RPUSH", key, entry)

    result = world.audit(pause=arrive)
    assert result.clean
    assert result.clusters["b"] == CLEAN


def test_differences_that_come_and_go_do_not_count(world: World) -> None:
    world.replace("b", 0, EXPECTED[1:])
    lacking = count(2)

    def lack_another(_: float) -> None:
        at = next(lacking)
        world.replace("b", 0, EXPECTED[: at - 1] + EXPECTED[at:])

    assert world.audit(pause=lack_another).clean


@pytest.fixture
def full(world: World) -> World:
    """The other reader's author has 1,000 tweets more; the timelines are trimmed."""
    world.post(AUTHOR, *range(FIRST + 1_000, FIRST + 2_000))
    world.rebuild(READER, OTHER_READER)
    return world


def test_a_trimmed_timeline_passes(full: World) -> None:
    length = full.timelines.live.timeline_entries
    assert full.audit(complete=True).clusters == dict.fromkeys(CLUSTERS, Counts(2, 2 * length))


def test_a_floor_that_is_too_high_is_missing_entries(full: World) -> None:
    length = full.timelines.live.timeline_entries
    floor = FIRST + 1_999 - length + 100  # the lowest lawful floor counts as there: the 800th newest
    full.replace("a", floor, list(range(floor + 1, FIRST + 2_000)))
    result = full.audit()
    assert result.clusters["a"] == Counts(2, 2 * length - 100, missing=100)
    assert result.clusters["b"] == Counts(2, 2 * length)


def test_entries_below_the_floor_are_unexpected(full: World) -> None:
    length = full.timelines.live.timeline_entries
    newest = list(range(FIRST + 2_000 - length, FIRST + 2_000))
    full.replace("a", newest[0] - 1, [newest[0] - 1, *newest])
    assert full.audit().clusters["a"] == Counts(2, 2 * length + 1, unexpected=1)


def test_floor_0_is_wrong_when_more_tweets_exist(full: World) -> None:
    length = full.timelines.live.timeline_entries
    full.replace("a", 0, list(range(FIRST + 2_000 - length, FIRST + 2_000)))
    assert full.audit().clusters["a"].missing > 0
    full.replace("a", 0, [*LIVE, RETWEET, *range(FIRST + 1_000, FIRST + 2_000)])
    assert full.audit().clusters["a"].missing == 0


@pytest.mark.parametrize("by", ["delete", "unfollow"])
def test_removals_may_leave_fewer_entries_above_a_floor(full: World, by: str) -> None:
    length = full.timelines.live.timeline_entries
    newest = list(range(FIRST + 2_000 - length, FIRST + 2_000))
    gone = newest[100:400]
    if by == "delete":
        full.delete(*gone)
    else:  # the tweets that went were another author's, whom both readers followed once
        full.run("UPDATE tweets SET author_id = :other WHERE id = ANY (:ids)", other=STRANGER, ids=gone)
        for reader in (READER, OTHER_READER):
            full.run("INSERT INTO former_follows VALUES (:reader, :author)", reader=reader, author=STRANGER)
    left = [one for one in newest if one not in set(gone)]
    for cluster in CLUSTERS:
        for reader in (READER, OTHER_READER):
            full.replace(cluster, newest[0] - 1, left, reader)
    result = full.audit()
    assert result.clean, result.differences
    full.replace("b", newest[0] + 1, left[2:])
    assert full.audit().clusters["b"].missing > 0


@pytest.mark.parametrize("failures", [1, ASKS_MAX - 1, ASKS_MAX])
def test_a_node_that_does_not_answer_is_asked_again_a_bounded_number_of_times(
    world: World, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, pauses, asked = world.node("b"), list[float](), count()
    look = node.look

    def silent(function: str, *arguments: Argument) -> object:
        if next(asked) < failures:
            raise RedisUnavailable("no answer")
        return look(function, *arguments)

    monkeypatch.setattr(node, "look", silent)
    if failures < ASKS_MAX:
        assert world.audit(pause=pauses.append).clean
    else:
        with pytest.raises(RedisUnavailable):
            world.audit(pause=pauses.append)
    assert len(pauses) == min(failures, ASKS_MAX - 1)


def test_a_sample_looks_at_that_many_users(world: World) -> None:
    result = audit(world.engine, world.timelines, sample=1)
    assert result.active_users == 1
    assert result.total.timelines == 3


def test_progress_tells_users_done_and_in_all(world: World) -> None:
    told: list[tuple[int, int]] = []
    audit(world.engine, world.timelines, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 2)]


def test_the_wait_goes_through_the_stages_in_order(world: World) -> None:
    world.run("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('activity', '1', 'posted', '{}')")
    behind = {"fan_out": 1, "deliver": 1}
    heard: list[str] = []

    def advance(_: float) -> None:
        if "outbox" in heard[-1]:
            world.run("DELETE FROM outbox")
        else:
            behind["fan_out" if "fan_out" in heard[-1] else "deliver"] = 0

    wait_until_applied(world.engine, "", 60, heard.append, lags=lambda _: behind, pause=advance)
    assert [sentence.rpartition(" that ")[0] for sentence in heard] == [
        "1 events in the outbox",
        "1 messages of the activity log",
        "1 messages of the deliveries log",
    ]


def test_a_wait_that_takes_too_long_says_what_is_left(world: World) -> None:
    ticks = count()
    with pytest.raises(CheckFailed, match=r"after 3 s there are still 5 messages of the deliveries log"):
        wait_until_applied(
            world.engine,
            "",
            3,
            lags=lambda _: {"fan_out": 0, "deliver": 5},
            pause=lambda _: None,
            clock=lambda: next(ticks),
        )
    assert applied.WAIT_S > 3


def test_expected_deliveries_are_live_tweets_times_active_followers(world: World) -> None:
    assert expected_deliveries(world.engine) == len(LIVE) * 2 + 1  # the author's to both readers, one retweet to one


def test_delivered_is_what_all_clusters_acknowledged(timelines: Timelines) -> None:
    clusters = timelines.clusters
    assert delivered(clusters) == Delivered(dict.fromkeys(CLUSTERS, (0,) * DELIVERIES.partitions))
    for cluster in CLUSTERS:
        for user, number in ((READER, 5), (OTHER_READER, 7)):
            key = redis_keys.control(slot_of(user) % DELIVERIES.partitions)
            clusters.node_for(cluster, user).command("HINCRBY", key, "delivered", number)
    assert delivered(clusters).deliveries == 12
    assert delivered(clusters).copies == 3
    clusters.node_for("c", READER).command("HINCRBY", redis_keys.control(0), "delivered", 1)
    assert delivered(clusters).deliveries == 12
    assert delivered(clusters).copies == 1


def test_an_entry_that_is_no_id_is_unexpected(world: World) -> None:
    world.node("b", READER).command("RPUSH", redis_keys.home_timeline(READER), "abc")

    result = world.audit()

    assert result.clusters["b"].unexpected == 1
    assert "abc" in result.differences[0]


def test_a_key_of_another_type_is_an_absent_timeline(world: World) -> None:
    key = redis_keys.home_timeline(READER)
    world.node("b", READER).commands([("DEL", key), ("SET", key, "a string")])

    result = world.audit()

    assert (result.clean, result.clusters["b"].absent) == (True, 1)
