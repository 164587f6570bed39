"""Gathering: lone calls start at once, the others share batches, and each caller gets his own outcome."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from operator import attrgetter

import pytest

from infra.errors import Closed
from infra.gathering import Gathering

WITHIN_S = 10.0


class Work:
    """Doubles numbers; a batch that begins is noted, and held while the gate is shut."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._begun = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        self._begun.release()
        assert self.gate.wait(WITHIN_S)
        return [2 * item if item >= 0 else ValueError(f"{item} is negative") for item in items]

    def wait_for_batches(self, count: int) -> None:
        for _ in range(count):
            assert self._begun.acquire(timeout=WITHIN_S)


@pytest.fixture
def work() -> Work:
    return Work()


MakeGathering = Callable[[int, int], Gathering[int, int]]


@pytest.fixture
def gather(work: Work) -> Iterator[MakeGathering]:
    """Makes gatherings of this work; at the end they are closed with the gate open."""
    made: list[Gathering[int, int]] = []

    def make(batch_max: int, at_once: int) -> Gathering[int, int]:
        made.append(Gathering(work, batch_max, at_once))
        return made[-1]

    yield make
    work.gate.set()
    for one in made:
        one.close()


def results(futures: Sequence[Future[int]]) -> list[int]:
    return [future.result(WITHIN_S) for future in futures]


def test_a_lone_call_is_a_batch_of_its_own(work: Work, gather: MakeGathering) -> None:
    gathering = gather(10, 1)
    assert [gathering.submit(number).result(WITHIN_S) for number in range(3)] == [0, 2, 4]
    assert work.batches == [[0], [1], [2]]


def test_what_arrives_while_all_threads_are_busy_is_the_next_batch(work: Work, gather: MakeGathering) -> None:
    gathering = gather(10, 2)
    work.gate.clear()
    first = [gathering.submit(1)]
    work.wait_for_batches(1)
    first.append(gathering.submit(2))
    work.wait_for_batches(1)
    later = [gathering.submit(number) for number in range(3, 8)]
    assert work.batches == [[1], [2]]
    work.gate.set()
    assert results(first + later) == [2, 4, 6, 8, 10, 12, 14]
    assert sorted(number for batch in work.batches[2:] for number in batch) == [3, 4, 5, 6, 7]
    assert len(work.batches) <= 4


