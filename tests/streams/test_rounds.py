"""Rounds: few at once, the oldest first, each partition in one at a time, and bounded."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest

from streams.rounds import LINGER_MESSAGES_MAX, ROUND_BYTES_MAX, Limits, Linger, Rounds, Waiting, choose


class Partition:
    """What waits in one partition: a number that stands for its time."""

    def __init__(self, *since: float, waiting_bytes: int = 1) -> None:
        self.at_work = False
        self.waiting_bytes = waiting_bytes
        self.acknowledged: list[float] = []
        self._waiting = list(since)

    @property
    def since(self) -> float | None:
        return self._waiting[0] if self._waiting else None

    def put(self, since: float) -> None:
        self._waiting.append(since)

    def newest_of(self, count: int) -> float | None:
        return self._waiting[-1] if len(self._waiting) >= count else None

    def take(self, until: float) -> list[Any]:
        """All that is not newer when the round has a bound, else one."""
        self.at_work = True
        taken = [one for one in self._waiting if one <= until] if until < math.inf else self._waiting[:1]
        self._waiting = self._waiting[len(taken) :]
        return taken

    async def acknowledge(self, batch: Sequence[Any], after_s: float) -> None:
        assert after_s == 0.0
        self.acknowledged += batch
        self.at_work = False

    async def wait_settled(self) -> None:
        """Nothing waits."""

    def drop_waiting(self, generation: int) -> None:
        self._waiting.clear()


def work_off(partitions: Sequence[Partition], limits: Limits) -> tuple[list[list[float]], int]:
    """Works everything off; what each round took, and how many worked at the same time at most."""
    taken: list[list[float]] = []
    most = 0

    async def main() -> None:
        nonlocal most
        working = 0

        async def process(batches: Sequence[Sequence[Any]]) -> list[float]:
            nonlocal most, working
            working += 1
            most = max(most, working)
            taken.append([since for batch in batches for since in batch])
            await asyncio.sleep(0)
            working -= 1
            return [0.0] * len(batches)

        rounds = Rounds(limits, process)
        for partition in partitions:
            rounds.add(partition)
        rounds.kick()
        async with asyncio.timeout(5):
            while any(partition.since is not None or partition.at_work for partition in partitions):  # noqa: ASYNC110
                await asyncio.sleep(0)

    asyncio.run(main())
    return taken, most


def test_the_partition_with_the_oldest_message_is_next() -> None:
    taken, _ = work_off([Partition(5.0, 6.0), Partition(3.0), Partition(4.0)], Limits(at_once=1, partitions=1))

    assert taken == [[3.0], [4.0], [5.0], [6.0]]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_more_rounds_work_at_once_than_allowed_and_all_is_acknowledged(at_once: int) -> None:
    partitions = [Partition(float(number), number + 0.5) for number in range(6)]

    _, most = work_off(partitions, Limits(at_once, partitions=1))

    assert most == at_once
    assert [partition.acknowledged for partition in partitions] == [[one, one + 0.5] for one in range(6)]


def test_a_round_takes_what_waits_in_several_partitions() -> None:
    taken, _ = work_off([Partition(2.0), Partition(1.0), Partition(3.0)], Limits(at_once=2, partitions=2))

    assert sorted(map(sorted, taken)) == [[1.0, 2.0], [3.0]]


def test_a_round_goes_as_far_as_the_newest_of_a_partition_that_has_more() -> None:
    ahead, behind, few = Partition(1.0, 8.0, 9.0), Partition(2.0, 3.0, 4.0), Partition(5.0)

    taken, _ = work_off([ahead, behind, few], Limits(at_once=1, partitions=3, level_from=2))

    assert sorted(taken[0]) == [1.0, 2.0, 3.0, 4.0]
    assert sorted(taken[1]) == [5.0, 8.0, 9.0]


def test_messages_whose_times_do_not_rise_are_taken_all_the_same() -> None:
    taken, _ = work_off([Partition(7.0, 2.0), Partition(9.0, 3.0)], Limits(at_once=1, partitions=2, level_from=2))

    assert sorted(one for of_round in taken for one in of_round) == [2.0, 3.0, 7.0, 9.0]


def test_a_partition_with_few_messages_holds_nobody_up() -> None:
    taken, _ = work_off([Partition(1.0, 2.0, 7.0), Partition(3.0)], Limits(at_once=1, partitions=2, level_from=2))

    assert sorted(taken[0]) == [1.0, 2.0, 3.0, 7.0]


def test_a_partition_is_in_one_round_at_a_time() -> None:
    taken, most = work_off([Partition(1.0, 2.0, 3.0)], Limits(at_once=3, partitions=3))

    assert (taken, most) == ([[1.0], [2.0], [3.0]], 1)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [([1, 1, 1], 3), ([ROUND_BYTES_MAX, 1], 1), ([ROUND_BYTES_MAX + 1], 1), ([ROUND_BYTES_MAX // 2] * 3, 2)],
)
def test_a_round_is_bounded_in_bytes_and_takes_at_least_one_partition(sizes: list[int], count: int) -> None:
    partitions: set[Waiting] = {Partition(float(number), waiting_bytes=size) for number, size in enumerate(sizes)}

    assert [partition.since for partition in choose(partitions, 9)] == list(range(count))


def test_what_comes_while_all_rounds_work_is_taken_by_the_next_one() -> None:
    async def main() -> None:
        go_on, taken = asyncio.Event(), list[Any]()

        async def process(batches: Sequence[Sequence[Any]]) -> list[float]:
            taken.extend(batches)
            await go_on.wait()
            return [0.0] * len(batches)

        first, second = Partition(1.0), Partition()
        rounds = Rounds(Limits(at_once=1, partitions=2), process)
        rounds.add(first)
        rounds.add(second)
        rounds.kick()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.put(2.0)
        rounds.kick()
        assert taken == [[1.0]]
        go_on.set()
        async with asyncio.timeout(5):
            while second.acknowledged != [2.0]:  # noqa: ASYNC110 - the fake has no event for it
                await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize(("waiting_bytes", "most"), [(9, 1), (10, 2)])
def test_another_round_starts_beside_one_at_work_only_when_enough_waits(waiting_bytes: int, most: int) -> None:
    partitions = [Partition(1.0, waiting_bytes=waiting_bytes), Partition(2.0, waiting_bytes=waiting_bytes)]

    assert work_off(partitions, Limits(at_once=2, partitions=1, beside_bytes_min=10)) == ([[1.0], [2.0]], most)


def test_what_comes_of_several_partitions_in_one_go_of_the_event_loop_is_one_round() -> None:
    async def main() -> list[int]:
        sizes, partitions = list[int](), [Partition(), Partition(), Partition()]

        async def process(batches: Sequence[Sequence[Any]]) -> list[float]:
            sizes.append(len(batches))
            return [0.0] * len(batches)

        rounds = Rounds(Limits(at_once=2, partitions=3), process)
        for number, partition in enumerate(partitions):
            rounds.add(partition)
            partition.put(float(number))
            rounds.kick()
        async with asyncio.timeout(5):
            while not all(partition.acknowledged for partition in partitions):  # noqa: ASYNC110 - the fake has no event
                await asyncio.sleep(0)
        return sizes

    assert asyncio.run(main()) == [3]


def lingering(*came_s: float, linger_s: float = 0.02, linger_from: float = 1.0) -> Linger:
    """One for which messages came at these times."""
    linger = Linger(linger_s, linger_from)
    for one in came_s:
        linger.came(one)
    return linger


def every(seconds: float, count: int) -> list[float]:
    return [number * seconds for number in range(count)]


def test_a_message_alone_waits_for_nobody() -> None:
    assert lingering(5.0).left_s(5.0) == 0.0
    assert Linger(0.02).left_s(5.0) == 0.0


def test_when_few_come_none_waits_for_another() -> None:
    assert lingering(*every(0.1, 50)).left_s(4.9) == 0.0


def test_when_many_come_a_round_waits_for_so_long_since_the_first_that_it_takes() -> None:
    linger = lingering(*every(0.01, 200))
    linger.started()
    assert linger.left_s(1.99) == 0.0
    linger.came(2.0)
    linger.came(2.01)
    assert linger.left_s(2.01) == pytest.approx(0.01)
    assert linger.left_s(2.02) == pytest.approx(0.0)
    assert linger.left_s(2.5) == 0.0


def test_once_few_come_again_none_waits() -> None:
    linger = lingering(*every(0.01, 200))
    linger.started()
    linger.came(4.0)
    assert linger.left_s(4.0) == 0.0


def test_a_round_that_has_enough_starts() -> None:
    linger = lingering(*every(0.0001, LINGER_MESSAGES_MAX - 1))
    assert linger.left_s(0.0063) > 0.0
    linger.came(0.0063)
    assert linger.left_s(0.0063) == 0.0


def test_without_a_linger_no_round_waits() -> None:
    assert lingering(*every(0.001, 1000), linger_s=0.0).left_s(1.0) == 0.0


def test_one_that_expects_none_waits_always() -> None:
    assert lingering(5.0, linger_from=0.0).left_s(5.005) == pytest.approx(0.015)
    assert Linger(0.02, linger_from=0.0).left_s(5.0) == 0.0


def test_what_comes_while_a_round_lingers_is_one_round() -> None:
    async def main() -> list[list[float]]:
        taken, partitions = list[list[float]](), [Partition(), Partition()]

        async def process(batches: Sequence[Sequence[Any]]) -> list[float]:
            taken.append([one for batch in batches for one in batch])
            return [0.0] * len(batches)

        rounds = Rounds(Limits(at_once=1, partitions=2, linger_s=0.2), process)
        for partition in partitions:
            rounds.add(partition)
        for number in range(5):  # expected to go on: ten a second and more
            partitions[0].put(float(number))
            rounds.came(at_work=False)
        partitions[0].drop_waiting(0)
        for number, partition in enumerate(partitions):
            partition.put(float(number))
            rounds.came(at_work=False)
            await asyncio.sleep(0.01)
            assert taken == []
        async with asyncio.timeout(5):
            while not all(partition.acknowledged for partition in partitions):  # noqa: ASYNC110 - the fake has no event
                await asyncio.sleep(0.001)
        return taken

    assert asyncio.run(main()) == [[0.0, 1.0]]


def test_a_round_that_lingers_starts_as_soon_as_it_has_enough() -> None:
    async def main() -> float:
        partition, loop = Partition(), asyncio.get_running_loop()

        async def process(batches: Sequence[Sequence[Any]]) -> list[float]:
            return [0.0] * len(batches)

        rounds = Rounds(Limits(at_once=1, partitions=1, linger_s=60.0), process)
        rounds.add(partition)
        began_s = loop.time()
        partition.put(1.0)
        for number in range(LINGER_MESSAGES_MAX):
            assert not partition.acknowledged, f"it did not linger for message {number}"
            rounds.came(at_work=False)
            await asyncio.sleep(0)  # and the look at the first one was made: a timer runs
        async with asyncio.timeout(5):
            while not partition.acknowledged:  # noqa: ASYNC110 - the fake has no event for it
                await asyncio.sleep(0)
        return loop.time() - began_s

    assert asyncio.run(main()) < 5.0
