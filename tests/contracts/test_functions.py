"""The Redis Functions on a real server: inserting, heads, fencing, and the one primitive."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import redis_keys
from infra.composition import Stores
from infra.errors import Fenced, RedisRefused, Superseded
from infra.redis_node import Argument, RedisNode
from infra.tweet_ids import time_ms_of

LENGTH = 80
FENCE = "1:x"  # the epoch, and the incarnation that these tests give the node
BASE = 10**18  # a 19-digit id


Record = tuple[str, int, int | str, bytes, str | bytes]


def tweet(number: int) -> int:
    return BASE + number


def grouped(kind: str, lists: Mapping[bytes, Sequence[int]], offset: int = 0, later: Mapping[int, int] = {}) -> Record:
    """A record of ascending tweets by list; `later` says by how much the offset of some is higher."""
    numbers = sorted({number for of_list in lists.values() for number in of_list})
    extra = b"".join(len(of_list).to_bytes(2) for of_list in lists.values())
    extra += b"".join(numbers.index(number).to_bytes(2) for of_list in lists.values() for number in of_list)
    extra += b"".join(later.get(number, 0).to_bytes(4) for number in numbers)
    return kind, offset, " ".join(str(tweet(number)) for number in numbers), b"".join(lists), extra


def retract(number: int, key: bytes) -> Record:
    return grouped("R", {key: [number]})


@dataclass
class Node:
    """A node, and the numbered calls of one worker of partition 0."""

    redis: RedisNode
    generation: int = 1
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    def apply(self, *records: Record, last: int = 0, fence: str = FENCE, earlier: int = 0) -> list[Any]:
        arguments = [one for record in records for one in record]
        number = next(self.numbers)
        answer = self.redis.call("apply", 0, fence, self.generation, number, last, earlier, LENGTH, *arguments)
        return list(answer)

    def deliver(self, number: int, key: bytes, offset: int = 0) -> list[Any]:
        return self.apply(grouped("D", {key: [number]}, offset), last=offset)

    def looks(self) -> int:
        """How often an entry of a list was looked at since the last question."""
        found = self.redis.command("INFO", "commandstats").get("cmdstat_lindex", {"calls": 0})
        self.redis.command("CONFIG", "RESETSTAT")
        return int(found["calls"])

    def listed(self, key: bytes) -> list[int]:
        """The list's head, then its entries as the numbers they were made of."""
        head, *entries = [int(one) for one in self.redis.command("LRANGE", key, 0, -1)]
        return [head - BASE if head > BASE else head, *(one - BASE for one in entries)]

    def make(self, key: bytes, numbers: list[int], floor: int = 0) -> None:
        token = 7
        assert self.redis.call("put_token", FENCE, token, "claim", key) == b"T"
        ids = " ".join(str(tweet(number)) for number in numbers)
        assert self.redis.call("merge_rebuilt", FENCE, token, LENGTH, 1000, key, floor and tweet(floor), ids) == b"M"


@pytest.fixture(params=["knows what it holds", "does not know what it holds"])
def node(stores: Stores, request: pytest.FixtureRequest) -> Node:
    redis = stores.clusters.node("a1")
    redis.command("HSET", redis_keys.NODE, "incarnation", "x", "built", 0)
    if request.param != "knows what it holds":
        redis.command("HDEL", redis_keys.NODE, "built")
    return Node(redis)


@pytest.fixture
def knowing(stores: Stores) -> Node:
    """A node that was empty when it began."""
    redis = stores.clusters.node("a1")
    redis.command("HSET", redis_keys.NODE, "incarnation", "x", "built", 0)
    return Node(redis)


HOME = redis_keys.home_timeline(1)
USERS = count(1_000)  # a list of its own for each example


@pytest.mark.parametrize(
    ("before", "floor", "number", "after"),
    [
        ([], 0, 5, [0, 5]),
        ([1, 3], 0, 5, [0, 1, 3, 5]),
        ([1, 3], 0, 2, [0, 1, 2, 3]),
        ([2, 3], 0, 1, [0, 1, 2, 3]),
        ([1, 3], 0, 3, [0, 1, 3]),
        ([1, 3], 0, 1, [0, 1, 3]),
        ([5, 7], 4, 4, [4, 5, 7]),
        ([5, 7], 4, 3, [4, 5, 7]),
        ([], 4, 3, [4]),
        ([], 4, 5, [4, 5]),
    ],
)
def test_an_entry_goes_to_its_place_once_and_never_at_or_below_the_floor(
    node: Node, before: list[int], floor: int, number: int, after: list[int]
) -> None:
    node.make(HOME, before, floor)

    node.deliver(number, HOME)

    assert node.listed(HOME) == after


