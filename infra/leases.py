"""Taking and keeping a lease: a place in the line of its name, held by a ZooKeeper session of its own.

    with lease(zookeeper, "replay-42") as held:
        for batch in batches:
            held.check()
            ...

A session of its own, so that the lease ends with it whatever went wrong: closed, killed, or frozen for longer than the
session lasts. While it is held a thread confirms it each second by a write that goes through ZooKeeper's quorum. A read
could come from a server that lags, and a `sync` from a leader that has been replaced.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from infra.errors import InvalidInput, LeaseHeld, Undecodable, ZooKeeperUnavailable
from infra.holder import Holder, decode_holder, this_process
from infra.lease import Lease
from infra.znodes import ANY_VERSION, Remove, Replace
from infra.zookeeper import ELECTION_TURN_S, LEASES_PATH, SESSION_S, Candidate, ZooKeeper

COORDINATOR = "coordinator"  # the lease of the one coordinator that leads
CONFIRM_PERIOD_S = 1.0
# A session is counted by ZooKeeper's leader, which hears of it from the server that it is connected to each half tick
# (a second with the usual tick of two), and the step after a `check` takes some time.
MARGIN_S = 2.0
VALID_S = SESSION_S - MARGIN_S
FIRST_LOOK_S = 0.1  # that nobody is in front is known at once
KEEPER_ENDS_WITHIN_S = 2.0

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

log = structlog.get_logger()


@contextmanager
def lease(zookeeper: ZooKeeper, name: str, wait_s: float = 0.0) -> Iterator[Lease]:
    """Holds the lease of this name for as long as the context lasts; waits in line for up to `wait_s`.

    Raises `LeaseHeld` when another process has it for longer than that, `InvalidInput` for a name that is none, and
    `ZooKeeperUnavailable`.
    """
    until_s = time.monotonic() + wait_s
    with _in_line(zookeeper, name) as place:
        held = place.look(FIRST_LOOK_S)
        while held is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise LeaseHeld(_held_by(zookeeper, name))
            held = place.look(min(left_s, ELECTION_TURN_S))
        with _kept(place.session, held):
            yield held


@contextmanager
def lead(
    zookeeper: ZooKeeper, name: str, stop: threading.Event, waiting: Callable[[bool], None]
) -> Iterator[Lease | None]:
    """As `lease`, for a role: waits until this process leads. None when `stop` was set first.

    Calls `waiting` about once a second meanwhile: true while another process leads, false when ZooKeeper is away.
    """
    with _in_line(zookeeper, name) as place:
        held = _wait_to_lead(place, stop, waiting)
        if held is None:
            yield None
            return
        with _kept(place.session, held):
            yield held


@dataclass(frozen=True, slots=True)
class Standing:
    """Who holds a lease, and who waits for it in which order."""

    name: str
    holder: Holder
    number: int
    waiting: tuple[Holder, ...]

    def as_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        waiting = [one.as_json() for one in self.waiting]
        return {"name": self.name, "number": self.number, "holder": self.holder.as_json(), "waiting": waiting}


def read_leases(zookeeper: ZooKeeper) -> list[Standing]:
    """All leases that are held now, by name. Raises `ZooKeeperUnavailable`."""
    found = [read_lease(zookeeper, name) for name in zookeeper.children(LEASES_PATH)]
    return [one for one in found if one is not None]


@dataclass(frozen=True, slots=True)
class _Place:
    """One session's place in the line of a name."""

    name: str
    session: ZooKeeper
    candidate: Candidate

    def look(self, turn_s: float) -> Lease | None:
        """The lease once nobody is in front any more; waits for up to `turn_s`."""
        if not self.candidate.is_first(turn_s):
            return None
        sent_s, path = time.monotonic(), self.candidate.path
        number = self.session.created(path)
        if number is None:
            return None
        held = Lease(self.name, path, number, sent_s, VALID_S)
        since_now = Replace(path, this_process().encode(), ANY_VERSION)  # so far it said since when it waits
        return held if self.session.write_together([since_now], holding=held) else None


@contextmanager
def _in_line(zookeeper: ZooKeeper, name: str) -> Iterator[_Place]:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name of a lease: up to 64 small letters, digits and dashes")
    session = zookeeper.another()
    # Whoever looks at something notices when ZooKeeper lost its data, and does not wait for the old session for ever.
    session.watch(_folder(name), lambda _: None)
    try:
        yield _Place(name, session, session.candidate(_folder(name), this_process().encode()))
    finally:
        session.close()


def _wait_to_lead(place: _Place, stop: threading.Event, waiting: Callable[[bool], None]) -> Lease | None:
    while not stop.is_set():
        if place.session.suspended.is_set():  # a call would wait for as long as ZooKeeper is away, stop or not
            waiting(False)
            stop.wait(ELECTION_TURN_S)
            continue
        try:
            if (held := place.look(ELECTION_TURN_S)) is not None:
                return held
            waiting(True)
        except ZooKeeperUnavailable as error:
            log.warning("election waits", lease=place.name, error=str(error))
            waiting(False)
    return None


@contextmanager
def _kept(session: ZooKeeper, held: Lease) -> Iterator[None]:
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(session, held, stop), name=f"lease-{held.name}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        # Its calls wait for a ZooKeeper that is away; the end of the session ends them, and releases the lease as well.
        keeper.join(KEEPER_ENDS_WITHIN_S)
        held.lose("it was given back")


def _keep(session: ZooKeeper, held: Lease, stop: threading.Event) -> None:
    """Confirms the lease until `stop`; then its folder goes too, unless somebody waits in it."""
    while not stop.wait(CONFIRM_PERIOD_S):
        sent_s = held.clock_s()
        try:
            if not session.write_together([], holding=held):
                log.error("lease lost", lease=held.name, number=held.number)
                return
        except ZooKeeperUnavailable:
            continue  # its time runs out by itself
        held.confirm(sent_s)
    with suppress(ZooKeeperUnavailable):
        if not session.suspended.is_set():
            session.write_together([Remove(held.path), Remove(_folder(held.name))])


def _folder(name: str) -> str:
    return f"{LEASES_PATH}/{name}"


def read_lease(zookeeper: ZooKeeper, name: str) -> Standing | None:
    """One of them. None when nobody is in line: whoever was killed leaves an empty folder."""
    holders: list[tuple[Holder, int]] = []
    for place in sorted(zookeeper.children(_folder(name)), key=Candidate.order):
        path = f"{_folder(name)}/{place}"
        found, number = zookeeper.read(path), zookeeper.created(path)
        if found is not None and number is not None:
            with suppress(Undecodable):
                holders.append((decode_holder(found[0]), number))
    if not holders:
        return None
    (holder, number), *others = holders
    return Standing(name, holder, number, tuple(one for one, _ in others))


def _held_by(zookeeper: ZooKeeper, name: str) -> str:
    standing = read_lease(zookeeper, name)
    who = f"by {standing.holder}" if standing else "by another process"
    return f"lease {name} is held {who}: wait until that is done, or end it"
