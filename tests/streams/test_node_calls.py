import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infra import redis_keys
from infra.events import Delivery, DeliveryKind
from infra.shard_map import CLUSTERS, make_shard_map
from infra.slots import slot_of
from streams.deliver import RUN_TARGETS_MAX, Received, runs_of
from streams.node_calls import Placed, arguments_by_node, in_order_of_effect

SHARD_MAP = make_shard_map(1, {f"{cluster}{number}": "redis://h:1" for cluster in CLUSTERS for number in (1, 2)})
IDS = st.integers(min_value=1, max_value=(1 << 63) - 1)


def placed(kind: DeliveryKind, subject: int, targets: list[int], offset: int = 0) -> Placed:
    return Placed(offset, Delivery(kind, subject, 5, np.array(targets, dtype=">u8")))


@given(st.lists(st.tuples(st.sampled_from([DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN]), IDS, st.lists(IDS))))
def test_every_target_of_every_record_reaches_its_node_in_each_cluster_once(
    records: list[tuple[DeliveryKind, int, list[int]]],
) -> None:
    arguments = arguments_by_node([placed(*record) for record in records], SHARD_MAP)

    assert set(arguments) == set(SHARD_MAP.nodes)
    for cluster in CLUSTERS:
        reached = []
        for name in SHARD_MAP.nodes_of(cluster):
            for at in range(0, len(arguments[name]), 5):
                _, _, subject, page, _ = arguments[name][at : at + 5]
                assert isinstance(page, bytes)
                for start in range(0, len(page), redis_keys.KEY_BYTES):
                    key = page[start : start + redis_keys.KEY_BYTES]
                    assert SHARD_MAP.node_of(cluster, slot_of(redis_keys.id_of(key))) == name
                    reached.append((subject, key))
        prefix = {DeliveryKind.DELIVER: redis_keys.HOME, DeliveryKind.DELIVER_OWN: redis_keys.USER}
        wanted = [(tweet, prefix[kind] + one.to_bytes(8, "big")) for kind, tweet, ids in records for one in ids]
        assert sorted(reached) == sorted(wanted)


def test_plain_chunks_are_sorted_by_tweet_and_the_rest_keeps_its_place() -> None:
    records = [
        placed(DeliveryKind.DELIVER, 5, [1]),
        placed(DeliveryKind.DELIVER, 3, [1]),
        placed(DeliveryKind.RETRACT, 4, [1]),
        placed(DeliveryKind.DELIVER, 2, [1]),
        placed(DeliveryKind.DELIVER_OWN, 1, [1]),
    ]

    assert [one.record.subject for one in in_order_of_effect(records)] == [3, 5, 4, 1, 2]


def message(offset: int, kind: DeliveryKind, targets: int) -> Received:
    return Received(offset, [Delivery(kind, 5, 5, np.arange(targets, dtype=">u8"))])


def test_runs_are_bounded_and_an_unmerge_is_a_run_of_its_own() -> None:
    messages = [
        message(0, DeliveryKind.DELIVER, RUN_TARGETS_MAX),
        message(1, DeliveryKind.DELIVER, 1),
        message(2, DeliveryKind.RETRACT, 1),
        message(3, DeliveryKind.UNMERGE, 1),
        message(4, DeliveryKind.DELIVER, 1),
    ]

    assert [[one.offset for one in run] for run in runs_of(messages)] == [[0], [1, 2], [3], [4]]
