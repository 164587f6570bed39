"""`fanfold shards`: the shard map for people and programs, where a timeline lies, and how to get the map back."""

import sys
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from infra import move_commands, ring_picture, social
from infra.cli import JsonFlag, parse_id, print_json, say
from infra.copies import CopyState
from infra.epochs import Epochs, read
from infra.errors import DependencyError, ZooKeeperUnavailable
from infra.members import read_members
from infra.restore import restore
from infra.sessions_of_commands import database_of, zookeeper_of
from infra.shard_map import CLUSTERS, ShardMap
from infra.shard_znodes import read_znodes
from infra.shards_report import (
    INCARNATION_SHOWN,
    Placed,
    ShardsReport,
    find_slot,
    report_shards,
    slot_ranges,
)
from infra.slots import SLOTS, hash_of, slot_of
from infra.topics import DELIVERIES
from infra.wishes import read_wishes

shards = typer.Typer(help="The shard map: which node holds which slot, and in which state.")

shards.command("add")(move_commands.add)
shards.command("drain")(move_commands.drain)
shards.command("rebalance")(move_commands.rebalance)

RANGES_SHOWN = 60  # characters of a list of slots; --json has all


def parse_slot(text: str) -> int:
    """A slot from the command line; the message names the value."""
    if not (text.isascii() and text.isdigit() and int(text) < SLOTS):
        raise typer.BadParameter(f"{text!r} is not a slot, which is a whole number from 0 to {SLOTS - 1}")
    return int(text)


