"""What a replay reads, on real servers: from the log, from the database, and in which topic it is then.

What a replay does to timelines is shown by tests/drills/test_replay.py.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from infra.errors import InvalidInput, NotFound
from infra.events import REPLAY_HEADER, Activity, ActivityType
from infra.replay_estimate import estimate
from infra.replay_jobs import Job, State
from infra.replay_what import Source, What
from infra.topics import ACTIVITY, DELIVERIES, create_backfill_topic
from producers.publish import NewTweet, Publisher, need_all
from tests.replaying import DELETED, POSTED, Ground, Sent, of

MakeUsers = Callable[[int], list[int]]


@pytest.fixture
def tweets(publisher: Publisher, make_users: MakeUsers) -> dict[int, list[int]]:
    """Author → tweets, of which the first one of each author is deleted. Nobody has relayed anything."""
    authors = make_users(3)
    found = {}
    for author in authors:
        found[author] = [one.id for one in need_all(publisher.post_many([NewTweet(author, text) for text in "abcd"]))]
        publisher.delete(found[author][0], author)
    return found


def expected(tweets: dict[int, list[int]], authors: Sequence[int]) -> set[Sent]:
    return {(DELETED if n == 0 else POSTED, author, one) for author in authors for n, one in enumerate(tweets[author])}


def test_the_database_gives_live_tweets_as_posted_and_dead_ones_as_deleted(
    ground: Ground, tweets: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.replay_sources.PAGE_ROWS", 5)
    sent = ground.replayed(What(Source.DATABASE))

    assert len(sent) == 12
    assert set(sent) == expected(tweets, list(tweets))


def test_authors_followers_and_times_choose(ground: Ground, tweets: dict[int, list[int]], publisher: Publisher) -> None:
    first, second, third = tweets
    publisher.follow_many([(first, third), (second, third)])
    from_second = What(Source.DATABASE, since_ms=(tweets[second][0] >> 22) + 883_612_800_000)

    assert set(ground.replayed(What(Source.DATABASE, authors=(second,)))) == expected(tweets, [second])
    assert set(ground.replayed(What(Source.DATABASE, followers_of=third))) == expected(tweets, [first, second])
    assert not {author for _, author, _ in ground.replayed(from_second)} & {first}


def test_offsets_of_the_log_are_sent_as_they_are_but_for_what_was_sent_again(ground: Ground) -> None:
    author = secrets.randbelow(1 << 62) + 1
    before = ground.log()
    events = [Activity(POSTED, author, 5 + number, 1_000 + number) for number in range(7)]
    ground.publish(events, [("ce_id", b"77")])
    ground.publish(events[:3], [(REPLAY_HEADER, b"1")])
    after = ground.log()
    [partition] = [one for one in after if after[one] != before[one]]
    what = What(Source.LOG, offsets={partition: (before[partition], after[partition])})

    assert ground.replayed(what) == [of(event) for event in events]
    shorter = replace(what, offsets={partition: (before[partition] + 2, before[partition] + 4)})
    assert ground.replayed(shorter) == [of(event) for event in events[2:4]]


def test_into_the_log_it_goes_with_the_jobs_number_and_the_headers_of_then(ground: Ground) -> None:
    author, before = secrets.randbelow(1 << 62) + 1, ground.log()
    ground.publish([Activity(POSTED, author, 5, 1_000)], [("ce_id", b"77")])
    between = ground.log()
    [partition] = [one for one in between if between[one] != before[one]]

    job = ground.create(What(Source.LOG, offsets={partition: (before[partition], between[partition])}))
    done = ground.run(job)

    [(event, headers)] = ground.read(ACTIVITY.name, [between[one] for one in sorted(between)])
    assert (done.state, done.counts.sent, event) == (State.DONE, 1, Activity(POSTED, author, 5, 1_000))
    assert headers == {"ce_id": b"77", REPLAY_HEADER: b"%d" % job.id}


def test_times_choose_in_the_log_and_auto_takes_the_database_before_it(
    ground: Ground, tweets: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events of these tweets are in the outbox only, so what comes is the database's, or what is put in here."""
    now_ms, author = time.time_ns() // 1_000_000, next(iter(tweets))
    ground.publish([Activity(ActivityType.FOLLOWED, author, number, now_ms + number) for number in (1, 2, 3)])
    of_log = [(ActivityType.FOLLOWED, author, number) for number in (2, 3)]
    monkeypatch.setattr("infra.replay_plan.SLACK_MS", 600_000)
    since = What(Source.LOG, since_ms=now_ms + 2, authors=(author,))
    monkeypatch.setattr(What, "check", lambda *_: None)  # the clock is behind these times

    assert ground.replayed(since) == of_log
    both = ground.replayed(What(Source.AUTO, authors=(author,)))
    assert set(both) >= expected(tweets, [author]) or [kind for kind, _, _ in both].count(ActivityType.FOLLOWED) == 3


def test_what_is_not_there_is_refused(ground: Ground) -> None:
    for what in (What(authors=(4711,)), What(followers_of=4711)):
        with pytest.raises(NotFound, match="user 4711 does not exist"):
            ground.plan(what)
    with pytest.raises(InvalidInput, match="and the log has"):
        ground.plan(What(offsets={0: (0, 1 << 50)}))


def test_a_topic_of_fanfolds_own_takes_no_backfill(ground: Ground) -> None:
    for name in (ACTIVITY.name, DELIVERIES.dead_letters):
        with pytest.raises(InvalidInput, match="is Fanfold's own"):
            create_backfill_topic(ground.bootstrap, name)
    with pytest.raises(InvalidInput, match="is no name of a topic"):
        create_backfill_topic(ground.bootstrap, "no topic")
    assert not create_backfill_topic(ground.bootstrap, ground.topic())


def test_an_estimate_counts_events_and_followers(
    ground: Ground, tweets: dict[int, list[int]], publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = tweets
    publisher.follow_many([(first, third), (second, third), (third, first)])
    what = What(Source.DATABASE)
    plan = ground.plan(what)
    job = Job(0, what, plan, 2, 12, 0, 0, position=plan.start())

    found = estimate(ground.stores.engine, ground.bootstrap, job)
    assert (found.events, found.deliveries, found.is_whole, found.about_s) == (12, 4 * 2 + 4 * 1, True, 6.0)

    monkeypatch.setattr("infra.replay_sources.PAGE_ROWS", 4)
    monkeypatch.setattr("infra.replay_estimate.LOOKED_MAX", 4)
    found = estimate(ground.stores.engine, ground.bootstrap, job)
    assert (found.events, found.is_whole) == (12, False)
