"""`fanfold repair`: fills a cluster's copies now, by hand."""

import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.cli import JsonFlag, print_json, say, settings_of
from infra.composition import Stores, stores
from infra.copies import CopyState
from infra.copying import Source, sources_of
from infra.errors import CheckFailed, InvalidInput
from infra.lease import Lease
from infra.leases import lease
from infra.repair import REPAIR, Done, Plan, Repair
from infra.repair_warmer import Pace
from infra.shard_map import CLUSTERS, ShardMap
from infra.shards_commands import parse_slot
from infra.slots import SLOTS

LEASE_WITHIN_S = 15.0  # the background warmer gives way after its batch
TRIES_MAX = 20  # passes in which nothing could be promoted, one a second
TRY_AGAIN_S = 1.0


def repair(
    context: typer.Context,
    cluster: Annotated[str, typer.Option(help="The cluster whose copies are filled: a, b or c.")],
    slot: Annotated[
        int | None, typer.Option(parser=parse_slot, metavar="N", help="Only the copy of this slot.")
    ] = None,
    source: Annotated[
        Source | None,
        typer.Option("--from", help="copy (as by default): from another cluster, and from the database what none has."),
    ] = None,
    rate: Annotated[int | None, typer.Option(metavar="N", help="Users a second at most; without it no bound.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fill copies that were emptied, and let them serve again, now.

    \b
    The coordinator does this by itself, at a bounded rate and behind live
    traffic. By hand it goes as fast as it can, whatever repair_users_per_s
    says. Stopped on the way, it goes on where it was when called again.
    Exit 1: not all of it could be made serving.
    """
    if cluster not in CLUSTERS:
        raise InvalidInput(f"{cluster[:20]!r} is no cluster; they are {', '.join(CLUSTERS)}")
    if rate is not None and rate < 1:
        raise InvalidInput(f"a rate of {rate} users a second would fill nothing: give at least 1, or leave --rate out")
    began_s, settings = time.monotonic(), settings_of(context)
    with stores(settings) as opened:
        need_filling(opened, cluster, slot)
        if source is Source.COPY:
            need_source(opened.clusters.shard_map, cluster, slot)
        if not opened.timelines.live.repair_users_per_s:
            say("repair in the background is paused, since repair_users_per_s is 0; by hand it goes on")
        plan = Plan((cluster,), slot, source or Source.COPY, settings.kafka_bootstrap)
        with lease(opened.zookeeper, REPAIR, LEASE_WITHIN_S) as held:
            found = _run(opened, held, plan, rate)
        opened.shard_maps.check()
        filling = count_in(opened, cluster, slot, CopyState.FILLING)
    took_s = round(time.monotonic() - began_s, 1)
    if as_json:
        result = {"cluster": cluster, "slot": slot, "users_built": found.built, "users_copied": found.copied}
        print_json({**result, "promoted": found.promoted, "filling": filling, "took_s": took_s})
    else:
        typer.echo(
            f"{found.promoted:,} copies of cluster {cluster} serve again; timelines of {found.built:,} users were "
            f"built, {found.copied:,} of them from another cluster"
        )
    if filling:
        raise CheckFailed(
            f"{filling:,} copies of cluster {cluster} are filling still: their node is not open, or copies changed all "
            "the time; `fanfold shards` shows them"
        )


def need_filling(opened: Stores, cluster: str, slot: int | None) -> None:
    """Raises `InvalidInput` when nothing is filling there."""
    if count_in(opened, cluster, slot, CopyState.FILLING):
        return
    down = count_in(opened, cluster, slot, CopyState.DOWN)
    where = f"cluster {cluster}" if slot is None else f"slot {slot} in cluster {cluster}"
    if down:
        raise InvalidInput(
            f"nothing of {where} is filling: {down:,} copies are down until the registrar has emptied their node and "
            "the coordinator has admitted it"
        )
    raise InvalidInput(f"nothing of {where} is filling: it is serving")


def need_source(shard_map: ShardMap, cluster: str, slot: int | None) -> None:
    """Raises `InvalidInput` when no other copy can be read of what is filling there."""
    filling = [one for one in _slots(slot) if shard_map.copies.of(cluster, one) is CopyState.FILLING]
    if not any(sources_of(shard_map, cluster, one) for one in filling):
        others = " and ".join(one for one in CLUSTERS if one != cluster)
        raise InvalidInput(
            f"nothing of cluster {cluster} can be filled from a copy: those of clusters {others} are down; use "
            "--from database"
        )


def _slots(slot: int | None) -> Sequence[int]:
    return range(SLOTS) if slot is None else (slot,)


def count_in(opened: Stores, cluster: str, slot: int | None, state: CopyState) -> int:
    """How many of a cluster's copies, or of one slot's, are in a state."""
    copies = opened.shard_maps.value().copies
    return sum(copies.of(cluster, one) is state for one in _slots(slot))


def _run(opened: Stores, held: Lease, plan: Plan, rate: int | None) -> Done:
    """All passes together."""
    [cluster], found = plan.clusters, Done()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("users", total=None)
        pace = Pace(lambda: rate or 1, lambda: False, _wait, time.monotonic)

        def go_on(done: Done) -> bool:
            bar.update(task, completed=done.looked, total=max(done.in_all, done.looked))
            return rate is None or pace.go_on(done)

        work = Repair(opened, held, go_on, plan)
        for _ in range(TRIES_MAX):
            done = work.run_pass() or Done()
            found.built, found.copied = found.built + done.built, found.copied + done.copied
            found.promoted += done.promoted
            opened.shard_maps.check()
            if not count_in(opened, cluster, plan.slot, CopyState.FILLING):
                break
            if not done.promoted:
                say("not all could be made serving yet: it looks again")
                time.sleep(TRY_AGAIN_S)
    return found


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False
