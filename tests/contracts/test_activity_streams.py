"""GET /v1/stream on the real servers, with a log that the test writes itself."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import httpx
import pytest

from consumers import activity_feed, activity_streams, event_stream, live_frames
from consumers.activity_position import parse_position, position_text
from infra.composition import Stores
from infra.events import Activity, ActivityType
from infra.log_reader import LogMessage, LogReader, LogWatch
from infra.settings import Settings
from infra.tokens import Scope, Tokens
from producers.publish import NewTweet, Publisher
from tests.live_client import Event, LiveClient, LiveServer, Logs, serving
from tests.waiting import wait_until

PATH = "/v1/stream"
POSTED, DELETED, FOLLOWED = ActivityType.POSTED, ActivityType.DELETED, ActivityType.FOLLOWED

MakeUsers = Callable[[int], list[int]]


@pytest.fixture
def logs(settings: Settings) -> Iterator[Logs]:
    made = Logs(settings.kafka_bootstrap)
    yield made
    made.close()


@pytest.fixture
def server(stores: Stores, settings: Settings) -> Iterator[LiveServer]:
    with serving(stores, settings) as running:
        yield running


@pytest.fixture
def token(stores: Stores, make_users: MakeUsers) -> str:
    [reader] = make_users(1)
    return Tokens(stores.engine).create(reader)[1]


def opened(server: LiveServer, token: str, query: str = "", last_id: str | None = None) -> LiveClient:
    """A stream that has begun."""
    client = server.listen_with(token, last_id, f"{PATH}?{query}")
    wait_until(lambda: client.last_id is not None or client.ended, "the beginning")
    return client


def shown(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.name, event.data.get("tweet_id") or event.data.get("follower_id")) for event in events]


def test_events_come_with_their_tweets_and_each_client_gets_what_it_asked_for(
    server: LiveServer, logs: Logs, token: str, publisher: Publisher, make_users: MakeUsers
) -> None:
    ann, bob = make_users(2)
    hello, other = (publisher.post(NewTweet(ann, text)).id for text in ("Hello BOB", "else"))
    everything = opened(server, token)
    of_bob = opened(server, token, f"author={bob}&type=followed&type=deleted")
    with_text = opened(server, token, "grep=hello+bob")
    for activity in (
        Activity(POSTED, ann, hello, 1_500),
        Activity(POSTED, ann, other, 1_600),
        Activity(FOLLOWED, bob, ann, 1_700),
        Activity(POSTED, bob, other, 1_800),
    ):
        logs.happen(activity)

    events = [event for event in everything.wait_for(4) if event.data["author_id"] in (f"{ann}", f"{bob}")]

    assert sorted(shown(events)) == sorted(
        [("posted", f"{hello}"), ("posted", f"{other}"), ("followed", f"{ann}"), ("posted", f"{other}")]
    )
    assert shown(of_bob.wait_for(1)) == [("followed", f"{ann}")]
    [found] = with_text.wait_for(1)
    assert found.data == {
        "type": "posted",
        "author_id": f"{ann}",
        "published_at": "1970-01-01T00:00:01.500Z",
        "tweet_id": f"{hello}",
        "text": "Hello BOB",
        "reply_to": None,
        "retweet_of": None,
    }
    assert everything.headers["content-type"].startswith("text/event-stream")


def of_authors(told: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Only the events of one author have an order."""
    return [[event for event in told if int(event[1]) % 3 == author] for author in range(3)]


def test_resumed_after_any_event_a_stream_lacks_nothing_and_tells_nothing_twice(
    server: LiveServer, logs: Logs, token: str, stores: Stores, settings: Settings, make_users: MakeUsers
) -> None:
    authors = make_users(3)
    query = "&".join(f"author={one}" for one in authors)
    first = opened(server, token, query)
    for number in range(1, 31):
        logs.happen(Activity(DELETED, authors[number % 3], number, 1))
    told = shown(first.wait_for(30))
    positions = [event.id for event in first.events]  # where it began, then behind each event
    with serving(stores, settings) as another:
        resumed = {place: opened(another, token, query, positions[place]) for place in (0, 1, 15, 30)}
        for place, client in resumed.items():
            assert of_authors(shown(client.wait_for(30 - place))) == of_authors(told[place:])
        logs.happen(Activity(DELETED, authors[0], 100, 1))
        for place, client in resumed.items():
            assert shown(client.wait_for(31 - place))[30 - place :] == [("deleted", "100")]


