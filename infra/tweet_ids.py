"""The time inside a tweet id: its first 41 bits are milliseconds since 1998. producers/snowflake.py makes them."""

from datetime import UTC, datetime

EPOCH_MS = int(datetime(1998, 1, 1, tzinfo=UTC).timestamp() * 1000)
TIME_SHIFT = 22  # bits below the time


def time_ms_of(tweet_id: int) -> int:
    """The Unix time inside an id."""
    return (tweet_id >> TIME_SHIFT) + EPOCH_MS


def first_id_at(time_ms: int) -> int:
    """The lowest id of a millisecond, and 0 for one before there were ids."""
    return max(time_ms - EPOCH_MS, 0) << TIME_SHIFT
