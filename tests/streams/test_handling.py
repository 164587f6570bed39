"""What happens when a batch fails: trying again, waiting, burying, ending; never skipping."""

from collections.abc import Callable, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from infra.dead_letters import DeadLetter, Stage
from infra.errors import KafkaUnavailable, RedisUnavailable, Superseded, Undecodable
from infra.readiness import EXIT_NOT_AGAIN
from infra.topics import MESSAGE_BYTES_MAX
from streams import handling
from streams.batches import BATCH_WAIT_S
from streams.dead_letter_share import DeadLetterShare
from streams.handling import AWAY, FAILED, FAILED_TRIES_MAX, FAILED_WITHIN_S, Handling, Part, until_done
from streams.progress import PROGRESS
from streams.rounds import BATCH_MESSAGES_MAX

Run = Callable[[list[int]], None]


class Ended(BaseException):
    """Stands for the end of the process, which no handler can catch."""


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s.append(seconds)


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


class Work:
    """Reads a value as its offset; b"bad" cannot be read. `run` hears the offsets."""

    def __init__(self, run: Run) -> None:
        self.applied: list[int] = []
        self.went_on: list[int] = []  # the offset from which a crash would bring messages again, after each call
        self._run = run

    def read(self, message: Any) -> int:
        if message.value == b"bad":
            raise Undecodable("no version")
        return int(message.offset)

    def run(self, part: Part[int]) -> None:
        if part.decoded:
            self._run(list(part.decoded))
        self.applied += part.decoded
        self.went_on.append(part.goes_on)


class Agent:
    """A handling with everything around it in view."""

    def __init__(self, run: Run = lambda _: None, away: int = 0, share: float = 0.01) -> None:
        self.work, self.graveyard, self.time = Work(run), Graveyard(away), Time()
        self.handling = Handling(
            "fan_out",
            self.work,
            self.graveyard,
            DeadLetterShare(share),
            Random(5),
            self.time.sleep,
            lambda: self.time.now_s,
        )

    def handle(self, *batches: Sequence[Any]) -> None:
        """One round."""
        until_s = self.handling.patience()
        for batch in batches:
            self.handling.handle(batch, until_s)

    @property
    def buried(self) -> list[int]:
        return [letter.offset for letter in self.graveyard.letters]


def event(offset: int, value: bytes | None = b"v") -> Any:
    return SimpleNamespace(
        message=SimpleNamespace(
            topic="activity",
            partition=1,
            generation_id=1,
            offset=offset,
            timestamp=1.5,
            key=b"k",
            value=value,
            headers=[("h", b"1")],
        )
    )


def events(count: int) -> list[Any]:
    return [event(offset) for offset in range(count)]


def failing(*bad: int) -> Run:
    def run(offsets: list[int]) -> None:
        if set(bad) & set(offsets):
            raise ZeroDivisionError("unforeseen")

    return run


@pytest.fixture(autouse=True)
def no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(reason: str, code: int = 75) -> None:
        raise Ended(code, reason)

    monkeypatch.setattr(handling, "end_process", end)


def test_one_message_that_always_fails_is_buried_and_the_others_are_applied_in_order() -> None:
    agent = Agent(failing(3))

    agent.handle(events(6))

    assert agent.work.applied == [0, 1, 2, 4, 5]
    [letter] = agent.graveyard.letters
    assert (letter.offset, letter.key, letter.headers, letter.timestamp_ms) == (3, b"k", [("h", b"1")], 1_500)
    assert (letter.agent, letter.stage) == ("fan_out", Stage.HANDLE)
    assert letter.executing_class == "tests.streams.test_handling.Work"
    assert isinstance(letter.reason, ZeroDivisionError)


def test_one_bad_message_in_a_full_batch_costs_a_few_calls_and_not_one_a_message() -> None:
    calls = list[int]()

    def run(offsets: list[int]) -> None:
        calls.append(len(offsets))
        failing(77)(offsets)

    agent = Agent(run)
    agent.handle(events(200))

    assert agent.buried == [77]
    assert agent.work.applied == [offset for offset in range(200) if offset != 77]
    assert len(calls) <= 2 * FAILED_TRIES_MAX + 2 * 8  # 200 is halved eight times


def test_a_batch_that_fails_only_as_a_whole_buries_nothing() -> None:
    def run(offsets: list[int]) -> None:
        if len(offsets) > 1:
            raise ZeroDivisionError("unforeseen")

    agent = Agent(run)
    agent.handle(events(3))

    assert (agent.work.applied, agent.buried) == ([0, 1, 2], [])