@pytest.mark.parametrize("number", [1, 20, 41, 59, 70])
def test_an_entry_far_from_the_tail_finds_its_place(node: Node, number: int) -> None:
    others = [one for one in range(1, 71) if one != number]
    node.make(HOME, others)

    node.deliver(number, HOME)

    assert node.listed(HOME) == [0, *range(1, 71)]


@pytest.mark.parametrize("numbers", [[1], [20, 21, 22], [1, 40, 70]])
def test_what_is_far_from_the_tail_already_is_found_without_reading_the_list(node: Node, numbers: list[int]) -> None:
    node.make(HOME, list(range(1, 71)))
    node.redis.command("CONFIG", "RESETSTAT")

    answer = node.apply(grouped("V", {HOME: numbers}))

    assert "cmdstat_lrange" not in node.redis.command("INFO", "commandstats")
    assert answer[:3] == [len(numbers), 0, 0]
    assert node.listed(HOME) == [0, *range(1, 71)]


def test_a_kind_that_is_not_known_is_refused_and_touches_nothing(node: Node) -> None:
    node.make(HOME, [1])

    with pytest.raises(RedisRefused, match="this library has no kind Z"):
        node.apply(grouped("Z", {HOME: [2]}))

    assert node.listed(HOME) == [0, 1]


def test_what_is_late_and_new_is_not_looked_for_in_vain(node: Node) -> None:
    node.make(HOME, list(range(1, 70)))
    node.redis.command("CONFIG", "RESETSTAT")

    node.apply(grouped("D", {HOME: [0]}))

    assert "cmdstat_dump" not in node.redis.command("INFO", "commandstats")
    assert node.listed(HOME)[1:] == list(range(70))


@pytest.mark.parametrize("lacks", [[2], [2, 3], [20, 70], [1, 69, 70]])
def test_of_several_that_are_sent_again_those_that_are_lacking_are_put_in(node: Node, lacks: list[int]) -> None:
    node.make(HOME, [one for one in range(1, 71) if one not in lacks])

    node.apply(grouped("V", {HOME: list(range(1, 71))}))

    assert node.listed(HOME) == [0, *range(1, 71)]


def test_ids_of_every_form_are_found_again(node: Node) -> None:
    """Ids whose bytes are all sorts: what is stored is looked for, not what is written."""
    numbers = [(1 << shift) + more for shift in range(50) for more in (0, 1)][1:]
    node.make(HOME, sorted(set(numbers))[:LENGTH])
    node.redis.command("CONFIG", "RESETSTAT")

    node.apply(grouped("V", {HOME: sorted(set(numbers))[:40]}))

    assert "cmdstat_lrange" not in node.redis.command("INFO", "commandstats")


def test_what_was_delivered_in_any_order_is_sorted(node: Node) -> None:
    numbers = [(37 * one) % 71 for one in range(1, 71)]
    node.make(HOME, [])

    for number in numbers:
        node.deliver(number, HOME)

    assert node.listed(HOME) == [0, *sorted(numbers)]


def test_what_is_newer_than_all_that_the_node_holds_is_appended_without_a_look(knowing: Node) -> None:
    knowing.make(HOME, [1, 3])
    knowing.looks()

    assert knowing.deliver(5, HOME)[:3] == [1, 0, 0]
    assert knowing.looks() == 0
    assert knowing.listed(HOME) == [0, 1, 3, 5]


def test_several_are_appended_so_too_each_list_its_own(knowing: Node) -> None:
    second, absent = redis_keys.home_timeline(2), redis_keys.home_timeline(3)
    knowing.make(HOME, [1, 3])
    knowing.make(second, list(range(4, LENGTH)))
    knowing.looks()

    first = {HOME: [101, 103, 104], second: [102, 103], absent: [101, 104]}
    assert knowing.apply(grouped("D", first, 8), last=8)[:3] == [5, 2, 0]
    assert knowing.looks() == 0
    newest = list(range(200, 200 + LENGTH))
    assert knowing.apply(grouped("D", {second: newest, HOME: [205]}, 9), last=9)[:3] == [LENGTH + 1, 0, 0]

    assert knowing.listed(HOME) == [0, 1, 3, 101, 103, 104, 205]
    assert knowing.listed(second) == [103, *newest]
    assert knowing.redis.command("EXISTS", absent) == 0


def test_what_was_inserted_into_another_list_of_the_partition_counts_for_all_of_them(knowing: Node) -> None:
    other = redis_keys.home_timeline(2)
    knowing.make(HOME, [])
    knowing.make(other, [])
    knowing.deliver(5, HOME)

    knowing.deliver(4, other)
    knowing.deliver(5, other)
    knowing.deliver(5, other)

    assert knowing.listed(other) == [0, 4, 5]


