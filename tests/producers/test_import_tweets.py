"""Ids of imported tweets: pure."""

from collections.abc import Sequence

from infra.tweet_ids import TIME_SHIFT, time_ms_of
from producers.import_tweets import make_ids
from producers.snowflake import snowflake

MS = 1_424_129_760_000


class Used:
    """Ids in use, and how often somebody asked for them."""

    def __init__(self, *ids: int) -> None:
        self.ids = set(ids)
        self.questions = 0

    def __call__(self, times_ms: Sequence[int]) -> dict[int, int]:
        self.questions += 1
        last: dict[int, int] = {}
        for tweet_id in sorted(self.ids):
            if time_ms_of(tweet_id) in times_ms:
                last[time_ms_of(tweet_id)] = tweet_id
        return last


def test_tweets_of_one_millisecond_get_following_ids_in_the_order_of_the_file() -> None:
    assert make_ids([MS, MS + 1, MS], Used()) == [snowflake(MS, 0, 0), snowflake(MS + 1, 0, 0), snowflake(MS, 0, 1)]


def test_an_id_that_is_taken_is_passed_over_into_the_next_node() -> None:
    used = Used(snowflake(MS, 0, 4_095))
    assert make_ids([MS, MS], used) == [snowflake(MS, 1, 0), snowflake(MS, 1, 1)]


def test_a_full_millisecond_flows_over_into_the_next_one_that_has_room() -> None:
    full = [snowflake(ms, 1023, 4_095) for ms in (MS, MS + 1)]
    used = Used(*full, snowflake(MS + 2, 0, 0))
    ids = make_ids([MS, MS, MS + 2], used)
    assert sorted(ids) == [snowflake(MS + 2, 0, sequence) for sequence in (1, 2, 3)]
    assert not set(ids) & used.ids
    assert used.questions == 2


def test_a_batch_that_fills_a_millisecond_by_itself_has_no_id_twice() -> None:
    used = Used(snowflake(MS, 0, 0) + (1 << TIME_SHIFT) - 3)
    ids = make_ids([MS] * 5 + [MS + 1] * 3, used)
    assert len(set(ids)) == 8
    assert [time_ms_of(tweet_id) - MS for tweet_id in ids] == [0, 0, 1, 1, 1, 1, 1, 1]


def test_no_times_ask_for_nothing() -> None:
    used = Used()
    assert make_ids([], used) == []
    assert used.questions == 0
