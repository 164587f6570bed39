"""Scenes about the states of copies: a node is marked, admitted, or slots move, while somebody does not know yet."""

from collections.abc import Callable, Mapping

from infra.copies import CopyState
from infra.paging import Cursor
from infra.shard_map import CLUSTERS, ShardMap, make_shard_map
from infra.slots import slot_of
from tests.simulator.database import PUSHED, Tweet, User
from tests.simulator.maps import ProcessMaps
from tests.simulator.network import NAMES, Request
from tests.simulator.scene import Scene
from tests.simulator.scheduler import Process

READS = 4  # of each kind: a reader takes any of the copies
RETURNS_STEPS = 2_500  # then whoever is cut off hears again
HEAVY = 4


class CopyScene(Scene):
    """Two APIs, `knowing` and `late`: the shard map of the late one stands still for as long as that may be."""

    def _first_nodes(self) -> list[str]:
        return list(NAMES)

    def _begin(self) -> None:
        super()._begin()
        self._knowing, self._late = self.actions.apis
        self._cut = self._rng.random() < 0.5

    def _stand_still(self, *views: ProcessMaps) -> None:
        """They hear nothing for long; or are well, and make no check before they must."""
        for view in views:
            view.lingers, view.session.cut = True, self._cut

        def hear() -> None:
            for view in views:
                view.lingers, view.session.cut = False, False

        self.faults.later.after(RETURNS_STEPS, hear, exactly=True)

    def _call(self, name: str, call: Callable[[], object], api: Process) -> None:
        """To its end."""
        process = self.actions.begin(name, call, api)
        self._until(lambda: not process.actors)

    def _until_then(self, done: Callable[[], bool], *views: ProcessMaps) -> None:
        """The views are of the last step before it is done."""

        def look() -> bool:
            if not done():
                for view in views:
                    view.see_newest()
            return done()

        self._until(look)

    def _is_down(self, name: str) -> bool:
        return name in self.newest_map().down_nodes

    def _drop(self, name: str) -> ProcessMaps:
        """Somebody could not write a node."""
        knowing = self.maps.of(self._knowing)
        assert knowing.mark_down(name, knowing.see_newest())
        return knowing

    def _is_open(self, name: str) -> bool:
        return self.network.servers[name].execute("HGET", "n", "open") is not None

    def _users(self) -> list[Process]:
        return [*self.actions.apis, *(worker.process for worker in self.workers)]

    def _fill(self) -> None:
        """Home timelines and the tweet's body, in all copies that lack them."""
        self._call("rebuild", self._rebuild_home, self._knowing)
        self._read(self._knowing)

    def _change(self, api: Process) -> None:
        """A post, or the tweet's delete; until it is applied, or acknowledged."""
        if self._rng.random() < 0.5:
            self._post()
        else:
            self._call("delete", lambda: self.actions.delete(self._tweet), api)

    def _post(self) -> None:
        self.database.post(self.actions.new_id(), self._author, self.scheduler.now_ms)
        events = len(self.database.committed)
        self._until(lambda: self.watermark.applied >= events)

    def _read(self, api: Process) -> None:
        for _ in range(READS):
            self._call("home", lambda: self.actions.read_home(self._follower, Cursor(limit=5)), api)
            self._call("tweet", lambda: self.actions.read_tweet(self._tweet), api)


class MarkedUnknown(CopyScene):
    """All but the late API cannot reach a node, and mark it. He still reads there, and some others do not answer him.
    Then the node comes back."""

    def _stage(self) -> None:
        self._set_follow(True)
        self._fill()
        self._post()
        holders = [self._holder(cluster) for cluster in self._rng.sample(CLUSTERS, len(CLUSTERS))]
        away, silent = holders[0], holders[1 : self._rng.randint(1, len(holders))]
        registrar = self.keepers.registrars[away].process
        registrar.frozen = True
        parted = {(user, away) for user in self._users() if user is not self._late}
        self.network.parted |= parted
        view = self.maps.of(self._late)
        if self._cut:
            self._stand_still(view)
            self._change(self._knowing)
        else:
            change = self.actions.begin("change", lambda: self.actions.delete(self._tweet), self._knowing)
            self.database.post(self.actions.new_id(), self._author, self.scheduler.now_ms)
            events = len(self.database.committed)
            self._until_then(lambda: self._is_down(away), view)
            self._stand_still(view)
            self._until(lambda: not change.actors and self.watermark.applied >= events)
        self.network.parted |= {(self._late, name) for name in silent}
        self._read(self._late)
        self.network.parted.clear()
        registrar.frozen = False
        self._until(lambda: not self._is_down(away))
        self._read(self._knowing)

    def _holder(self, cluster: str) -> str:
        one = self._rng.choice((self._follower, self._tweet))
        return self.newest_map().node_of(cluster, slot_of(one))


class AdmittedUnknown(CopyScene):
    """A node was down, and is admitted; the late ones, who write, do not know that yet. Others fill it, then something
    is written."""

    def _stage(self) -> None:
        self._set_follow(True)
        self._fill()
        cluster, one = self._rng.choice(CLUSTERS), self._rng.choice((self._follower, self._tweet))
        away = self.newest_map().node_of(cluster, slot_of(one))
        knowing = self._drop(away)
        views = [self.maps.of(user) for user in self._users() if user is not self._knowing]
        self._until_then(lambda: not self._is_down(away), *views)
        self._stand_still(*views)
        if self._cut:
            self._until(lambda: self._is_open(away))
        knowing.see_newest()
        self._fill()
        self._change(self._late)
        self._read(self._knowing)


