from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import redis_keys
from infra.events import DeliveryKind, one_chunk
from infra.redis_keys import KEY_BYTES
from infra.shard_map import CLUSTERS, make_shard_map
from infra.slots import slot_of
from streams.deliver import RUN_CHUNKS_MAX, RUN_TARGETS_MAX, UNMERGE_LISTS_MAX, Received, runs_of
from streams.fan_out import MESSAGE_CHUNKS_MAX
from streams.node_calls import PARTS_MAX, Placed, arguments_by_node, continued, inserts_at_home, segments_of

SHARD_MAP = make_shard_map(1, {f"{cluster}{number}": "redis://h:1" for cluster in CLUSTERS for number in (1, 2)})
IDS = st.integers(min_value=1, max_value=(1 << 63) - 1)


def placed(kind: DeliveryKind, subject: int, targets: list[int], offset: int = 0, ids: Sequence[int] = ()) -> Placed:
    return Placed(offset, one_chunk(kind, subject, 5, targets, np.array(ids, dtype=">u8")))


def test_a_call_that_continues_a_run_has_the_other_letter_for_what_is_delivered() -> None:
    run = [
        placed(DeliveryKind.DELIVER, 68, [5, 6]),
        placed(DeliveryKind.RETRACT, 68, [5, 6]),
        placed(DeliveryKind.MERGE, 68, [5, 6], ids=[1, 68]),
    ]
    [arguments] = arguments_by_node(segments_of(run), SHARD_MAP)

    for of_node in arguments.values():
        after = continued(of_node)
        assert after[::5] == [b"N" if letter == b"D" else letter for letter in of_node[::5]]
        assert [one for at, one in enumerate(after) if at % 5] == [one for at, one in enumerate(of_node) if at % 5]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (DeliveryKind.DELIVER, True),
        (DeliveryKind.DELIVER_OWN, False),
        (DeliveryKind.RETRACT, False),
        (DeliveryKind.ADD_CELEBRITY, False),
    ],
)
def test_only_what_is_delivered_to_home_timelines_begins_a_run(kind: DeliveryKind, expected: bool) -> None:
    [arguments] = arguments_by_node(segments_of([placed(kind, 68, list(range(40)))]), SHARD_MAP)

    assert {inserts_at_home(of_node) for of_node in arguments.values()} == {expected}
    assert not inserts_at_home([])


def entries_of(arguments: Sequence[Any]) -> Iterator[tuple[bytes, int, bytes, int]]:
    """(letter, offset, key, tweet) of everything in the arguments of one node's call, as the Function reads them."""
    for at in range(0, len(arguments), 5):
        letter, offset, subjects, page, extra = arguments[at : at + 5]
        tweets = [int(one) for one in subjects.split()]
        keys = [page[start : start + KEY_BYTES] for start in range(0, len(page), KEY_BYTES)]
        counts = np.frombuffer(extra, ">u2", len(keys)).tolist()
        places = iter(np.frombuffer(extra, ">u2", sum(counts), 2 * len(keys)).tolist())
        offsets = np.frombuffer(extra, ">u4", len(tweets), 2 * len(keys) + 2 * sum(counts)).tolist()
        for key, number in zip(keys, counts, strict=True):
            mine = [next(places) for _ in range(number)]
            assert mine == sorted(set(mine)), "a list's tweets must be ascending, each once"
            for place in mine:
                yield letter, offset + offsets[place], key, tweets[place]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN]),
            st.integers(1, 9),
            st.lists(st.one_of(IDS, st.integers(1, 5)), max_size=9),
        )
    ),
    st.integers(1, PARTS_MAX),
)
def test_every_target_of_every_record_reaches_its_node_in_each_cluster_once(
    records: list[tuple[DeliveryKind, int, list[int]]], parts: int
) -> None:
    run = [placed(*record, offset=offset) for offset, record in enumerate(records)]
    by_part = arguments_by_node(segments_of(run), SHARD_MAP, parts)

    prefix = {DeliveryKind.DELIVER: redis_keys.HOME, DeliveryKind.DELIVER_OWN: redis_keys.USER}
    wanted = {(prefix[kind] + one.to_bytes(8, "big"), tweet) for kind, tweet, ids in records for one in ids}
    assert len(by_part) == parts
    assert all(set(arguments) == set(SHARD_MAP.nodes) for arguments in by_part)
    for cluster in CLUSTERS:
        reached, part_of_key = [], dict[bytes, int]()
        for part, arguments in enumerate(by_part):
            for name in SHARD_MAP.nodes_of(cluster):
                for _, _, key, tweet in entries_of(arguments[name]):
                    assert SHARD_MAP.node_of(cluster, slot_of(redis_keys.id_of(key))) == name
                    assert part_of_key.setdefault(key, part) == part, "a list's records are in one part"
                    reached.append((key, tweet))
        assert sorted(reached) == sorted(wanted)


