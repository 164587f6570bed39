"""deliver_together: small runs of several partitions, with one send to each node.

Input: deliverers, each with messages of its partition. Output: whether all of it is in timelines; whatever stands
against it leads back to one partition after the other (deliver.py), where it can be told whose it is.
"""

from collections.abc import Sequence

from infra.redis_clusters import RedisClusters
from streams.deliver import Deliverer, Received

TOGETHER_TARGETS_MAX = 8_192  # entries of all runs that are sent together: they have one time-out
IN_TURN_TARGETS_MIN = 1_024  # of the same: less, and all nodes are called at once in any case


def apply_together(clusters: RedisClusters, work: Sequence[tuple[Deliverer, Sequence[Received]]]) -> bool:
    """Applies small runs of several partitions with one send to each node.

    False when it was not done for all of them: a run that needs more than a call, a node that did not answer or
    refused. To apply each for itself after that is right in any case, as after a call that timed out.
    """
    costs = [deliverer.cost_of_one_call(messages) for deliverer, messages in work]
    cost = sum(filter(None, costs))
    if None in costs or cost > TOGETHER_TARGETS_MAX:
        return False
    shard_map = clusters.shard_map
    down = sorted(shard_map.down_nodes)
    names = [name for name in shard_map.nodes if name not in down]
    if shard_map.lacks_copies or not all(map(clusters.may_leave_out, down)):
        return False
    ready = [deliverer.prepare(messages, shard_map) for deliverer, messages in work]
    call = clusters.call_all_in_turn if cost >= IN_TURN_TARGETS_MIN else clusters.call_all_at_once
    outcomes = call("apply", {name: [one.calls[name] for one in ready] for name in names})
    if any(isinstance(outcome, Exception) for of_node in outcomes.values() for outcome in of_node):
        return False
    for place, ((deliverer, _), one) in enumerate(zip(work, ready, strict=True)):
        deliverer.leave_out(down)
        deliverer.conclude(one, {name: of_node[place] for name, of_node in outcomes.items()})
    return True
