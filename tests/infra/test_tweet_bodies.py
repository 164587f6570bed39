"""Where bodies are put."""

from dataclasses import replace
from datetime import UTC, datetime

from infra.copies import CopyState
from infra.redis_keys import body as key_of
from infra.shard_map import make_shard_map
from infra.slots import slot_of
from infra.tweet_bodies import Body, put_bodies

NAMES = ("a1", "a2", "b1", "b2", "c1", "c2")
BODY = Body(10**18, 1, "hello", datetime(2026, 11, 26, tzinfo=UTC))


def test_a_body_is_not_put_into_a_copy_that_is_down_on_a_node_that_is_not() -> None:
    """Its keys are about to be removed, a tombstone of later among them: a reader has to look again after that."""
    shard_map = make_shard_map(1, dict.fromkeys(NAMES, ""))
    slot = slot_of(BODY.id)
    moving = replace(shard_map, copies=shard_map.copies.changed("b", [slot], CopyState.DOWN))

    calls = put_bodies(moving, [BODY])

    assert sorted(calls) == [moving.node_of("a", slot), moving.node_of("c", slot)]
    assert all(key_of(BODY.id) in call for [call] in calls.values())
