"""A live timeline over the whole stack, while a Redis node, Kafka and the API are killed and started again."""

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from consumers.applied import wait_until_applied
from consumers.live_position import parse_position
from consumers.open_streams import STREAMS_PER_USER_MAX
from infra.composition import Stores, stores
from infra.live_settings import set_live_settings
from infra.settings import Settings
from infra.stack.status import read_status
from infra.stack.supervisor import Stack
from infra.tokens import Tokens
from producers.publish import NewTweet, Publisher
from tests.live_client import Event, LiveClient
from tests.services import fresh_folder
from tests.stack.test_pipeline import delete_as_a_client_does
from tests.waiting import wait_until

READER, CELEBRITY, FICKLE = 1, 2, 3  # whom the reader follows, but for FICKLE now and then
AUTHORS, CROSSING = range(10, 16), 16  # CROSSING becomes a celebrity for a while
OTHERS = range(100, 105)
THRESHOLD = 5
TOLD_S = 90.0
EVENTS_RESUMED_MAX = 20
AT_ONCE = STREAMS_PER_USER_MAX // 2


class Browser:
    """A client that comes again with its last id whenever its stream ends, as a browser does."""

    def __init__(self, address: tuple[str, int], token: str) -> None:
        self._address, self._headers = address, {"Authorization": f"Bearer {token}"}
        self._streams: list[LiveClient] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    @property
    def told(self) -> list[Event]:
        """What it was told over all of its streams."""
        return [event for stream in list(self._streams) for event in stream.told]

    @property
    def streams(self) -> int:
        """How many it needed."""
        return sum(stream.status == 200 for stream in list(self._streams))

    def close(self) -> None:
        """Goes away."""
        self._closed.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _go_on(self) -> None:
        last_id = None
        while not self._closed.is_set():
            try:
                stream = LiveClient(self._address, self._headers, last_id)
            except OSError:
                self._closed.wait(0.1)
                continue
            self._streams.append(stream)
            while not stream.ended and not self._closed.wait(0.05):
                continue
            last_id = stream.last_id or last_id
            stream.close()


@pytest.fixture
def stack() -> Iterator[Stack]:
    folder = fresh_folder("live")
    made = Stack(folder, roles=("registrar", "coordinator", "relay", "worker", "api"))
    made.start()
    try:
        yield made
    finally:
        made.stop()
    shutil.rmtree(folder)


def make_people(opened: Stores, publisher: Publisher) -> None:
    set_live_settings(opened.zookeeper, threshold=THRESHOLD)
    for user in (READER, CELEBRITY, FICKLE, *AUTHORS, CROSSING, *OTHERS):
        publisher.create_user(f"u{user}", user)
    for author in (CELEBRITY, *AUTHORS, CROSSING):
        publisher.follow(READER, author)
    for other in OTHERS:
        publisher.follow(other, CELEBRITY)
    await_status(opened, CELEBRITY, "pull")


def await_status(opened: Stores, author: int, status: str) -> None:
    """The status keeper has brought him there."""
    asked = sa.text("SELECT status FROM users WHERE id = :id")

    def is_there() -> bool:
        with opened.engine.connect() as connection:
            return bool(connection.execute(asked, {"id": author}).scalar_one() == status)

    wait_until(is_there, f"author {author} to be at {status}", TOLD_S)


def ids(events: list[Event], name: str) -> list[int]:
    return [int(event.data["id"]) for event in events if event.name == name]


@dataclass
class Traffic:
    """Posts and deletes at random, and what came of them."""

    stores: Stores
    publisher: Publisher
    rng: Random = field(default_factory=lambda: Random(3))
    live: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    crossed: set[int] = field(default_factory=set)  # of the author who crosses the threshold

    def publish(self, rounds: int) -> None:
        rng, publisher = self.rng, self.publisher
        for number in range(rounds):
            author = rng.choice([CELEBRITY, READER, *AUTHORS, CROSSING])
            tweets = [publisher.post(NewTweet(author, f"{number}")).id for _ in range(rng.randrange(1, 4))]
            self.live.update(tweets)
            self.crossed.update(tweets if author == CROSSING else ())
            if rng.random() < 0.2:
                self.gone.add(tweet := rng.choice(sorted(self.live)))
                self.live.discard(tweet)
                delete_as_a_client_does(publisher, tweet)
            if rng.random() < 0.2:
                (publisher.follow if rng.random() < 0.5 else publisher.unfollow)(READER, FICKLE)
                publisher.post(NewTweet(FICKLE, "counted by nobody"))

    def cross(self, change: Callable[[int, int], bool], status: str) -> None:
        """The author gets or loses followers, and posts until he is there and after it."""
        for other in OTHERS:
            change(other, CROSSING)
        self.publish(20)
        await_status(self.stores, CROSSING, status)
        self.publish(10)


