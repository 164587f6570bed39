"""How deliver counts the failures of a node that it waits for, and what it says."""

import pytest
from structlog.testing import capture_logs

from infra.errors import Fenced, RedisFull, RedisUnavailable
from infra.redis_node import CALL_TIMEOUT_S
from streams import patience
from streams.patience import CALL_AGAIN_TIMEOUT_S, COPIES, FULL_TO_MARK_S, Patience
from tests.clock import Clock

AWAY = RedisUnavailable("it does not answer")
FULL = RedisFull("no memory left")
EMPTIED = Fenced("no incarnation: the node restarted and is not registered yet")


def test_a_node_that_refused_in_between_did_not_fail_twice_in_a_row() -> None:
    """Its connections were closed when it was emptied; a mark would empty it once more."""
    waiting = Patience(partition=3)
    for reason in (AWAY, EMPTIED, EMPTIED, AWAY):
        waiting.note("a1", reason)

    assert not waiting.may_mark("a1")
    waiting.note("a1", AWAY)
    assert waiting.may_mark("a1")


def test_a_node_without_memory_is_marked_only_when_it_lacks_it_for_long() -> None:
    clock = Clock()
    waiting, may_mark = Patience(partition=3, clock_s=clock), []
    for _ in range(3):
        waiting.note("a1", FULL)
        may_mark.append(waiting.may_mark("a1"))
        clock.now_s += FULL_TO_MARK_S / 2

    assert may_mark == [False, False, True]


def test_a_node_that_had_memory_in_between_is_waited_for_anew() -> None:
    clock = Clock()
    waiting = Patience(partition=3, clock_s=clock)
    for reason in (FULL, EMPTIED, FULL):
        waiting.note("a1", reason)
        clock.now_s += FULL_TO_MARK_S

    assert not waiting.may_mark("a1")


def test_a_call_that_failed_has_more_time_the_second_time_until_then_no_node_is_marked() -> None:
    """The node has answered a probe meanwhile; it may be slow at this one call."""
    waiting = Patience(partition=3)
    assert waiting.call_timeout_s == CALL_TIMEOUT_S

    waiting.note("a1", AWAY)

    assert waiting.call_timeout_s == CALL_AGAIN_TIMEOUT_S > CALL_TIMEOUT_S
    assert not waiting.may_mark("a1")


@pytest.mark.parametrize(
    ("nodes", "lacks_copies", "said"),
    [
        ({"a1"}, False, {"a1": "it does not answer"}),
        (set(), True, {COPIES: "a slot has fewer than 2 copies that are serving or filling"}),
    ],
)
def test_it_says_what_it_waits_for_and_not_what_it_waited_for_before(
    monkeypatch: pytest.MonkeyPatch, nodes: set[str], lacks_copies: bool, said: dict[str, str]
) -> None:
    monkeypatch.setattr(patience, "RETRY_FIRST_S", 0.0)
    waiting = Patience(partition=3)
    waiting._said_s = float("-inf")
    for node in ("a1", "b1"):
        waiting.note(node, AWAY)

    with capture_logs() as logs:
        waiting.wait(nodes, lacks_copies=lacks_copies)

    assert [(one["nodes"], one["reasons"]) for one in logs] == [(sorted(nodes), said)]
