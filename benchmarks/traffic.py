"""The demo's traffic: tweets posted live by several callers, with deletes, follows and unfollows mixed in."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.graph import Graph
from producers.publish import NewTweet, Publisher

CALLERS = 6
# Shares of other calls, per tweet: enough of each to matter, rare enough that the page shows tweets.
DELETE_SHARE = 0.03
FOLLOW_SHARE = 0.03
UNFOLLOW_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Plan:
    """One caller's share of the traffic: (author, text), in order."""

    posts: Sequence[tuple[int, str]]
    seed: int


def split(posts: Sequence[tuple[int, str]], seed: int) -> list[Plan]:
    """Deals the posts out to the callers; an author may post through several of them at the same time."""
    return [Plan(posts[caller::CALLERS], seed + caller) for caller in range(CALLERS)]


def run_traffic(
    publisher: Publisher, graph: Graph, plans: Sequence[Plan], posted: Callable[[], None], *, mix: bool
) -> None:
    """Runs all callers to their end. Raises what the first of them raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(plans)) as threads:
        futures = [threads.submit(_call, publisher, graph, plan, posted, stop, mix) for plan in plans]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()


def _call(
    publisher: Publisher, graph: Graph, plan: Plan, posted: Callable[[], None], stop: threading.Event, mix: bool
) -> None:
    rng = np.random.default_rng(plan.seed)
    own: list[int] = []
    for author, text in plan.posts:
        if stop.is_set():
            return
        own.append(publisher.post(NewTweet(author, text)).id)
        posted()
        if not mix:
            continue
        dice = rng.random(3)
        if dice[0] < DELETE_SHARE:
            publisher.delete(own.pop(int(rng.integers(len(own)))))
        if dice[1] < FOLLOW_SHARE:
            _follow_somebody(publisher, graph, rng)
        if dice[2] < UNFOLLOW_SHARE:
            _unfollow_somebody(publisher, graph, rng)


def _follow_somebody(publisher: Publisher, graph: Graph, rng: np.random.Generator) -> None:
    follower = int(rng.integers(1, graph.users + 1))
    author = int(rng.choice(graph.authors))
    if follower != author:
        publisher.follow(follower, author)


def _unfollow_somebody(publisher: Publisher, graph: Graph, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(graph.followers)))
    publisher.unfollow(int(graph.followers[at]), int(graph.authors[at]))
