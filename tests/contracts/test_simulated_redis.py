"""The Redis node in memory that the simulator uses answers as a real server does, and holds the same afterwards."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import redis_keys
from infra.composition import Stores
from infra.errors import FanfoldError
from infra.redis_node import RedisNode
from infra.tweet_ids import EPOCH_MS
from tests.simulator.lua_library import ErrorReply, Library, source
from tests.simulator.redis_server import RedisServer

EPOCH, LENGTH, TTL_S = 1, 8, 1_000
FENCE = f"{EPOCH}:x"
BASE = 10**18  # a 19-digit id
HOMES = [redis_keys.home_timeline(user) for user in (1, 2, 3)]
USERS = [redis_keys.user_timeline(user) for user in (1, 2)]
SETS = [redis_keys.celebrities(1)]
BODIES = [b"b:1", b"b:2"]
LISTS = HOMES + USERS
COPIED = b"".join(user.to_bytes(8) for user in (1, 2))  # a page of users
COPIED_KEYS = [SETS[0], USERS[0], HOMES[0], USERS[1], HOMES[1]]

Call = tuple[Any, ...]


def joined(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def grouped(kind: str, lists: dict[bytes, list[int]]) -> Call:
    ids = sorted({one for of_list in lists.values() for one in of_list})
    extra = b"".join(len(of_list).to_bytes(2) for of_list in lists.values())
    extra += b"".join(ids.index(one).to_bytes(2) for of_list in lists.values() for one in of_list)
    extra += b"".join((0).to_bytes(4) for _ in ids)
    return kind, 0, joined(ids), b"".join(lists), extra


old_ids = st.integers(1, 40).map(lambda number: BASE + number)
some_ids = st.lists(old_ids, min_size=1, max_size=8, unique=True).map(sorted)
homes, keys = st.sampled_from(HOMES), st.sampled_from(LISTS)
page_of = st.lists(keys, min_size=1, max_size=3, unique=True).map(b"".join)
tokens = st.sampled_from([5, 6])
floors = st.one_of(st.just(0), old_ids)


def lists_of(among: list[bytes]) -> "st.SearchStrategy[dict[bytes, list[int]]]":
    return st.dictionaries(st.sampled_from(among), some_ids, min_size=1)


records = st.one_of(
    st.tuples(st.sampled_from("DNR"), st.one_of(lists_of(HOMES), lists_of(USERS))).map(lambda one: grouped(*one)),
    st.tuples(st.just("M"), st.just(0), floors, homes, some_ids.map(joined)),
    st.tuples(st.just("X"), st.just(0), old_ids, homes, some_ids.map(joined)),
    st.tuples(st.sampled_from("AB"), st.just(0), st.integers(10, 14), st.just(SETS[0]), st.just("")),
)
numbered = st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(0, 12))  # partition, generation, call
functions = st.one_of(
    st.tuples(numbered, st.integers(-1, 9), st.lists(records, max_size=3)).map(
        lambda one: (
            *("FCALL", "apply", 0, one[0][0], FENCE, *one[0][1:], one[1], 0, LENGTH),
            *(argument for record in one[2] for argument in record),
        )
    ),
    st.tuples(numbered, page_of).map(lambda one: ("FCALL", "open_removal", 0, one[0][0], FENCE, *one[0][1:], one[1])),
    st.tuples(st.sampled_from([FENCE, "2:x", "1:y"]), tokens, st.sampled_from(["claim", "join", "renew"]), page_of).map(
        lambda one: ("FCALL", "put_token", 0, *one)
    ),
    st.tuples(tokens, keys, floors, some_ids.map(joined)).map(
        lambda one: ("FCALL", "merge_rebuilt", 0, FENCE, one[0], LENGTH, TTL_S, *one[1:])
    ),
    tokens.map(lambda token: ("FCALL", "open_celebrities", 0, FENCE, token, SETS[0])),
    st.tuples(tokens, st.lists(st.integers(10, 14), max_size=9)).map(
        lambda one: ("FCALL", "fill_celebrities", 0, FENCE, one[0], SETS[0], TTL_S, joined(one[1]))
    ),
    st.just(("FCALL", "install_epoch", 0, EPOCH)),
    st.sampled_from([FENCE, "1:y"]).map(lambda fence: ("FCALL", "open_node", 0, fence)),
    st.just(("FCALL", "put_bodies", 0, FENCE, TTL_S, BODIES[0], "text", BODIES[1], "other")),
    st.tuples(st.sampled_from(USERS), st.integers(-200_000, 0)).map(
        lambda one: ("FCALL", "put_own", 0, FENCE, one[0], one[1], LENGTH)  # the age becomes an id when it is sent
    ),
    page_of.map(lambda page: ("FCALL", "renew", 0, FENCE, TTL_S * 2, page)),
    st.tuples(keys, st.one_of(st.just(""), old_ids), st.integers(1, 9)).map(
        lambda one: ("FCALL_RO", "page", 0, *one, SETS[0])
    ),
    page_of.map(lambda page: ("FCALL_RO", "dump", 0, page)),
    st.tuples(tokens, st.sampled_from(["fuh", "u"])).map(
        lambda one: ("FCALL", "open_copying", 0, FENCE, one[0], 0, one[1], COPIED)
    ),
    st.tuples(tokens, st.sampled_from(["", "no dump"])).map(
        lambda one: ("FCALL", "fill_copied", 0, FENCE, one[0], "u", LENGTH, COPIED, "TT", 9_000, one[1])
    ),
    st.tuples(tokens, st.text("TPB", min_size=6, max_size=6), numbered, st.lists(records, max_size=2)).map(
        lambda one: ("COPY", *one)
    ),
    st.just(("FCALL_RO", "renew", 0, FENCE, TTL_S, HOMES[0])),
    st.just(("FCALL", "nothing", 0)),
)
commands = st.one_of(
    st.tuples(st.just("DEL"), st.sampled_from([*LISTS, *SETS, b"n", b"c:0"])),
    st.tuples(st.just("UNLINK"), keys, st.sampled_from(BODIES)),
    st.tuples(st.just("SET"), keys, st.just("foreign")),
    st.tuples(st.just("RPUSH"), keys, st.just("foreign")),
    st.tuples(st.just("SET"), st.just(b"b:1"), st.sampled_from(["", "body"]), st.just("EX"), st.just(50)),
    st.tuples(st.just("SET"), st.just(b"b:1"), st.just("other"), st.just("EX"), st.just(50), st.just("NX")),
    st.just(("MGET", b"b:1", b"b:2", HOMES[0])),
    st.just(("HSET", "n", "incarnation", "x", "epoch", EPOCH, "open", 1, "built", 0)),
)


@dataclass
class Both:
    """A real node, and one in memory with the same clock."""

    real: RedisNode
    memory: RedisServer

    def ask(self, call: Call) -> None:
        """The same call on both, and the same answer."""
        assert like(self._real(call)) == like(self._memory(call)), call

    def compare(self) -> None:
        """The same keys, values and times to live."""
        keys = sorted(self.real.command("KEYS", "*"))
        assert keys == sorted(self.memory.all_keys())
        for key in keys:
            assert self._dumped(key) == like(self.memory.value(key)), key
            assert abs(self.real.command("TTL", key) - self.memory.execute("TTL", key)) <= 1, key

    def _dumped(self, key: bytes) -> Any:
        kind = self.real.command("TYPE", key)
        if kind == b"list":
            return like(self.real.command("LRANGE", key, 0, -1))
        if kind == b"set":
            return like(set(self.real.command("SMEMBERS", key)))
        return like(self.real.command("HGETALL", key)) if kind == b"hash" else like(self.real.command("GET", key))

    def _real(self, call: Call) -> Any:
        if call[0] == "COPY":
            return copied(self._real, *call[1:])
        try:
            return self.real.start([call]).get()[0]
        except FanfoldError as error:
            return error

    def _memory(self, call: Call) -> Any:
        if call[0] == "COPY":
            return copied(self._memory, *call[1:])
        try:
            return self.memory.execute(*call)
        except ErrorReply as error:
            return self.real._refusal(error)  # type: ignore[arg-type]


def copied(ask: Callable[[Call], Any], token: int, letters: str, number: Call, between: list[Call]) -> list[Any]:
    """What is there is read as a source, removed, and filled again by what was read, with records under the token. Only
    a server itself can say what it dumped."""
    found = ask(("FCALL_RO", "read_for_copying", 0, FENCE, 0, "fuh", LENGTH, COPIED, letters))
    if isinstance(found, Exception):
        return [type(found)]
    ask(("DEL", *COPIED_KEYS))
    taken = ask(("FCALL", "open_copying", 0, FENCE, token, 0, "fuh", COPIED))
    partition, generation, call = number
    arguments = [argument for record in between for argument in record]
    ask(("FCALL", "apply", 0, partition, FENCE, generation, call, 3, 0, LENGTH, *arguments))
    filled = ask(("FCALL", "fill_copied", 0, FENCE, token, "fuh", LENGTH, COPIED, letters, *found[1:]))
    return [found[0], [bool(one) for one in found[1:]], taken, filled]


def like(answer: Any) -> Any:
    """What must be equal: of an error its class; a time to live may be a second off, so it is left to `compare`."""
    if isinstance(answer, Exception):
        return type(answer)
    if isinstance(answer, list) and len(answer) == 4 and isinstance(answer[1], int) and isinstance(answer[2], list):
        return [answer[0], answer[1] > 0, answer[2], sorted(answer[3], key=str)]
    return answer


@pytest.fixture
def real(stores: Stores) -> Iterator[RedisNode]:
    """A node with the limits that the simulator uses."""
    node = stores.clusters.node("a1")
    node.command("FUNCTION", "LOAD", "REPLACE", source())
    yield node
    node.load_functions()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=150
)
@given(st.lists(st.one_of(functions, functions, functions, commands), max_size=40))
def test_the_same_calls_get_the_same_answers_and_leave_the_same(real: RedisNode, calls: list[Call]) -> None:
    real.command("FLUSHALL")
    both = Both(real, RedisServer(Library(source()), lambda: time.time_ns() // 1_000_000))
    both.ask(("HSET", "n", "incarnation", "x", "epoch", EPOCH, "open", 1, "built", 0))

    for call in calls:
        both.ask(aged(call) if call[1] == "put_own" else call)

    both.compare()


def test_a_scan_finds_every_key_once_it_is_through(real: RedisNode) -> None:
    real.command("FLUSHALL")
    memory = RedisServer(Library(source()), lambda: time.time_ns() // 1_000_000)

    def scanned(ask: Callable[..., Any]) -> list[bytes]:
        cursor, found = b"0", list[bytes]()
        while True:
            cursor, keys = ask("SCAN", cursor, "COUNT", 100)
            found += keys
            if int(cursor) == 0:
                return sorted(set(found))

    for number in range(1_000):
        for ask in (real.command, memory.execute):
            ask("SET", f"key {number}", "")

    assert scanned(memory.execute) == scanned(real.command) == sorted(b"key %d" % number for number in range(1_000))


def aged(call: Call) -> Call:
    """The call with the id of a tweet of its age in milliseconds."""
    tweet_id = (time.time_ns() // 1_000_000 + call[5] - EPOCH_MS) << 22
    return (*call[:5], tweet_id, call[6])


@pytest.mark.parametrize("size", [1, 3, 4, 5, 4_000, 9_000])
def test_a_push_of_any_size_is_the_same(real: RedisNode, size: int) -> None:
    """Lua's `unpack` has a limit, which the library keeps below by PUSH_MAX."""
    both = Both(real, RedisServer(Library(source({"PUSH_MAX": 4_000})), lambda: time.time_ns() // 1_000_000))
    real.command("FUNCTION", "LOAD", "REPLACE", source({"PUSH_MAX": 4_000}))
    real.command("FLUSHALL")
    ids = joined([BASE + number for number in range(size)])

    both.ask(("HSET", "n", "incarnation", "x", "epoch", EPOCH, "open", 1, "built", 0))
    both.ask(("FCALL", "put_token", 0, FENCE, 5, "claim", HOMES[0]))
    both.ask(("FCALL", "merge_rebuilt", 0, FENCE, 5, 10_000, TTL_S, HOMES[0], 0, ids))

    both.compare()


def test_a_difference_is_seen(real: RedisNode) -> None:
    real.command("FLUSHALL")
    both = Both(real, RedisServer(Library(source()), lambda: time.time_ns() // 1_000_000))
    both.memory._commands[b"LREM"] = lambda *_: 0
    both.ask(("HSET", "n", "incarnation", "x", "epoch", EPOCH, "open", 1, "built", 0))
    both.ask(("FCALL", "put_token", 0, FENCE, 5, "claim", HOMES[0]))
    both.ask(("FCALL", "merge_rebuilt", 0, FENCE, 5, LENGTH, TTL_S, HOMES[0], 0, joined([BASE, BASE + 1])))
    both.ask(("FCALL", "apply", 0, 0, FENCE, 1, 1, 1, 0, LENGTH, *grouped("R", {HOMES[0]: [BASE]})))

    with pytest.raises(AssertionError):
        both.compare()
