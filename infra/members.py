"""Members: the Redis nodes as their registrars describe them, and who of them should hold slots. Pure decisions.

A member is an ephemeral znode that its registrar alone writes (registrar.py). Next: coordinator.py.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields

from infra.errors import ConfigurationError, Undecodable
from infra.node_options import NodeOptions, check_node_options
from infra.shard_map import CLUSTERS, NODES_MAX, ShardMap
from infra.zookeeper import NODES_PATH, ZooKeeper


@dataclass(frozen=True, slots=True)
class Member:
    """What a registrar says of its node. One that is not `fit` does not answer or has a wrong configuration."""

    url: str
    incarnation: str = ""  # what the node had when this was written; empty before its first
    weight: int = 1  # how many slots it gets, beside the others of its cluster
    fit: bool = True
    reason: str = ""  # why it is not fit
    run_id: str = ""  # of the server; another one means that it restarted
    host: str = ""  # where its registrar runs, for whoever has to find that
    pid: int = 0

    @property
    def holder(self) -> str:
        """Its registrar, for people."""
        return f"{self.host or 'an unknown host'}, pid {self.pid}"


Members = Mapping[str, Member]


def member_path(name: str) -> str:
    """The znode of a node's member."""
    return f"{NODES_PATH}/{name}"


def encode_member(member: Member) -> bytes:
    """The znode's bytes."""
    return json.dumps(asdict(member), sort_keys=True).encode()


def decode_member(name: str, data: bytes) -> Member:
    """The inverse of `encode_member`; keys of later versions are ignored. Raises `Undecodable`."""
    known = {field.name: field.type for field in fields(Member)}
    try:
        values = {key: value for key, value in json.loads(data).items() if key in known}
        member = Member(**values)
        wrong = [key for key, value in values.items() if type(value) is not known[key]]
        if not wrong:
            check_node_options(NodeOptions(name, member.url, member.weight))
    except (ValueError, TypeError, AttributeError, RecursionError, ConfigurationError) as error:
        raise _no_member(name, str(error)) from error
    if wrong:
        raise _no_member(name, f"{wrong[0]} cannot be {values[wrong[0]]!r:.40}")
    return member


def _no_member(name: str, why: str) -> Undecodable:
    return Undecodable(f"the znode {member_path(name)} is no member ({why}): delete it")


def read_members(zookeeper: ZooKeeper, refused: Callable[[Undecodable], None] = lambda _: None) -> dict[str, Member]:
    """The registered nodes, by name. What is no member counts as not there, since one bad znode must not hold up all
    others; `refused` is told. Raises `ZooKeeperUnavailable`."""
    members = {}
    for name in zookeeper.children(NODES_PATH):
        found = zookeeper.read(member_path(name))
        if found is not None:
            try:
                members[name] = decode_member(name, found[0])
            except Undecodable as error:
                refused(error)
    return members


def fit_names(members: Members) -> set[str]:
    """The names of fit members."""
    return {name for name, member in members.items() if member.fit}


def are_complete(names: set[str]) -> bool:
    """Whether every cluster has a node: without that nothing can be placed."""
    return all(any(name[0] == cluster for name in names) for cluster in CLUSTERS)


def wanted_names(shard_map: ShardMap, joining: set[str], leaving: set[str], well: set[str]) -> set[str]:
    """Who should hold slots: whoever holds some and does not leave, and whoever joins while there is room. In a cluster
    of which nobody who is well would be left nobody leaves: one that is away as a whole keeps its placement."""
    wanted: set[str] = set()
    for cluster in CLUSTERS:
        held = set(shard_map.nodes_of(cluster))
        new = sorted(name for name in joining if name[0] == cluster)
        stay = (held - leaving) | set(new[: NODES_MAX - len(held)])
        wanted |= stay if stay & (well | joining) else held
    return wanted


def replaced_nodes(shard_map: ShardMap, members: Members) -> list[str]:
    """The nodes whose name another server has now, at another address: it has an incarnation that is neither admitted
    nor was dropped."""

    def is_known(name: str, incarnation: str) -> bool:
        return incarnation in (shard_map.copies.incarnations.get(name), shard_map.copies.dropped.get(name))

    moved = [name for name, url in shard_map.addresses.items() if name in members and members[name].url != url]
    return sorted(name for name in moved if not is_known(name, members[name].incarnation))
