"""What stands against a wish, said in one sentence before anything is stored. Pure decisions on one look.

Next: move_commands.py.
"""

from collections.abc import Mapping

from infra.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from infra.hiding import hide_secrets
from infra.live_settings import LiveSettings
from infra.move_standing import Look
from infra.node_check import Found
from infra.node_options import NodeOptions
from infra.shard_map import NODES_MAX
from infra.wishes import NO_WISH, Wish, Wishes, drained_names


def need_warming(live: LiveSettings) -> None:
    """Before somebody waits for a move. Raises `InvalidInput` when it would never end."""
    if live.repair_users_per_s == 0:
        raise InvalidInput(
            "repair_users_per_s is 0, so no slot that moves would ever serve again and this would wait for ever: raise "
            "it (`fanfold config set repair_users_per_s=…`), or give --no-wait"
        )


def check_add(options: NodeOptions, found: Found, known: Look) -> None:
    """`found` is what the server at the address says of itself. Raises `ConfigurationError` when it is not fit to be a
    node, `Conflict` when the name or the server is taken."""
    if found.unfit:
        raise ConfigurationError(found.unfit)
    _refuse_taken_name(options, found, known)
    _refuse_taken_server(options, found, known)
    cluster = options.name[0]
    if len(known.nodes_of(cluster) | {options.name}) > NODES_MAX:
        raise InvalidInput(f"cluster {cluster} has {NODES_MAX} nodes already, which is as many as it can have")


def check_drain(name: str, known: Look) -> None:
    """Raises `NotFound`, and `InvalidInput` when nobody would be left to hold the slots of its cluster."""
    cluster = name[:1]
    if name not in known.nodes_of(cluster):
        raise NotFound(_no_node(name, known))
    others = known.nodes_of(cluster) - drained_names(known.wishes) - {name}
    if not others:
        raise InvalidInput(
            f"node {name} is the last node of cluster {cluster} and cannot be drained: add another one first "
            "(`fanfold shards add`)"
        )
    if not any(one in known.members and known.members[one].fit for one in others):
        raise InvalidInput(
            f"node {name} cannot be drained: no other node of cluster {cluster} is fit ({', '.join(sorted(others))}; "
            "`fanfold shards` says why)"
        )


def check_weights(weights: Mapping[str, int], known: Look) -> None:
    """Raises `NotFound` for a node that does not exist."""
    for name in weights:
        if name not in known.nodes_of(name[:1]):
            raise NotFound(_no_node(name, known))


def with_weights(weights: Mapping[str, int], wishes: Wishes) -> dict[str, Wish]:
    """The wishes of these nodes, as they are but for the weights."""
    return {
        name: Wish(wish.url, weight, wish.drained)
        for name, weight in weights.items()
        for wish in [wishes.get(name, NO_WISH)]
    }


def _no_node(name: str, known: Look) -> str:
    names = sorted({*known.shard_map.nodes, *known.members})
    return f"there is no node {name!r:.40}; they are {', '.join(names)}"


def _refuse_taken_name(options: NodeOptions, found: Found, known: Look) -> None:
    """The same node at the same server may be added again: then its drain is taken back, or nothing changes."""
    name, member = options.name, known.members.get(options.name)
    if member is not None:
        is_it = found.run_id == member.run_id if member.run_id else options.url == member.url
    else:
        address = known.shard_map.addresses.get(name)
        is_it = address is None or address == options.url
    if not is_it:
        by = f", registered by {member.holder}" if member is not None else ""
        raise Conflict(
            f"there is a node {name} already, at {known.address_of(name)}{by}: choose another name, or drain that node "
            "and end its registrar first"
        )


def _refuse_taken_server(options: NodeOptions, found: Found, known: Look) -> None:
    shard_map, incarnations = known.shard_map, known.shard_map.copies.incarnations
    taken = {other for other, member in known.members.items() if found.run_id == member.run_id}
    taken |= {other for other, url in shard_map.addresses.items() if options.url == url}
    taken |= {other for other, wish in known.wishes.items() if options.url == wish.url and not wish.drained}
    taken |= {other for other, incarnation in incarnations.items() if found.incarnation == incarnation}
    for other in sorted(taken - {options.name}):
        raise Conflict(
            f"the server at {hide_secrets(options.url)} is node {other} already: a server is one node, so name another "
            "server"
        )
    is_ours = found.incarnation in (*incarnations.values(), *shard_map.copies.dropped.values())
    if found.epoch and not is_ours and options.name not in known.members:
        raise Conflict(
            f"the server at {hide_secrets(options.url)} is or was node {found.name or 'without a name'} of another "
            "deployment, and would be emptied: name another server, or, if it is free, empty it with FLUSHALL first"
        )
