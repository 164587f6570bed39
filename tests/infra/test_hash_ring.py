"""The three promises of the placement: bounded loads, few moves, and the same map everywhere."""

import hashlib
from collections import Counter
from fractions import Fraction
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.hash_ring import WEIGHT_MAX, fair_share, place_slots, room_of
from infra.slots import SLOTS

NODES_MAX, FEW_NODES = 40, 12
MORE_MOVES_MAX = 10  # slots, above FEW_NODES: bounds of several nodes can fall by a slot at the same time

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
WEIGHTS = st.integers(1, 10)


def clusters(nodes_max: int, nodes_min: int = 1) -> st.SearchStrategy[dict[str, int]]:
    mixed = st.dictionaries(NAMES, WEIGHTS, min_size=nodes_min, max_size=nodes_max)
    equal = st.dictionaries(NAMES, st.just(1), min_size=nodes_min, max_size=nodes_max)
    numbered = st.integers(nodes_min, nodes_max).map(lambda count: {f"a{number}": 1 for number in range(1, count + 1)})
    return mixed | equal | numbered


def moved(cluster: dict[str, int], name: str) -> int:
    """How many slots change their node when this one joins the others, or leaves them."""
    others = {other: weight for other, weight in cluster.items() if other != name}
    return sum(one != two for one, two in zip(place_slots(others), place_slots(cluster), strict=True))


@given(clusters(NODES_MAX))
@settings(deadline=None)
def test_no_node_holds_more_than_its_bounded_share(weights: dict[str, int]) -> None:
    placement = place_slots(weights)
    total = sum(weights.values())

    assert len(placement) == SLOTS
    for name, held in Counter(placement).items():
        share = Fraction(SLOTS * weights[name], total)
        assert held <= share * Fraction(115, 100) or held == ceil(share), f"{name} holds {held} for a share of {share}"


@given(clusters(FEW_NODES, nodes_min=2), st.data())
@settings(deadline=None)
def test_a_node_that_joins_or_leaves_moves_at_most_half_more_than_its_share(
    weights: dict[str, int], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(weights)))

    assert moved(weights, name) <= 1.5 * fair_share(weights, name)


@given(clusters(NODES_MAX, nodes_min=FEW_NODES + 1), st.data())
@settings(deadline=None)
def test_in_a_large_cluster_at_most_a_few_slots_more_are_moved(weights: dict[str, int], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(weights)))

    assert moved(weights, name) <= 1.5 * fair_share(weights, name) + MORE_MOVES_MAX


@given(clusters(NODES_MAX), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_the_placement_does_not_depend_on_the_order_of_the_names(weights: dict[str, int], order: Random) -> None:
    shuffled = list(weights.items())
    order.shuffle(shuffled)

    assert place_slots(dict(shuffled)) == place_slots(weights)


@pytest.mark.parametrize(
    ("weights", "digest"),
    [
        ({"a1": 1}, "17c82c5078fe9eff"),
        ({"a1": 1, "a2": 1}, "5a147acf63369d23"),
        ({"b1": 1, "b2": 1, "b3": 1}, "3d8178d788af2786"),
        ({"c1": 1, "c2": 3, "c10": 10, "cé": 7}, "4c6330e5e3afb0fa"),
        ({f"a{number}": 1 + number % 5 for number in range(40)}, "1bd295864c4a8781"),
    ],
)
def test_the_same_names_give_the_same_placement_on_any_machine(weights: dict[str, int], digest: str) -> None:
    """Golden: a change here moves the slots of every deployment."""
    assert hashlib.sha256(" ".join(place_slots(weights)).encode()).hexdigest()[:16] == digest


def test_a_node_of_three_times_the_weight_holds_three_times_the_slots() -> None:
    counts = Counter(place_slots({"a1": 1, "a2": 3}))

    assert counts["a2"] / counts["a1"] == pytest.approx(3, rel=0.1)


def test_there_is_room_for_every_slot_also_in_tiny_shares() -> None:
    weights = {f"a{number}": 1 for number in range(SLOTS)}

    assert Counter(place_slots(weights)) == dict.fromkeys(weights, 1)
    assert set(room_of({"a1": WEIGHT_MAX, "a2": 1}).values()) == {1165, 11}


def test_a_cluster_without_a_node_cannot_be_placed() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        place_slots({})


@pytest.mark.parametrize("weight", [0, -1, WEIGHT_MAX + 1, 1.5, True, None])
def test_a_weight_out_of_its_range_is_refused_by_its_name_and_value(weight: int) -> None:
    with pytest.raises(
        ValueError, match=f"node a2 has weight {weight!r}, but a weight is a whole number from 1 to 100"
    ):
        place_slots({"a1": 1, "a2": weight})