class MovedUnknown(CopyScene):
    """Slots move from one node to another and back, and something is written in between and afterwards. The late API
    still reads where they were."""

    def _stage(self) -> None:
        there, back = self._two_nodes()
        self._set_follow(True)
        self._fill()
        self._move(there, slot_of(self._follower))
        self._fill()
        self._post()
        view = self.maps.of(self._late)
        self.keepers.registrars[there].weight = 1
        slot = slot_of(self._follower)

        def has_begun() -> bool:
            shard_map = self._warmed()
            return shard_map.copies.of(there[0], slot) is CopyState.DOWN or shard_map.node_of(there[0], slot) == back

        self._until_then(has_begun, view)
        self._stand_still(view)
        self._until(lambda: self.newest_map().node_of(there[0], slot) == back)
        for worker in self.workers:
            self.maps.of(worker.process).see_newest()
        self._post()
        self.network.parted |= {(self._late, name) for name in NAMES if name[0] != there[0]}
        self._read(self._late)
        self.network.parted.clear()
        self._until(lambda: self.newest_map().copies.of(there[0], slot) is not CopyState.DOWN)
        self._read(self._knowing)

    def _two_nodes(self) -> tuple[str, str]:
        """Of one cluster, and a follower whose slot moves from the second to the first when that has more weight."""
        cluster = self._rng.choice(CLUSTERS)
        back, there = self._rng.sample([name for name in NAMES if name[0] == cluster], 2)
        weights = {name: HEAVY if name == there else 1 for name in NAMES}
        placements = [make_shard_map(1, dict.fromkeys(NAMES, ""), one) for one in ({}, weights)]
        while True:
            user = self._rng.randrange(10**18, 1 << 62)
            if [one.node_of(cluster, slot_of(user)) for one in placements] == [back, there]:
                self.database.users[user] = User(PUSHED)
                self._follower = user
                return there, back

    def _warmed(self) -> ShardMap:
        """What is filling serves: the next batch begins then."""
        self.keepers.promote_all(self.newest_map())
        return self.newest_map()

    def _move(self, name: str, slot: int) -> None:
        self.keepers.registrars[name].weight = HEAVY

        def moved() -> bool:
            shard_map = self._warmed()
            is_there = shard_map.node_of(name[0], slot) == name
            return is_there and shard_map.copies.of(name[0], slot) is not CopyState.DOWN

        self._until(moved)


class FilledLate(CopyScene):
    """A reader fills in a body, and his call to one node is late. The tweet is deleted, and the node is emptied, so it
    loses the tombstone; then the call arrives."""

    def _stage(self) -> None:
        name = self.newest_map().node_of(self._rng.choice(CLUSTERS), slot_of(self._tweet))
        late = self._filling_in(name, self._late)
        self.network.give_up(self.network.flight.index(late), arrives=False)
        self._call("delete", lambda: self.actions.delete(self._tweet), self._knowing)
        self._drop(name)
        self._until(lambda: not self._is_down(name) and self._is_open(name))
        self.network.late.append(late)
        self._until(lambda: late.done)
        self._read(self._knowing)

    def _filling_in(self, name: str, api: Process) -> Request:
        """A reader's call to a node that fills in the tweet's body; he has read it by then."""
        self.actions.begin("tweet", lambda: self.actions.read_tweet(self._tweet), api)
        self._until(lambda: self._call_to(name) is not None)
        call = self._call_to(name)
        assert call is not None
        return call

    def _call_to(self, name: str) -> Request | None:
        calls = (one for one in self.network.flight if one.node == name and "put_bodies" in one.commands[0])
        return next(calls, None)


class FilledAcrossDelete(FilledLate):
    """A node was just admitted: a reader knows it, reads a tweet and fills it in, slowly; somebody else, who does not
    know it, deletes the tweet meanwhile."""

    def _stage(self) -> None:
        name = self.newest_map().node_of(self._rng.choice(CLUSTERS), slot_of(self._tweet))
        view = self.maps.of(self._late)
        self._drop(name)
        self._until_then(lambda: not self._is_down(name), view)
        self._cut = False
        self._stand_still(view)
        self.maps.of(self._knowing).see_newest()
        call = self._filling_in(name, self._knowing)
        self.network.flight.remove(call)
        self._call("delete", lambda: self.actions.delete(self._tweet), self._late)
        self._until(lambda: self._is_open(name))
        self.network.flight.append(call)
        self._until(lambda: call.done)
        self._read(self._knowing)


class DeletedElsewhere(MovedUnknown):
    """A tweet's slot has moved. Somebody who heard nothing of that deletes it."""

    def _stage(self) -> None:
        self._cut = True
        there, _ = self._two_nodes()
        self._tweet = self._follower  # any number has a slot
        del self.database.users[self._follower]
        self._follower = self._rng.choice(list(self.database.users))
        self.database.add(Tweet(self._tweet, self._author, None))
        self.maps.of(self._late).see_newest()
        self._stand_still(self.maps.of(self._late))
        self._move(there, slot_of(self._tweet))
        self.maps.of(self._knowing).see_newest()
        self._read(self._knowing)
        self._call("delete", lambda: self.actions.delete(self._tweet), self._late)
        self._read(self._knowing)


COPY_SCENES: Mapping[str, type[Scene]] = {
    "a node is marked, and somebody does not know": MarkedUnknown,
    "a node is admitted, and somebody does not know": AdmittedUnknown,
    "a body is filled in late": FilledLate,
    "a body is filled in across a delete": FilledAcrossDelete,
    "a tweet is deleted by a placement that is over": DeletedElsewhere,
    "slots have moved, and somebody does not know": MovedUnknown,
}
