"""Benchmark of reading the activity log with a filter by author that lets one event in a hundred through.

Starts Kafka, writes the log, then reads all of it in turn with a bare confluent-kafka loop that only counts and with
`TweetStream`, whose events are made into lines as `fanfold tail --json` has them (without texts, which are another
server's to give). Everything it made is gone afterwards.
"""

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.demo_report import Watcher
from consumers.tweet_stream import READ_MESSAGES_MAX, TweetStream
from consumers.tweet_stream_events import event_json
from consumers.tweet_stream_filter import Filter
from consumers.tweet_stream_options import StreamOptions
from infra.errors import CheckFailed
from infra.events import Activity, ActivityType, encode_activity
from infra.kafka import producer_config
from infra.log_start import Start
from infra.stack.progress import Report
from infra.stack.stop import stop_stack
from infra.stack.supervisor import Stack
from infra.topics import ACTIVITY, create_topics

AUTHORS = 100  # of as many events each: one of them is one in a hundred
FIRST_TWEET_ID = 3_799_912_185_593_856_000
AUTHOR = 7
SILENT_S = 30.0  # of Kafka, in the middle of a log that has more
FLUSH_S = 60.0


@dataclass(frozen=True, slots=True)
class TailOptions:
    """How many events, and how often they are read both ways; the medians count."""

    events: int = 1_000_000
    runs: int = 3


@dataclass(frozen=True, slots=True)
class TailResult:
    """Rates in events of the log a second."""

    options: TailOptions
    matched: int
    tailed: Sequence[float]
    counted: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        """`ratio` is to the bare loop in the same run."""
        rate, limit = statistics.median(self.tailed), statistics.median(self.counted)
        return {
            "events": self.options.events,
            "matched": self.matched,
            "runs": self.options.runs,
            "events_per_s": round(rate),
            "events_per_s_min": round(min(self.tailed)),
            "events_per_s_max": round(max(self.tailed)),
            "limit_per_s": round(limit),
            "ratio": round(rate / limit, 3),
        }


def run_tail(options: TailOptions, data_dir: Path, watcher: Watcher, report: Report) -> TailResult:
    """Runs in a fresh folder below `data_dir` and removes it, whatever happens."""
    folder = data_dir / "bench-tail"
    stop_stack(folder, silent=True)  # what a killed run left
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stack = Stack(folder, roles=(), prepare=False, servers=("kafka",))
    try:
        watcher.step("starting Kafka")
        stack.start(report)
        return measure(stack.settings().need("kafka_bootstrap"), options, watcher)
    finally:
        stack.stop(report)
        shutil.rmtree(folder, ignore_errors=True)


def measure(bootstrap: str, options: TailOptions, watcher: Watcher) -> TailResult:
    """On an empty activity log. Raises `CheckFailed` when not every event was read."""
    create_topics(bootstrap)
    watcher.step(f"writing {options.events:,} events of {AUTHORS} authors")
    write(bootstrap, options.events)
    tailed, counted, matched = [], [], 0
    for run in range(1, options.runs + 1):
        watcher.step(f"reading them both ways, run {run} of {options.runs}")
        counted.append(options.events / count_bare(bootstrap, options.events))
        seconds, matched = tail_one_author(bootstrap)
        tailed.append(options.events / seconds)
    wanted = len(range(AUTHOR % AUTHORS, options.events, AUTHORS))
    if matched != wanted:
        raise CheckFailed(f"{matched:,} events passed the filter, and {wanted:,} had to: there is no figure")
    return TailResult(options, matched, tailed, counted)


def write(bootstrap: str, events: int) -> None:
    """Posts of all authors in turn."""
    producer = Producer(producer_config(bootstrap) | {"linger.ms": 50})
    for number in range(events):
        author_id = number % AUTHORS or AUTHORS
        post = Activity(ActivityType.POSTED, author_id, FIRST_TWEET_ID + number, 1_600_000_000_000 + number)
        while True:
            try:
                producer.produce(ACTIVITY.name, encode_activity(post), str(author_id))
                break
            except BufferError:
                producer.poll(0.05)
    left = producer.flush(FLUSH_S)
    if left:
        raise CheckFailed(f"Kafka did not take {left:,} of the events within {FLUSH_S:g} s")


def count_bare(bootstrap: str, events: int) -> float:
    """Seconds that a loop takes which does nothing but count."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-bare",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    began_s = heard_s = time.monotonic()
    consumer.assign([TopicPartition(ACTIVITY.name, one, 0) for one in range(ACTIVITY.partitions)])
    count = 0
    while count < events:
        found = len(consumer.consume(READ_MESSAGES_MAX, 0.1))
        count += found
        heard_s = time.monotonic() if found else heard_s
        if time.monotonic() - heard_s > SILENT_S:
            raise CheckFailed(f"Kafka handed over {count:,} of {events:,} events, then nothing for {SILENT_S:g} s")
    took_s = time.monotonic() - began_s
    consumer.close()
    return took_s


def tail_one_author(bootstrap: str) -> tuple[float, int]:
    """Seconds, and how many events passed."""
    only = Filter(authors=frozenset({AUTHOR}))
    began_s, chars, matched = time.monotonic(), 0, 0
    with TweetStream(bootstrap, StreamOptions(start=Start.beginning(), only=only, follow=False)) as stream:
        for batch in stream.batches():
            chars += sum(len(json.dumps(event_json(event), separators=(",", ":"))) for event in batch)
            matched += len(batch)
        took_s = time.monotonic() - began_s
    return took_s, matched