@pytest.mark.parametrize(
    ("write", "after"),
    [
        (lambda node: node.make(HOME, [4, 7]), [0, 4, 5, 7]),
        (lambda node: (node.make(HOME, [4]), node.apply(("M", 0, "0", HOME, f"{tweet(7)}"))), [0, 4, 5, 7]),
        (lambda node: (node.make(HOME, [4]), node.apply(("M", 0, f"{tweet(7)}", HOME, ""))), [7]),
    ],
    ids=["a rebuild", "a merge", "the floor of a merge"],
)
def test_what_is_older_than_something_from_elsewhere_gets_its_place(
    knowing: Node, write: Callable[[Node], object], after: list[int]
) -> None:
    write(knowing)

    knowing.deliver(5, HOME)
    knowing.deliver(7, HOME)

    assert knowing.listed(HOME) == after


def test_a_call_that_continues_a_run_goes_by_what_was_there_before_the_run(knowing: Node) -> None:
    first, second = redis_keys.home_timeline(2), redis_keys.home_timeline(3)
    for key in (HOME, first, second):
        knowing.make(key, [])
    knowing.deliver(3, HOME)
    knowing.looks()

    knowing.apply(grouped("D", {first: [5]}), last=-1)
    knowing.apply(grouped("N", {second: [5]}))

    assert knowing.looks() == 0
    assert knowing.listed(first) == knowing.listed(second) == [0, 5]


def test_what_a_run_brings_twice_to_a_list_in_one_call_is_looked_for(knowing: Node) -> None:
    other = redis_keys.home_timeline(2)
    knowing.make(HOME, [])
    knowing.make(other, [])
    knowing.apply(grouped("D", {other: [5]}), last=-1)

    knowing.apply(grouped("N", {HOME: [5]}), grouped("N", {HOME: [4]}), grouped("N", {HOME: [5]}))

    assert knowing.listed(HOME) == [0, 4, 5]


def test_a_run_that_begins_again_looks_for_what_its_first_try_has_left(knowing: Node) -> None:
    """As after a call that timed out and was made: the second try is no call that continues."""
    other = redis_keys.home_timeline(2)
    knowing.make(HOME, [])
    knowing.make(other, [])
    knowing.apply(grouped("D", {other: [5]}), last=-1)
    knowing.apply(grouped("N", {HOME: [5]}), last=-1)

    knowing.apply(grouped("D", {HOME: [5]}))

    assert knowing.listed(HOME) == [0, 5]


