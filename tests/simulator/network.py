"""Six Redis nodes in memory and the network before them: requests wait, arrive, time out, come late or never.

A request stays under way until the scheduler lets one of its commands run. Its caller may have given up by then.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import redis

from infra.errors import RedisUnavailable
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument, RedisNode, Reply
from infra.shard_map import ShardMap, make_shard_map
from infra.zookeeper import Watched
from tests.simulator.lua_library import ErrorReply, Library
from tests.simulator.redis_server import RedisServer
from tests.simulator.scheduler import Actor, Scheduler

R = TypeVar("R")
K = TypeVar("K")
T = TypeVar("T")

NAMES = ("a1", "a2", "b1", "b2", "c1", "c2")
EPOCH = 1
Commands = Sequence[Sequence[Argument]]


@dataclass(frozen=True)
class Fixed(Generic[T]):
    """Stands for a value that is watched in ZooKeeper."""

    known: T

    def value(self, timeout_s: float = 0.0) -> T:
        """The value."""
        return self.known

    def as_watched(self) -> Watched[T]:
        """For the product's eyes."""
        return cast(Watched[T], self)


@dataclass(eq=False, slots=True)
class Request:
    """Commands under way to a node."""

    node: str
    commands: Commands
    answers: list[Any] = field(default_factory=list)
    waiter: Actor | None = None
    given_up: bool = False

    @property
    def done(self) -> bool:
        """Whether all have run."""
        return len(self.answers) == len(self.commands)


class Network:
    """The nodes, and the requests under way to them. `ran` is called with a node's name after each command."""

    def __init__(self, scheduler: Scheduler, library: Library) -> None:
        self._scheduler = scheduler
        self.servers = {name: RedisServer(library, scheduler.clock_ms) for name in NAMES}
        self.up = dict.fromkeys(NAMES, True)
        self.flight: list[Request] = []
        self.late: list[Request] = []
        self.ran: Callable[[str], None] = lambda _: None
        self.shard_map = make_shard_map(EPOCH, dict.fromkeys(NAMES, "in memory"))
        for name in NAMES:
            self.register(name)
            self.install_epoch(name)

    # For the simulation

    def run_one(self, place: int) -> None:
        """One command of a request under way."""
        request = self.flight[place]
        self._run_command(request)
        if request.done:
            self._take_out(place)
            if request.waiter is not None:
                self._scheduler.wake(request.waiter)

    def run_late(self, place: int) -> None:
        """One command that nobody waits for any more."""
        request = self.late[place]
        self._run_command(request)
        if request.done:
            self.late[place] = self.late[-1]
            self.late.pop()

    def give_up(self, place: int, *, arrives: bool) -> None:
        """A caller's time-out; the request may still arrive."""
        request = self._take_out(place)
        request.given_up = True
        self._scheduler.note(f"{request.node} times out")
        if arrives:
            self.late.append(request)
        if request.waiter is not None:
            self._scheduler.wake(request.waiter)

    def stop(self, name: str) -> None:
        """A node dies: its memory is gone, and so is what is on the way to it."""
        self.up[name] = False
        self.servers[name].execute("FLUSHALL")
        for place in reversed([at for at, one in enumerate(self.flight) if one.node == name]):
            self.give_up(place, arrives=False)
        self.late = [one for one in self.late if one.node != name]

    def start(self, name: str) -> None:
        """It is back, empty, and refuses writes: no incarnation."""
        self.up[name] = True

    def register(self, name: str) -> None:
        """What the registrar writes last."""
        self.servers[name].execute("HSET", "n", "incarnation", f"{self._scheduler.steps}")

    def install_epoch(self, name: str) -> None:
        """What the coordinator calls then; it tries again when the node has restarted once more."""
        with suppress(ErrorReply):
            self.servers[name].execute("FCALL", "install_epoch", 0, EPOCH)

    # For clients

    def send(self, name: str, commands: Commands) -> Request:
        """Commands on their way; outside of an actor they run at once. Raises `RedisUnavailable`."""
        self._scheduler.check_alive()
        if not self.up[name]:
            raise RedisUnavailable(f"Redis node {name} refuses connections")
        request = Request(name, commands)
        if self._scheduler.current is None:
            while not request.done:
                self._run_command(request)
        else:
            self.flight.append(request)
        return request

    def wait(self, request: Request) -> list[Any]:
        """The answers, errors among them. Raises `RedisUnavailable`."""
        while not request.done and not request.given_up:
            request.waiter = self._scheduler.current
            self._scheduler.park()
        if request.given_up:
            raise RedisUnavailable(f"Redis node {request.node} does not answer")
        return request.answers

    def _run_command(self, request: Request) -> None:
        command = request.commands[len(request.answers)]
        self._scheduler.note(f"{request.node} {_brief(command)}")
        try:
            request.answers.append(self.servers[request.node].execute(*command))
        except ErrorReply as error:
            request.answers.append(error)
        self.ran(request.node)

    def _take_out(self, place: int) -> Request:
        request = self.flight[place]
        self.flight[place] = self.flight[-1]
        self.flight.pop()
        return request


def _brief(command: Sequence[Argument]) -> str:
    name, *rest = command
    return f"{name!s} {rest[0]!s}" if name in ("FCALL", "FCALL_RO") else f"{name!s}"


class SimulatedNode(RedisNode):
    """A client of a node in memory. The errors are made by the product's code from what the server says."""

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self.url = "in memory"
        self._network = network

    def start(self, commands: Commands) -> Reply:
        """Sends."""
        request = self._network.send(self.name, commands)
        return Reply(self, cast(redis.Connection, request), len(commands))

    def finish(self, connection: redis.Connection, count: int) -> list[Any]:
        """Waits."""
        answers = self._network.wait(cast(Request, connection))
        return [self._refusal(one) if isinstance(one, ErrorReply) else one for one in answers]  # type: ignore[arg-type]

    def drop(self, connection: redis.Connection) -> None:
        """Nothing is kept."""

    def command(self, *arguments: Argument) -> Any:
        """Sends and waits."""
        return self.commands([arguments])[0]

    def commands(self, batch: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Sends and waits; the first error is raised."""
        answers = self.start(batch).get()
        for one in answers:
            if isinstance(one, Exception):
                raise one
        return answers

    def close(self) -> None:
        """Nothing is open."""


class SimulatedClusters(RedisClusters):
    """Routes as the product does; what it does on threads is done by the actor that asks, in any order."""

    def __init__(self, scheduler: Scheduler, network: Network) -> None:
        super().__init__(Fixed[ShardMap](network.shard_map).as_watched())
        self._rng = scheduler.rng
        self._simulated = {name: SimulatedNode(name, network) for name in NAMES}

    def node(self, name: str) -> RedisNode:
        """The client of a node."""
        return self._simulated[name]

    def at_once(self, nodes: Mapping[K, RedisNode], call: Callable[[RedisNode], R]) -> dict[K, R | Exception]:
        """Runs `call` on each node."""
        found: dict[K, R | Exception] = {}
        for key in self._rng.sample(list(nodes), len(nodes)):
            try:
                found[key] = call(nodes[key])
            except Exception as error:  # noqa: BLE001 - handed to the caller, as the product does
                found[key] = error
        return found

    def submit(self, call: Callable[[], R]) -> "Future[R]":
        """Runs `call` now."""
        future: Future[R] = Future()
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - it is in the future
            future.set_exception(error)
        return future
