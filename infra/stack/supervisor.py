"""The supervisor: starts servers and roles in order, starts again what ends, and stops all in reverse order.

`fanfold up`, the demo and the tests all use `Stack`. It holds the folder's lock from start to stop, and writes
stack.json at every change, so that whatever a killed supervisor leaves is found and ended by the next `up` or `down`.
"""

import atexit
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from infra.errors import InvalidInput, StackError
from infra.settings import Settings, load_settings
from infra.stack import plan
from infra.stack.cleaning import end_leftovers
from infra.stack.crew import WATCH_EVERY_S, Crew
from infra.stack.part import Part
from infra.stack.ports import refuse_taken, remember_ports
from infra.stack.preparations import run_preparations
from infra.stack.progress import Report, silent
from infra.stack.roles import ROLE_NAMES, instance_name, role_named, role_part
from infra.stack.state import FolderLock, Mode, PartState, forget, write_addresses

FREE_BYTES_MIN = 1 << 30  # the demo writes some 300 MB; servers on a full disk end in the middle of their work


class Stack:
    """All servers and the named roles of one data folder. One `start` and one `stop`; then make another.

    `prepare`: whether tables and topics are made. `wanted_ports`: fixed ports, by their names in ports.json.
    `workers`: how many processes share the role worker. `servers`: the only ones to start; None is all of them.
    """

    def __init__(
        self,
        data_dir: Path,
        roles: Sequence[str] = ROLE_NAMES,
        *,
        prepare: bool = True,
        mode: Mode = Mode.PROGRAM,
        wanted_ports: Mapping[str, int] | None = None,
        workers: int = 1,
        servers: Collection[str] | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.stop_requested = threading.Event()  # set by a signal handler, or when the watch itself fails
        self._roles = sorted({role_named(name).name for name in roles}, key=ROLE_NAMES.index)
        self._instances = [(name, 1) for name in self._roles]
        self._instances += [("worker", n) for n in range(2, workers + 1) if "worker" in self._roles]
        self._prepare = prepare
        self._mode = mode
        self._wanted_ports = dict(wanted_ports or {})
        self._servers = servers
        self._ports: dict[str, int] = {}
        self._crew = Crew(self.data_dir, self.stop_requested, silent)
        self._lock: FolderLock | None = None

    def start(self, report: Report = silent) -> None:
        """Returns when every part serves; on any failure stops what was started and raises."""
        self._crew = Crew(self.data_dir, self.stop_requested, report)
        self._lock = FolderLock(self.data_dir, self._mode)
        atexit.register(self.stop)  # a program that ends without `stop` leaves nothing either
        try:
            end_leftovers(self.data_dir, report)
            refuse_full_disk(self.data_dir, shutil.disk_usage(self.data_dir).free)
            self._take_ports(plan.port_names(self._instances))
            servers = plan.server_parts(self.data_dir, self._ports)
            self._crew.launch([part for part in servers if self._servers is None or part.name in self._servers])
            write_addresses(self.data_dir, plan.addresses(self._ports))
            self._crew.begin_watch()
            if self._prepare:
                run_preparations(self.data_dir, report, self.stop_requested)
            for stage in sorted({role_named(name).stage for name in self._roles}):
                self._crew.launch([self._role(*one) for one in self._instances if role_named(one[0]).stage == stage])
            self._crew.ready = True
            self._crew.save()
        except BaseException:
            self.stop(report)
            raise

    def stop(self, report: Report = silent) -> None:
        """Ends all parts, the last started first. Idempotent."""
        if self._lock is None:
            return
        self._crew.close(report)
        forget(self.data_dir)
        self._lock.release()
        self._lock = None
        atexit.unregister(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def settings(self) -> Settings:
        """The settings of a process that uses this stack."""
        return load_settings(os.environ, self.data_dir)

    def start_role(self, name: str, instance: int = 1) -> str:
        """Starts a role, or one more of it, and returns the part's name when it serves."""
        part_name = instance_name(role_named(name).name, instance)
        if self._crew.has(part_name):
            raise InvalidInput(f"{part_name} is a part of this stack already")
        self._take_ports([plan.metrics_port_name(name, instance)])
        try:
            self._crew.launch([self._role(name, instance)])
        except BaseException:
            self._crew.drop(part_name)
            raise
        return part_name

    def stop_part(self, name: str) -> None:
        """Stops one part as `down` would, and leaves it stopped."""
        with self._crew.guard:
            child = self._crew.child(name)
            child.wanted = False
            child.end()
            self._crew.save()

    def start_part(self, name: str) -> None:
        """Starts a part again that was stopped or given up, and returns when it serves."""
        child = self._crew.child(name)
        if child.state not in (PartState.STOPPED, PartState.FAILED):
            raise InvalidInput(f"{name} is {child.state}, so it cannot be started")
        self._crew.launch([child.part])

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL, *, restart: bool = True) -> int:
        """Sends a signal to one part's process and returns its pid; with `restart=False` it may stay dead."""
        with self._crew.guard:
            child = self._crew.child(name)
            child.wanted = restart
            return child.signal(number)

    def pid(self, name: str) -> int:
        """The process of a part that runs."""
        with self._crew.guard:
            process = self._crew.child(name).process
        if process is None:
            raise StackError(f"{name} does not run")
        return process.pid

    def state(self, name: str) -> PartState:
        """What a part does now."""
        return self._crew.child(name).state

    def wait_restarted(self, name: str, killed_pid: int, within_s: float = 60.0) -> int:
        """Waits until another process of the part serves, and returns its pid."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s and not self.stop_requested.wait(WATCH_EVERY_S):
            with self._crew.guard:
                child = self._crew.child(name)
                if child.state is PartState.RUNNING and child.process and child.process.pid != killed_pid:
                    return child.process.pid
        raise StackError(f"{name} was not started again within {within_s:.0f} s: it is {self.state(name)}")

    def _take_ports(self, names: Sequence[str]) -> None:
        self._ports = remember_ports(self.data_dir, names, self._wanted_ports, random.SystemRandom())
        refuse_taken(self.data_dir, self._ports, names)

    def _role(self, name: str, instance: int = 1) -> Part:
        metrics_port = self._ports[plan.metrics_port_name(name, instance)]
        return role_part(name, instance, self.data_dir, metrics_port, self._ports["api"])


def refuse_full_disk(data_dir: Path, free_bytes: int) -> None:
    """`StackError` when there is too little room to begin."""
    if free_bytes < FREE_BYTES_MIN:
        raise StackError(
            f"only {free_bytes >> 20} MiB are free on the disk of {data_dir}, and the stack needs "
            f"{FREE_BYTES_MIN >> 20} MiB: make room, or use another --data-dir"
        )
