"""Live timelines on the real servers, with logs that the test writes itself."""

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

import httpx
import pytest
import sqlalchemy as sa
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from consumers import event_stream, live_catch_up, live_feed, live_frames, open_streams
from consumers.live_feed import LiveFeed
from consumers.live_frames import EventQueue
from consumers.live_listener import Listener
from consumers.live_position import Place, Position, audience_of, parse_position
from infra.composition import Stores
from infra.events import Activity, ActivityType, DeliveryKind
from infra.redis_clusters import RedisClusters
from infra.settings import Settings
from infra.tokens import Scope, Tokens
from infra.tweet_bodies import TweetBodies
from producers.publish import NewTweet, Publisher, need_all
from tests.fixed_maps import fixed_maps
from tests.http_client import bearing
from tests.live_client import PATH, Event, LiveServer, Logs, log_of, serving
from tests.waiting import wait_until

DELIVER, RETRACT, UNMERGE = DeliveryKind.DELIVER, DeliveryKind.RETRACT, DeliveryKind.UNMERGE
POSTED, DELETED = ActivityType.POSTED, ActivityType.DELETED

MakeUsers = Callable[[int], list[int]]


@pytest.fixture
def logs(settings: Settings) -> Iterator[Logs]:
    made = Logs(settings.kafka_bootstrap)
    made.apply_all()
    yield made
    made.close()


