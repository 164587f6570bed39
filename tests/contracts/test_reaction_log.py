"""The log of reactions on a real broker: acknowledged, in the partition of the key, and bounded in time."""

import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra import reaction_log
from infra.errors import Closed, KafkaUnavailable
from infra.ids import ID_MAX
from infra.reaction_log import SEND_MAX, ReactionLog
from infra.reactions import Reaction, ReactionType, reactions_partition
from tests.services import Services


@pytest.fixture
def log(services: Services) -> Iterator[ReactionLog]:
    made = ReactionLog(lambda: services.kafka_bootstrap)
    yield made
    made.close()


def reaction_to(tweet_id: int) -> Reaction:
    return Reaction(ReactionType.LIKED, tweet_id, 1, 0)


def test_every_key_is_in_the_partition_that_we_work_out(log: ReactionLog) -> None:
    rng = random.Random(7)
    tweets = [rng.randrange(1, 10 ** rng.randint(1, 18)) for _ in range(SEND_MAX - 1)] + [ID_MAX]
    placed = log.send_all([reaction_to(tweet) for tweet in tweets])
    assert [one.partition for one in placed] == [reactions_partition(tweet) for tweet in tweets]
    assert {one.partition for one in placed} == set(range(4))


def test_callers_of_many_threads_each_learn_where_theirs_is(log: ReactionLog) -> None:
    with ThreadPoolExecutor(16) as threads:
        placed = list(threads.map(lambda _: log.send(reaction_to(5)), range(200)))
    assert len({one.offset for one in placed}) == 200


def test_a_broker_that_is_away_is_waited_for_and_then_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaction_log, "TAKEN_WITHIN_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        log = ReactionLog(lambda: f"127.0.0.1:{silent.getsockname()[1]}")
        began_s = time.monotonic()
        with pytest.raises(KafkaUnavailable):
            log.send(reaction_to(5))
        assert time.monotonic() - began_s < 5
        log.close()


def test_a_closed_log_takes_nothing(log: ReactionLog) -> None:
    log.send(reaction_to(5))
    log.close()
    with pytest.raises(Closed):
        log.send(reaction_to(5))
