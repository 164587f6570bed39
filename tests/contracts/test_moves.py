"""Moves in batches on real ZooKeeper and Redis nodes: bounded, as somebody wished, gone on with by other leaders."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from infra.copies import CopyState
from infra.live_settings import set_live_settings
from infra.moves import moved_slots
from infra.registrar import Registration
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import SLOTS
from infra.wishes import Wish, change_wishes, read_wishes, wish_path
from infra.zookeeper import COPIES_PATH
from tests.contracts.deployment import Deployment
from tests.redis_server import RedisServer

SLOTS_MAX = 200
BATCHES_MAX = 8


@pytest.fixture
def third(deployment: Deployment, server: RedisServer) -> Iterator[Deployment]:
    """A deployment with one more node, a3, which is registered, and batches of `SLOTS_MAX` slots."""
    set_live_settings(deployment.zookeeper, move_slots_max=SLOTS_MAX)
    registration = Registration(deployment.zookeeper, "a3", server.url)
    registration.look()
    yield deployment
    registration.close()


def warm(deployment: Deployment) -> None:
    """What repair does in the end: all that is filling serves."""
    found = deployment.zookeeper.read(COPIES_PATH)
    assert found is not None
    copies = deployment.shard_map.copies
    for cluster in CLUSTERS:
        filling = [slot for slot in range(SLOTS) if copies.of(cluster, slot) is CopyState.FILLING]
        copies = copies.changed(cluster, filling, CopyState.SERVING)
    assert deployment.zookeeper.compare_and_set(COPIES_PATH, copies.encode(), found[1])


def batches(deployment: Deployment, *, new_leaders: bool = False) -> list[ShardMap]:
    """The shard map after each batch, while it is filling, until nothing moves any more."""
    maps = [deployment.shard_map]
    deployment.steps(2)  # who is fit is believed when it is said twice
    while (after := deployment.rest(new_leaders=new_leaders)).epoch != maps[-1].epoch:
        maps.append(after)
        assert len(maps) <= BATCHES_MAX
        warm(deployment)
    assert deployment.shard_map.copies.all_serving
    return maps


@pytest.mark.parametrize("new_leaders", [False, True])
def test_a_node_that_joins_gets_its_share_in_batches_whoever_leads(third: Deployment, new_leaders: bool) -> None:
    maps = batches(third, new_leaders=new_leaders)

    moved = [moved_slots(before, after, "a") for before, after in pairwise(maps)]
    share = len(maps[-1].slots_on("a3"))
    assert SLOTS / 3 * 0.85 <= share <= SLOTS / 3 * 1.15
    assert sum(map(len, moved)) <= 1.5 * SLOTS / 3
    assert [len(slots) <= SLOTS_MAX for slots in moved] == [True, True]
    for after, slots in zip(maps[1:], moved, strict=True):
        filling = [slot for slot in range(SLOTS) if after.copies.of("a", slot) is CopyState.FILLING]
        assert filling == slots, "nothing else was on its way"
    assert maps[-1].epoch == 3, "each batch raises it once"


def test_a_drained_node_serves_until_its_slots_are_elsewhere_and_gets_none_back_until_it_is_wanted(
    third: Deployment,
) -> None:
    batches(third)
    change_wishes(third.zookeeper, lambda _: {"a1": Wish(drained=True)})

    maps = batches(third)

    assert set(maps[1].nodes_of("a")) == {"a1", "a2", "a3"}
    assert {maps[1].copies.of("a", slot) for slot in maps[1].slots_on("a1")} == {CopyState.SERVING}
    assert set(maps[-1].nodes_of("a")) == {"a2", "a3"}
    assert third.rest().epoch == maps[-1].epoch, "it is registered still, and gets nothing"
    change_wishes(third.zookeeper, lambda _: {"a1": Wish()})
    third.emptied("a1", "after the drain")
    assert set(batches(third)[-1].nodes_of("a")) == {"a1", "a2", "a3"}


def test_a_wished_weight_wins_over_the_registrars(deployment: Deployment) -> None:
    change_wishes(deployment.zookeeper, lambda _: {"b1": Wish(weight=3)})
    deployment.member("b1", weight=2)

    shard_map = batches(deployment)[-1]

    assert shard_map.weights_of("b") == {"b1": 3, "b2": 1}
    assert len(shard_map.slots_on("b1")) == pytest.approx(SLOTS * 3 / 4, rel=0.15)


def test_slots_of_a_node_that_left_for_good_move_at_once(deployment: Deployment) -> None:
    set_live_settings(deployment.zookeeper, move_slots_max=1)
    held = len(deployment.shard_map.slots_on("c2"))
    deployment.member("c2", fit=False, reason="it does not answer")
    deployment.steps()
    deployment.clock.now_s += 31

    shard_map = deployment.rest()

    assert (shard_map.nodes_of("c"), shard_map.epoch) == (("c1",), 2)
    assert shard_map.copies.states["c"].count(CopyState.FILLING) == held


def test_a_znode_that_is_no_wish_is_left_out_and_holds_up_nobody(third: Deployment) -> None:
    third.zookeeper.create(wish_path("a3"), b'{"version": 1, "url": "", "weight": 1000, "drained": false}')
    refused: list[str] = []

    assert read_wishes(third.zookeeper, lambda error: refused.append(str(error))) == {}
    assert "weight 1000" in refused[0]
    assert "a3" in batches(third)[-1].nodes


def test_of_two_changes_of_wishes_the_second_looks_at_what_the_first_one_left(deployment: Deployment) -> None:
    """As when two people drain one node each of a cluster that has two."""
    zookeeper = deployment.zookeeper
    looks: list[set[str]] = []

    def drain(name: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        def decide(wishes: object) -> dict[str, Wish]:
            looks.append(set(read_wishes(zookeeper)))
            if len(looks) == 1:
                meanwhile()
            return {name: Wish(drained=True)}

        change_wishes(zookeeper, decide)

    drain("a1", meanwhile=lambda: drain("a2"))

    assert looks == [set(), set(), {"a2"}]
    assert set(read_wishes(zookeeper)) == {"a1", "a2"}