LISTS = [redis_keys.home_timeline(user) for user in (1, 2, 3)]
some = st.integers(1, 40)
calls_of_a_run = st.permutations(LISTS).flatmap(
    lambda lists: st.tuples(
        *(st.tuples(st.just(key), st.lists(some, min_size=1, max_size=3), st.integers(1, 2)) for key in lists)
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.lists(st.one_of(calls_of_a_run, st.tuples(st.sampled_from(LISTS), some)), max_size=12))
def test_whatever_is_tried_again_or_comes_from_elsewhere_an_entry_is_in_its_place_and_once(
    knowing: Node, steps: list[Any]
) -> None:
    """Each call of a run has its own list, and may be made twice; in between, merges bring what is newer."""
    held: dict[bytes, set[int]] = {key: set() for key in LISTS}
    knowing.redis.command("DEL", *LISTS, redis_keys.control(0))
    knowing.redis.command("HSET", redis_keys.NODE, "built", 0)
    for key in LISTS:
        knowing.make(key, [])

    for step in steps:
        if isinstance(step[1], int):
            knowing.apply(("M", 0, "0", step[0], f"{tweet(step[1])}"), last=-1)
            held[step[0]].add(step[1])
            continue
        for place, (key, numbers, tries) in enumerate(step):
            held[key].update(numbers)
            for again in range(tries):
                kind = "N" if place > 0 and not again else "D"
                knowing.apply(grouped(kind, {key: sorted(set(numbers))}), last=-1)

    assert {key: knowing.listed(key)[1:] for key in LISTS} == {key: sorted(held[key]) for key in LISTS}


def test_a_node_that_does_not_know_what_it_holds_looks_until_no_clock_can_be_behind(knowing: Node) -> None:
    """As far as clocks may differ: nine minutes."""
    knowing.make(HOME, [1])
    knowing.redis.command("HDEL", redis_keys.NODE, "built")
    knowing.looks()

    knowing.deliver(2, HOME)

    assert knowing.looks() == 1
    built_ms = time_ms_of(int(knowing.redis.command("HGET", redis_keys.NODE, "built")))
    assert 0 <= time.time() + 9 * 60 - built_ms / 1000 < 60


def test_equal_libraries_stay_and_a_changed_one_makes_the_node_forget_what_it_knows(knowing: Node) -> None:
    node, code = knowing.redis, files("infra.lua").joinpath("timelines.lua").read_text(encoding="utf-8")

    node.load_functions()
    assert node.command("HGET", redis_keys.NODE, "built") == b"0"

    node.command("FUNCTION", "LOAD", "REPLACE", code + "-- of another version")
    node.load_functions()
    assert node.command("HGET", redis_keys.NODE, "built") is None
    [library] = node.command("FUNCTION", "LIST", "LIBRARYNAME", "fanfold", "WITHCODE")
    assert code.encode() in library


def test_a_change_of_another_library_makes_it_forget_nothing_of_its_timelines(knowing: Node) -> None:
    code = files("infra.lua").joinpath("counts.lua").read_text(encoding="utf-8")
    knowing.redis.command("FUNCTION", "LOAD", "REPLACE", code + "-- of another version")

    knowing.redis.load_functions()

    assert knowing.redis.command("HGET", redis_keys.NODE, "built") == b"0"


def test_a_call_that_breaks_off_has_raised_its_mark_before(knowing: Node) -> None:
    knowing.make(HOME, [])
    for_one_of_two_lists = b"\0\1\0\1" + b"\0\0"

    with pytest.raises(RedisRefused):
        knowing.apply(("D", 0, f"{tweet(5)}", HOME + redis_keys.home_timeline(2), for_one_of_two_lists))
    knowing.deliver(4, HOME)
    knowing.deliver(5, HOME)

    assert knowing.listed(HOME) == [0, 4, 5]


def test_a_timeline_that_does_not_exist_is_not_written(node: Node) -> None:
    assert node.deliver(1, HOME)[:3] == [0, 1, 0]
    assert node.redis.command("EXISTS", HOME) == 0


def test_a_trim_sets_the_floor_to_the_newest_entry_that_was_cut(node: Node) -> None:
    node.make(HOME, [])

    for number in range(1, LENGTH + 66):
        node.deliver(number, HOME)

    assert node.listed(HOME) == [65, *range(66, LENGTH + 66)]


def test_an_answer_counts_what_present_and_absent_lists_got(node: Node) -> None:
    below, present, absent, new = (redis_keys.home_timeline(user) for user in (1, 2, 3, 4))
    node.make(below, [], floor=9)
    node.make(present, [5])
    node.make(new, [])

    answer = node.apply(grouped("D", {key: [5] for key in (below, present, absent, new)}))

    assert answer[:3] == [3, 1, 0]


def test_a_redelivered_message_is_not_counted_again(node: Node) -> None:
    node.make(HOME, [])
    node.deliver(1, HOME, offset=10)

    assert node.deliver(1, HOME, offset=10)[:3] == [0, 0, 0]
    assert node.redis.command("HGET", redis_keys.control(0), "delivered") == b"1"
    assert node.listed(HOME) == [0, 1]


def test_of_a_message_that_was_partly_applied_only_the_rest_is_counted(node: Node) -> None:
    node.make(HOME, [])
    node.deliver(1, HOME, offset=10)

    answer = node.apply(grouped("D", {HOME: [1, 2, 3]}, 10, later={2: 1, 3: 70_000}), last=70_010)

    assert answer[:3] == [2, 0, 0]
    assert node.redis.command("HGET", redis_keys.control(0), "delivered") == b"3"


@pytest.mark.parametrize(
    ("before", "numbers", "after", "out_of_order"),
    [
        ([1, 5], [6, 7], [1, 5, 6, 7], 0),
        ([1, 5], [2, 3], [1, 2, 3, 5], 2),
        ([1, 5], [3, 5, 7], [1, 3, 5, 7], 1),
        ([1, 5], [1, 5], [1, 5], 0),
        ([], [1, 2], [1, 2], 0),
        ([10, 30], [5, 20, 40], [5, 10, 20, 30, 40], 2),
    ],
)
def test_several_entries_of_a_list_go_to_their_places_at_once(
    node: Node, before: list[int], numbers: list[int], after: list[int], out_of_order: int
) -> None:
    node.make(HOME, before)

    answer = node.apply(grouped("D", {HOME: numbers}))

    assert node.listed(HOME) == [0, *after]
    assert answer[:3] == [len(numbers), 0, out_of_order]


def test_entries_at_or_below_the_floor_are_left_out_and_the_others_are_not(node: Node) -> None:
    node.make(HOME, [5, 7], floor=4)

    node.apply(grouped("D", {HOME: [2, 4, 6]}))

    assert node.listed(HOME) == [4, 5, 6, 7]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.lists(st.sets(st.integers(1, 300), min_size=1, max_size=40), max_size=8),
    st.integers(0, 200),
    st.booleans(),
    st.sampled_from("DV"),
)
def test_a_list_holds_what_is_newest_whatever_comes_in_which_order(
    node: Node, batches: list[set[int]], floor: int, rebuilding: bool, letter: str
) -> None:
    """Against a set that forgets what was cut. A list under a token takes everything, above its old floor or not."""
    key = redis_keys.home_timeline(next(USERS))
    if rebuilding:
        assert node.redis.call("put_token", FENCE, 7, "claim", key) == b"T"
        floor = 0
    else:
        node.make(key, [], floor)
    kept: set[int] = set()
    for batch in batches:
        node.apply(grouped(letter, {key: sorted(batch)}))
        kept |= {number for number in batch if number > floor}
        if len(kept) > (LENGTH + 64 if not rebuilding else 2 * LENGTH):
            if rebuilding:
                assert node.redis.command("EXISTS", key) == 0
                return
            floor = sorted(kept)[-LENGTH - 1]
            kept = set(sorted(kept)[-LENGTH:])

    head, *entries = node.listed(key)
    assert entries == sorted(kept)
    assert head == (-7 if rebuilding else floor)