@pytest.fixture
def server(stores: Stores, settings: Settings) -> Iterator[LiveServer]:
    with serving(stores, settings) as running:
        yield running


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats and what else happens now and then happen soon."""
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(live_feed, "MARK_EVERY_S", 0.1)


def make_celebrity(stores: Stores, author_id: int, status: str = "pull") -> None:
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET status = :s WHERE id = :id"), {"s": status, "id": author_id})


def ids(events: Sequence[Event]) -> list[tuple[str, str]]:
    return [(event.name, event.data.get("id") or event.data["reason"]) for event in events]


def post(publisher: Publisher, author_id: int, text: str = "Hello") -> int:
    return publisher.post(NewTweet(author_id, text)).id


def url(server: LiveServer, path: str = PATH) -> str:
    return f"http://{server.address[0]}:{server.address[1]}{path}"


def test_updates_and_deletes_come_as_they_are_delivered(
    server: LiveServer, logs: Logs, publisher: Publisher, make_users: MakeUsers
) -> None:
    reader, author = make_users(2)
    first, second, own = (post(publisher, one) for one in (author, author, reader))
    client = server.listen(reader)
    logs.deliver((DELIVER, first, [author, reader][1:]))
    client.wait_for(1)
    logs.deliver((DELIVER, second, [reader]), (DeliveryKind.DELIVER_OWN, own, [reader]))
    logs.deliver((RETRACT, first, [reader]))
    told = client.wait_for(4)
    assert ids(told) == [("update", f"{first}"), ("update", f"{second}"), ("update", f"{own}"), ("delete", f"{first}")]
    assert told[1].data == httpx.get(url(server, f"/v1/tweets/{second}")).json()
    assert client.status == 200
    assert client.headers["content-type"].startswith("text/event-stream")
    assert client.headers["cache-control"] == "no-store"
    assert client.headers["x-accel-buffering"] == "no"


def test_a_celebrity_is_told_from_the_activity_log_and_once_when_both_logs_have_a_tweet(
    server: LiveServer, logs: Logs, stores: Stores, publisher: Publisher, make_users: MakeUsers
) -> None:
    reader, pull, both, stranger = make_users(4)
    for author, status in ((pull, "pull"), (both, "both"), (stranger, "pull")):
        make_celebrity(stores, author, status)
    for author in (pull, both):
        publisher.follow(reader, author)
    client = server.listen(reader)
    tweets = {author: post(publisher, author) for author in (pull, both, stranger)}
    logs.deliver((DELIVER, tweets[both], [reader]))
    for author, tweet in tweets.items():
        logs.happen(Activity(POSTED, author, tweet, 0))
    logs.happen(Activity(DELETED, pull, tweets[pull], 0))
    logs.deliver((RETRACT, tweets[both], [reader]))
    logs.happen(Activity(DELETED, both, tweets[both], 0))
    logs.deliver((DELIVER, post(publisher, both), [reader]))
    told = client.wait_for(5)
    names = sorted(ids(told)[:4])
    assert names == sorted((name, f"{tweets[one]}") for name in ("update", "delete") for one in (pull, both))


def test_resumed_after_any_event_a_stream_is_told_the_rest_once(
    server: LiveServer,
    logs: Logs,
    stores: Stores,
    publisher: Publisher,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Random posts, deletes, messages that are sent again, some with several tweets, and a celebrity."""
    monkeypatch.setattr(open_streams, "STREAMS_PER_USER_MAX", 100)
    rng = Random(8)
    reader, other, author, celebrity = make_users(4)
    make_celebrity(stores, celebrity, "both")
    publisher.follow(reader, celebrity)
    tweets = [tweet.id for tweet in need_all(publisher.post_many([NewTweet(author, f"{one}") for one in range(30)]))]
    of_celebrity = [post(publisher, celebrity) for _ in range(10)]
    client = server.listen(reader)
    wait_until(lambda: client.last_id is not None, "the stream to begin")
    first_id, gone = client.last_id, set[int]()
    sent = list[list[tuple[DeliveryKind, int, list[int]]]]()
    for start in range(0, 30, 3):
        sent.append([(DELIVER, tweet, [reader]) for tweet in tweets[start : start + 3]])
        if rng.random() < 0.5:
            gone.add(tweet := rng.choice(tweets[: start + 3]))
            sent.append([(RETRACT, tweet, [reader])])
        celebrity_tweet = of_celebrity[start // 3]
        logs.happen(Activity(POSTED, celebrity, celebrity_tweet, 0))
        sent.append([(DELIVER, celebrity_tweet, [reader])])
        for message in sent[-rng.randrange(1, 4) :]:
            logs.deliver(*message)
            if rng.random() < 0.4:
                logs.deliver(*message)
    for message in sent:
        logs.deliver(*message)
    logs.deliver((UNMERGE, author, [reader]))
    last = post(publisher, author, "last")
    logs.deliver((DELIVER, last, [reader]))
    wait_until(lambda: ("update", f"{last}") in ids(client.told), "the last event")
    told = client.told
    live = {*tweets, *of_celebrity, last} - gone  # a delete may come before its tweet, which is not told then
    assert {("update", f"{one}") for one in live} | {("delete", f"{one}") for one in gone} <= set(ids(told))
    assert len(told) == len(set(ids(told)))
    resumed = [server.listen(reader, event.id) for event in told[:-1]] + [server.listen(reader, first_id)]
    logs.apply_all()
    for number, again in enumerate(resumed[:-1], start=1):
        wait_until(lambda one=again: ("reload", "follows_changed") in ids(one.told), "the reload")  # type: ignore[misc]
        rest = [event for event in ids(again.told) if event[0] != "reload"]
        assert sorted(rest) == sorted(ids(told[number:]))
    wait_until(lambda: ("reload", "follows_changed") in ids(client.told), "the reload")
    again = server.listen(reader, client.last_id)
    logs.deliver((DELIVER, post(publisher, author), [reader]))
    assert [name for name, _ in ids(again.wait_for(1))] == ["update"]
    assert other not in gone


def test_a_change_of_follows_asks_to_read_the_page_again_once_it_is_applied(
    server: LiveServer, logs: Logs, publisher: Publisher, make_users: MakeUsers
) -> None:
    reader, author = make_users(2)
    client = server.listen(reader)
    logs.deliver((UNMERGE, author, [reader]))
    logs.deliver((DELIVER, post(publisher, author), [reader]))
    assert [event.name for event in client.wait_for(1)] == ["update"]
    resumed = server.listen(reader, client.last_id)
    wait_until(lambda: resumed.last_id is not None, "the stream to begin")
    assert resumed.told == []
    logs.apply_all()
    for one in (client, resumed):
        wait_until(lambda one=one: [event.name for event in one.told][-1:] == ["reload"], "a reload")  # type: ignore[misc]
    assert ids(client.told)[1:] == ids(resumed.told) == [("reload", "follows_changed")]


def test_a_celebrity_whom_no_record_told_of_is_a_reload_in_bounded_time(
    stores: Stores,
    settings: Settings,
    logs: Logs,
    publisher: Publisher,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_feed, "CELEBRITIES_EVERY_S", 0.2)
    reader, celebrity = make_users(2)
    publisher.follow(reader, celebrity)
    with serving(stores, settings) as server:
        client = server.listen(reader)
        logs.deliver((DELIVER, post(publisher, celebrity), [reader]))
        before = client.wait_for(1)[0].id
        make_celebrity(stores, celebrity)
        assert ids(client.wait_for(2))[1] == ("reload", "follows_changed")
        logs.happen(Activity(POSTED, celebrity, post(publisher, celebrity), 0))
        assert client.wait_for(3)[2].name == "update"
        resumed = server.listen(reader, before)
        assert ids(resumed.wait_for(1))[0] == ("reload", "follows_changed")


def test_a_position_that_the_logs_no_longer_have_is_said_and_no_silent_gap(
    server: LiveServer, logs: Logs, publisher: Publisher, make_users: MakeUsers
) -> None:
    reader, author = make_users(2)
    client = server.listen(reader)
    logs.deliver((DELIVER, post(publisher, author), [reader]))
    logs.deliver((DELIVER, post(publisher, author), [reader]))
    told = client.wait_for(2)
    logs.apply_all()
    position = parse_position(str(told[0].id))
    above = replace(position, deliveries=replace(position.deliveries, offset=10**15))
    for one in (above, replace(position, incarnation="00000000")):
        assert ids(server.listen(reader, str(one)).wait_for(1)) == [("reload", "position_unknown")]
    admin = AdminClient({"bootstrap.servers": logs.bootstrap})
    place = TopicPartition(*log_of(reader), parse_position(str(told[1].id)).deliveries.offset + 1)
    for future in admin.delete_records([place]).values():
        future.result(10)
    again = server.listen(reader, told[0].id)  # not applied, and gone
    assert ids(again.wait_for(1)) == [("reload", "position_expired")]
    logs.deliver((DELIVER, post(publisher, author), [reader]))
    assert [event.name for event in again.wait_for(2)] == ["reload", "update"]


def test_positions_in_a_message_that_is_not_there_hold_up_nobody(
    server: LiveServer, logs: Logs, publisher: Publisher, make_users: MakeUsers
) -> None:
    reader, author = make_users(2)
    logs.deliver((DELIVER, post(publisher, author), [reader]))
    logs.apply_all()
    client = server.listen(reader)
    wait_until(lambda: client.last_id is not None, "the stream")
    position = parse_position(str(client.last_id))
    made_up = str(replace(position, told=1))
    clients = [server.listen(reader, made_up) for _ in range(live_catch_up.GROUPS_AT_ONCE)]
    for one in clients:
        assert ids(one.wait_for(1)) == [("reload", "position_unknown")]
    wait_until(lambda: server.app.state.streams.live == len(clients) + 1, "all to be live")


def test_what_cannot_be_streamed_is_a_problem(server: LiveServer, stores: Stores, make_users: MakeUsers) -> None:
    reader = make_users(1)[0]
    tokens = Tokens(stores.engine)
    token, writing = tokens.create(reader)[1], tokens.create(reader, [Scope.WRITE])[1]
    headers = bearing(token)
    assert httpx.get(url(server)).status_code == 401
    assert httpx.get(url(server), headers=bearing(writing)).status_code == 403
    refusal = httpx.get(url(server), headers={**headers, "Last-Event-ID": "12"})
    assert (refusal.status_code, refusal.headers["content-type"]) == (422, "application/problem+json")
    assert "Last-Event-ID is '12'" in refusal.json()["detail"]
    head = httpx.head(url(server), headers=headers)
    assert (head.status_code, head.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    clients = [server.listen_with(token) for _ in range(open_streams.STREAMS_PER_USER_MAX)]
    wait_until(lambda: all(client.status == 200 for client in clients), "the streams")
    more = httpx.get(url(server), headers=headers)
    assert (more.status_code, more.headers["retry-after"]) == (429, "1")
    clients[0].close()
    wait_until(lambda: server.app.state.streams.count == len(clients) - 1, "the stream to end")
    again = server.listen_with(token)
    wait_until(lambda: again.status == 200, "another stream")
    document = server.app.openapi()["paths"][PATH]["get"]
    assert document["responses"].keys() >= {"200", "401", "403", "422", "429", "503"}
    assert document["responses"]["200"]["content"].keys() == {"text/event-stream"}
    assert [one["name"] for one in document["parameters"]] == ["last-event-id"]


def test_a_client_that_takes_too_little_is_told_so_and_can_resume(
    server: LiveServer, logs: Logs, publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, author = make_users(2)
    tweets = [post(publisher, author, f"{number}") for number in range(6)]
    client = server.listen(reader)
    wait_until(lambda: client.last_id is not None and server.app.state.streams.live == 1, "the stream to be live")
    monkeypatch.setattr(live_frames, "EVENTS_MAX", 4)
    logs.deliver(*[(DELIVER, tweet, [reader]) for tweet in tweets])
    assert ids(client.wait_for(1)) == [("dropped", "too_slow")]
    assert client.told[0].id is None
    wait_until(lambda: client.ended, "the end")
    monkeypatch.undo()
    resumed = server.listen(reader, client.last_id)
    assert ids(resumed.wait_for(6)) == [("update", f"{tweet}") for tweet in tweets]


def test_a_client_that_takes_nothing_is_cut_off(
    server: LiveServer,
    logs: Logs,
    stores: Stores,
    publisher: Publisher,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "WRITE_WITHIN_S", 0.5)
    reader, author = make_users(2)
    token = Tokens(stores.engine).create(reader)[1]
    with socket.socket() as frozen:
        frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        frozen.connect(server.address)
        frozen.sendall(f"GET {PATH} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        wait_until(lambda: getattr(getattr(server.app.state, "streams", None), "live", 0) == 1, "the stream to be live")
        for _ in range(8):
            tweets = need_all(publisher.post_many([NewTweet(author, "\U0001f426" * 280)] * 500))
            logs.deliver(*[(DELIVER, tweet.id, [reader]) for tweet in tweets])
            if server.app.state.streams.count == 0:
                break
        wait_until(lambda: server.app.state.streams.count == 0, "the stream to end")


def test_a_revoked_token_and_a_deleted_user_end_their_streams_with_the_next_heartbeat(
    at_once: None, server: LiveServer, logs: Logs, stores: Stores, publisher: Publisher, make_users: MakeUsers
) -> None:
    revoked, deleted, kept = make_users(3)
    tokens = Tokens(stores.engine)
    token_id, token = tokens.create(revoked)
    clients = [server.listen_with(token), server.listen(deleted), server.listen(kept)]
    wait_until(lambda: all(client.comments for client in clients), "heartbeats")
    tokens.revoke(token_id)
    publisher.delete_user(deleted)
    for client in clients[:2]:
        wait_until(lambda one=client: one.ended, "the end")  # type: ignore[misc]
        assert ids(client.told) == [("dropped", "token_refused")]
    assert not clients[2].ended


def test_the_position_of_an_idle_stream_moves_with_its_heartbeats(
    at_once: None, server: LiveServer, logs: Logs, make_users: MakeUsers
) -> None:
    reader, other = make_users(2)
    while log_of(other) != log_of(reader):
        other = make_users(1)[0]
    client = server.listen(reader)
    wait_until(lambda: client.last_id is not None, "the stream to begin")
    before = parse_position(str(client.last_id)).deliveries.offset
    logs.deliver((DELIVER, 1, [other]))
    wait_until(lambda: parse_position(str(client.last_id)).deliveries.offset > before, "the position to move")
    assert client.told == []


def test_streams_end_when_the_server_stops_and_go_on_at_the_next_one(
    stores: Stores, settings: Settings, logs: Logs, publisher: Publisher, make_users: MakeUsers
) -> None:
    reader, author = make_users(2)
    with serving(stores, settings) as server:
        client = server.listen(reader)
        logs.deliver((DELIVER, post(publisher, author), [reader]))
        client.wait_for(1)
        server.server.should_exit = True
        wait_until(lambda: client.ended, "the end", 3)
    assert open_streams.RETRY_FIRST_MS <= client.retry_ms[-1] <= open_streams.RETRY_LAST_MS
    missed = post(publisher, author)
    logs.deliver((DELIVER, missed, [reader]))
    with serving(stores, settings) as server:
        resumed = server.listen(reader, client.last_id)
        assert ids(resumed.wait_for(1)) == [("update", f"{missed}")]


def test_without_redis_tweets_are_told_from_the_database(
    stores: Stores, settings: Settings, logs: Logs, publisher: Publisher, make_users: MakeUsers
) -> None:
    reader, author = make_users(2)
    tweet = post(publisher, author)
    known = stores.clusters.shard_map
    nowhere = RedisClusters(fixed_maps(replace(known, addresses=dict.fromkeys(known.addresses, "redis://127.0.0.1:1"))))
    without = replace(stores, bodies=TweetBodies(nowhere, stores.engine))
    with serving(without, settings) as server:
        client = server.listen(reader)
        logs.deliver((DELIVER, tweet, [reader]))
        assert ids(client.wait_for(1)) == [("update", f"{tweet}")]
    nowhere.close()


def made_at_once(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def test_the_feed_takes_over_only_who_has_read_as_far_as_it_has(
    settings: Settings, logs: Logs, make_users: MakeUsers
) -> None:
    """Else what it read before would be told to nobody."""
    reader = make_users(1)[0]
    feed = LiveFeed(settings.kafka_bootstrap, lambda _: {}, lambda _: {}, made_at_once)
    try:
        feed.expect(feed.watch.ends())
        before = feed.cut()
        logs.deliver((DELIVER, 1, [reader]))
        wait_until(lambda: feed.cut()[log_of(reader)] > before[log_of(reader)], "the feed to read it")
        start = Position("0" * 8, audience_of(reader, ()), Place(before[log_of(reader)]))
        listener = Listener(reader, (), start, before, EventQueue())
        assert not feed.take_over([listener], before)
        assert feed.size == 0
        assert feed.take_over([listener], feed.cut())
        assert feed.size == 1
    finally:
        feed.close()


def test_while_kafka_is_away_a_new_stream_is_put_off_and_a_resumed_one_waits(
    at_once: None,
    stores: Stores,
    settings: Settings,
    publisher: Publisher,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_streams, "BEGUN_WITHIN_S", 0.2)
    reader = make_users(1)[0]
    position = Position("0" * 8, audience_of(reader, ()), Place(0))
    with serving(stores, replace(settings, kafka_bootstrap="127.0.0.1:1")) as server:
        refused = httpx.get(url(server), headers=bearing(Tokens(stores.engine).create(reader)[1]))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["detail"].startswith("Kafka")
        resumed = server.listen(reader, str(position))
        wait_until(lambda: resumed.comments > 1, "heartbeats")
        assert (resumed.status, resumed.events) == (200, [])
        assert server.app.state.streams.count == 1
