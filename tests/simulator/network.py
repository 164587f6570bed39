"""Redis nodes in memory and the network before them: requests wait, arrive, time out, come late or never.

A request stays under way until the scheduler lets one of its commands run. Its caller may have given up by then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.errors import RedisUnavailable
from infra.redis_node import CALL_TIMEOUT_S, Argument
from tests.simulator.lua_library import ErrorReply, Library
from tests.simulator.redis_server import RedisServer
from tests.simulator.scheduler import Actor, Process, Scheduler

NAMES = ("a1", "a2", "b1", "b2", "c1", "c2")
Commands = Sequence[Sequence[Argument]]


@dataclass(eq=False, slots=True)
class Request:
    """Commands under way to a node."""

    node: str
    commands: Commands
    sent_ms: int
    answers: list[Any] = field(default_factory=list)
    waiter: Actor | None = None
    given_up: bool = False

    @property
    def done(self) -> bool:
        """Whether all have run."""
        return len(self.answers) == len(self.commands)


class Network:
    """The nodes, and the requests under way to them. `ran` is called with a node's name after each command.

    One that is not `up` refuses connections, and is empty when it is back. One that is `hung` answers nobody; what lies
    in its sockets runs when it goes on. `parted` has who cannot reach which node.
    """

    def __init__(self, scheduler: Scheduler, library: Library) -> None:
        self.scheduler = scheduler
        self.servers = {name: RedisServer(library, scheduler.clock_ms) for name in NAMES}
        self.up = dict.fromkeys(NAMES, True)
        self.hung = dict.fromkeys(NAMES, False)
        self.run_ids = dict.fromkeys(NAMES, 1)
        self.parted: set[tuple[Process, str]] = set()
        self.flight: list[Request] = []
        self.late: list[Request] = []
        self.ran: Callable[[str], None] = lambda _: None

    # For the simulation

    def run_one(self, place: int) -> None:
        """One command of a request under way; to a node that hangs it may time out instead."""
        request = self.flight[place]
        if self.hung[request.node]:
            if self.scheduler.now_ms - request.sent_ms > CALL_TIMEOUT_S * 1000:
                self.give_up(place, arrives=True)
            return
        self._run_command(request)
        if request.done:
            self._take_out(place)
            if request.waiter is not None:
                self.scheduler.wake(request.waiter)

    def run_late(self, place: int) -> None:
        """One command that nobody waits for any more."""
        request = self.late[place]
        if self.hung[request.node]:
            return
        self._run_command(request)
        if request.done:
            self.late[place] = self.late[-1]
            self.late.pop()

    def give_up(self, place: int, *, arrives: bool) -> None:
        """A caller's time-out; the request may still arrive."""
        request = self._take_out(place)
        request.given_up = True
        self.scheduler.note(f"{request.node} times out")
        if arrives:
            self.late.append(request)
        if request.waiter is not None:
            self.scheduler.wake(request.waiter)

    def only_hung(self) -> bool:
        """Whether all that is under way waits for nodes that hang: only time brings anything then."""
        return all(self.hung[one.node] for one in self.flight)

    def stop(self, name: str) -> None:
        """A node dies: its memory is gone, and so is what is on the way to it."""
        self.up[name], self.hung[name] = False, False
        self.run_ids[name] += 1
        self.servers[name].execute("FLUSHALL")
        for place in reversed([at for at, one in enumerate(self.flight) if one.node == name]):
            self.give_up(place, arrives=False)
        self.late = [one for one in self.late if one.node != name]

    def start(self, name: str) -> None:
        """It is back, empty, and refuses writes: no incarnation."""
        self.up[name] = True

    # For clients

    def send(self, name: str, commands: Commands) -> Request:
        """Commands on their way; outside of an actor they run at once. Raises `RedisUnavailable`."""
        self.scheduler.check_alive()
        if not self.up[name] or self._is_parted(name):
            raise RedisUnavailable(f"Redis node {name} refuses connections")
        request = Request(name, commands, self.scheduler.now_ms)
        if self.scheduler.current is None:
            while not request.done:
                self._run_command(request)
        else:
            self.flight.append(request)
        return request

    def wait(self, request: Request) -> list[Any]:
        """The answers, errors among them. Raises `RedisUnavailable`."""
        while not request.done and not request.given_up:
            request.waiter = self.scheduler.current
            self.scheduler.park()
        if request.given_up:
            raise RedisUnavailable(f"Redis node {request.node} does not answer")
        return request.answers

    def wait_for_any(self, requests: Sequence[Request]) -> None:
        """Until one of them is done or given up."""
        while not any(one.done or one.given_up for one in requests):
            for one in requests:
                one.waiter = self.scheduler.current
            self.scheduler.park()

    def at_once(self, name: str, *command: Argument) -> Any:
        """One command of somebody who is near. Raises `RedisUnavailable` when the node does not answer."""
        if not self.up[name] or self.hung[name]:
            raise RedisUnavailable(f"Redis node {name} does not answer")
        request = Request(name, [command], self.scheduler.now_ms)
        self._run_command(request)
        [answer] = request.answers
        return answer

    def _is_parted(self, name: str) -> bool:
        actor = self.scheduler.current
        return bool(self.parted) and actor is not None and (actor.process.root, name) in self.parted

    def _run_command(self, request: Request) -> None:
        command = request.commands[len(request.answers)]
        self.scheduler.note(f"{request.node} {_brief(command)}")
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