def test_a_batch_that_fails_for_a_moment_is_tried_again_as_a_batch() -> None:
    failures = iter([ZeroDivisionError("once"), ZeroDivisionError("twice")])

    def run(offsets: list[int]) -> None:
        assert len(offsets) == 3
        for failure in failures:
            raise failure

    agent = Agent(run)
    agent.handle(events(3))

    assert (agent.work.applied, agent.buried) == ([0, 1, 2], [])
    assert len(agent.time.slept_s) == 2
    assert 0 < max(agent.time.slept_s) <= FAILED.max_s


def test_a_message_is_tried_a_bounded_number_of_times_before_it_is_buried() -> None:
    tries = list[int]()

    def run(offsets: list[int]) -> None:
        tries.append(1)
        raise ZeroDivisionError("unforeseen")

    agent = Agent(run)
    agent.handle(events(1))

    assert (len(tries), len(agent.time.slept_s), agent.buried) == (FAILED_TRIES_MAX, FAILED_TRIES_MAX - 1, [0])


def test_a_whole_batch_of_messages_that_fail_is_buried_within_its_time() -> None:
    agent = Agent(failing(*range(BATCH_MESSAGES_MAX)))

    agent.handle(events(BATCH_MESSAGES_MAX))

    assert agent.buried == list(range(BATCH_MESSAGES_MAX))
    assert sum(agent.time.slept_s) <= FAILED_WITHIN_S + FAILED.max_s
    assert FAILED_WITHIN_S + FAILED.max_s < BATCH_WAIT_S / 2  # the rest of it is the tries' own time


def test_the_time_of_the_retries_begins_with_the_first_failure_not_with_a_wait_for_a_server() -> None:
    first = [True]

    def run(offsets: list[int]) -> None:
        if first:
            first.clear()
            agent.time.now_s += 600  # a server was away for so long
            raise ZeroDivisionError("unforeseen")

    agent = Agent(run)
    agent.handle(events(3))

    assert agent.work.applied == [0, 1, 2]
    assert len(agent.time.slept_s) == 1


def test_above_the_share_the_process_ends_and_says_why_and_buries_nothing_of_the_batch() -> None:
    agent = Agent(failing(*range(1_000)))
    agent.handle(events(1_000))

    with pytest.raises(Ended) as ended:
        agent.handle([event(7)])

    code, reason = ended.value.args
    assert code == EXIT_NOT_AGAIN
    assert "agent fan_out stops: 1,001 of its last 1,001 messages (100.00%)" in reason
    assert "at most 1,000 in 100,000 (1.00%)" in reason
    assert "at activity partition 1 offset 7: ZeroDivisionError: unforeseen" in reason
    assert "`fanfold dlq list --topic activity`" in reason
    assert "FANFOLD_DEAD_LETTER_SHARE_MAX" in reason
    assert len(agent.buried) == 1_000


def test_what_cannot_be_read_counts_too() -> None:
    agent = Agent(share=0.0)

    with pytest.raises(Ended, match="1 of its last 2 messages"):
        agent.handle([event(0), event(1, b"bad")])

    assert agent.buried == []


def test_a_batch_with_nothing_to_bury_does_not_come_again_after_a_crash() -> None:
    agent = Agent()

    agent.handle([event(4), event(5)])

    assert agent.work.went_on == [6]


@pytest.mark.parametrize(
    ("run", "batch"),
    [
        (lambda _: None, [event(4, b"bad"), event(5), event(6)]),
        (failing(4), [event(4), event(5), event(6)]),
        (failing(6), [event(4), event(5), event(6)]),
    ],
    ids=["unreadable", "the first fails", "the last fails"],
)
def test_what_is_not_buried_yet_comes_again_after_a_crash(run: Run, batch: list[Any]) -> None:
    agent = Agent(run)

    agent.handle(batch)

    *before, behind = agent.work.went_on
    assert len(agent.buried) == 1
    assert set(before) == {4}
    assert behind == 7, "and then the group moves on"


def test_all_batches_of_a_round_share_the_time_of_the_retries() -> None:
    def one_second_each(offsets: list[int]) -> None:
        agent.time.now_s += 1.0
        raise ZeroDivisionError("unforeseen")

    agent = Agent(one_second_each, share=1.0)

    agent.handle(*[[event(number)] for number in range(8)])

    assert agent.buried == list(range(8))
    assert agent.time.now_s < FAILED_WITHIN_S + 8 + 1  # each is tried once, and the first ones again


def test_what_cannot_be_read_is_buried_once_whatever_happens_to_the_rest() -> None:
    agent = Agent(failing(2), away=2)

    agent.handle([event(0), event(1, b"bad"), event(2), event(3)])

    assert agent.work.applied == [0, 3]
    assert [(letter.offset, letter.stage) for letter in agent.graveyard.letters] == [
        (1, Stage.DECODE),
        (2, Stage.HANDLE),
    ]