def test_a_client_that_comes_again_is_told_everything_once_whatever_is_restarted(stack: Stack) -> None:
    settings: Settings = stack.settings()
    with stores(settings) as opened, Publisher(opened) as publisher:
        make_people(opened, publisher)
        wait_until_applied(opened.engine, settings.kafka_bootstrap, TOLD_S)
        token = Tokens(opened.engine).create(READER)[1]
        address = (settings.api_host, api_port(stack))
        browser = Browser(address, token)
        wait_until(lambda: browser.streams == 1, "the stream")
        traffic = Traffic(opened, publisher)
        traffic.publish(20)
        traffic.cross(publisher.follow, "pull")
        traffic.cross(publisher.unfollow, "push")
        wait_until(lambda: traffic.live <= {*ids(browser.told, "update")}, "every tweet", TOLD_S)
        for part in ("b1", "kafka"):
            killed = stack.kill(part, signal.SIGKILL)
            traffic.publish(10)
            stack.wait_restarted(part, killed)
        traffic.publish(20)
        wait_until(lambda: traffic.live <= {*ids(browser.told, "update")}, "every tweet", TOLD_S)
        assert browser.streams == 1  # it stayed open, and went on
        killed = stack.kill("api", signal.SIGKILL)
        traffic.publish(10)
        stack.wait_restarted("api", killed)
        traffic.publish(20)
        stack.stop_part("api")
        traffic.publish(10)
        stack.start_part("api")
        traffic.publish(20)
        traffic.live.add(publisher.post(NewTweet(READER, "last")).id)
        wait_until(lambda: traffic.live <= {*ids(browser.told, "update")}, "every tweet", TOLD_S)
        wait_until(lambda: traffic.gone <= {*ids(browser.told, "delete")}, "every delete", TOLD_S)
        told = browser.told
        browser.close()
        check_once(told, traffic.live, traffic.gone)
        wait_until_applied(opened.engine, settings.kafka_bootstrap, TOLD_S)
        check_resumed(told, address, token, traffic.live - traffic.crossed, traffic.gone - traffic.crossed)


def check_once(told: list[Event], live: set[int], gone: set[int]) -> None:
    for name, wanted in (("update", live), ("delete", gone)):
        of_them = [one for one in ids(told, name) if one in wanted]
        assert sorted(of_them) == sorted(wanted)
    assert "reload" in {event.name for event in told}


def check_resumed(told: list[Event], address: tuple[str, int], token: str, live: set[int], gone: set[int]) -> None:
    """From events all over the run on: what a client that comes with their ids is told is what came behind them. Where
    another author was a celebrity it is the page that he is asked to read, and may be for that author's tweets."""
    audience = parse_position(str(told[-1].id)).audience
    numbers = range(0, len(told), max(len(told) // EVENTS_RESUMED_MAX, 1))
    for start in range(0, len(numbers), AT_ONCE):
        group = numbers[start : start + AT_ONCE]
        clients = [LiveClient(address, {"Authorization": f"Bearer {token}"}, told[number].id) for number in group]
        for number, client in zip(group, clients, strict=True):
            if parse_position(str(told[number].id)).audience != audience:
                assert client.wait_for(1)[0].data["reason"] == "follows_changed"
                client.close()
                continue
            for name, wanted in (("update", live), ("delete", gone)):
                expected = sorted(one for one in ids(told[number + 1 :], name) if one in wanted)

                def there(client: LiveClient = client, name: str = name, expected: list[int] = expected) -> bool:
                    return len(set(ids(client.told, name)) & {*expected}) == len(expected)

                wait_until(there, f"what came behind event {number}: {json.dumps(expected)}")
                assert sorted(one for one in ids(client.told, name) if one in wanted) == expected
            client.close()


def api_port(stack: Stack) -> int:
    """Where the stack's API listens."""
    [api] = [part for part in read_status(stack.settings()).parts if part.name == "api"]
    return int(urlsplit(api.address).port or 0)