def test_entries_of_user_timelines_are_not_counted(node: Node) -> None:
    own = redis_keys.user_timeline(1)
    node.make(own, [])

    assert node.deliver(1, own)[:3] == [0, 0, 0]
    assert node.listed(own) == [0, 1]


def test_a_retract_removes_the_entry_wherever_it_stands(node: Node) -> None:
    node.make(HOME, [1, 2, 3])

    node.apply(retract(2, HOME))

    assert node.listed(HOME) == [0, 1, 3]


def test_a_retract_never_takes_the_floor_away(node: Node) -> None:
    node.make(HOME, [5], floor=4)

    node.apply(retract(4, HOME))

    assert node.listed(HOME) == [4, 5]


def test_removals_that_leave_too_little_above_a_floor_are_reported(node: Node) -> None:
    numbers = list(range(10, 10 + LENGTH // 2))
    node.make(HOME, numbers, floor=9)

    assert node.apply(retract(10, HOME))[3] == [HOME]


def test_a_short_timeline_is_reported_again_when_nothing_is_left_to_remove(node: Node) -> None:
    node.make(HOME, [10, 11], floor=9)
    node.apply(retract(10, HOME))

    assert node.apply(retract(10, HOME))[3] == [HOME]


def test_removals_from_a_timeline_without_a_floor_are_never_too_many(node: Node) -> None:
    node.make(HOME, [1, 2])

    assert node.apply(retract(1, HOME))[3] == []


def test_a_merge_takes_an_authors_tweets_in_and_keeps_the_rest(node: Node) -> None:
    node.make(HOME, [2, 4])

    node.apply(("M", 0, 0, HOME, f"{tweet(1)} {tweet(4)} {tweet(5)}"))

    assert node.listed(HOME) == [0, 1, 2, 4, 5]


def test_a_merge_that_leaves_out_older_tweets_raises_the_floor(node: Node) -> None:
    node.make(HOME, [2, 4])

    node.apply(("M", 0, tweet(3), HOME, f"{tweet(5)}"))

    assert node.listed(HOME) == [3, 4, 5]


def test_a_merge_keeps_the_time_to_live(node: Node) -> None:
    node.make(HOME, [2])

    node.apply(("M", 0, 0, HOME, f"{tweet(1)}"))

    assert 0 < node.redis.command("TTL", HOME) <= 1000


# The primitive ------------------------------------------------------------------------------------------------------


def test_deliveries_stick_to_a_token_and_are_merged_with_the_snapshot(node: Node) -> None:
    node.redis.call("put_token", FENCE, 5, "claim", HOME)
    node.deliver(4, HOME)
    node.deliver(2, HOME)

    node.redis.call("merge_rebuilt", FENCE, 5, LENGTH, 1000, HOME, 0, f"{tweet(1)} {tweet(2)} {tweet(3)}")

    assert node.listed(HOME) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "disturb",
    [
        lambda node: node.apply(retract(1, HOME)),
        lambda node: node.apply(("X", 0, 3, HOME, f"{tweet(1)}")),
        lambda node: node.apply(("M", 0, 0, HOME, f"{tweet(1)}")),
        lambda node: node.redis.call("open_removal", 0, FENCE, node.generation, next(node.numbers), HOME),
        lambda node: node.redis.call("put_token", FENCE, 6, "join", HOME),
    ],
    ids=["retract", "unmerge", "merge", "reading half of an unmerge", "another token"],
)
def test_a_rebuild_whose_token_was_replaced_merges_nothing(node: Node, disturb: Callable[[Node], object]) -> None:
    node.redis.call("put_token", FENCE, 5, "claim", HOME)

    disturb(node)

    assert node.redis.call("merge_rebuilt", FENCE, 5, LENGTH, 1000, HOME, 0, f"{tweet(1)}") == b"L"


def test_a_token_is_claimed_by_one_and_again_when_nobody_holds_it(node: Node) -> None:
    assert node.redis.call("put_token", FENCE, 5, "claim", HOME) == b"T"
    assert node.redis.call("put_token", FENCE, 6, "claim", HOME) == b"B"
    node.apply(retract(1, HOME))
    assert node.redis.call("put_token", FENCE, 6, "claim", HOME) == b"T"


def test_a_present_timeline_is_not_claimed_but_can_be_renewed(node: Node) -> None:
    node.make(HOME, [1])

    assert node.redis.call("put_token", FENCE, 5, "claim", HOME) == b"P"
    assert node.redis.call("put_token", FENCE, 5, "join", HOME) == b"P"
    assert node.redis.call("put_token", FENCE, 5, "renew", HOME) == b"T"
    assert node.listed(HOME) == [-5, 1]


def test_a_list_under_a_token_expires_soon(node: Node) -> None:
    node.redis.call("put_token", FENCE, 5, "claim", HOME)

    assert 0 < node.redis.command("TTL", HOME) <= 60


def test_a_list_that_grows_too_long_under_a_token_is_dropped(node: Node) -> None:
    node.redis.call("put_token", FENCE, 5, "claim", HOME)

    for number in range(1, 2 * LENGTH + 2):
        node.deliver(number, HOME)

    assert node.redis.command("EXISTS", HOME) == 0


def test_a_snapshot_longer_than_the_length_is_cut_to_a_floor(node: Node) -> None:
    node.make(HOME, list(range(1, LENGTH + 3)))

    assert node.listed(HOME) == [2, *range(3, LENGTH + 3)]


@pytest.mark.parametrize(
    "foreign",
    [("SET", HOME, "a string"), ("SADD", HOME, "a set"), ("RPUSH", HOME, "a list without a floor", tweet(1))],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(
    "touch",
    [
        lambda node: node.apply(retract(1, HOME)),
        lambda node: node.apply(("M", 0, 0, HOME, f"{tweet(1)}")),
        lambda node: node.redis.call("open_removal", 0, FENCE, node.generation, next(node.numbers), HOME),
        lambda node: node.redis.call("merge_rebuilt", FENCE, 5, LENGTH, 1000, HOME, 0, ""),
    ],
    ids=["retract", "merge", "reading half of an unmerge", "merge of a rebuild"],
)
def test_what_cannot_be_a_timeline_is_removed_and_stops_nobody(
    node: Node, foreign: tuple[str | bytes | int, ...], touch: Callable[[Node], object]
) -> None:
    node.redis.command(*foreign)
    assert node.redis.look("page", "", 20, "down", "", HOME) == [0, b""]

    touch(node)

    assert node.redis.command("EXISTS", HOME) == 0


@pytest.mark.parametrize("foreign", [("SET", HOME, "a string"), ("SADD", HOME, "a set")], ids=lambda one: one[0])
def test_a_delivery_to_what_is_no_list_removes_it(node: Node, foreign: tuple[str | bytes, ...]) -> None:
    node.redis.command(*foreign)

    assert node.deliver(1, HOME)[:3] == [0, 1, 0]
    assert node.redis.look("dump", HOME) == [[]]


# Followed celebrities -----------------------------------------------------------------------------------------------

SET = redis_keys.celebrities(1)


def test_a_set_of_celebrities_is_filled_and_changed(node: Node) -> None:
    node.redis.call("open_celebrities", FENCE, 5, SET)
    node.apply(("A", 0, 30, SET, ""))

    assert node.redis.call("fill_celebrities", FENCE, 5, SET, 1000, "10 20") == 1
    node.apply(("B", 0, 10, SET, ""))

    assert set(node.redis.command("SMEMBERS", SET)) == {b"0", b"20", b"30"}


def test_a_removal_under_the_token_makes_the_filling_start_again(node: Node) -> None:
    node.redis.call("open_celebrities", FENCE, 5, SET)
    node.apply(("B", 0, 10, SET, ""))

    assert node.redis.call("fill_celebrities", FENCE, 5, SET, 1000, "10") == 0
    assert node.redis.command("EXISTS", SET) == 0


def test_an_unknown_set_is_not_begun_by_a_change(node: Node) -> None:
    node.apply(("A", 0, 30, SET, ""))

    assert node.redis.command("EXISTS", SET) == 0


# Fencing ------------------------------------------------------------------------------------------------------------


def test_a_call_with_a_number_seen_before_is_refused(node: Node) -> None:
    node.make(HOME, [])
    node.deliver(1, HOME)
    node.numbers = count(1)

    with pytest.raises(Fenced, match="call 1/1"):
        node.deliver(2, HOME)
    assert node.listed(HOME) == [0, 1]


def test_an_older_generation_is_refused_and_a_newer_starts_again_at_one(node: Node) -> None:
    node.make(HOME, [])
    newer = Node(node.redis, generation=2)
    newer.deliver(1, HOME)

    with pytest.raises(Superseded):
        node.deliver(2, HOME)
    assert node.listed(HOME) == [0, 1]


@pytest.mark.parametrize("fence", ["0:x", "2:x", "1:y", "1:", "1"])
def test_another_epoch_or_incarnation_is_refused(node: Node, fence: str) -> None:
    node.make(HOME, [])

    with pytest.raises(Fenced, match=f"{fence} but the node has 1:x"):
        node.apply(grouped("D", {HOME: [1]}), fence=fence)


def test_nothing_is_built_on_a_node_before_it_is_opened(node: Node) -> None:
    node.redis.command("HDEL", redis_keys.NODE, "open")
    body = redis_keys.body(1)

    calls: list[list[Argument]] = [
        ["put_token", 5, "claim", HOME],
        ["open_celebrities", 5, SET],
        ["put_bodies", 9, body, "a"],
    ]
    for name, *arguments in calls:
        with pytest.raises(Fenced, match="not open"):
            node.redis.call(str(name), FENCE, *arguments)
    assert node.redis.call("put_token", FENCE, 5, "renew", HOME + SET) == b"DD"  # deliver does not wait for it
    assert node.redis.command("EXISTS", HOME) == 0
    node.deliver(1, HOME)

    assert node.redis.call("open_node", FENCE) == 1
    assert node.redis.call("put_token", FENCE, 5, "claim", HOME) == b"T"


def test_a_body_is_put_where_none_is(node: Node) -> None:
    first, buried = redis_keys.body(1), redis_keys.body(2)
    node.redis.command("SET", buried, "")

    node.redis.call("put_bodies", FENCE, 1000, first, "a", buried, "b")
    node.redis.call("put_bodies", FENCE, 1000, first, "c")

    assert node.redis.command("MGET", first, buried) == [b"a", b""]
    assert 0 < node.redis.command("TTL", first) <= 1000


def test_an_old_generation_is_refused_under_a_raised_epoch_too(node: Node) -> None:
    """It was frozen while the epoch was raised, and has read the new map since."""
    node.make(HOME, [])
    Node(node.redis, generation=9).deliver(1, HOME)
    assert node.redis.call("install_epoch", 2) == 2

    with pytest.raises(Superseded):
        node.apply(grouped("D", {HOME: [2]}), fence="2:x")

    Node(node.redis, generation=9, numbers=count(2)).apply(grouped("D", {HOME: [2]}), fence="2:x")
    assert node.listed(HOME) == [0, 1, 2]


def test_an_epoch_is_never_lowered(node: Node) -> None:
    node.redis.call("install_epoch", 3)

    assert node.redis.call("install_epoch", 2) == 3


def test_a_node_without_an_incarnation_refuses_every_write(node: Node) -> None:
    node.redis.command("HDEL", "n", "incarnation")

    for call in (
        lambda: node.deliver(1, HOME),
        lambda: node.redis.call("put_token", FENCE, 5, "claim", HOME),
        lambda: node.redis.call("merge_rebuilt", FENCE, 5, LENGTH, 1000, HOME, 0, ""),
        lambda: node.redis.call("open_celebrities", FENCE, 5, SET),
        lambda: node.redis.call("fill_celebrities", FENCE, 5, SET, 1000, ""),
        lambda: node.redis.call("install_epoch", 2),
        lambda: node.redis.call("renew", FENCE, 1000, HOME),
    ):
        with pytest.raises(Fenced, match="incarnation"):
            call()


# Reading ------------------------------------------------------------------------------------------------------------


def part_of(node: Node, cursor: int | str, wanted: int, direction: str, bound: int | str = "") -> list[int]:
    """Head and entries of one list's part, as the numbers they were made of."""
    time_left_s, part = node.redis.look("page", cursor, wanted, direction, bound, HOME)
    assert 0 < time_left_s <= 1000
    head, *entries = map(int, part.split())
    return [head - BASE if head > BASE else head, *(entry - BASE for entry in entries)]


@pytest.mark.parametrize("floor", [0, 1])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 40])
def test_a_page_has_the_head_and_the_entries_beside_its_cursor(node: Node, size: int, floor: int) -> None:
    """Even numbers are there; each of them, and each odd one between two, is a cursor."""
    numbers = list(range(2, 2 * size + 2, 2))
    node.make(HOME, numbers, floor)

    for wanted in (1, 3, 100):
        assert part_of(node, "", wanted, "down") == [floor, *numbers[-wanted:]]
        for cursor in range(1, 2 * size + 4):
            below = [number for number in numbers if number < cursor]
            on = [number for number in numbers if number >= cursor]
            assert part_of(node, tweet(cursor), wanted, "down") == [floor, *below[-wanted:]]
            assert part_of(node, tweet(cursor), wanted, "up") == [floor, *on[:wanted]]


