"""What happens when a batch fails: waiting, burying, ending; never skipping."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from infra.errors import KafkaUnavailable, RedisUnavailable, Superseded, Undecodable
from streams import handling
from streams.dead_letters import MISTAKES_AT_ONCE_MAX, DeadLetter, Mistakes, headers_of
from streams.handling import bury, letter_of, readable, run_all, until_done
from streams.progress import PROGRESS


class Ended(BaseException):
    """Stands for the end of the process, which no handler can catch."""


class Graveyard:
    """Takes dead letters, after failing `away` times."""

    def __init__(self, away: int = 0) -> None:
        self.letters: list[DeadLetter] = []
        self._away = away

    def send(self, letters: Sequence[DeadLetter]) -> None:
        if self._away:
            self._away -= 1
            raise KafkaUnavailable("away")
        self.letters += letters


def parts(away: int = 0) -> Any:
    return SimpleNamespace(dead_letters=Graveyard(away))


def event(offset: int) -> Any:
    message = SimpleNamespace(topic="activity", partition=1, offset=offset, key=b"k", value=b"v", headers={"h": b"1"})
    return SimpleNamespace(message=message)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "RETRY_S", 0)

    def end(reason: str) -> None:
        raise Ended(reason)

    monkeypatch.setattr(handling, "end_process", end)


def test_one_message_that_always_fails_is_buried_and_the_others_are_applied() -> None:
    holder, applied = parts(), list[int]()

    def work(events: Sequence[Any]) -> None:
        if any(one.message.offset == 3 for one in events):
            raise ZeroDivisionError("unforeseen")
        applied.extend(one.message.offset for one in events)

    run_all(holder, Mistakes(), work, [event(offset) for offset in range(6)])

    assert applied == [0, 1, 2, 4, 5]
    [letter] = holder.dead_letters.letters
    headers = dict(headers_of(letter))
    assert (letter.offset, headers["h"], headers["__connect.errors.offset"]) == (3, b"1", b"3")
    assert headers["__connect.errors.exception.class.name"] == b"ZeroDivisionError"


def test_a_batch_that_fails_only_as_a_whole_buries_nothing() -> None:
    holder, applied = parts(), list[int]()

    def work(events: Sequence[Any]) -> None:
        if len(events) > 1:
            raise ZeroDivisionError("unforeseen")
        applied.append(events[0].message.offset)

    run_all(holder, Mistakes(), work, [event(offset) for offset in range(3)])

    assert (applied, holder.dead_letters.letters) == ([0, 1, 2], [])


def test_when_everything_fails_the_process_ends_instead_of_burying_it_all() -> None:
    holder = parts()

    def work(_: Sequence[Any]) -> None:
        raise ZeroDivisionError("unforeseen")

    with pytest.raises(Ended, match="6 messages failed"):
        run_all(holder, Mistakes(), work, [event(offset) for offset in range(100)])

    assert len(holder.dead_letters.letters) == MISTAKES_AT_ONCE_MAX


def test_one_failure_in_a_hundred_is_allowed_for_ever() -> None:
    mistakes = Mistakes(handled=100_000)

    assert all(mistakes.allow() for _ in range(1_000))
    assert not all(mistakes.allow() for _ in range(10))


def test_a_server_that_is_away_is_waited_for() -> None:
    tries, dropped = iter([RedisUnavailable("away"), RedisUnavailable("away"), None]), list[None]()

    def work() -> None:
        failure = next(tries)
        if failure is not None:
            raise failure

    until_done("deliver", 1, work, lambda: dropped.append(None))

    assert len(dropped) == 2


def test_a_superseded_worker_ends() -> None:
    def work() -> None:
        raise Superseded("a newer one")

    with pytest.raises(Ended, match="another worker has this partition"):
        until_done("deliver", 1, work, lambda: None)


def test_what_cannot_be_read_is_buried_before_the_rest_is_handed_on() -> None:
    holder = parts(away=2)

    def read(message: Any) -> int:
        if message.offset == 1:
            raise Undecodable("no version")
        return int(message.offset)

    assert readable(holder, [event(offset) for offset in range(3)], read) == [0, 2]
    assert [letter.offset for letter in holder.dead_letters.letters] == [1]


def test_a_batch_that_waits_for_a_server_says_at_each_try_that_it_is_alive() -> None:
    heard: list[str] = []
    PROGRESS.forget()

    def work() -> None:
        heard.append(PROGRESS.of(("fan_out", 1)).waits_for)
        if len(heard) < 3:
            raise RedisUnavailable("away")

    until_done("fan_out", 1, work, lambda: None)

    assert heard == ["", "RedisUnavailable", "RedisUnavailable"]
    assert PROGRESS.of(("fan_out", 1)).moved_s > 0


def test_a_batch_that_waits_to_bury_says_that_it_is_alive() -> None:
    PROGRESS.forget()

    bury(parts(away=1), [letter_of(event(3).message, Undecodable("no"))])

    assert PROGRESS.waiting() == ["fan_out 1: the dead letters' topic"]
