"""Filters: what they let through, and that the look at raw bytes never drops what is wanted."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from consumers.tweet_stream_events import Event, Posted, event_json, event_of
from consumers.tweet_stream_filter import Filter, parse_types
from consumers.tweet_stream_options import StreamOptions
from infra.errors import InvalidInput
from infra.events import Activity, ActivityType, encode_activity
from infra.tweet_bodies import Body

POSTED = ActivityType.POSTED


@dataclass(frozen=True)
class Raw:
    """A message as the client of Kafka has it."""

    author: bytes | None
    data: bytes | None
    failed: object = None

    def key(self) -> bytes | None:
        return self.author

    def value(self) -> bytes | None:
        return self.data

    def error(self) -> object:
        return self.failed


def raw(kind: ActivityType, author_id: int = 7) -> Raw:
    return Raw(str(author_id).encode(), encode_activity(Activity(kind, author_id, 5, 1)).encode())


def posted(text: str | None, author_id: int = 7) -> Event:
    tweet = None if text is None else Body(5, author_id, text, datetime.now(UTC))
    return Posted(author_id, 1, 0, 0, 5, tweet)


@pytest.mark.parametrize("kinds", [frozenset({one}) for one in ActivityType] + [frozenset(ActivityType), frozenset()])
@pytest.mark.parametrize("authors", [frozenset[int](), frozenset({7}), frozenset({8, 9})])
@pytest.mark.parametrize("text", [None, "hello"])
def test_the_look_drops_only_what_is_not_wanted(
    kinds: frozenset[ActivityType], authors: frozenset[int], text: str | None
) -> None:
    only = Filter(kinds, authors, text)
    for kind in ActivityType:
        for author_id in (7, 8):
            message = raw(kind, author_id)
            event = event_of(Activity(kind, author_id, 5, 1), 0, 0)
            assert (only.look()([message]) == [message]) is only.wants(event)


@pytest.mark.parametrize("data", [b"what is this", None, b"", b'{"type" : "deleted"}', b'{"type":"unknown"}'])
def test_what_cannot_be_told_is_decoded(data: bytes | None) -> None:
    message = Raw(b"7", data)
    assert Filter(frozenset({POSTED}), frozenset({7})).look()([message]) == [message]


def test_reports_of_the_client_are_never_dropped() -> None:
    report = Raw(None, None, failed="the end of a partition")
    assert Filter(frozenset({POSTED}), frozenset({7}), "x").look()([report]) == [report]


@pytest.mark.parametrize(
    ("wanted", "text", "passes"),
    [
        ("bob", "Hello BOB", True),
        ("STRASSE", "die Straße", True),
        ("bob", "Hello", False),
        ("bob", None, False),
        (re.compile(r"#\w+"), "a #tag", True),
        (re.compile(r"#\w+"), "no tag", False),
    ],
)
def test_texts_are_found_in_any_case(wanted: str | re.Pattern[str], text: str | None, passes: bool) -> None:
    assert Filter(text=wanted).wants_text(posted(text)) is passes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"authors": frozenset({0})}, "0 is not an author's id"),
        ({"authors": frozenset({1 << 63})}, "is not an author's id"),
        ({"text": ""}, "has 1 to 1000 characters, and this has 0"),
    ],
)
def test_a_filter_that_cannot_be_is_one_sentence(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Filter(**options)  # type: ignore[arg-type]


def test_an_unknown_type_is_named_with_those_that_are_known() -> None:
    with pytest.raises(InvalidInput, match=r"'liked' is no type of event; those are posted, deleted, followed"):
        parse_types(["posted", "liked"])


@pytest.mark.parametrize(
    ("group", "said"), [("a b", "has another form"), ("fanfold", "is Fanfold's own"), ("", "form")]
)
def test_a_groups_name_can_be_a_topics_and_is_not_fanfolds(group: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        StreamOptions(group=group)


@pytest.mark.parametrize("kind", ActivityType)
def test_an_event_as_json_has_its_ids_as_strings(kind: ActivityType) -> None:
    shown = json.loads(json.dumps(event_json(event_of(Activity(kind, 7, 1 << 62, 1_500), 0, 0))))

    assert (shown.pop("type"), shown.pop("author_id")) == (kind.value, "7")
    assert shown.pop("published_at") == "1970-01-01T00:00:01.500Z"
    assert set(shown.values()) <= {str(1 << 62), None}
