"""Scenes about copying from another cluster: what comes or goes while a copy is filled, and what is still on its way to
the source.
"""

from collections.abc import Mapping

from infra.copying import copy_timelines
from infra.redis_keys import home_timeline
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.timelines import Kind
from tests.simulator.copy_scenes import CopyScene
from tests.simulator.network import Request
from tests.simulator.scene import FOREVER_STEPS, Scene

COPY_TURNS = 12  # about as many as one has


class ChangedDuringCopy(CopyScene):
    """A copy lost a timeline, and gets it from another one. Somewhere inside, that is held; meanwhile a tweet is posted
    or deleted, and applied."""

    def _stage(self) -> None:
        self._set_follow(True)
        self._fill()
        self._post()
        cluster = self._rng.choice(CLUSTERS)
        name = self.newest_map().node_of(cluster, slot_of(self._follower))
        self.network.servers[name].execute("DEL", home_timeline(self._follower))
        copying = self.actions.begin("copy", lambda: self._copy_to(cluster), self._knowing)
        copying.stalls_at, copying.stall_steps = self._rng.randint(1, COPY_TURNS), FOREVER_STEPS
        self._until(lambda: copying.turns >= copying.stalls_at or not copying.actors)
        self._change(self._knowing)
        self._until(self._is_applied)
        self._let_go(copying)
        self._until(lambda: not copying.actors)
        self._read(self._knowing)

    def _copy_to(self, cluster: str) -> None:
        copy_timelines(self.ground.timelines, cluster, Kind.HOME, [self._follower])


class SourceBehind(ChangedDuringCopy):
    """A tweet is on its way to the source, and was delivered to the node that then loses the timeline."""

    def _stage(self) -> None:
        self._set_follow(True)
        self._fill()
        target, source = self._rng.sample([self._holder(cluster) for cluster in CLUSTERS], 2)
        call = self._held_back(source)
        key = home_timeline(self._follower)
        self._until(lambda: any(one == b"%d" % self._new for one in self._list(target)))
        self.network.servers[target].execute("DEL", key)
        self._copy_while_it_arrives(target, call)

    def _copy_while_it_arrives(self, target: str, call: Request) -> None:
        copying = self.actions.begin("copy", lambda: self._copy_to(target[0]), self._knowing)
        self._until(lambda: copying.turns > self._rng.randint(0, COPY_TURNS) or not copying.actors)
        self.network.flight.append(call)
        self._until(lambda: not copying.actors)
        self._until(self._is_applied)
        self._read(self._knowing)

    def _held_back(self, source: str) -> Request:
        """A new tweet's call to this node, which is on its way for as long as it is not put back."""
        self._new = self.actions.new_id()
        self.database.post(self._new, self._author, self.scheduler.now_ms)
        self._until(lambda: self._call_to(source) is not None)
        call = self._call_to(source)
        assert call is not None
        self.network.flight.remove(call)
        return call

    def _call_to(self, source: str) -> Request | None:
        """One that brings the new tweet to the follower: what brings it to the author may hold that one up."""
        wanted = {b"%d" % self._new, home_timeline(self._follower)}
        calls = (one for one in self.network.flight if one.node == source and not one.answers)
        return next((one for one in calls if any(wanted <= set(command) for command in one.commands)), None)

    def _list(self, name: str) -> list[bytes]:
        found = self.network.servers[name].value(home_timeline(self._follower))
        return found if isinstance(found, list) else []

    def _holder(self, cluster: str) -> str:
        return self.newest_map().node_of(cluster, slot_of(self._follower))


class LeftOutBefore(SourceBehind):
    """A tweet is delivered while a node is down, and is still on its way to another one. The first is emptied, admitted
    and opened, and filled from the other."""

    def _stage(self) -> None:
        self._set_follow(True)
        self._fill()
        away, source = self._rng.sample([self._holder(cluster) for cluster in CLUSTERS], 2)
        registrar = self.keepers.registrars[away].process
        registrar.frozen = True
        knowing = self._drop(away)
        for process in self._users():
            self.maps.of(process).see_newest()
        call = self._held_back(source)
        registrar.frozen = False
        self._until(lambda: not self._is_down(away) and self._is_open(away))
        knowing.see_newest()
        self._copy_while_it_arrives(away, call)


COPYING_SCENES: Mapping[str, type[Scene]] = {
    "something changes while a timeline is copied": ChangedDuringCopy,
    "a timeline is copied from a node that is behind": SourceBehind,
    "a node is filled from one that a call is still on its way to": LeftOutBefore,
}
