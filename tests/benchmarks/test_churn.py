"""What churn calls a wrong page, and which lines it posts."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.churn import given_posts, wrong_with


@pytest.mark.parametrize(
    ("ids", "deleted", "words"),
    [
        ([], frozenset(), []),
        ([5, 4, 1], frozenset({3}), []),
        ([5, 4, 4], frozenset(), ["tweet 4 is there twice"]),
        ([4, 5, 1], frozenset(), ["tweet 5 stands below the older 4"]),
        ([5, 4, 1], frozenset({4, 9}), ["tweet 4 was deleted before"]),
    ],
)
def test_a_page_is_wrong_when_a_tweet_is_twice_out_of_order_or_deleted(
    ids: Sequence[int], deleted: frozenset[int], words: list[str]
) -> None:
    assert list(wrong_with(ids, deleted)) == words


def test_bad_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tweets.jsonl"
    good = {"author": 7, "created_at": "2015-02-16T23:36:00Z", "text": "hello"}
    path.write_text("\n".join([json.dumps(good), "no JSON", json.dumps({**good, "text": ""})]))

    assert given_posts(path) == [(7, "hello")]