@pytest.mark.parametrize("bound", range(1, 10))
def test_a_page_leaves_out_what_is_beyond_its_bound(node: Node, bound: int) -> None:
    node.make(HOME, [2, 4, 6, 8])
    near = [number for number in (2, 4, 6, 8) if number >= bound]

    assert part_of(node, "", 9, "down", tweet(bound)) == [0, *near]
    assert part_of(node, "", 3, "down", tweet(bound)) == [0, *near[-3:]]
    assert part_of(node, tweet(7), 9, "down", tweet(bound)) == [0, *(number for number in near if number < 7)]
    assert part_of(node, tweet(3), 9, "up", tweet(bound)) == [0, *(one for one in (4, 6, 8) if one <= bound)]


def test_a_page_has_several_lists_and_a_set(node: Node) -> None:
    node.make(HOME, [1, 3])
    other, absent, rebuilding = (redis_keys.user_timeline(user_id) for user_id in (1, 2, 3))
    node.make(other, [2], floor=1)
    node.redis.call("put_token", FENCE, 5, "claim", rebuilding)
    node.redis.call("open_celebrities", FENCE, 5, SET)
    node.redis.call("fill_celebrities", FENCE, 5, SET, 1000, "10 20")

    page = node.redis.look("page", "", 9, "down", "", HOME + other + absent + rebuilding, SET, 2)

    assert page[1:8:2] == [b"0 %d %d" % (tweet(1), tweet(3)), b"%d %d" % (tweet(1), tweet(2)), b"", b"-5"]
    assert (page[4], page[8], set(page[9].split())) == (0, 3, {b"0", b"10", b"20"})


