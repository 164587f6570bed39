import pytest

from infra.copies import Copies, CopyState, all_copies
from infra.shard_map import CLUSTERS, ShardMap, make_shard_map
from infra.slots import SLOTS

NAMES = [f"{cluster}{number}" for cluster in CLUSTERS for number in (1, 2)]
SERVING = all_copies(3, CLUSTERS, CopyState.SERVING, {name: f"life of {name}" for name in NAMES})


def shard_map_with(copies: Copies) -> ShardMap:
    made = make_shard_map(3, dict.fromkeys(NAMES, "redis://h:1"))
    return ShardMap(made.epoch, made.placement, made.addresses, copies=copies)


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        (CopyState.SERVING, CopyState.DOWN, True),
        (CopyState.SERVING, CopyState.FILLING, True),
        (CopyState.FILLING, CopyState.SERVING, True),
        (CopyState.FILLING, CopyState.DOWN, True),
        (CopyState.DOWN, CopyState.FILLING, True),
        (CopyState.DOWN, CopyState.SERVING, False),
    ],
)
def test_what_is_down_has_to_be_filled_before_it_serves(before: CopyState, after: CopyState, allowed: bool) -> None:
    copies = all_copies(1, CLUSTERS, before)
    if allowed:
        assert copies.changed("b", [7], after).of("b", 7) is after
        assert copies.changed("b", [7], after).of("b", 8) is before
    else:
        with pytest.raises(ValueError, match="slot 7 in cluster b is down and cannot become serving"):
            copies.changed("b", [7], after)


def test_copies_are_decoded_as_they_were_encoded() -> None:
    copies = SERVING.changed("a", range(10), CopyState.DOWN).without_node("b1", [1, 2])

    assert Copies.decode(copies.encode()) == copies


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "states": {"a": "sss"}}'])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, AttributeError)):
        Copies.decode(data)


def test_a_node_that_was_dropped_is_admitted_only_with_another_incarnation() -> None:
    dropped = SERVING.without_node("a1", range(SLOTS))

    assert dropped.needs_emptying("a1", "life of a1")
    assert not dropped.needs_emptying("a1", "next life")
    assert "a1" not in dropped.incarnations
    admitted = dropped.with_node("a1", range(SLOTS), "next life")
    assert admitted.incarnations["a1"] == "next life"
    assert admitted.of("a", 0) is CopyState.FILLING


def test_a_fence_has_the_epoch_and_the_incarnation() -> None:
    assert shard_map_with(SERVING).fence("b2") == "3:life of b2"
    assert shard_map_with(SERVING.without_node("b2", [])).fence("b2") == "3:"


def test_readers_ask_serving_copies_first_then_filling_ones_and_never_one_that_is_down() -> None:
    copies = SERVING.changed("a", [5], CopyState.DOWN).changed("b", [5], CopyState.FILLING)
    shard_map = shard_map_with(copies)

    assert {shard_map.in_order(5) for _ in range(50)} == {("c", "b")}
    assert len({shard_map.in_order(6) for _ in range(200)}) == 6


def test_a_node_is_down_when_all_that_it_holds_is() -> None:
    whole = shard_map_with(SERVING)
    but_one = SERVING.changed("a", whole.slots_on("a1")[1:], CopyState.DOWN)

    assert shard_map_with(but_one).down_nodes == frozenset()
    assert shard_map_with(but_one.without_node("a1", whole.slots_on("a1"))).down_nodes == {"a1"}


def test_a_node_can_be_spared_while_two_other_copies_of_all_that_it_holds_are_left() -> None:
    whole = shard_map_with(SERVING)
    slot = whole.slots_on("b1")[0]

    assert whole.can_spare("b1")
    one_less = shard_map_with(SERVING.changed("c", [slot], CopyState.DOWN))
    assert not one_less.can_spare("b1")
    assert one_less.can_spare("b2")
    assert not one_less.lacks_copies
    assert shard_map_with(one_less.copies.changed("a", [slot], CopyState.DOWN)).lacks_copies
