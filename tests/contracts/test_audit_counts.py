"""The audit of counts is tested by damage: each kind must be found, in rows and in every cluster."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from consumers import audit_counts as audited
from consumers.audit_counts import CountsResult, audit_counts
from infra import redis_keys
from infra.composition import Stores
from infra.errors import RedisUnavailable
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS
from streams.folded_nodes import FoldedNodes

TWEET, REPLY, RETWEET, GONE = 101, 102, 103, 104


@pytest.fixture
def run(stores: Stores) -> Callable[[str], None]:
    """Statements on a small database: a tweet with two likes, a reply and a retweet, and one that is deleted."""

    def execute(*statements: str) -> None:
        with stores.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    execute(
        "INSERT INTO users (id, handle) VALUES (1, 'one'), (2, 'two')",
        "INSERT INTO tweets (id, author_id, text, created_at, reply_to, retweet_of, deleted_at) VALUES "
        f"({TWEET}, 1, 'x', now(), NULL, NULL, NULL), ({REPLY}, 1, 'x', now(), {TWEET}, NULL, NULL), "
        f"({RETWEET}, 1, 'x', now(), NULL, {TWEET}, NULL), ({GONE}, 1, NULL, now(), {TWEET}, {TWEET}, now())",
        f"INSERT INTO likes VALUES ({TWEET}, 1), ({TWEET}, 2)",
        f"INSERT INTO tweet_counts VALUES ({TWEET}, 2, 1, 1)",
    )
    FoldedNodes(stores.brief).tell(0, 0, {})
    stores.counts.read([TWEET, REPLY, RETWEET])
    return execute


def audit(stores: Stores) -> CountsResult:
    return audit_counts(stores.engine, stores.clusters, pause=lambda _: None)


def test_right_counts_pass(stores: Stores, run: Callable[..., None]) -> None:
    result = audit(stores)
    assert result == CountsResult(4, 9, 0, dict.fromkeys(CLUSTERS, 0), ())
    assert result.wrong == 0


def test_a_node_that_does_not_answer_at_once_ends_no_audit(
    stores: Stores, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, pauses = stores.clusters.node_for("b", TWEET), list[float]()
    look = node.look

    def once_silent(function: str, *arguments: Argument) -> object:
        if not pauses:
            raise RedisUnavailable("no answer")
        return look(function, *arguments)

    monkeypatch.setattr(node, "look", once_silent)
    assert audit_counts(stores.engine, stores.clusters, pause=pauses.append).wrong == 0
    assert len(pauses) == 1


DAMAGE = {
    "too few likes": ("UPDATE tweet_counts SET likes = 1", "row: counts are 1 likes, 1 retweets, 1 replies, and"),
    "too many retweets": ("UPDATE tweet_counts SET retweets = 2", "row: counts are 2 likes, 2 retweets"),
    "a reply too few": ("UPDATE tweet_counts SET replies = 0", "row: counts are 2 likes, 1 retweets, 0 replies"),
    "no row": ("DELETE FROM tweet_counts", "row: counts are 0 likes, 0 retweets, 0 replies"),
    "a like of somebody erased": ("UPDATE users SET erased_at = now() WHERE id = 2", "must be 1 likes"),
}


@pytest.mark.parametrize(("statement", "words"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_wrong_row_is_found(stores: Stores, run: Callable[..., None], statement: str, words: str) -> None:
    run(statement)
    result = audit(stores)
    assert result.wrong_rows == 1
    assert f"tweet {TWEET}, " in result.differences[0]
    assert words in result.differences[0]


def test_rows_of_what_is_no_tweet_are_found(stores: Stores, run: Callable[..., None]) -> None:
    run(f"INSERT INTO tweet_counts VALUES ({GONE}, 1, 0, 0), (99999, 0, 0, 1)", "INSERT INTO likes VALUES (99998, 1)")
    result = audit(stores)
    assert result.wrong_rows == 3
    assert {sentence.split(",")[0] for sentence in result.differences} == {
        f"tweet {GONE}",
        "tweet 99999",
        "tweet 99998",
    }


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_wrong_copy_is_found_in_its_cluster_only(stores: Stores, run: Callable[..., None], cluster: str) -> None:
    stores.clusters.node_for(cluster, TWEET).command("HSET", redis_keys.counts(TWEET), "likes", 3)
    result = audit(stores)
    assert result.wrong_held == dict.fromkeys(CLUSTERS, 0) | {cluster: 1}
    assert result.wrong_rows == 0
    assert result.differences == (
        f"tweet {TWEET}, cluster {cluster}: counts are 3 likes, 1 retweets, 1 replies, and must be 2 likes, "
        "1 retweets, 1 replies",
    )


def test_what_a_second_look_finds_right_was_on_its_way(stores: Stores, run: Callable[..., None]) -> None:
    run("UPDATE tweet_counts SET likes = 1")
    pauses: list[float] = []

    def pause(pause_s: float) -> None:
        pauses.append(pause_s)
        if pause_s:
            run("UPDATE tweet_counts SET likes = 2")

    assert audit_counts(stores.engine, stores.clusters, pause=pause).wrong == 0
    assert pauses == [0.0, 0.5]


def test_batches_and_samples_reach_every_tweet_once(
    stores: Stores, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audited, "BATCH_TWEETS", 2)
    assert audit(stores).tweets == 4
    assert audit_counts(stores.engine, stores.clusters, sample=3).tweets == 3