@pytest.mark.parametrize(("known", "expected"), [(True, b"0"), (False, b"")])
def test_of_a_set_that_is_too_large_a_page_has_only_its_size(node: Node, known: bool, expected: bytes) -> None:
    node.redis.command("SADD", SET, "0" if known else "-5", 10, 20, 30)

    assert node.redis.look("page", "", 9, "down", "", HOME, SET, 2)[2:] == [4, expected]


def test_a_page_says_when_the_timeline_is_absent(node: Node) -> None:
    assert node.redis.look("page", "", 20, "down", "", HOME) == [0, b""]
    assert node.redis.look("page", "", 20, "down", "", HOME, SET, 2) == [0, b"", 0, b""]


def test_an_800_entry_timeline_takes_at_most_9_kb(node: Node) -> None:
    ids = " ".join(str(tweet(number * 999_983)) for number in range(800))
    node.redis.call("put_token", FENCE, 5, "claim", HOME)
    node.redis.call("merge_rebuilt", FENCE, 5, 800, 1000, HOME, 0, ids)

    assert node.redis.command("LLEN", HOME) == 801
    assert node.redis.command("MEMORY", "USAGE", HOME, "SAMPLES", 0) <= 9_000


@pytest.mark.parametrize("size", [*range(1, 20), 40, 63, 64, 65, 79])
def test_every_place_in_a_timeline_of_any_size_is_found(node: Node, size: int) -> None:
    """Even numbers are there; each odd one, and each even one again, is delivered."""
    for place in range(2 * size + 1):
        node.redis.command("DEL", HOME)
        node.make(HOME, list(range(2, 2 * size + 2, 2)), floor=1)
        node.deliver(place + 2, HOME, offset=place)

        assert node.listed(HOME) == [1, *sorted({*range(2, 2 * size + 2, 2), place + 2})]