def test_within_a_family_of_keys_records_keep_the_order_of_the_log() -> None:
    run = [
        placed(DeliveryKind.DELIVER, 5, [1]),
        placed(DeliveryKind.DELIVER_OWN, 5, [1]),
        placed(DeliveryKind.DELIVER, 3, [1]),
        placed(DeliveryKind.RETRACT, 4, [1]),
        placed(DeliveryKind.MERGE, 9, [1], ids=[0, 1]),
        placed(DeliveryKind.MERGE, 8, [1], ids=[2, 3]),
        placed(DeliveryKind.DELIVER, 2, [1]),
    ]

    found = [(one.letter, one.prefix, one.subjects, one.ids) for one in segments_of(run)]

    assert found == [
        (b"D", b"h:", [3, 5], ()),
        (b"R", b"h:", [4], ()),
        (b"M", b"h:", [0], [1]),
        (b"M", b"h:", [2], [3]),
        (b"D", b"h:", [2], ()),
        (b"D", b"u:", [5], ()),
    ]


@pytest.mark.parametrize(
    ("kind", "letters"), [(DeliveryKind.DELIVER, (b"D", b"V")), (DeliveryKind.RETRACT, (b"R", b"R"))]
)
def test_what_was_sent_again_is_looked_for_before_it_is_inserted(
    kind: DeliveryKind, letters: tuple[bytes, bytes]
) -> None:
    live, again = placed(kind, 5, [1]), placed(kind, 6, [1])
    again = replace(again, record=replace(again.record, verify=True))

    found = [one.letter for run in ([live], [live, again]) for one in segments_of(run)]

    assert found == list(letters)


def test_a_tweet_that_came_twice_counts_from_the_later_message() -> None:
    run = [placed(DeliveryKind.DELIVER, tweet, [1], offset) for tweet, offset in ((5, 10), (6, 11), (5, 12))]

    [segment] = segments_of(run)

    assert (segment.offset, segment.subjects, segment.offsets.tolist()) == (10, [5, 6], [2, 1])


def message(offset: int, kind: DeliveryKind, targets: int) -> Received:
    return Received(offset, [one_chunk(kind, 5, 5, np.arange(targets, dtype=">u8"))])


def test_runs_are_bounded_and_those_of_unmerges_hold_nothing_else() -> None:
    messages = [
        message(0, DeliveryKind.DELIVER, RUN_TARGETS_MAX),
        message(1, DeliveryKind.DELIVER, 1),
        message(2, DeliveryKind.RETRACT, 1),
        message(3, DeliveryKind.UNMERGE, 1),
        message(4, DeliveryKind.UNMERGE, UNMERGE_LISTS_MAX - 1),
        message(5, DeliveryKind.UNMERGE, 1),
        message(6, DeliveryKind.DELIVER, 1),
    ]

    assert [[one.offset for one in run] for run in runs_of(messages)] == [[0], [1, 2], [3, 4], [5], [6]]


def test_a_runs_tweets_fit_into_two_bytes() -> None:
    many = Received(0, [one_chunk(DeliveryKind.DELIVER, tweet + 1, 5, [1]) for tweet in range(RUN_CHUNKS_MAX)])

    assert [len(run) for run in runs_of([many, many])] == [1, 1]
    assert RUN_CHUNKS_MAX + MESSAGE_CHUNKS_MAX < 1 << 16
