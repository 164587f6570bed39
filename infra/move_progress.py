"""How far a move is, and waiting for its end: whoever waits only looks, the move goes on without him.

Input: one look at the nodes, every half second. Next: move_commands.py, which says when it is done.
"""

import sys
import threading
import time
from collections.abc import Collection

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.cli import say
from infra.errors import CheckFailed, ZooKeeperUnavailable
from infra.leases import COORDINATOR, read_lease
from infra.live_settings import read_live_settings
from infra.move_standing import Standing, look, standing_of
from infra.wishes import Wishes
from infra.zookeeper import ZooKeeper

LOOK_PERIOD_S = 0.5
SAY_AFTER_S = 10.0  # a registrar, or a coordinator that was killed, may take so long
LOOK_COMMAND = "`fanfold shards` shows how far it is"


class Wait:
    """Shows how far a move is until it has ended or `stop` is set. `wishes` are what the caller has stored: when
    somebody else wants something else of these nodes, there is nothing to wait for any more."""

    def __init__(self, zookeeper: ZooKeeper, clusters: Collection[str], wishes: Wishes, stop: threading.Event) -> None:
        self._zookeeper = zookeeper
        self._clusters = clusters
        self._wishes = wishes
        self._stop = stop
        self._began_s = time.monotonic()
        self._said: set[str] = set()

    def until_done(self) -> bool:
        """False when it was stopped before. Raises `CheckFailed` when somebody else changed a wish, and
        `ZooKeeperUnavailable`; the move goes on then."""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("slots moved and serving", total=None)
            most = 0
            while True:
                standing = self._look()
                most = max(most, standing.left)
                bar.update(task, completed=most - standing.left, total=most or None)
                if standing.done:
                    return True
                self._say_what_is_in_the_way(standing)
                if self._stop.wait(LOOK_PERIOD_S):
                    return False

    def _look(self) -> Standing:
        try:
            known = look(self._zookeeper)
        except ZooKeeperUnavailable as error:
            raise ZooKeeperUnavailable(f"{error}; the move goes on by itself: {LOOK_COMMAND}") from error
        for name, wish in self._wishes.items():
            if known.wishes.get(name) != wish:
                raise CheckFailed(f"somebody else wants something else of node {name} by now: {LOOK_COMMAND}")
        return standing_of(known, self._clusters)

    def _say_what_is_in_the_way(self, standing: Standing) -> None:
        """Once each, for whoever would wait in vain."""
        if time.monotonic() - self._began_s < SAY_AFTER_S:
            return
        if read_lease(self._zookeeper, COORDINATOR) is None:
            self._say_once("no coordinator leads, so nothing moves: is `fanfold coordinator` running?")
        for name in standing.missing:
            self._say_once(
                f"node {name} is not registered as fit yet: is a registrar running? `fanfold shards` says more"
            )
        for cluster in standing.in_the_way if standing.to_move else ():
            self._say_once(
                f"cluster {cluster} has copies that do not serve; until they do, slots of which they are copies stay "
                "where they are: `fanfold shards` shows which node it is"
            )
        if standing.not_serving and not read_live_settings(self._zookeeper).repair_users_per_s:
            self._say_once("repair_users_per_s is 0 by now, so what moved is not warmed and does not serve")

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            say(line)