def test_a_reader_of_the_past_whose_client_asks_for_nothing_any_more_gets_another_one(
    server: LiveServer, logs: Logs, token: str, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [author] = make_users(1)
    query = f"author={author}"
    first = opened(server, token, query)
    begun = first.last_id
    logs.happen(Activity(DELETED, author, 1, 1))
    first.wait_for(1)
    renewed = list[None]()

    class Stuck(LogReader):
        """As after a broker froze."""

        def read(self, timeout_s: float) -> list[LogMessage]:
            return super().read(timeout_s) if renewed else []

        def renew(self) -> None:
            renewed.append(None)
            super().renew()

    monkeypatch.setattr(activity_feed, "LogReader", Stuck)
    monkeypatch.setattr(activity_feed, "STUCK_S", 0.2)

    assert shown(opened(server, token, query, begun).wait_for(1)) == [("deleted", "1")]
    assert renewed == [None]


def test_positions_grow_and_a_heartbeat_moves_a_stream_that_is_told_nothing(
    server: LiveServer, logs: Logs, token: str, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(activity_feed, "MARK_EVERY_S", 0.1)
    silent, loud = make_users(2)
    client = opened(server, token, f"author={silent}")
    begun = client.last_id
    for number in range(1, 6):
        logs.happen(Activity(DELETED, loud, number, 1))

    wait_until(lambda: client.comments > 1 and client.last_id != begun, "a heartbeat with a position")

    assert client.told == []
    cuts = [parse_position(event.id)[1] for event in client.events if event.id]
    assert all(earlier[log] <= later[log] for earlier, later in pairwise(cuts) for log in earlier)


def test_a_position_of_other_logs_is_a_gap_and_the_stream_goes_on(
    server: LiveServer, logs: Logs, token: str, make_users: MakeUsers, settings: Settings
) -> None:
    [author] = make_users(1)
    watch = LogWatch(settings.kafka_bootstrap)
    last_id = position_text("ffffffff", watch.ends())
    watch.close()

    client = opened(server, token, f"author={author}", last_id)
    logs.happen(Activity(DELETED, author, 5, 1))

    gap, deleted = client.wait_for(2)
    assert (gap.name, gap.data["reason"], deleted.name) == ("gap", "position_unknown", "deleted")


def test_a_client_that_takes_nothing_is_dropped_with_a_reason_and_holds_up_nobody(
    server: LiveServer, logs: Logs, token: str, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_frames, "EVENTS_MAX", 2)
    monkeypatch.setattr(activity_feed, "TOLD_TO_ONE_MAX", 64)
    [author] = make_users(1)
    client = opened(server, token, f"author={author}")
    logs.happen_together([Activity(DELETED, author, number, 1) for number in range(1, 30)])

    wait_until(lambda: client.ended, "its end")

    assert (client.told[-1].name, client.told[-1].data["reason"]) == ("dropped", "too_slow")


@pytest.mark.parametrize(
    ("query", "last_id", "status", "said"),
    [
        ("author=4711", None, 404, "user 4711 does not exist"),
        ("type=liked", None, 422, "posted"),
        ("grep=", None, 422, "grep"),
        ("author=x", None, 422, "a whole number from 1"),
        ("", "nonsense", 422, "must be the id of an event that this stream sent"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    server: LiveServer, token: str, query: str, last_id: str | None, status: int, said: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last_id} if last_id else {})

    answer = httpx.get(f"http://{server.address[0]}:{server.address[1]}{PATH}?{query}", headers=headers)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in answer.text


def test_it_needs_a_token_that_may_read_and_room(
    server: LiveServer, stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity_streams, "STREAMS_MAX", 1)
    [user] = make_users(1)
    url = f"http://{server.address[0]}:{server.address[1]}{PATH}"
    reading, writing = (Tokens(stores.engine).create(user, [scope])[1] for scope in (Scope.READ, Scope.WRITE))

    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Bearer {writing}"}).status_code == 403
    assert httpx.head(url, headers={"Authorization": f"Bearer {reading}"}).status_code == 200
    opened(server, reading)
    assert httpx.get(url, headers={"Authorization": f"Bearer {reading}"}).status_code == 503
