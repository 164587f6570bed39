"""Adoption: a registrar looks after wished nodes that have no registrar, beside those that it was told of.

Several registrars may try; the node's ephemeral member decides, and whoever finds another's there lets go. When a
registrar ends, its members go with its session, and another one adopts. Next: registrar.py.
"""

import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from infra.errors import Conflict, FanfoldError
from infra.health import Health
from infra.members import read_members
from infra.registrar import ROUND_S, Registration
from infra.shard_map import decode_shard_map
from infra.wishes import Wishes, read_wishes
from infra.znodes import UNREADABLE
from infra.zookeeper import PLACEMENT_PATH, ZooKeeper

LOOK_PERIOD_S = 1.0
LOOP = "the look for wished nodes"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Adopted:
    """One node that is looked after because somebody wished for it."""

    url: str
    registration: Registration
    thread: threading.Thread
    stop: threading.Event = field(default_factory=threading.Event)


def to_adopt(wishes: Wishes, own: Collection[str], held: Collection[str]) -> dict[str, str]:
    """Addresses by name of the nodes that need somebody: wished, and not drained, or drained and still holding slots.
    Not those that this registrar was told of."""
    return {
        name: wish.url
        for name, wish in wishes.items()
        if wish.url and name not in own and (not wish.drained or name in held)
    }


class Adopter:
    """What one registrar process adopts; `own` are the nodes that it was told of."""

    def __init__(self, zookeeper: ZooKeeper, own: Collection[str], health: Health) -> None:
        self._zookeeper = zookeeper
        self._own = frozenset(own)
        self._health = health
        self._adopted: dict[str, Adopted] = {}

    def run(self, stop: threading.Event) -> None:
        """Looks until `stop` is set; ends all that it adopted then."""
        beat = self._health.loop(LOOP, ROUND_S, excused=self._zookeeper.suspended.is_set)
        while not stop.wait(LOOK_PERIOD_S):
            beat()
            if not self._zookeeper.suspended.is_set():  # a question would wait for as long as that lasts
                with suppress(FanfoldError):  # the next look is soon
                    self.look()
        for name in list(self._adopted):
            self._let_go(name)

    def look(self) -> None:
        """One look: begins and ends what follows from the wishes as they are. Raises `ZooKeeperUnavailable`."""
        wishes = read_wishes(self._zookeeper)
        wanted = to_adopt(wishes, self._own, self._held())
        for name, one in list(self._adopted.items()):
            if wanted.get(name) != one.url or isinstance(one.registration.refusal, Conflict):
                self._let_go(name)
        free = wanted.keys() - self._adopted.keys() - read_members(self._zookeeper).keys()
        for name in sorted(free):
            self._adopt(name, wanted[name], wishes[name].weight or 1)

    def reasons(self) -> dict[str, str]:
        """Why nodes are out that it looks after."""
        adopted = dict(self._adopted)
        return {name: one.registration.reason for name, one in adopted.items() if one.registration.reason}

    def _held(self) -> set[str]:
        """The nodes that hold slots; none when that cannot be read."""
        found = self._zookeeper.read(PLACEMENT_PATH)
        with suppress(*UNREADABLE):
            return set(decode_shard_map(found[0]).nodes) if found else set()
        return set()

    def _adopt(self, name: str, url: str, weight: int) -> None:
        log.info("node adopted", node=name)
        registration, stop = Registration(self._zookeeper, name, url, weight), threading.Event()
        beat = self._health.loop(_loop_of(name), ROUND_S, excused=self._zookeeper.suspended.is_set)
        thread = threading.Thread(target=registration.keep, args=(stop, beat), daemon=True)
        self._adopted[name] = Adopted(url, registration, thread, stop)
        thread.start()

    def _let_go(self, name: str) -> None:
        """Its member goes too, which would only go with the session otherwise."""
        one = self._adopted.pop(name)
        one.stop.set()
        one.thread.join()
        self._health.end_loop(_loop_of(name))
        with suppress(FanfoldError):
            one.registration.withdraw()
        log.info("node let go", node=name)


def _loop_of(name: str) -> str:
    return f"the registration of {name}"
