"""How much of what was published had its effect everywhere: what a reader who begins now must see."""

from dataclasses import dataclass, field

from infra.topics import ACTIVITY, DELIVERIES, Topic
from tests.simulator.broker import Broker, Place
from tests.simulator.database import Database


@dataclass(slots=True)
class Watermark:
    """Events are followed in bunches: out of the outbox, then out of the activity log, then out of the deliveries."""

    database: Database
    broker: Broker
    applied: int = 0  # events, from the first
    _bunch: int = 0
    _ends: dict[Place, int] = field(default_factory=dict)
    _stages: list[Topic] = field(default_factory=list)  # logs that the bunch has to pass yet

    def look(self) -> None:
        """To be called after each acknowledgement."""
        if not self._stages:
            self._bunch = len(self.database.committed)
            self._stages = [DELIVERIES, ACTIVITY]
            self._ends = {}
        if not self._ends:
            if self.database.outbox and self.database.outbox[0].id <= self._bunch:
                return
            self._ends = self._ends_of(self._stages[-1])
        while all(self.broker.committed.get(place, 0) >= end for place, end in self._ends.items()):
            self._stages.pop()
            if not self._stages:
                self.applied = self._bunch
                return
            self._ends = self._ends_of(self._stages[-1])

    def _ends_of(self, topic: Topic) -> dict[Place, int]:
        return {place: len(log) for place, log in self.broker.logs.items() if place[0] == topic.name}
