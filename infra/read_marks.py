"""How far each partition was read, handed out, worked off and committed. Pure: no client, no clock.

What is committed lies behind everything that was worked off and before everything that was not, also where most of what
was read was of no interest, and at transaction markers.
"""

from collections import deque
from collections.abc import Iterable


class _Marks:
    __slots__ = ("committed", "done", "out", "read_to")

    def __init__(self, offset: int) -> None:
        self.read_to = offset  # the next offset to be read
        self.done = offset  # everything before it is worked off, or was of no interest
        self.committed = offset
        self.out: deque[int] = deque()  # handed out and not worked off, in order


class ReadMarks:
    """Of all partitions that are this member's."""

    def __init__(self) -> None:
        self._by_partition: dict[int, _Marks] = {}

    def __contains__(self, partition: int) -> bool:
        return partition in self._by_partition

    @property
    def partitions(self) -> list[int]:
        """Those that are this member's."""
        return sorted(self._by_partition)

    def assign(self, partition: int, offset: int) -> None:
        """It is this member's from now on, from this offset on."""
        self._by_partition[partition] = _Marks(offset)

    def revoke(self, partitions: Iterable[int]) -> None:
        """They are somebody else's."""
        for partition in partitions:
            self._by_partition.pop(partition, None)

    def hand_out(self, partition: int, offset: int) -> None:
        """This message is to be worked off."""
        self._by_partition[partition].out.append(offset)

    def read(self, partition: int, next_offset: int) -> None:
        """Everything before it was read, and handed out if it is of interest."""
        marks = self._by_partition.get(partition)
        if marks is not None:
            marks.read_to = max(marks.read_to, next_offset)
            if not marks.out:
                marks.done = marks.read_to

    def is_out(self, partition: int, offset: int) -> bool:
        """Whether it is still this member's to work off."""
        marks = self._by_partition.get(partition)
        return marks is not None and offset in marks.out

    def finish(self, partition: int, offset: int) -> None:
        """This one is worked off, and those before it in its partition. Of no effect when it is no longer ours."""
        marks = self._by_partition.get(partition)
        if marks is None:
            return
        while marks.out and marks.out[0] <= offset:
            marks.done = marks.out.popleft() + 1
        if not marks.out:
            marks.done = max(marks.done, marks.read_to)

    def to_commit(self, partitions: Iterable[int] | None = None) -> dict[int, int]:
        """The offsets that are not committed yet."""
        wanted = self._by_partition if partitions is None else partitions
        found = {one: self._by_partition[one] for one in wanted if one in self._by_partition}
        return {one: marks.done for one, marks in found.items() if marks.done > marks.committed}

    def note_committed(self, offsets: dict[int, int]) -> None:
        """The broker has them."""
        for partition, offset in offsets.items():
            if partition in self._by_partition:
                self._by_partition[partition].committed = offset

    def done(self) -> dict[int, int]:
        """Behind what is worked off, for each partition."""
        return {partition: marks.done for partition, marks in list(self._by_partition.items())}

    def was_read_past(self, partition: int, offset: int) -> bool:
        """Whether all before it was read."""
        marks = self._by_partition.get(partition)
        return marks is not None and marks.read_to >= offset

    def was_read_to(self, partition: int, offset: int) -> bool:
        """Whether exactly what is before it was read."""
        marks = self._by_partition.get(partition)
        return marks is not None and marks.read_to == offset
