"""`fanfold locks`: who leads, and who holds what only one process may hold."""

import sys
from datetime import UTC, datetime

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from infra.cli import JsonFlag, print_json
from infra.holder import Holder
from infra.locks import Locks, read_locks
from infra.sessions_of_commands import database_of, zookeeper_of


def locks(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show which process leads, and which hold leases, node numbers and locks: host, pid, command, since when.

    Leases and node numbers are in ZooKeeper and end with their holder's session, 6 s after a kill; the locks of relay,
    counters and erasing are PostgreSQL's. Exit code 3 when one of the two does not answer.
    """
    with database_of(context) as engine, zookeeper_of(context) as zookeeper:
        found = read_locks(zookeeper, engine)
    if as_json:
        print_json(found.as_json())
    else:
        Console(file=sys.stdout, markup=False).print(table(found, datetime.now(UTC)))


def table(found: Locks, now: datetime) -> Table:
    """One line for each holder, and for each who waits."""
    shown = Table(box=SIMPLE_HEAD, title=f"leader: {found.leader or 'none'}", title_justify="left")
    for heading in ("what", "state", "host", "pid", "for", "command"):
        shown.add_column(heading, overflow="fold", justify="right" if heading in ("pid", "for") else "left")

    def add(what: str, state: str, holder: Holder | None) -> None:
        if holder is None:
            shown.add_row(what, state, "unknown", "", "", "")
            return
        shown.add_row(what, state, holder.host, f"{holder.pid}", age(now, holder.since), holder.command)

    for lease in found.leases:
        add(f"lease {lease.name}", "held", lease.holder)
        for waiting in lease.waiting:
            add("", "waits", waiting)
    for one in found.node_numbers:
        add(f"{one.name} {one.number}", "held", one.holder)
    for one in found.database_locks:
        add(f"{one.name} {one.number}", "locked", one.holder)
    return shown


def age(now: datetime, since: datetime) -> str:
    """A time in its largest unit that fits: 5s, 12min, 3h, 8d. Clocks of two hosts differ, so it is never below 0s."""
    seconds = max(0, int((now - since).total_seconds()))
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds // length_s}{unit}"
    return f"{seconds}s"