@shards.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    slot: Annotated[int | None, typer.Option(parser=parse_slot, metavar="N", help="Where this slot lies.")] = None,
    user: Annotated[
        int | None, typer.Option(parser=parse_id, metavar="ID", help="Where this user's timelines lie, and why.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the nodes, their slots and copies, and what is moving; or where one slot or user lies."""
    if context.invoked_subcommand is not None:
        if slot is not None or user is not None or as_json:
            raise typer.BadParameter(f"options belong behind `{context.invoked_subcommand}`")
        return
    if slot is not None and user is not None:
        raise typer.BadParameter("--slot and --user exclude each other: leave one out")
    if user is not None:
        with database_of(context) as engine:
            social.user(engine, user)
    if slot is None and user is None:
        _show_all(context, as_json)
    else:
        _show_one(context, slot_of(user) if user is not None else int(slot or 0), user, as_json)


@shards.command("restore")
def shards_restore(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Write a new placement after ZooKeeper lost its data. Every copy starts unproven: the nodes are emptied and
    admitted anew, and timelines are rebuilt as they are read. Refused when there is nothing to restore."""
    with zookeeper_of(context) as zookeeper, database_of(context) as engine:
        restored = restore(zookeeper, engine)
    epoch, nodes = restored.shard_map.epoch, list(restored.shard_map.nodes)
    if as_json:
        print_json({"epoch": epoch, "nodes": nodes, "reason": restored.reason})
        return
    say(restored.reason)
    typer.echo(
        f"wrote the placement of epoch {epoch} on {', '.join(nodes)}; every copy is down until its node is emptied"
    )


def _show_all(context: typer.Context, as_json: bool) -> None:
    with zookeeper_of(context) as zookeeper:
        znodes, members, wishes = read_znodes(zookeeper), read_members(zookeeper), read_wishes(zookeeper)
    epochs = _epochs(context)
    report, refused = report_shards(znodes.shard_map, members, wishes), znodes.refusal(epochs)
    if as_json:
        on_record = {"planned": epochs.planned, "written": epochs.written} if epochs else None
        print_json({**report.as_json(), "on_record": on_record, "refused": refused})
        return
    print_report(report, Console(file=sys.stdout, highlight=False))
    if refused:
        say(refused)
    elif report.epoch is None:
        say("there is no placement yet: the coordinator writes it as soon as each cluster has a fit node")


def _show_one(context: typer.Context, slot: int, user: int | None, as_json: bool) -> None:
    with zookeeper_of(context) as zookeeper:
        znodes, members = read_znodes(zookeeper), read_members(zookeeper)
    shard_map = znodes.shard_map
    if shard_map is None:
        refused = znodes.refusal(_epochs(context))
        raise ZooKeeperUnavailable(refused or "ZooKeeper holds no placement yet: is a coordinator running?")
    found, partition = find_slot(shard_map, members, slot), slot % DELIVERIES.partitions
    if as_json:
        copies = [one.as_json() for one in found]
        of_user = {"user_id": str(user), "hash": f"{hash_of(user):016x}"} if user is not None else {}
        print_json({**of_user, "slot": slot, "partition": partition, "epoch": shard_map.epoch, "copies": copies})
        return
    if user is not None:
        typer.echo(
            f"user {user}: xxh64 of the id's 8 bytes is {hash_of(user):016x}, which mod {SLOTS:,} is slot {slot}"
        )
    typer.echo(f"slot {slot}, partition {partition} of deliveries ({slot} mod {DELIVERIES.partitions})")
    for one in found:
        typer.echo(_why(one, shard_map))


def _why(placed: Placed, shard_map: ShardMap) -> str:
    node, names = placed.node, ", ".join(shard_map.nodes_of(placed.cluster))
    return (
        f"  cluster {placed.cluster}: {node.name}, {placed.state.name.lower()}, {node.url} ({node.fitness}); at epoch "
        f"{shard_map.epoch} it was, of {names}, the first at this slot that had room"
    )


def print_report(report: ShardsReport, console: Console) -> None:
    """The whole map for a person: rings, tables, and what is moving."""
    if report.epoch is not None:
        highest = f"{report.balance * 100:.0f} % of a fair one"
        console.print(f"epoch {report.epoch}, {SLOTS:,} slots in each cluster; the highest share is {highest}")
        rings = [ring_picture.ring(report.of_cluster(cluster), _middle(report, cluster)) for cluster in CLUSTERS]
        for line in ring_picture.side_by_side(rings):
            console.print(line, no_wrap=True, crop=False, overflow="ignore")
        console.print(ring_picture.LEGEND)
        console.print(_slots_table(report))
    console.print(_nodes_table(report))
    for one in report.moving:
        ranges = slot_ranges(one.slots)
        shown = ranges if len(ranges) <= RANGES_SHOWN else f"{ranges[:RANGES_SHOWN].rpartition(',')[0]}, …"
        console.print(f"{one.node}: {len(one.slots):,} {one.state.name.lower()}: {shown}", soft_wrap=True)
    for cluster, count in report.to_move.items():
        console.print(f"cluster {cluster}: {count:,} slots are still to move to another node")
    if report.epoch is not None and not report.moving and not report.to_move:
        console.print("nothing is moving: every copy is serving")


def _middle(report: ShardsReport, cluster: str) -> list[str]:
    nodes = report.of_cluster(cluster)
    serving = sum(node.serving for node in nodes)
    return [
        f"cluster {cluster}",
        f"{len(nodes)} node{'s' * (len(nodes) != 1)}",
        "all serving" if serving == SLOTS else f"{serving * 100 // SLOTS} % serving",
    ]


def _slots_table(report: ShardsReport) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    table.add_column("node", overflow="fold")
    for heading in ("weight", "slots", "share", *(state.name.lower() for state in CopyState)):
        table.add_column(heading, justify="right")
    for cluster in CLUSTERS:
        for place, node in enumerate(report.of_cluster(cluster)):
            numbers = (f"{count:,}" for count in (node.serving, node.filling, node.down))
            letter = ring_picture.letter_of(place)
            table.add_row(letter, node.name, str(node.weight), f"{node.slots:,}", f"{node.share * 100:.0f} %", *numbers)
    return table


def _nodes_table(report: ShardsReport) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("node", "address", "incarnation", "is"):
        table.add_column(heading, no_wrap=heading == "address", overflow="fold")
    for node in report.nodes:
        table.add_row(node.name, node.url, node.incarnation[:INCARNATION_SHOWN], node.fitness)
    return table


def _epochs(context: typer.Context) -> Epochs | None:
    """None when PostgreSQL is away: the map can be shown without."""
    try:
        with database_of(context) as engine:
            return read(engine)
    except DependencyError:
        return None
