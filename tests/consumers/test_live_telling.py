"""Events get their tweets, and wait for servers that are away: nothing is left out."""

import threading
from collections.abc import Callable, Mapping, Sequence

import pytest

from consumers.live_frames import EventQueue
from consumers.live_listener import Kind, Listener, Told
from consumers.live_position import Place, Position
from consumers.live_telling import Teller
from infra.errors import Closed, DatabaseUnavailable
from infra.log_reader import ACTIVITY_LOGS


def listener() -> Listener:
    start = Position("0" * 8, "0" * 16, Place(0))
    return Listener(7, (), start, dict.fromkeys(ACTIVITY_LOGS, 0), EventQueue())


def at_once(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def test_a_tweet_is_read_once_for_all_and_one_that_is_gone_is_no_event() -> None:
    asked = []

    def payloads(ids: Sequence[int]) -> Mapping[int, bytes]:
        asked.append(list(ids))
        return {1: b"event: update\ndata: 1\n\n"}

    one, other = listener(), listener()
    told = [(one, Told(Kind.UPDATE, 1, "a")), (other, Told(Kind.UPDATE, 1, "b")), (one, Told(Kind.UPDATE, 2, "c"))]
    Teller(payloads, at_once, threading.Event()).tell([*told, (one, Told(Kind.DELETE, 3, "d"))])
    assert asked == [[1, 2]]
    assert one.queue.take() == b'id: a\nevent: update\ndata: 1\n\nid: d\nevent: delete\ndata: {"id": "3"}\n\n'
    assert other.queue.take() == b"id: b\nevent: update\ndata: 1\n\n"


def test_while_no_server_has_the_tweets_the_feed_waits() -> None:
    answers: list[Exception | None] = [DatabaseUnavailable("away"), DatabaseUnavailable("away"), None]

    def payloads(ids: Sequence[int]) -> Mapping[int, bytes]:
        if answer := answers.pop(0):
            raise answer
        return {1: b"event: update\ndata: 1\n\n"}

    made = listener()
    Teller(payloads, at_once, threading.Event()).tell([(made, Told(Kind.UPDATE, 1, "a"))])
    assert made.queue.take().startswith(b"id: a\n")


def test_a_feed_that_is_stopped_waits_for_nobody() -> None:
    def payloads(ids: Sequence[int]) -> Mapping[int, bytes]:
        stopped.set()
        raise DatabaseUnavailable("away")

    stopped = threading.Event()
    with pytest.raises(Closed):
        Teller(payloads, at_once, stopped).tell([(listener(), Told(Kind.UPDATE, 1, "a"))])
