"""`fanfold shards add`, `drain` and `rebalance`: what a person wants of the nodes, stored, and then waited for."""

import re
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from infra.cli import EXIT_INTERRUPTED, JsonFlag, print_json, say
from infra.errors import InvalidInput
from infra.hash_ring import WEIGHT_MAX
from infra.hiding import hide_secrets
from infra.live_settings import read_live_settings
from infra.move_checks import check_add, check_drain, check_weights, need_warming, with_weights
from infra.move_progress import LOOK_COMMAND, Wait
from infra.move_standing import Look, look, standing_of
from infra.node_check import Found, look_at, refuse_other_data
from infra.node_options import NodeOptions, check_node_options
from infra.openings import CALL_TIMEOUT_S
from infra.redis_node import RedisNode
from infra.sessions_of_commands import zookeeper_of
from infra.shard_map import CLUSTERS
from infra.wishes import NO_WISH, Wish, Wishes, change_wishes
from infra.zookeeper import ZooKeeper

WaitFlag = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until all slots have moved and serve.")]
NameArgument = Annotated[str, typer.Argument(help="The node's name, which begins with its cluster's letter.")]


def add(
    context: typer.Context,
    name: NameArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the server is, as redis://host:port.")],
    weight: Annotated[
        int | None, typer.Option(help=f"How many slots it gets beside others of its cluster, 1 to {WEIGHT_MAX}.")
    ] = None,
    wait: WaitFlag = True,
    as_json: JsonFlag = False,
) -> None:
    """Make a server a node of its cluster and move its share of the slots there.

    \b
      fanfold shards add a3 redis://10.0.0.7:6379 --weight 2
    A running registrar looks after it from then on. Slots move in batches of
    move_slots_max, and readers prefer other copies until they are warm. A
    node that was drained is taken back. Ctrl-C ends the waiting only.
    """
    options = check_node_options(NodeOptions(name, url, 1 if weight is None else weight))
    with zookeeper_of(context) as zookeeper:
        _need_warming(zookeeper, wait)
        found = _look_at_server(options)

        def decide(wishes: Wishes) -> Wishes:
            before = wishes.get(name, NO_WISH)
            check_add(options, found, look(zookeeper))
            return {name: Wish(url, before.weight if weight is None else weight)}

        mine = change_wishes(zookeeper, decide)
        _finish(zookeeper, name[0], {"node": name, "url": hide_secrets(url)}, mine, wait, as_json)


def drain(context: typer.Context, name: NameArgument, wait: WaitFlag = True, as_json: JsonFlag = False) -> None:
    """Move all slots of a node to the others of its cluster; it serves until they are there.

    \b
    Afterwards it holds nothing and can be switched off, and gets nothing back
    until `fanfold shards add` names it again. Ctrl-C ends the waiting only.
    """
    with zookeeper_of(context) as zookeeper:
        check_drain(name, look(zookeeper))
        _need_warming(zookeeper, wait)

        def decide(wishes: Wishes) -> Wishes:
            check_drain(name, look(zookeeper))
            before = wishes.get(name, NO_WISH)
            return {name: Wish(before.url, before.weight, drained=True)}

        mine = change_wishes(zookeeper, decide)
        _finish(zookeeper, name[0], {"node": name}, mine, wait, as_json)


def rebalance(
    context: typer.Context,
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="A node's weight from now on, whatever its registrar says; repeatable."),
    ] = None,
    wait: WaitFlag = True,
    as_json: JsonFlag = False,
) -> None:
    """Give nodes other weights and move slots by them; without any, wait for what is on its way.

    \b
      fanfold shards rebalance --weight a1=2 --weight a2=1
    Ctrl-C ends the waiting only.
    """
    weights = parse_weights(weight or [])
    with zookeeper_of(context) as zookeeper:
        check_weights(weights, look(zookeeper))
        _need_warming(zookeeper, wait)

        def decide(wishes: Wishes) -> Wishes:
            check_weights(weights, look(zookeeper))
            return with_weights(weights, wishes)

        mine = change_wishes(zookeeper, decide) if weights else {}
        clusters = {name[0] for name in weights} or set(CLUSTERS)
        _finish(zookeeper, clusters, {"weights": weights}, mine, wait, as_json)


def parse_weights(texts: Collection[str]) -> dict[str, int]:
    """`NAME=N`, each name once. Raises `InvalidInput` with the value and the rule."""
    weights: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not name or not re.fullmatch("[0-9]{1,9}", number) or not 1 <= int(number) <= WEIGHT_MAX:
            raise InvalidInput(f"{text[:60]!r} is no weight: write NAME=N, N a whole number from 1 to {WEIGHT_MAX}")
        if weights.setdefault(name, int(number)) != int(number):
            raise InvalidInput(
                f"node {name[:40]} is given two weights, {weights[name]} and {int(number)}: leave one out"
            )
    return weights


def _need_warming(zookeeper: ZooKeeper, wait: bool) -> None:
    if wait:
        need_warming(read_live_settings(zookeeper))


def _look_at_server(options: NodeOptions) -> Found:
    """The registrar's own look. Raises `RedisUnavailable`, and `ConfigurationError` for a server that is not fit or
    holds another program's keys."""
    node = RedisNode(options.name, options.url, timeout_s=CALL_TIMEOUT_S)
    try:
        found = look_at(node)
        if not found.unfit and not found.incarnation:
            refuse_other_data(node)
        return found
    finally:
        node.close()


def _finish(
    zookeeper: ZooKeeper,
    clusters: Collection[str],
    result: Mapping[str, Any],
    mine: Wishes,
    wait: bool,
    as_json: bool,
) -> None:
    """Waits if that is asked for, and says how far it is. Interrupted, it says that the move goes on."""
    began_s, done = time.monotonic(), False
    if wait:
        with _interruptible() as stop:
            done = Wait(zookeeper, clusters, mine, stop).until_done()
    known = look(zookeeper)
    standing = standing_of(known, clusters)
    if as_json:
        left = {"to_move": standing.to_move, "not_serving": standing.not_serving, "missing": list(standing.missing)}
        took_s = round(time.monotonic() - began_s, 1)
        print_json({**result, "epoch": known.shard_map.epoch, "done": standing.done, **left, "took_s": took_s})
    else:
        typer.echo(_sentence(known, clusters))
    if wait and not done:
        say(f"interrupted: the move goes on by itself; {LOOK_COMMAND}")
        raise typer.Exit(EXIT_INTERRUPTED)


def _sentence(known: Look, clusters: Collection[str]) -> str:
    shard_map, standing = known.shard_map, standing_of(known, clusters)
    counts = {name: len(shard_map.slots_on(name)) for name in shard_map.nodes if name[0] in clusters}
    held = ", ".join(f"{name} {count}" for name, count in counts.items())
    if standing.done:
        return f"all slots are where they should be, and serve: {held}"
    waits = f"; waiting for {', '.join(standing.missing)} to be registered" if standing.missing else ""
    return f"{standing.to_move:,} slots are still to move, {standing.not_serving:,} are on their way ({held}){waits}"


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set while the context lasts."""
    stop = threading.Event()
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
