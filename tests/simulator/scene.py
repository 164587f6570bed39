"""What scenes have in common: a small world, calls that are held and let go, and waits for what must come."""

from abc import abstractmethod
from collections.abc import Callable

from infra.rebuild import rebuild
from infra.timelines import Kind
from tests.simulator.database import PUSHED, Tweet
from tests.simulator.lua_library import Edits
from tests.simulator.oracle import Wrong
from tests.simulator.scheduler import Process
from tests.simulator.simulation import Simulation

SCENE_STEPS_MAX = 5_000  # until something that must come is there
FOREVER_STEPS = 1_000_000


class Scene(Simulation):
    """A follower, an author with a tweet, and what happens between them."""

    def __init__(self, seed: str, edits: Edits = (), *, traced: bool = False) -> None:
        super().__init__(seed, edits, theme="follows", traced=traced)

    def _play(self) -> None:
        self._follower, self._author = self._rng.sample(list(self.database.users), 2)
        self.database.users[self._author].standing = PUSHED
        self._tweet = self.actions.new_id()
        self.database.add(Tweet(self._tweet, self._author, None))
        self._stage()

    @abstractmethod
    def _stage(self) -> None:
        """What happens."""

    def _set_follow(self, follows: bool) -> None:
        """From before the first event on."""
        pair = self._follower, self._author
        self.database.once_followed.add(pair)
        (self.database.follows.add if follows else self.database.follows.discard)(pair)

    def _rebuild_home(self) -> None:
        rebuild(self.ground.engine, self.ground.timelines, Kind.HOME, [self._follower])

    def _follow(self) -> None:
        self.database.follow(self._follower, self._author, self.scheduler.now_ms)

    def _unfollow(self) -> None:
        self.database.unfollow(self._follower, self._author, self.scheduler.now_ms)

    def _hold(self, process: Process, turns: int) -> None:
        """Lets a process make so many turns, and then holds it, unless it has ended before."""
        process.stalls_at, process.stall_steps = process.turns + turns, FOREVER_STEPS
        process.frozen = False
        self._until(lambda: process.turns >= process.stalls_at or not process.actors or self._is_applied())

    def _let_go(self, process: Process) -> None:
        process.goes_on_at = 0

    def _until(self, done: Callable[[], bool]) -> None:
        for _ in range(SCENE_STEPS_MAX):
            if done():
                return
            self._quiet_step()
        raise Wrong(f"a scene does not go on: {self.faults.what_is_open()}")
