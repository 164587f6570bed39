"""When a node must be emptied, and which servers may be nodes at all: pure decisions."""

from dataclasses import replace

import pytest

from infra.copies import CopyState, all_copies
from infra.emptying import must_be_emptied, why_empty
from infra.errors import Undecodable
from infra.members import Member, decode_member, encode_member
from infra.node_check import Found, why_unfit
from infra.redis_keys import is_ours

READY = Found(run_id="r1", prepared_in="r1", incarnation="i1", name="a1")


@pytest.mark.parametrize(
    ("found", "missed", "reason"),
    [
        (READY, False, ""),
        (READY, True, "it may have missed a write"),
        (Found("r1"), False, "it has no incarnation"),
        (Found("r2", "r1", "i1", "a1"), False, "it restarted"),
        (Found("r1", "r1", "i1", "a2"), False, "it was prepared as a2"),
        (Found("r1", "r1", "i1", ""), False, "it was prepared as a node without a name"),
    ],
)
def test_a_node_is_emptied_for_a_reason_only(found: Found, missed: bool, reason: str) -> None:
    assert why_empty(found, "a1", missed) == reason


@pytest.mark.parametrize(
    ("dropped", "admitted", "epoch", "is_new", "must"),
    [
        ({"a1": "i1"}, {}, "3", False, True),
        ({"a1": "i1"}, {}, "", True, True),
        ({"a1": "i0"}, {"a1": "i1"}, "3", True, False),  # it was emptied since
        ({"a2": "i1"}, {"a1": "i1"}, "3", True, False),
        ({}, {}, "3", True, True),  # it was written in another deployment
        ({}, {"a1": "i0"}, "3", True, True),
        ({}, {}, "", True, False),  # nobody wrote it: it was prepared, and is to be admitted
        ({}, {}, "3", False, False),  # it is about to be admitted
    ],
)
def test_a_node_that_may_lack_a_write_must_be_emptied(
    dropped: dict[str, str], admitted: dict[str, str], epoch: str, is_new: bool, must: bool
) -> None:
    copies = replace(all_copies(3, "abc", CopyState.DOWN, admitted), dropped=dropped)

    assert must_be_emptied(copies.encode(), "a1", replace(READY, epoch=epoch), is_new) is must


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"version": 2}', b'{"version": 1}', b'{"version": 1, "states": null}', b"\xff"]
)
def test_copies_that_cannot_be_read_empty_nothing(data: bytes) -> None:
    assert not must_be_emptied(data, "a1", replace(READY, epoch="3"), is_new=True)


INFO = {"redis_version": "7.2.4", "redis_mode": "standalone", "role": "master", "run_id": "r1"}
CONFIG = {"save": "", "appendonly": "no", "maxmemory-policy": "volatile-lru"}


@pytest.mark.parametrize(
    ("info", "config", "sentence"),
    [
        ({}, {}, ""),
        ({"redis_version": "10.0"}, {}, ""),
        ({"redis_version": "6.2.14"}, {}, "has version 6.2.14; Functions need Redis 7 or newer, or Valkey"),
        ({"redis_version": "unstable"}, {}, "has version unstable"),
        ({"redis_mode": "", "server_mode": "standalone"}, {}, ""),
        ({"redis_mode": "", "server_mode": "cluster"}, {}, "runs in mode cluster"),
        ({"redis_mode": "cluster"}, {}, "runs in mode cluster"),
        ({"redis_mode": "sentinel"}, {}, "runs in mode sentinel"),
        ({"role": "slave"}, {}, "is a replica; a node must not be one: REPLICAOF NO ONE"),
        ({"run_id": ""}, {}, "tells no run_id"),
        ({}, {"save": "3600 1"}, "has save '3600 1'; set it to '' (CONFIG SET save …)"),
        ({}, {"appendonly": "yes"}, "has appendonly 'yes'; set it to 'no'"),
        ({}, {"maxmemory-policy": "allkeys-lru"}, "has maxmemory-policy 'allkeys-lru'; set it to 'volatile-lru'"),
    ],
)
def test_a_server_is_fit_as_a_master_of_its_own_without_persistence(
    info: dict[str, str], config: dict[str, str], sentence: str
) -> None:
    found = why_unfit(INFO | info, CONFIG | config)

    assert found.startswith(sentence)
    assert bool(found) == bool(sentence)


def test_a_server_that_tells_nothing_of_itself_is_unfit() -> None:
    assert why_unfit({}, CONFIG) == "has version unknown; Functions need Redis 7 or newer, or Valkey"
    assert why_unfit(INFO, {}) == "has save None; set it to '' (CONFIG SET save …)"


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        (b"n", True),
        (b"k", True),
        (b"c:3", True),
        (b"x:1234567890123456789", True),
        (b"h:" + bytes(8), True),
        (b"b:\n\r\xff45678", True),
        (b"k:" + bytes(8), True),
        (b"r:" + bytes(16), True),
        (b"", False),
        (b"n:1", False),
        (b"c:", False),
        (b"h:" + bytes(9), False),
        (b"session:12345678", False),
    ],
)
def test_our_keys_are_told_from_those_of_other_programs(key: bytes, ours: bool) -> None:
    assert is_ours(key) is ours


def test_a_member_is_read_as_it_was_written_and_later_keys_are_ignored() -> None:
    member = Member("redis://h:1", "i1", weight=3, fit=False, reason="it hangs", run_id="r1", host="h", pid=7)
    data = encode_member(member)

    assert decode_member("a1", data) == decode_member("a1", data.replace(b"{", b'{"later": 1, ', 1)) == member


def test_a_member_of_no_cluster_is_none() -> None:
    with pytest.raises(Undecodable, match="must have a name that begins with its cluster's letter"):
        decode_member("x9", encode_member(Member("redis://h:1")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"url": 7}',
        b'{"url": "nonsense"}',
        b'{"url": "redis://h:1", "fit": "no"}',
        b'{"url": "redis://h:1", "weight": 0}',
        b'{"url": "redis://h:1", "weight": true}',
        b'{"url": "redis://h:1", "weight": 101}',
    ],
)
def test_what_is_no_member_is_an_error_that_names_the_znode(data: bytes) -> None:
    with pytest.raises(Undecodable, match=r"the znode /nodes/a1 is no member .*: delete it"):
        decode_member("a1", data)
