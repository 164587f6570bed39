"""An author's status: whether his tweets are pushed into home timelines, or pulled from his user timeline by readers.

`both` is the way from one side to the other: his tweets are pushed, and whoever follows him has him in the set of
followed celebrities as well, so each side is complete before the other is given up. Who changes it:
producers/status_keeper.py. What a change does: streams/fan_out.py.
"""

from dataclasses import dataclass
from enum import StrEnum

DOWN_SHARE = 0.8  # of the threshold: who comes down to it is pushed again, so that nobody swings around one number


class Status(StrEnum):
    """How an author's tweets reach home pages."""

    PUSH = "push"
    BOTH = "both"
    PULL = "pull"


@dataclass(frozen=True, slots=True)
class Standing:
    """A status, and the side that it came from: what `both` has to complete is the other one."""

    status: Status = Status.PUSH
    before: Status = Status.PUSH

    @property
    def is_pushed(self) -> bool:
        """Whether home timelines hold his tweets."""
        return self.status is not Status.PULL

    @property
    def is_pulled(self) -> bool:
        """Whether readers merge his user timeline."""
        return self.status is not Status.PUSH


def side(now: Status, followers: int, threshold: int) -> Status:
    """The side, push or pull, on which an author belongs who is on side `now`: the one place that decides it. At the
    threshold he is still pushed."""
    if now is Status.PULL:
        return Status.PUSH if followers <= threshold * DOWN_SHARE else Status.PULL
    return Status.PULL if followers > threshold else Status.PUSH


def next_standing(standing: Standing, followers: int, threshold: int) -> Standing | None:
    """The next step of an author whose last one is applied everywhere; None when he stays as he is."""
    if standing.status is Status.BOTH:
        aim = Status.PULL if standing.before is Status.PUSH else Status.PUSH
        return Standing(side(aim, followers, threshold), Status.BOTH)
    if side(standing.status, followers, threshold) is standing.status:
        return None
    return Standing(Status.BOTH, standing.status)
