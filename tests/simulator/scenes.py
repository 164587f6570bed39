"""Scenes: races that chance meets in one of hundreds of episodes, staged in the same simulation.

A scene holds one process somewhere, lets the others go on, and then lets it go too. Where it is held, and whatever else
is open, the seed decides.
"""

from collections.abc import Mapping

from infra.topics import ACTIVITY
from tests.simulator.copy_scenes import COPY_SCENES
from tests.simulator.copying_scenes import COPYING_SCENES
from tests.simulator.lua_library import Edits
from tests.simulator.parts import Worker
from tests.simulator.scene import FOREVER_STEPS, Scene
from tests.simulator.simulation import Simulation

REBUILD_TURNS = 16  # about as many as a rebuild has
FAN_OUT_TURNS = 40


class FollowDuringRebuild(Scene):
    """A rebuild is held; meanwhile its owner follows an author, and that is applied."""

    def _stage(self) -> None:
        self._set_follow(False)
        rebuilding = self.actions.begin("rebuild", self._rebuild_home)
        rebuilding.stalls_at, rebuilding.stall_steps = self._rng.randint(1, REBUILD_TURNS), FOREVER_STEPS
        self._until(lambda: rebuilding.turns >= rebuilding.stalls_at or not rebuilding.actors)
        self._follow()
        self._until(self._is_applied)
        self._let_go(rebuilding)


class UnfollowedWhileLoaded(Scene):
    """A delete is fanned out by a worker that knows no followers yet. He loads them while the follower is gone, and
    reads of that when he is back."""

    def _stage(self) -> None:
        self._set_follow(True)
        self._rebuild_home()
        self._until(lambda: all(worker.generation for worker in self.workers))
        self.database.delete(self._tweet, self.scheduler.now_ms)
        self._until(lambda: self._fanning_out() is not None)
        worker = self._fanning_out()
        assert worker is not None
        worker.process.frozen = True
        self._unfollow()
        self._hold(worker.process, self._rng.randint(1, FAN_OUT_TURNS))
        self._follow()
        self._let_go(worker.process)

    def _fanning_out(self) -> Worker | None:
        """Who has begun with the delete."""
        begun = (one for one in self.workers if any(topic == ACTIVITY.name for topic, _ in one.busy))
        return next(begun, None)


SCENES: Mapping[str, type[Scene]] = {
    **COPY_SCENES,
    **COPYING_SCENES,
    "a follow during a rebuild": FollowDuringRebuild,
    "followers loaded between an unfollow and a follow": UnfollowedWhileLoaded,
}


def episode(seed: str, edits: Edits = (), *, theme: str | None = None, traced: bool = False) -> Simulation:
    """An episode about a theme, or a scene of that name; without one the seed decides the theme."""
    if theme is not None and theme in SCENES:
        return SCENES[theme](seed, edits, traced=traced)
    return Simulation(seed, edits, theme=theme, traced=traced)
