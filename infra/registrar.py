"""Registrar: makes a Redis node fit to be written, says that it is there, and says so when it is not.

It looks at the node twice a second, empties it when it may lack a write (emptying.py), loads the Functions, and keeps
its member (members.py) true. Nobody else loads Functions. Next: coordinator.py.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from infra.emptying import EMPTYING_TIMEOUT_S, MISSED_A_WRITE, must_be_emptied, prepare_node, why_empty
from infra.errors import (
    ConfigurationError,
    Conflict,
    FanfoldError,
    RedisAddressWrong,
    RedisUnavailable,
    UseError,
    ZooKeeperUnavailable,
)
from infra.hiding import hide_secrets
from infra.members import Member, encode_member, member_path, read_members
from infra.node_check import Found, look_at, refuse_other_data
from infra.probation import Probation
from infra.redis_node import RedisNode
from infra.zookeeper import COPIES_PATH, SESSION_S, ZooKeeper

# A node that hangs is said to be unfit after a look that was just over, a period, and two looks in vain:
# 0.5 + 2 × 0.7 s = 1.9 s. Half a second later the coordinator has read it, and within 3 s its copies are down.
LOOK_PERIOD_S = 0.5
LOOK_TIMEOUT_S = 0.7
MISSES_MAX = 2  # one may be a connection that was closed, or a busy machine

ROUND_S = 4 * EMPTYING_TIMEOUT_S + SESSION_S + 10.0  # one look, when everything in it takes its time

# The registrar before this one may have been killed: its session ends by itself, after at most SESSION_S, a tick of the
# server (2 s by default), and the time until our next look.
RIVAL_WAIT_S = SESSION_S + 3.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rival:
    """A registration of somebody else that stands in the way, and since when (monotonic seconds)."""

    holder: str
    since_s: float


def find_rival(name: str, found: Found, members: Mapping[str, Member]) -> tuple[str, Member] | None:
    """Who else has the name, or has the same server under another name."""
    if name in members:
        return name, members[name]
    for other, member in members.items():
        if member.run_id == found.run_id:
            return other, member
    return None


class Registration:
    """Keeps one node registered: one look after the other, from a single thread."""

    def __init__(
        self, zookeeper: ZooKeeper, name: str, url: str, weight: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._zookeeper = zookeeper
        self._node = RedisNode(name, url, timeout_s=LOOK_TIMEOUT_S)
        self._path = member_path(name)
        self._clock = clock
        self._member = Member(url, weight=weight, fit=False, host=socket.gethostname(), pid=os.getpid())
        self._misses = 0
        self._rival: Rival | None = None
        self._probation = Probation(clock)
        self.reason = "it was not looked at yet"  # why it is out; empty while it is fit
        self.refusal: UseError | None = None  # what a person must mend before this node can be registered
        self.ready = threading.Event()  # it was registered

    @property
    def name(self) -> str:
        """The node's name."""
        return self._node.name

    def keep(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Looks until `stop` is set. The znode goes with the session."""
        while not stop.is_set():
            beat()
            begun_s = self._clock()
            try:
                self.look()
            except FanfoldError as error:
                self._out(error)
            stop.wait(max(0.0, begun_s + LOOK_PERIOD_S - self._clock()))
        self.close()

    def look(self) -> None:
        """One look: registers the node when it is fit. Raises what stands against it."""
        found = look_at(self._node)
        self._misses = 0
        if found.unfit:
            raise ConfigurationError(found.unfit)
        own = self._zookeeper.read_own(self._path)
        if own is None or found.name not in ("", self.name):
            self._refuse_rival(found, own is not None)
        self._rival = None
        why = why_empty(found, self.name, self._may_lack_a_write(found, own is None))
        if why == MISSED_A_WRITE:
            self._probation.check(self.name, found.incarnation)
        if why:
            found = self._empty(found, why)
            if why == MISSED_A_WRITE:
                self._probation.note_back()
        elif own is None or not self.ready.is_set():
            self._node.load_functions()  # those of this version; calls go on meanwhile
        member = replace(self._member, incarnation=found.incarnation, run_id=found.run_id, fit=True, reason="")
        if own is None or own[0] != encode_member(member):
            self._say(member)
            log.info("node registered", node=self.name, url=hide_secrets(self._node.url), emptied=why or None)
        self.reason, self.refusal = "", None
        self.ready.set()

    def withdraw(self) -> None:
        """Takes its member away if it is ours, so that somebody else may look after the node. Raises
        `ZooKeeperUnavailable`."""
        if self._zookeeper.owns(self._path):
            self._zookeeper.delete(self._path)

    def close(self) -> None:
        """Closes the connections to the node."""
        self._node.close()

    def _out(self, error: FanfoldError) -> None:
        """Decides what an error of a look means. Without ZooKeeper nothing can be said, and nothing changes."""
        if isinstance(error, ZooKeeperUnavailable):
            self._rival = None  # the sessions of others were given more time as well
            return
        passing = isinstance(error, RedisUnavailable) and not isinstance(error, RedisAddressWrong)
        self._misses += passing
        if passing and not self.reason and self._misses < MISSES_MAX:
            return
        if self.reason != str(error):
            log.warning("node is out", node=self.name, reason=str(error))
        self.reason = str(error)
        if isinstance(error, Conflict):  # a registrar that was killed leaves its member for a while
            waited_s = self._clock() - self._rival.since_s if self._rival else 0.0
            self.refusal = error if waited_s >= RIVAL_WAIT_S else None
        elif not passing and not self.ready.is_set():
            self.refusal = error if isinstance(error, UseError) else ConfigurationError(str(error))
        if self.ready.is_set():
            with suppress(Conflict, ZooKeeperUnavailable):  # it is not ours to say any more, or the next look says it
                self._say(replace(self._member, fit=False, reason=self.reason))

    def _say(self, member: Member) -> None:
        """Writes the member. Raises `Conflict` when somebody else was first; the next look finds out who.

        Were the session lost between reading and writing, and the name taken by another registrar, its member could be
        overwritten: it finds that out at its next look, and writes it again.
        """
        data, own = encode_member(member), self._zookeeper.read_own(self._path)
        if own is None:
            written = self._zookeeper.create(self._path, data, ephemeral=True)
        else:
            written = own[0] == data or self._zookeeper.compare_and_set(self._path, data, own[1])
        if not written:
            raise Conflict(f"node {self.name} was registered by somebody else just now")
        self._member = member

    def _empty(self, found: Found, why: str) -> Found:
        """Claims the name, so that nobody else empties the node as well, and empties it."""
        if not found.incarnation and found.run_id != self._member.run_id:
            refuse_other_data(self._node)
        reason = f"it is being emptied: {why}"
        self._say(replace(self._member, incarnation=found.incarnation, run_id=found.run_id, fit=False, reason=reason))
        incarnation = prepare_node(self._node, found.run_id)
        self._node.close()  # the server has closed these connections
        return Found(found.run_id, found.run_id, incarnation, self.name)

    def _refuse_rival(self, found: Found, owned: bool) -> None:
        members = read_members(self._zookeeper)
        if owned:
            members.pop(self.name, None)
        rival = find_rival(self.name, found, members)
        if rival is None:
            return
        name, member = rival
        if self._rival is None or self._rival.holder != member.holder:
            self._rival = Rival(member.holder, self._clock())
            log.info("waiting whether another registration ends", node=self.name, seconds_max=RIVAL_WAIT_S)
        title = f"Redis node {self.name} at {hide_secrets(self._node.url)}"
        if name == self.name:
            raise Conflict(
                f"{title} is registered already, at {hide_secrets(member.url)} by {member.holder}: one registrar looks "
                "after a node, so end that one first, or choose another name"
            )
        raise Conflict(
            f"{title} is the server of node {name}, registered by {member.holder}: a server is one node, so name "
            "another server"
        )

    def _may_lack_a_write(self, found: Found, is_new: bool) -> bool:
        copies = self._zookeeper.read(COPIES_PATH)
        return copies is not None and must_be_emptied(copies[0], self.name, found, is_new)
