"""Events as lines for people."""

from datetime import UTC, datetime

import pytest

from consumers.tail_text import event_line
from consumers.tweet_stream_events import Deleted, Event, Followed, Posted, StatusChanged
from infra.tweet_bodies import Body

NOW = datetime.now(UTC)


def posted(text: str, **more: int) -> Posted:
    return Posted(7, 1_500, 0, 0, 5, Body(5, 7, text, NOW, **more))


@pytest.mark.parametrize(
    ("event", "about"),
    [
        (posted("Hello"), "tweet 5  Hello"),
        (posted("Hello", reply_to=4), "tweet 5  (reply to 4) Hello"),
        (posted("", retweet_of=4), "tweet 5  (retweet of 4)"),
        (Posted(7, 1_500, 0, 0, 5), "tweet 5  (deleted since)"),
        (Deleted(7, 1_500, 0, 0, 5), "tweet 5"),
        (Followed(7, 1_500, 0, 0, 8), "by user 8"),
        (StatusChanged(7, 1_500, 0, 0), ""),
    ],
)
def test_a_line_says_when_what_who_and_what_about(event: Event, about: str) -> None:
    line = event_line(event)
    assert line.split()[:4] == ["1970-01-01T00:00:01.500Z", event.type.value, "user", "7"]
    assert line.endswith(f"7                   {about}".rstrip())


def test_nothing_that_somebody_wrote_reaches_the_terminal_as_it_is() -> None:
    assert event_line(posted("\x1b[2J\n\u202eHello")).isprintable()
