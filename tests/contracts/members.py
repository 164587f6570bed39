"""Real members of the workers' group, without a worker around them."""

from collections.abc import Mapping

from confluent_kafka import Consumer

from infra.kafka import GROUP, Claim
from infra.topics import ACTIVITY

JOINED_S = 30.0
JOIN_POLL_S = 0.1


class Member:
    """Joins at the first `poll`."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": GROUP, "enable.auto.commit": False, "log_level": 2}
        )
        self._consumer.subscribe([ACTIVITY.name])

    def poll(self) -> bool:
        """Takes part in a rebalance; whether it has partitions now."""
        self._consumer.poll(JOIN_POLL_S)
        return bool(self._consumer.assignment())

    def claim(self, offsets: Mapping[int, int]) -> Claim:
        """What it may claim now, read out of the library's own form."""
        metadata = self._consumer.consumer_group_metadata()
        generation = int.from_bytes(metadata[7:11], "little", signed=True)
        _, member, _ = metadata[11:].split(b"\0", 2)
        claim = Claim(ACTIVITY, offsets, generation, member.decode())
        assert claim.metadata() == metadata
        return claim

    def leave(self) -> None:
        self._consumer.close()


def join(*members: Member) -> None:
    for _ in range(int(JOINED_S / JOIN_POLL_S)):
        assigned = [member.poll() for member in members]  # also those behind one that waits
        if all(assigned):
            return
    raise AssertionError("the members do not get their partitions")


class Generations:
    """The group with one member, anew in each generation that is asked for."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._name: int | None = None
        self._member: Member | None = None

    def enter(self, name: int, offsets: Mapping[int, int]) -> Claim:
        """A claim in the generation that the test calls so; in another one than the last, the group begins it."""
        if self._member is None or self._name != name:
            self.leave()
            self._name, self._member = name, Member(self._bootstrap)
            join(self._member)
        return self._member.claim(offsets)

    def leave(self) -> None:
        if self._member is not None:
            self._member.leave()
            self._member = None
