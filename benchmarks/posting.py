"""Posts at a steady rate in a process of its own, so that it takes no time from the process that is measured.

Usage: python -m benchmarks.posting DATA_DIR FIRST_AUTHOR AUTHORS TWEETS_PER_S. It says when it begins, by a line on
standard output, and ends when its standard input does.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from infra.composition import stores
from infra.errors import CheckFailed
from infra.settings import load_settings
from producers.publish import NewTweet, Publisher

POST_EVERY_S = 0.1
END_WITHIN_S = 30.0


@contextmanager
def posting(data_dir: Path, first: int, authors: int, tweets_per_s: float) -> Iterator[None]:
    """Somebody posts while the block lasts. Raises `CheckFailed` when he did not begin or ended early."""
    words = (sys.executable, "-m", "benchmarks.posting", str(data_dir), str(first), str(authors), str(tweets_per_s))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            begun = process.stdout.readline()
            yield
            early = process.poll()
        finally:
            process.stdin.close()
            code = process.wait(END_WITHIN_S)
        if not begun or early is not None or code:
            raise CheckFailed(f"the process that posts ended with exit code {code}; see above")


def post_steadily(publisher: Publisher, authors: range, tweets_per_s: float) -> None:
    """Until standard input ends. Each author is as likely as another, so the mean fan-out is the mean of all."""
    rng = np.random.default_rng()
    began_s, posted = time.monotonic(), 0
    while not select.select([sys.stdin], [], [], POST_EVERY_S)[0]:
        due = int((time.monotonic() - began_s) * tweets_per_s) - posted
        if due > 0:
            chosen = rng.integers(authors.start, authors.stop, size=due).tolist()
            publisher.post_many([NewTweet(author, f"Measured tweet of user {author}") for author in chosen])
            posted += due


def main() -> None:
    """Reads the words; an interrupt is the parent's, who closes our input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    data_dir, first, authors, tweets_per_s = sys.argv[1:]
    settings = load_settings(os.environ, Path(data_dir))
    with stores(settings) as opened, Publisher(opened) as publisher:
        sys.stdout.write("posting\n")
        sys.stdout.flush()
        post_steadily(publisher, range(int(first), int(first) + int(authors)), float(tweets_per_s))


if __name__ == "__main__":
    main()