@pytest.mark.parametrize(("batch_max", "expected"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_a_batch_has_no_more_than_its_limit_and_keeps_the_order(
    work: Work, gather: MakeGathering, batch_max: int, expected: list[int]
) -> None:
    gathering = gather(batch_max, 1)
    work.gate.clear()
    first = gathering.submit(0)
    work.wait_for_batches(1)
    futures = [gathering.submit(number) for number in range(1, 6)]
    work.gate.set()
    assert results([first, *futures]) == [0, 2, 4, 6, 8, 10]
    assert [len(batch) for batch in work.batches[1:]] == expected
    assert [number for batch in work.batches for number in batch] == list(range(6))


def test_no_more_batches_than_allowed_are_worked_on_at_once(gather: MakeGathering) -> None:
    lock, running, highest = threading.Lock(), 0, 0

    def slow(items: Sequence[int]) -> Sequence[int | Exception]:
        nonlocal running, highest
        with lock:
            running += 1
            highest = max(highest, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1
        return items

    gathering = Gathering(slow, 3, 2)
    assert results([gathering.submit(number) for number in range(100)]) == list(range(100))
    gathering.close()
    assert highest == 2


def test_many_threads_get_each_its_own_result(work: Work, gather: MakeGathering) -> None:
    gathering = gather(7, 3)

    def ask(start: int) -> bool:
        numbers = range(start, start + 200)
        return all(gathering.submit(number).result(WITHIN_S) == 2 * number for number in numbers)

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(ask, range(0, 8000, 1000)))
    assert sum(map(len, work.batches)) == 1600


def test_an_error_among_the_results_is_its_items_alone(work: Work, gather: MakeGathering) -> None:
    gathering = gather(10, 1)
    work.gate.clear()
    first = gathering.submit(0)
    work.wait_for_batches(1)
    good, bad, last = [gathering.submit(number) for number in (1, -2, 3)]
    work.gate.set()
    assert results([first, good, last]) == [0, 2, 6]
    with pytest.raises(ValueError, match="-2 is negative"):
        bad.result(WITHIN_S)


def test_an_error_of_the_work_is_every_items_and_the_next_batch_goes_on() -> None:
    broken = True

    def work(items: Sequence[int]) -> Sequence[int | Exception]:
        if broken:
            raise KeyError("down")
        return items

    gathering: Gathering[int, int] = Gathering(work, 10, 1)
    futures = [gathering.submit(number) for number in range(5)]
    wait(futures, WITHIN_S)
    assert all(isinstance(future.exception(), KeyError) for future in futures)
    broken = False
    assert gathering.submit(7).result(WITHIN_S) == 7
    gathering.close()


@pytest.mark.parametrize("count", [0, 2])
def test_a_wrong_number_of_results_is_an_error_and_leaves_nobody_waiting(count: int) -> None:
    gathering: Gathering[int, int] = Gathering(lambda items: [1] * count, 10, 1)
    with pytest.raises(RuntimeError, match=f"there are {count} results"):
        gathering.submit(1).result(WITHIN_S)
    gathering.close()


def test_a_call_that_was_given_up_is_not_worked_on(work: Work, gather: MakeGathering) -> None:
    gathering = gather(10, 1)
    work.gate.clear()
    first = gathering.submit(0)
    work.wait_for_batches(1)
    given_up, kept = gathering.submit(1), gathering.submit(2)
    assert given_up.cancel()
    work.gate.set()
    assert results([first, kept]) == [0, 4]
    assert work.batches == [[0], [2]]
    assert gathering.submit(3).result(WITHIN_S) == 6


def test_coroutines_await_their_results(work: Work, gather: MakeGathering) -> None:
    gathering = gather(10, 2)

    async def ask() -> list[int]:
        return list(await asyncio.gather(*(asyncio.wrap_future(gathering.submit(number)) for number in range(50))))

    assert asyncio.run(ask()) == [2 * number for number in range(50)]


def test_close_works_off_what_was_taken_and_takes_no_more(work: Work, gather: MakeGathering) -> None:
    gathering = gather(2, 1)
    work.gate.clear()
    futures = [gathering.submit(number) for number in range(6)]
    closing = threading.Thread(target=gathering.close)
    closing.start()
    work.gate.set()
    closing.join(WITHIN_S)
    assert not closing.is_alive()
    assert [future.result(0) for future in futures] == [0, 2, 4, 6, 8, 10]
    with pytest.raises(Closed, match="closed"):
        gathering.submit(1)


def test_a_gathering_that_was_never_used_closes(gather: MakeGathering) -> None:
    gather(1, 1).close()


def test_what_follows_a_batch_holds_up_its_callers_and_not_the_next_batch(work: Work) -> None:
    go_on, seen = threading.Event(), list[int | Exception]()

    def after(outcomes: Sequence[int | Exception]) -> None:
        assert go_on.wait(WITHIN_S)
        seen.extend(outcomes)

    gathering: Gathering[int, int] = Gathering(work, 10, 1, after=after)
    futures = []
    for number in (1, -2, 3):
        futures.append(gathering.submit(number))
        work.wait_for_batches(1)
    assert not any(future.done() for future in futures)

    go_on.set()
    assert [futures[0].result(WITHIN_S), futures[2].result(WITHIN_S)] == [2, 6]
    assert isinstance(futures[1].exception(WITHIN_S), ValueError)
    assert [seen[0], seen[2]] == [2, 6]
    gathering.close()


def test_what_follows_and_fails_changes_no_result(work: Work) -> None:
    def after(_: Sequence[int | Exception]) -> None:
        raise KeyError("down")

    gathering: Gathering[int, int] = Gathering(work, 10, 1, after=after)
    assert gathering.submit(4).result(WITHIN_S) == 8
    gathering.close()


@pytest.mark.parametrize("refusing", ["_threads", "_ends._threads"])
def test_when_no_thread_can_be_started_nobody_waits_in_vain(
    refusing: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    gathering: Gathering[int, int] = Gathering(work, 10, 1, after=lambda _: None)
    with monkeypatch.context() as patched:
        patched.setattr(attrgetter(refusing)(gathering), "submit", refuse)
        if refusing == "_threads":
            with pytest.raises(RuntimeError, match="new thread"):
                gathering.submit(1)
        else:
            assert gathering.submit(1).result(WITHIN_S) == 2
    assert gathering.submit(3).result(WITHIN_S) == 6
    gathering.close()
