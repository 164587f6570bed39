"""Our consumer beside Faust's."""

from faust.types import TP

from streams.in_order import InOrderConsumer


class Stuck(InOrderConsumer):
    """Its thread cannot be asked: Faust's own look at a partition would fail."""

    def __init__(self) -> None:
        """Without what Faust's needs."""


def test_nobody_calls_a_busy_partition_stuck_by_statistics_that_are_not_kept() -> None:
    Stuck().verify_event_path(301.0, TP("activity", 0))
