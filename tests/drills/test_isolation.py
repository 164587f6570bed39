"""Drill: nodes that hang, are slow or reset connections, while many entries a second are delivered and many pages read.

Deliveries go on after a short pause, nothing stale is read, and each node comes back by itself.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from infra.composition import Stores
from infra.copies import CopyState
from infra.stack.part import LOOPBACK
from infra.stack.supervisor import Stack
from infra.stack.valkey import NODES
from tests.drills.drill import Diary, telling
from tests.drills.failing import Drill
from tests.drills.heavy_load import Load, Meter, Seen, Size, heavy_stack
from tests.proxy import Proxy
from tests.redis_server import free_port

pytestmark = pytest.mark.heavy

SEED = 11
SIZE = Size(users=1_500)
HEALTHY = ("a1", "a2")  # nothing happens to them
BEHIND_PROXY = "b2"
QUIET_S = 3.0
FAULT_S = 5.0
FIRST_WITHIN_S = 30.0
KEEPS_UP_WITHIN_S = 60.0
SLOW_S = 2.0
# A call of 1 s, a probe of 0.3 s, and the mark; without the probe and the deferred acknowledgement it is 10 s.
PAUSE_MAX_S = 2.0
RATE_SHARE_MIN = 0.7
SERVES_WITHIN_S = 30.0


class Faults:
    """What happens to nodes, each while a context lasts."""

    def __init__(self, stack: Stack, proxy: Proxy) -> None:
        self._stack = stack
        self._proxy = proxy

    @contextmanager
    def hung(self, *names: str) -> Iterator[None]:
        """They take connections, and answer nothing."""
        for name in names:
            self._stack.kill(name, signal.SIGSTOP)
        try:
            yield
        finally:
            for name in names:
                self._stack.kill(name, signal.SIGCONT)

    def each(self) -> Iterator[tuple[str, tuple[str, ...], Callable[[], AbstractContextManager[None]]]]:
        """One after the other: what it is, whom it befalls, and the context."""
        yield "one node hangs", ("b1",), lambda: self.hung("b1")
        yield "a cluster hangs", ("c1", "c2"), lambda: self.hung("c1", "c2")
        yield f"a node answers after {SLOW_S:g} s", (BEHIND_PROXY,), lambda: self._proxy.slow(SLOW_S)
        yield "a node resets connections", (BEHIND_PROXY,), self._proxy.resetting


@contextmanager
def loaded_stack(diary: Diary, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Drill, Faults, Seen, Meter]]:
    """Everybody reaches one of the nodes through a proxy: its registrar gives that address."""
    ports = {name: free_port() for name in NODES}
    with telling(diary), Proxy(ports[BEHIND_PROXY]).open() as proxy:
        urls = {name: f"redis://{LOOPBACK}:{port}" for name, port in ports.items()} | {BEHIND_PROXY: proxy.url}
        monkeypatch.setenv("FANFOLD_REDIS_NODES", ",".join(f"{name}={url}" for name, url in urls.items()))
        with heavy_stack(SIZE, SEED, diary, ports) as (stack, opened):
            drill = Drill(stack, opened, diary, SIZE)
            with Load(opened, SIZE, SEED).running() as seen, Meter(opened.clusters, HEALTHY).running() as meter:
                drill.wait("the load", lambda: meter.taken() > SIZE.deliveries_per_s, FIRST_WITHIN_S)
                yield drill, Faults(stack, proxy), seen, meter
            assert seen.refused == []
            drill.check(seen)


def test_deliveries_go_on_while_nodes_hang_are_slow_or_reset_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    diary = Diary(SEED)
    with loaded_stack(diary, monkeypatch) as (drill, faults, seen, meter):
        for what, names, fault in faults.each():
            # Else the rate before is that of a backlog, and a call in flight is one of the largest.
            drill.wait("the agents keep up", drill.keeps_up, KEEPS_UP_WITHIN_S)
            time.sleep(QUIET_S)
            began_s = time.monotonic()
            before = meter.rate(began_s - QUIET_S, began_s)
            with fault():
                time.sleep(FAULT_S)
                ended_s = time.monotonic()
                states = {name: states_of(drill.opened, name) for name in names}
            pause_s, during = meter.longest_pause_s(began_s, ended_s), meter.rate(began_s, ended_s)
            diary.note(
                f"{what}: a pause of {pause_s:.2f} s, {before:,.0f} deliveries/s before, {during:,.0f} meanwhile"
            )
            assert all(one == {CopyState.DOWN} for one in states.values()), f"{what}, and they are {states}"
            back_s = drill.wait(f"all serve after {what}", drill.all_serving, SERVES_WITHIN_S)
            diary.note(f"until then a pause of {meter.longest_pause_s(ended_s, back_s):.2f} s")
            drill.note_reads(seen, (began_s - QUIET_S, began_s), (began_s, back_s))
            assert pause_s < PAUSE_MAX_S
            assert during > before * RATE_SHARE_MIN


def states_of(opened: Stores, name: str) -> set[CopyState]:
    shard_map = opened.clusters.shard_map
    return {shard_map.copies.of(name[0], slot) for slot in shard_map.slots_on(name)}
