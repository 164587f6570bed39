"""Wishes: what a person wants of a node (`fanfold shards add|drain|rebalance`), kept in ZooKeeper until he wants
something else.

Each node that anybody ever said something about has a persistent znode. Registrars look after wished nodes that have no
registrar of their own (adoption.py), the coordinator places slots by the wishes (moves.py). Next: move_checks.py.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from infra.errors import ConfigurationError, Conflict, Undecodable, ZooKeeperUnavailable
from infra.node_options import NodeOptions, check_node_options
from infra.znodes import UNREADABLE, Change, Replace, written
from infra.zookeeper import WISHES_PATH, ZooKeeper

TRIES_MAX = 20  # of a change: people change wishes, so one at the same time is rare already
_SOMEWHERE = "redis://somewhere:1"  # stands for an address that a wish does not have, when name and weight are checked


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants of one node."""

    url: str = ""  # where a registrar finds it; empty: the node has a registrar that was told
    weight: int | None = None  # wins over the registrar's; None: that one holds
    drained: bool = False  # it is to hold nothing


Wishes = Mapping[str, Wish]
NO_WISH = Wish()


def wish_path(name: str) -> str:
    """The znode of a node's wish."""
    return f"{WISHES_PATH}/{name}"


def drained_names(wishes: Wishes) -> set[str]:
    """The nodes that are to hold nothing."""
    return {name for name, wish in wishes.items() if wish.drained}


def encode_wish(wish: Wish) -> bytes:
    """The znode's bytes."""
    return json.dumps({"version": 1, **asdict(wish)}, sort_keys=True).encode()


def decode_wish(name: str, data: bytes) -> Wish:
    """The inverse. Raises `Undecodable`, also for what `check_node_options` refuses."""
    try:
        value = json.loads(data)
        wish = Wish(value["url"], value["weight"], value["drained"])
        if value["version"] != 1 or not isinstance(wish.drained, bool):
            raise ValueError(f"version {value['version']!r}, drained {wish.drained!r}")
        check_node_options(NodeOptions(name, wish.url or _SOMEWHERE, 1 if wish.weight is None else wish.weight))
    except (*UNREADABLE, RecursionError, ConfigurationError) as error:
        raise Undecodable(f"the znode {wish_path(name)} is no wish ({error}): delete it") from error
    return wish


def read_wishes(zookeeper: ZooKeeper, refused: Callable[[Undecodable], None] = lambda _: None) -> dict[str, Wish]:
    """All wishes by the node's name. What is none counts as not there, and `refused` is told. Raises
    `ZooKeeperUnavailable`."""
    wishes = {}
    for name in zookeeper.children(WISHES_PATH):
        found = zookeeper.read(wish_path(name))
        if found is not None:
            try:
                wishes[name] = decode_wish(name, found[0])
            except Undecodable as error:
                refused(error)
    return wishes


def change_wishes(zookeeper: ZooKeeper, decide: Callable[[Wishes], Wishes]) -> dict[str, Wish]:
    """Stores what `decide` makes of the wishes as they are, and returns that: those that it names are wished now, also
    when they were before. It may raise, and nothing is changed then.

    Every change raises the version of the folder, so two at the same time are one after the other: what was decided by
    looking at all nodes still holds when it is stored. A crash leaves all of it or nothing.
    """
    zookeeper.create(WISHES_PATH, b"")
    for _ in range(TRIES_MAX):
        zookeeper.sync(WISHES_PATH)
        folder = zookeeper.read(WISHES_PATH)
        before = read_wishes(zookeeper)
        wanted = dict(decide(before))
        changed = {name: wish for name, wish in wanted.items() if before.get(name) != wish}
        if not changed or (folder is not None and _store(zookeeper, folder[1], changed)):
            return wanted
    raise Conflict(f"others changed the wishes {TRIES_MAX} times meanwhile: try again")


def _store(zookeeper: ZooKeeper, folder_version: int, changed: Wishes) -> bool:
    changes: list[Change] = [Replace(WISHES_PATH, b"", folder_version)]
    for name, wish in changed.items():
        found = zookeeper.read(wish_path(name))
        changes.append(written(wish_path(name), encode_wish(wish), found and found[1]))
    try:
        return zookeeper.write_together(changes)
    except ZooKeeperUnavailable as error:
        raise ZooKeeperUnavailable(f"{error}; `fanfold shards` shows whether the wish was stored") from error
