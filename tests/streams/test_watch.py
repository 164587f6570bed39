"""The watch: a worker that silently stopped is unhealthy, one that waits for a server is not; lags as metrics."""

from collections import deque
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client import REGISTRY

from streams.progress import STALLED_S, Fetched, Place, Progress, Run
from streams.watch import Watch, Worked

PLACE = ("deliver", 3)


class Worker:
    """A worker whose log, consumer, agents and clock the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.ends: dict[Place, int] | None = {PLACE: 10}
        self.fetched: dict[Place, Fetched] = {PLACE: Fetched(10, deque())}
        self.progress = Progress(lambda: self.now_s)
        self.unowned: int | None = 0
        self.watch = Watch(self.progress, self._read, lambda: self.ends, lambda: self.unowned)

    def _read(self) -> Mapping[Place, Fetched]:
        return self.fetched

    def look(self, after_s: float = 1.0) -> None:
        self.now_s += after_s
        self.watch.look(self.now_s, int(self.now_s * 1000))

    def stalled(self) -> bool:
        return bool(self.watch.stalled(self.now_s))

    def write(self, count: int) -> None:
        assert self.ends is not None
        self.ends[PLACE] += count

    def fetch(self) -> None:
        assert self.ends is not None
        old, end = self.fetched[PLACE], self.ends[PLACE]
        assert old.position is not None
        old.runs.append(Run(old.position, end - 1, int(self.now_s * 1000)))
        self.fetched[PLACE] = Fetched(end, old.runs)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    made.look()
    yield made
    made.fetched = {}
    made.look()


def shown(metric: str) -> float | None:
    return REGISTRY.get_sample_value(f"fanfold_lag_{metric}", {"agent": "deliver", "partition": "3"})


def test_a_worker_with_nothing_to_do_is_never_stalled(worker: Worker) -> None:
    worker.look(10 * STALLED_S)

    assert not worker.stalled()
    assert (shown("offsets"), shown("seconds")) == (0, 0)


def test_a_consumer_that_stopped_fetching_is_stalled_although_it_knows_of_no_message(worker: Worker) -> None:
    worker.write(5)
    worker.look()
    worker.look(STALLED_S - 2)
    assert not worker.stalled()

    worker.look(3)

    assert worker.watch.stalled(worker.now_s) == ["deliver has messages in partition 3 and has not moved for 47 s"]
    assert shown("offsets") == 5
    assert shown("seconds") == pytest.approx(STALLED_S + 2)


def test_an_agent_that_takes_nothing_of_what_was_fetched_is_stalled(worker: Worker) -> None:
    worker.write(5)
    worker.fetch()
    worker.look()

    worker.look(STALLED_S + 1)

    assert worker.stalled()
    assert shown("seconds") == pytest.approx(STALLED_S + 2)


def test_a_batch_that_never_ends_is_stalled(worker: Worker) -> None:
    worker.write(5)
    worker.fetch()
    worker.progress.begin(PLACE, Run(10, 14, int(worker.now_s * 1000)))
    worker.look()

    worker.look(STALLED_S + 1)

    assert worker.stalled()


def test_a_batch_that_waits_for_a_node_is_not_stalled_and_the_wait_is_told(worker: Worker) -> None:
    worker.write(5)
    worker.fetch()
    worker.progress.begin(PLACE, Run(10, 14, int(worker.now_s * 1000)))
    for _ in range(10):
        worker.progress.beat(PLACE, "nodes b1")
        worker.look(STALLED_S / 2)

    assert not worker.stalled()
    assert worker.watch.lacking(worker.now_s) == []
    assert worker.watch.fields() == {"partitions": {"fan_out": 0, "deliver": 1}, "waiting": ["deliver 3: nodes b1"]}
    assert shown("seconds") == pytest.approx(5 * STALLED_S)


def test_a_backlog_that_is_worked_off_batch_by_batch_is_not_stalled(worker: Worker) -> None:
    worker.write(1_000)
    for _ in range(10):
        worker.progress.begin(PLACE, Run(10, 10, 0))
        worker.look(STALLED_S / 2)
        worker.progress.finish(PLACE)
        worker.look(STALLED_S / 2)

    assert not worker.stalled()


def test_while_kafka_is_away_the_worker_is_not_ready_and_nobody_is_to_blame(worker: Worker) -> None:
    worker.write(5)
    worker.look()
    ends, worker.ends = worker.ends, None
    worker.look(10 * STALLED_S)

    assert worker.watch.lacking(worker.now_s) == ["Kafka does not answer"]
    assert not worker.stalled()
    assert shown("offsets") is None

    worker.ends = ends
    worker.look()
    assert not worker.stalled(), "it has had no time yet to fetch"
    worker.look(STALLED_S + 1)
    assert worker.stalled()


def test_a_partition_that_went_to_another_worker_is_shown_and_blamed_no_more(worker: Worker) -> None:
    worker.write(5)
    worker.look()
    worker.fetched = {}

    worker.look(10 * STALLED_S)

    assert not worker.stalled()
    assert shown("offsets") is None
    assert worker.watch.lacking(worker.now_s) == []


def test_a_partition_that_comes_back_has_its_whole_time_again(worker: Worker) -> None:
    worker.write(5)
    worker.look()
    mine, worker.fetched = worker.fetched, {}
    worker.look(10 * STALLED_S)
    worker.fetched = mine

    worker.look()

    assert not worker.stalled()


@pytest.mark.parametrize(
    ("unowned", "stalled"),
    [
        (0, False),  # more workers than partitions: nothing is left for this one
        (24, True),  # it fell out of the group and never came back
        (None, False),  # Kafka is away
    ],
)
def test_a_worker_without_partitions_is_well_while_every_partition_is_somebodys(
    worker: Worker, unowned: int | None, stalled: bool
) -> None:
    worker.fetched, worker.unowned = {}, unowned
    for _ in range(4):
        worker.look(STALLED_S / 4)
    assert not worker.stalled()
    assert worker.watch.lacking(worker.now_s) == []

    worker.look()

    assert worker.stalled() is stalled


def test_a_worker_that_comes_back_to_the_group_is_well(worker: Worker) -> None:
    mine, worker.fetched, worker.unowned = worker.fetched, {}, 24
    worker.look(2 * STALLED_S)
    assert worker.stalled()

    worker.fetched = mine
    worker.look()

    assert not worker.stalled()


def test_messages_that_stand_in_line_behind_other_partitions_are_not_stalled(worker: Worker) -> None:
    worker.write(5)
    worker.fetch()
    worker.progress.line_up(PLACE)
    worker.look()
    worker.look(STALLED_S + 1)
    assert not worker.stalled()

    worker.progress.begin(PLACE, Run(10, 14, int(worker.now_s * 1000)))
    worker.look(STALLED_S + 1)

    assert worker.stalled()


def test_the_lag_is_told_as_a_share_of_the_retention(worker: Worker) -> None:
    """Of two days, by default."""
    worker.write(5)
    worker.fetch()
    worker.look(43_200.0)
    assert shown("of_retention_ratio") == 0.25

    worker.progress.begin(PLACE, Run(10, 14, 0))
    worker.progress.finish(PLACE)
    worker.look()
    assert shown("of_retention_ratio") == 0


def test_what_is_worked_off_ends_before_the_oldest_open_message_and_behind_markers(worker: Worker) -> None:
    worker.look()
    began_ms = int(worker.now_s * 1000)
    assert worker.watch.worked() == {("deliveries", 3): Worked(10, began_ms)}
    worker.write(5)
    worker.fetch()
    worker.look(7.0)
    assert worker.watch.worked() == {("deliveries", 3): Worked(10, began_ms)}

    worker.progress.begin(PLACE, Run(10, 13, began_ms))  # the fifth is a transaction's marker
    worker.progress.finish(PLACE)
    worker.fetched[PLACE].runs.clear()
    worker.look()
    assert worker.watch.worked() == {("deliveries", 3): Worked(15, began_ms + 8_000)}
