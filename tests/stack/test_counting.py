"""Counts on a whole stack whose servers and counters are killed while users like: exact in the end."""

import random
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from infra.composition import Stores, stores
from infra.counts import TweetCounts
from infra.errors import FanfoldError
from infra.settings import Settings
from infra.stack.supervisor import Stack
from producers.publish import NewTweet, Publisher, need_all
from tests.counting import check_counts, wait_until_counted
from tests.services import fresh_folder

USERS, TWEETS, CALLERS = 12, 4, 4
KILLED = ("counters", "kafka", "postgres", "b1", "counters")
LIKES_BETWEEN = 40  # of all callers together, after one part is back and before the next is killed
BACK_WITHIN_S = 60.0


@dataclass(frozen=True)
class Counted:
    """A stack without workers, its stores, users and tweets."""

    stack: Stack
    stores: Stores
    settings: Settings
    publisher: Publisher
    users: list[int]
    tweets: list[int]


@pytest.fixture(scope="module")
def counted() -> Iterator[Counted]:
    folder = fresh_folder("counting")
    stack = Stack(folder, roles=("registrar", "coordinator", "relay", "counters"))
    stack.start()
    try:
        with stores(stack.settings()) as opened, Publisher(opened) as publisher:
            users = [publisher.create_user(f"u{user}", user).id for user in range(1, USERS + 1)]
            posted = publisher.post_many([NewTweet(users[0], f"{number}") for number in range(TWEETS)])
            tweets = [tweet.id for tweet in need_all(posted)]
            yield Counted(stack, opened, stack.settings(), publisher, users, tweets)
    finally:
        stack.stop()
    shutil.rmtree(folder)  # kept when a test failed in it: its logs say why


class Callers:
    """Users who like and unlike as clients do: what cannot be done now is said again until it is."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self.said = 0
        self.enough = threading.Event()

    def like(self, users: list[int], seed: int) -> set[tuple[int, int]]:
        """One caller, for users of his own; what holds at the end."""
        rng, holds = random.Random(seed), set[tuple[int, int]]()
        while not self.enough.is_set():
            pair = rng.choice(self._counted.tweets), rng.choice(users)
            likes = rng.random() < 0.6
            self._say(likes, *pair)
            (holds.add if likes else holds.discard)(pair)
            self.said += 1
        return holds

    def _say(self, likes: bool, tweet: int, user: int) -> None:
        publisher = self._counted.publisher
        for _ in range(600):
            try:
                return (publisher.like if likes else publisher.unlike)(user, tweet)
            except FanfoldError as error:
                if not error.retriable:
                    raise
                self.enough.wait(0.1)
        raise AssertionError("nothing was taken for a minute")

    def wait_for_more(self) -> None:
        """Until likes were taken again."""
        wanted, pause = self.said + LIKES_BETWEEN, threading.Event()
        for _ in range(int(BACK_WITHIN_S / 0.1)):
            if self.said >= wanted:
                return
            pause.wait(0.1)
        raise AssertionError("no likes are taken any more")


def test_counts_are_exact_after_counters_and_servers_were_killed_while_users_liked(counted: Counted) -> None:
    callers = Callers(counted)
    with ThreadPoolExecutor(CALLERS) as threads:
        liking = [threads.submit(callers.like, counted.users[at::CALLERS], at) for at in range(CALLERS)]
        try:
            for name in KILLED:
                callers.wait_for_more()
                killed = counted.stack.kill(name, signal.SIGKILL)
                counted.stack.wait_restarted(name, killed)
            callers.wait_for_more()
        finally:
            callers.enough.set()
        holds = set[tuple[int, int]]().union(*(one.result() for one in liking))
    for user in counted.users[1:4]:
        counted.publisher.reply(user, counted.tweets[0], "yes")
        counted.publisher.retweet(user, counted.tweets[1])
    wait_until_counted(counted.stores, counted.settings)
    with counted.stores.engine.connect() as connection:
        assert {tuple(row) for row in connection.execute(sa.text("SELECT tweet_id, user_id FROM likes"))} == holds
    liked = {tweet: sum(one == tweet for one, _ in holds) for tweet in counted.tweets}
    truth = {tweet: TweetCounts(number) for tweet, number in liked.items()}
    truth[counted.tweets[0]] = TweetCounts(liked[counted.tweets[0]], 0, 3)
    truth[counted.tweets[1]] = TweetCounts(liked[counted.tweets[1]], 3, 0)
    check_counts(counted.stores, truth)
