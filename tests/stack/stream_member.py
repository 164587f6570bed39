"""A member of a group as a process of its own: writes a line for each event it handles, and fails on some.

python -m tests.stack.stream_member BOOTSTRAP TOPIC GROUP FILE
"""

import os
import sys

from consumers.tweet_stream import TweetStream
from consumers.tweet_stream_events import Event, Posted
from consumers.tweet_stream_handling import Retries
from consumers.tweet_stream_options import StreamOptions
from infra.log_start import Start
from infra.retry import Backoff

FAILS_EVERY = 100


def main(bootstrap: str, topic: str, group: str, file: str) -> None:
    out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def handle(event: Event) -> None:
        assert isinstance(event, Posted)
        if event.tweet_id % FAILS_EVERY == 0:
            raise ValueError(f"tweet {event.tweet_id} fails")
        os.write(out, f"{event.author_id} {event.tweet_id}\n".encode())

    options = StreamOptions(group=group, topic=topic, start=Start.beginning())
    with TweetStream(bootstrap, options) as stream:
        stream.stop_on_signals()
        print("ready", flush=True)  # noqa: T201
        stream.run(handle, Retries(2, Backoff(first_s=0.005, max_s=0.01)))


if __name__ == "__main__":
    main(*sys.argv[1:])
