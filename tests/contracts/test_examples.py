"""The examples of docs/examples as a user starts them, on the real servers."""

import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from infra.composition import Stores
from infra.events import Activity, ActivityType
from infra.settings import PREFIX, Settings
from producers.publish import NewTweet, Publisher
from tests.live_client import Logs
from tests.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
READS_WITHIN_S = 60.0  # imports, and joining a group, on a busy machine
ENDS_WITHIN_S = 5.0


class Example:
    """A running example and the lines that it printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[dict[str, object]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))


@contextmanager
def running(name: str, settings: Settings, *words: str) -> Iterator[Example]:
    """The example with these settings; it has to end well and soon when it is told to."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        f"{PREFIX}DATABASE_URL": settings.database_url,
        f"{PREFIX}KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        f"{PREFIX}ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
    }
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *words]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Example(process)
            process.send_signal(signal.SIGTERM)
            process.wait(ENDS_WITHIN_S)
        finally:
            process.kill()


@pytest.fixture
def logs(settings: Settings) -> Iterator[Logs]:
    made = Logs(settings.kafka_bootstrap)
    yield made
    made.close()


def post(publisher: Publisher, logs: Logs, text: str) -> int:
    """A tweet, and its event as the relay sends it."""
    author = publisher.create_user(f"u{secrets.token_hex(6)}")
    tweet = publisher.post(NewTweet(author.id, text))
    logs.happen(Activity(ActivityType.POSTED, author.id, tweet.id, 1_000_000))
    return tweet.id


def test_the_mention_notifier_tells_who_was_mentioned(
    settings: Settings, stores: Stores, publisher: Publisher, logs: Logs
) -> None:
    ann, bob = (f"ann{secrets.token_hex(4)}", f"bob{secrets.token_hex(4)}")
    with running("mention_notifier", settings, ann, bob) as example:
        wait_until(lambda: _told_of_a_probe(publisher, logs, example, ann), "the notifier to read", READS_WITHIN_S)
        post(publisher, logs, f"not @{ann}a, nor mail@{ann}, nor {ann}")
        tweet_id = post(publisher, logs, f"Hello @{ann.upper()} and @{bob}, and @{ann} again")
        wait_until(lambda: len([one for one in example.lines if one["tweet_id"] == str(tweet_id)]) == 2, "two lines")

    told = [(one["to"], one["tweet_id"]) for one in example.lines if "probe" not in str(one["text"])]
    assert told == [(ann, str(tweet_id)), (bob, str(tweet_id))]


def _told_of_a_probe(publisher: Publisher, logs: Logs, example: Example, handle: str) -> bool:
    """A new group begins when it has joined: what is posted before is not told."""
    if not example.lines:
        post(publisher, logs, f"probe @{handle}")
    return bool(example.lines)


def test_the_trending_hashtags_are_those_of_the_tweets(
    settings: Settings, stores: Stores, publisher: Publisher, logs: Logs
) -> None:
    often, seldom = (f"#{word}{secrets.token_hex(4)}" for word in ("often", "seldom"))
    with running("trending_hashtags", settings) as example:

        def counts() -> dict[str, int]:
            return dict(example.lines[-1]["trending"]) if example.lines else {}  # type: ignore[call-overload]

        def probed() -> bool:
            if not example.lines:
                post(publisher, logs, f"{seldom}")
            return bool(example.lines)

        wait_until(probed, "the agent to read", READS_WITHIN_S)
        settled = counts().get(seldom, 0)
        for _ in range(settled + 10):
            post(publisher, logs, f"{often} {often}")
        wait_until(lambda: counts().get(often, 0) == settled + 10, "all of them to be counted")
        assert next(iter(counts())) == often


def test_the_window_slides() -> None:
    window = _module("trending_hashtags").SlidingWindow(10)
    window.add(0, ["#a", "#b"])
    window.add(5, ["#b"])
    assert window.top(5) == [("#b", 2), ("#a", 1)]
    window.add(10, [])
    assert window.top(5) == [("#b", 1)]
    window.add(14, ["#c"])
    window.add(15, [])
    assert window.top(5) == [("#c", 1)]


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