def test_burying_waits_for_the_broker_without_end_and_longer_each_time() -> None:
    agent = Agent(away=1_000)

    agent.handle([event(1, b"bad")])

    assert agent.buried == [1]
    assert len(agent.time.slept_s) == 1_000
    assert max(agent.time.slept_s) <= AWAY.max_s < BATCH_WAIT_S
    assert agent.time.slept_s[0] <= AWAY.first_s
    assert len(set(agent.time.slept_s[10:])) > 900  # jitter


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the message has no value; each of ours has one"),
        (b"x" * (MESSAGE_BYTES_MAX + 1), "the message has 1,048,577 bytes; ours have at most 1,048,576"),
    ],
    ids=["none", "too large"],
)
def test_no_value_and_too_large_a_value_cannot_be_read(value: bytes | None, reason: str) -> None:
    agent = Agent()

    agent.handle([event(0, b"x" * MESSAGE_BYTES_MAX), event(1, value)])

    assert agent.work.applied == [0]
    assert [(letter.offset, str(letter.reason)) for letter in agent.graveyard.letters] == [(1, reason)]


def test_a_server_that_is_away_is_waited_for() -> None:
    tries, dropped, time = iter([RedisUnavailable("away")] * 50), list[None](), Time()

    def work() -> None:
        for failure in tries:
            raise failure

    until_done("deliver", 1, work, lambda: dropped.append(None), rng=Random(5), sleep=time.sleep)

    assert len(dropped) == len(time.slept_s) == 50
    assert max(time.slept_s) <= AWAY.max_s


def test_an_unforeseen_failure_drops_what_is_held_and_is_raised() -> None:
    dropped = list[None]()

    with pytest.raises(ZeroDivisionError):
        until_done("deliver", 1, lambda: failing(0)([0]), lambda: dropped.append(None))

    assert len(dropped) == 1


def test_a_superseded_worker_ends() -> None:
    def work() -> None:
        raise Superseded("a newer one")

    with pytest.raises(Ended, match="another worker has this partition"):
        until_done("deliver", 1, work, lambda: None)


def test_a_batch_that_waits_for_a_server_says_at_each_try_that_it_is_alive() -> None:
    heard: list[str] = []
    PROGRESS.forget()

    def work() -> None:
        heard.append(PROGRESS.of(("fan_out", 1)).waits_for)
        if len(heard) < 3:
            raise RedisUnavailable("away")

    until_done("fan_out", 1, work, lambda: None, sleep=Time().sleep)

    assert heard == ["", "RedisUnavailable", "RedisUnavailable"]
    assert PROGRESS.of(("fan_out", 1)).moved_s > 0


def test_a_batch_that_waits_to_bury_says_that_it_is_alive() -> None:
    PROGRESS.forget()

    Agent(away=1).handle([event(3, b"bad"), *[event(offset) for offset in range(4, 204)]])

    assert PROGRESS.waiting() == ["fan_out 1: the dead letters' topic"]


def of_partition(partition: int, *offsets: int, generation: int = 1, value: bytes = b"v") -> list[Any]:
    made = [event(offset, value) for offset in offsets]
    for one in made:
        one.message.partition, one.message.generation_id = partition, generation
    return made


def test_batches_of_several_partitions_are_handled_in_one_go() -> None:
    agent, heard = Agent(), list[Part[int]]()

    def together(parts: Sequence[Part[int]]) -> bool:
        heard.extend(parts)
        return True

    assert agent.handling.handle_together([of_partition(0, 4, 5), of_partition(1, 7)], together)
    assert heard == [Part(0, 1, 6, [4, 5]), Part(1, 1, 8, [7])]


def test_what_is_handled_in_one_go_counts_for_the_share_too() -> None:
    agent = Agent(share=0.0)
    agent.handling.handle_together([of_partition(0, 4, 5), of_partition(1, 7)], lambda _: True)

    with pytest.raises(Ended, match="1 of its last 4 messages"):
        agent.handle([event(8, b"bad")])


@pytest.mark.parametrize("against", ["unreadable", "two generations", "refused", "failed"])
def test_batches_that_cannot_be_handled_in_one_go_are_left_to_be_handled_one_by_one(against: str) -> None:
    """Nothing is buried and nothing ends the process: `handle` decides for each."""
    agent, batches = Agent(share=0.0), [of_partition(0, 4), of_partition(1, 7)]
    if against == "unreadable":
        batches[1] += of_partition(1, 8, value=b"bad")
    if against == "two generations":
        batches[1] += of_partition(1, 8, generation=2)

    def together(_: Sequence[Part[int]]) -> bool:
        if against == "failed":
            raise ZeroDivisionError("unforeseen")
        return against != "refused"

    assert not agent.handling.handle_together(batches, together)
    assert (agent.buried, agent.work.applied) == ([], [])
