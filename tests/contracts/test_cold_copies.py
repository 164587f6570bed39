"""A copy that came by a move or a repair serves before it has bodies and counts: readers find them in another one."""

import pytest

from infra import metrics, redis_keys
from infra.composition import Stores
from infra.counts import Counts
from infra.shard_map import CLUSTERS
from producers.publish import NewTweet, Publisher
from tests.contracts.outage import MakeUsers

READS = 40  # of random copies: that none of them is the cold one has a chance of one in ten million


def misses(kind: str) -> float:
    return float(metrics.MISSES.labels(kind)._value.get())


@pytest.mark.parametrize("cold", CLUSTERS)
def test_bodies_and_counts_that_one_copy_lacks_are_no_misses(
    stores: Stores, publisher: Publisher, make_users: MakeUsers, cold: str
) -> None:
    [author] = make_users(1)
    tweet = publisher.post(NewTweet(author, "warm elsewhere")).id
    counts = Counts(stores.clusters, stores.engine)
    for cluster in CLUSTERS:  # a node that no fold has told of keeps no counts
        stores.clusters.node_for(cluster, tweet).call("counts_fold", 1, 0, 0)
    stores.bodies.read([tweet])
    counts.read([tweet])
    node = stores.clusters.node_for(cold, tweet)
    assert node.command("DEL", redis_keys.body(tweet), redis_keys.counts(tweet)) == 2
    before = misses("body"), misses("counts")

    for _ in range(READS):
        assert stores.bodies.read([tweet])[tweet].text == "warm elsewhere"
        assert counts.read([tweet])[tweet].likes == 0

    assert (misses("body"), misses("counts")) == before
