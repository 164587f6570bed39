"""Which tweets a stream met lately in one log, so that what comes twice is told once. Pure.

A tweet comes twice when fan_out or the relay sent a message again, and when both logs tell of it. What is remembered
depends on nothing but the log before an offset: the last `count_max` tweets, none further back than `reach` offsets.
So a stream that is resumed knows the same after it has read from `oldest` on.
"""


class Sightings:
    """The tweets met lately, the latest one last. A few hundred bytes each, and nothing for who met none."""

    __slots__ = ("_count_max", "_reach", "_tweets")

    def __init__(self, count_max: int, reach: int) -> None:
        self._count_max = count_max
        self._reach = reach
        self._tweets: dict[int, tuple[int, bool]] = {}

    def note(self, tweet_id: int, offset: int, gone: bool) -> None:
        """It was met here: as a tweet, or as one that is gone."""
        self._tweets.pop(tweet_id, None)
        self._tweets[tweet_id] = offset, gone
        if len(self._tweets) > self._count_max:
            del self._tweets[next(iter(self._tweets))]

    def gone(self, tweet_id: int, offset: int) -> bool | None:
        """Whether a tweet that was met before this offset is gone; None for one that was not met."""
        met = self._tweets.get(tweet_id)
        return None if met is None or met[0] < offset - self._reach else met[1]

    def oldest(self, offset: int) -> int:
        """Where reading has to begin to know at `offset` what is known here; forgets what is too far back."""
        while self._tweets:
            tweet_id = next(iter(self._tweets))
            met, _ = self._tweets[tweet_id]
            if met >= offset - self._reach:
                return met
            del self._tweets[tweet_id]
        return offset
