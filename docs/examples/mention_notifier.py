"""Tells users that they were mentioned: a complete reader of Fanfold's activity, with `TweetStream`.

    python docs/examples/mention_notifier.py ann bob

One JSON line for each tweet that mentions one of these handles: {"to": …, "tweet_id": …, "by": …, "text": …}. Start it
several times and the processes share the work; kill one, and another goes on where it was. A tweet may be told twice
then: whoever sends real messages keeps the pairs of `to` and `tweet_id` that were sent. A notification that fails
five times is in `activity.mention-notifier.dlq`, with the reason. Ctrl-C and SIGTERM end it.
"""

import json
import os
import re
import sys

from consumers.tweet_stream import TweetStream
from consumers.tweet_stream_events import Event, Posted
from consumers.tweet_stream_filter import Filter
from consumers.tweet_stream_options import StreamOptions
from infra.composition import stores
from infra.events import ActivityType
from infra.settings import load_settings

GROUP = "mention-notifier"


def mentioned(handles: list[str]) -> re.Pattern[str]:
    """Finds @ann, and neither @anna nor mail@ann."""
    return re.compile(rf"(?<![\w@])@({'|'.join(map(re.escape, handles))})(?!\w)", re.IGNORECASE)


def main(handles: list[str]) -> None:
    settings, mention = load_settings(os.environ), mentioned(handles)

    def notify(event: Event) -> None:
        assert isinstance(event, Posted)
        assert event.tweet is not None  # a filter by text lets only live tweets through
        for handle in sorted({found.lower() for found in mention.findall(event.tweet.text)}):
            told = {"to": handle, "tweet_id": str(event.tweet_id), "by": str(event.author_id), "text": event.tweet.text}
            print(json.dumps(told), flush=True)

    only = Filter(types=frozenset({ActivityType.POSTED}), text=mention)
    with (
        stores(settings) as opened,
        TweetStream(settings.need("kafka_bootstrap"), StreamOptions(group=GROUP, only=only), opened.bodies) as stream,
    ):
        stream.stop_on_signals()
        stream.run(notify)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("name the handles to look for: mention_notifier.py ann bob")
    main(sys.argv[1:])
